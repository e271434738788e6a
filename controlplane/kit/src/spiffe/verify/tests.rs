use rcgen::{BasicConstraints, CertificateParams, CustomExtension, GeneralSubtree, IsCa, NameConstraints, SanType};

use super::*;
use crate::spiffe::testing::{Ca, HOUR, noon, patched, table};

const ID: &str = "spiffe://a.example/shop";

fn verify(trusted: &[&Ca], chain: &[CertificateDer<'static>], now: SystemTime) -> Result<SpiffeId, VerifyError> {
    let anchors = Anchors::new(&table(trusted));
    let as_server = anchors.verify(chain, Usage::Server, now);
    assert_eq!(as_server, anchors.verify(chain, Usage::Client, now), "both sides judge alike");
    as_server
}

fn leaf(ca: &Ca) -> CertificateDer<'static> {
    ca.leaf(ID, |_| {})
}

#[test]
fn x_12_a_good_chain_proves_its_id() {
    let (a, b) = (Ca::new("a.example"), Ca::new("b.example"));
    assert_eq!(verify(&[&a, &b], &[leaf(&a)], noon()).unwrap().as_str(), ID);
    let below = a.intermediate(|_| {});
    assert_eq!(verify(&[&a, &b], &[leaf(&below), below.certificate()], noon()).unwrap().as_str(), ID);
    let unknown = VerifyError::UnknownIssuer("a.example".parse().unwrap());
    assert_eq!(verify(&[&a], &[leaf(&below)], noon()), Err(unknown), "its intermediate is missing");
}

