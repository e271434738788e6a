//! Chains that a validator of X509-SVIDs has to accept.

use rcgen::{
    BasicConstraints, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize, SanType,
};

use super::{Forge, ID, TRUST_DOMAIN, common_name, dns, unknown_extension};
use crate::spiffe::testing::Ca;

pub(super) fn all(forge: &mut Forge) {
    leaves(forge);
    paths(forge);
    roots(forge);
}

fn leaves(forge: &mut Forge) {
    forge.direct("good_leaf", "an SVID right below the root", |_| {});
    forge.direct("good_dns_and_address", "X-1 does not restrict other kinds of names", |params| {
        params.subject_alt_names.push(dns("shop.example"));
        params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
    });
    forge.direct("good_subject", "a subject, as SPIRE writes one", |params| common_name(params, "SPIRE"));
    forge.direct("good_no_extended_key_usage", "X-11 asks for none", |params| params.extended_key_usages.clear());
    forge.direct("good_more_key_usages", "X-10 allows keyEncipherment and keyAgreement", |params| {
        params.key_usages.extend([KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement]);
    });
    forge.direct("good_unknown_extension", "an extension that nobody knows, not critical", |params| {
        params.custom_extensions.push(unknown_extension(false));
    });
    forge.named("good_capitals", "scheme and trust domain in capitals", &["SPIFFE://A.Example/shop"]);
    let longest = format!("{ID}/{}", "x".repeat(2048 - ID.len() - 1));
    forge.named("good_longest_id", "an ID of 2048 bytes", &[&longest]);
}

fn paths(forge: &mut Forge) {
    forge.below("good_below_an_intermediate", "an intermediate that is an SVID of the trust domain", |_| {});
    forge.below("good_intermediate_without_an_id", "an intermediate of a PKI that knows nothing of SPIFFE", |params| {
        params.subject_alt_names.clear();
    });
    forge.below("good_path_length_zero", "an intermediate that may sign leaves only", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let (upper, lower) = forge.two_levels(|_| {});
    let (leaf, lower, upper) = (forge.leaf(&lower, |_| {}), lower.certificate(), upper.certificate());
    let root = forge.root.certificate();
    forge.push("good_two_intermediates", "in order", vec![leaf.clone(), lower.clone(), upper.clone()]);
    forge.push("good_out_of_order", "not in order", vec![leaf.clone(), upper.clone(), lower.clone()]);
    forge.push("good_with_the_root", "the chain goes on to the root itself", vec![leaf, lower, upper, root]);
    let stranger = forge.other_root("b.example", |_| {}).certificate();
    let leaf = forge.leaf(&forge.root, |_| {});
    forge.push("good_with_a_stranger", "a certificate that is on no path, among the chain", vec![leaf, stranger]);
}

fn roots(forge: &mut Forge) {
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    for (name, what, key) in
        [("good_p384_root", "a root with a P-384 key", p384), ("good_rsa_root", "a root with an RSA key", rsa)]
    {
        let root = Ca::at(forge.now, TRUST_DOMAIN, key, |_| {});
        let leaf = forge.leaf(&root, |_| {});
        forge.push_with(name, what, vec![root.certificate()], vec![leaf]);
    }
    let second = forge.other_root(TRUST_DOMAIN, |_| {});
    let (leaf, trusted) = (forge.leaf(&second, |_| {}), vec![forge.root.certificate(), second.certificate()]);
    forge.push_with("good_second_of_two_roots", "two roots with one subject: the second", trusted, vec![leaf]);
}