#[test]
fn the_first_end_counts() {
    let root = Ca::with("a.example", |params| params.not_after = (noon() + 3 * HOUR).into());
    let below = root.intermediate(|params| params.not_after = (noon() + 2 * HOUR).into());
    let anchors = Anchors::new(&table(&[&root]));
    let until = |chain: &[CertificateDer<'static>]| anchors.check(chain, Usage::Server, noon()).unwrap().until;
    let long = |params: &mut CertificateParams| params.not_after = (noon() + 9 * HOUR).into();
    assert_eq!(until(&[leaf(&root)]), noon() + HOUR);
    assert_eq!(until(&[below.leaf(ID, long), below.certificate()]), noon() + 2 * HOUR);
    assert_eq!(until(&[root.leaf(ID, long)]), noon() + 3 * HOUR);
}

#[test]
fn bad_080_size() {
    let a = Ca::new("a.example");
    assert_eq!(verify(&[&a], &[], noon()), Err(VerifyError::Size));
    let chain = |certificates| std::iter::repeat_n(leaf(&a), certificates).collect::<Vec<_>>();
    assert!(verify(&[&a], &chain(16), noon()).is_ok());
    assert_eq!(verify(&[&a], &chain(17), noon()), Err(VerifyError::Size));
    assert_eq!(verify(&[&a], &chain(101), noon()), Err(VerifyError::Size));
    let large = CertificateDer::from(vec![0; 64 * 1024]);
    assert_eq!(verify(&[&a], &[leaf(&a), large], noon()), Err(VerifyError::Size));
}

/// Rows 81 to 85, 93 to 95 and 97 in detail: `svid`'s tests. Here: they reach the verifier's answer.
#[test]
fn x_13_bad_081_to_085_the_leafs_profile() {
    let a = Ca::new("a.example");
    let authority = a.leaf(ID, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let error = verify(&[&a], &[authority], noon()).unwrap_err();
    assert!(matches!(error, VerifyError::Leaf(_)), "{error}");
    assert_eq!(error.label(), "leaf");
    assert!(matches!(verify(&[&a], &[a.certificate()], noon()), Err(VerifyError::Leaf(_))), "X-5: an authority itself");
}

#[test]
fn x_14_bad_086_another_domains_root() {
    let (a, b, impostor) = (Ca::new("a.example"), Ca::new("b.example"), Ca::new("a.example"));
    let unknown = Err(VerifyError::UnknownIssuer("a.example".parse().unwrap()));
    assert_eq!(verify(&[&a, &b], &[leaf(&b)], noon()), unknown, "B's authority signed an ID of A");
    assert_eq!(verify(&[&a, &b], &[leaf(&impostor)], noon()), unknown);
    let unheld = Err(VerifyError::UnknownTrustDomain("a.example".parse().unwrap()));
    assert_eq!(verify(&[&b], &[leaf(&a)], noon()), unheld);
}

#[test]
fn bad_087_our_root_cannot_sign_foreign_ids() {
    let (a, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let foreign = a.leaf("spiffe://b.example/shop", |_| {});
    let unknown = Err(VerifyError::UnknownIssuer("b.example".parse().unwrap()));
    assert_eq!(verify(&[&a, &b], std::slice::from_ref(&foreign), noon()), unknown);
    // Nor does the root help as part of the chain.
    assert_eq!(verify(&[&a, &b], &[foreign, a.certificate()], noon()), unknown);
}

#[test]
fn bad_088_validity_of_leaf_and_intermediate() {
    let a = Ca::new("a.example");
    let chain = [leaf(&a)];
    assert_eq!(verify(&[&a], &chain, noon() - Duration::from_secs(11)), Err(VerifyError::Validity));
    assert_eq!(verify(&[&a], &chain, noon() + HOUR + Duration::from_secs(1)), Err(VerifyError::Validity));
    let short = a.intermediate(|params| params.not_after = (noon() + HOUR / 2).into());
    let chain = [leaf(&short), short.certificate()];
    assert!(verify(&[&a], &chain, noon()).is_ok());
    assert_eq!(verify(&[&a], &chain, noon() + HOUR / 2 + Duration::from_secs(1)), Err(VerifyError::Validity));
}

#[test]
fn bad_089_an_expired_root_verifies_nothing() {
    let a = Ca::with("a.example", |params| params.not_after = (noon() + HOUR / 2).into());
    let anchors = Anchors::new(&table(&[&a]));
    let chain = [leaf(&a)];
    assert!(anchors.verify(&chain, Usage::Server, noon()).is_ok());
    // The same anchors, later: it is looked at in each verification.
    assert_eq!(anchors.verify(&chain, Usage::Server, noon() + HOUR / 2), Err(VerifyError::Validity));
    assert_eq!(anchors.verify(&chain, Usage::Server, noon() - 2 * HOUR), Err(VerifyError::Validity));
}

#[test]
fn bad_090_path_length() {
    let a = Ca::new("a.example");
    let last = a.intermediate(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    assert!(verify(&[&a], &[leaf(&last), last.certificate()], noon()).is_ok());
    let beyond = last.intermediate(|params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "beyond");
    });
    let error = verify(&[&a], &[leaf(&beyond), beyond.certificate(), last.certificate()], noon()).unwrap_err();
    assert!(matches!(error, VerifyError::Chain(_)), "{error}");
}

#[test]
fn bad_091_uri_name_constraints() {
    let a = Ca::new("a.example");
    let constrained = a.intermediate(|params| {
        let host = b"a.example";
        let mut der = vec![0x30, 15, 0xa0, 13, 0x30, 11, 0x86, 9];
        der.extend_from_slice(host);
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], der);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    let error = verify(&[&a], &[leaf(&constrained), constrained.certificate()], noon()).unwrap_err();
    assert!(error.to_string().contains("URI name constraint"), "{error}");
}

#[test]
fn bad_092_dns_names_and_constraints() {
    let a = Ca::new("a.example");
    let constrained = a.intermediate(|params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("inside.example".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    });
    let named = |name: &str| {
        let name = SanType::DnsName(name.try_into().unwrap());
        let leaf = constrained.leaf(ID, |params| params.subject_alt_names.push(name));
        verify(&[&a], &[leaf, constrained.certificate()], noon())
    };
    assert!(named("shop.inside.example").is_ok());
    assert!(named("shop.outside.example").is_err());
    assert!(named("*.example").is_err());
}

#[test]
fn bad_093_an_intermediate_signed_with_sha1() {
    const SHA256_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    const SHA1_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = Ca::keyed("a.example", params, key);
    let below = root.intermediate(|_| {});
    let weak = patched(&below.certificate(), &SHA256_WITH_RSA, &SHA1_WITH_RSA);
    assert!(verify(&[&root], &[leaf(&below), below.certificate()], noon()).is_ok());
    assert!(verify(&[&root], &[leaf(&below), weak], noon()).is_err());
}

#[test]
fn bad_096_same_subjects_do_not_explode() {
    let root = Ca::new("a.example");
    // Fourteen issuers with one name, none of which leads to the root: what a path builder must not try in every order.
    let stranger = Ca::new("a.example");
    let first = stranger.intermediate(|_| {});
    let mut chain = vec![leaf(&first), first.certificate()];
    chain.extend((0..14).map(|_| stranger.intermediate(|_| {}).certificate()));
    verify(&[&root], &chain, noon()).unwrap_err();
}
