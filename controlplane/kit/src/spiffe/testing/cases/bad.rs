//! Chains that a validator of X509-SVIDs has to refuse, each good but for one thing.

use std::time::Duration;

use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SerialNumber,
};

use super::{
    Forge, ID, TRUST_DOMAIN, common_name, constrain_uris, dns, lax_key_usage, raw_uris, unknown_extension, uri,
};
use crate::spiffe::testing::HOUR;

pub(super) fn all(forge: &mut Forge) {
    names(forge);
    usages(forge);
    authorities(forge);
    paths(forge);
    issuers(forge);
    forms(forge);
}

fn names(forge: &mut Forge) {
    forge.direct("x_1_no_names", "no alternative names", |params| params.subject_alt_names.clear());
    forge.direct("x_1_only_dns", "no URI among the names", |params| {
        params.subject_alt_names = vec![dns("shop.example")];
    });
    forge.named("x_1_two_ids", "two SPIFFE IDs", &[ID, "spiffe://a.example/admin"]);
    forge.named("x_1_one_id_twice", "the same SPIFFE ID twice", &[ID, ID]);
    forge.named("x_1_id_and_web_address", "a SPIFFE ID and another URI", &[ID, "https://a.example/"]);
    forge.direct("x_1_second_uri_unreadable", "a SPIFFE ID, and a URI of bytes that are no text", |params| {
        raw_uris(params, &[ID.as_bytes(), b"spiffe://a.example/\xff"], true);
    });
    forge.named("x_2_no_path", "the trust domain's own ID", &["spiffe://a.example"]);
    forge.direct("x_3_names_not_critical", "no subject, and names that may be overlooked", |params| {
        raw_uris(params, &[ID.as_bytes()], false);
    });
    forge.named("x_13_web_address", "a URI that is no SPIFFE ID", &["https://a.example/shop"]);
    forge.named("id_1_query", "a query", &["spiffe://a.example/shop?admin"]);
    forge.named("id_1_fragment", "a fragment", &["spiffe://a.example/shop#admin"]);
    forge.named("id_2_port", "a port", &["spiffe://a.example:443/shop"]);
    forge.named("id_2_user", "a user", &["spiffe://root@a.example/shop"]);
    forge.named("id_5_trailing_slash", "an empty segment", &["spiffe://a.example/shop/"]);
    forge.named("id_5_dots", "a segment that climbs", &["spiffe://a.example/shop/../admin"]);
    forge.named("id_5_percent", "percent-encoding", &["spiffe://a.example/%73hop"]);
    forge.direct("id_6_nul", "a NUL in the path", |params| {
        raw_uris(params, &[b"spiffe://a.example/shop\0.evil"], true);
    });
    forge.direct("id_6_homograph", "a Cyrillic letter in the path", |params| {
        raw_uris(params, &["spiffe://a.example/sh\u{43e}p".as_bytes()], true);
    });
    let longer = format!("{ID}/{}", "x".repeat(2048 - ID.len()));
    forge.named("id_7_too_long", "an ID of 2049 bytes", &[&longer]);
}

fn usages(forge: &mut Forge) {
    forge.direct("x_6_leaf_is_an_authority", "CA:TRUE", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    forge.direct("x_8_no_key_usage", "no key usage", |params| params.key_usages.clear());
    forge.direct("x_8_key_usage_not_critical", "a key usage that may be overlooked", |params| {
        lax_key_usage(params, &[3, 2, 7, 0x80]);
    });
    forge.direct("x_10_no_digital_signature", "keyEncipherment only", |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    });
    forge.direct("x_10_leaf_signs_certificates", "keyCertSign on a leaf", |params| {
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    });
    forge.direct("x_10_leaf_signs_lists", "cRLSign on a leaf", |params| {
        params.key_usages.push(KeyUsagePurpose::CrlSign);
    });
    for (name, what, usages) in [
        ("x_11_server_only", "serverAuth without clientAuth", vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ("x_11_client_only", "clientAuth without serverAuth", vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ("x_11_any", "anyExtendedKeyUsage alone", vec![ExtendedKeyUsagePurpose::Any]),
    ] {
        forge.direct(name, what, |params| params.extended_key_usages = usages);
    }
}

fn authorities(forge: &mut Forge) {
    forge.below("x_1_authority_with_two_ids", "an intermediate with two IDs", |params| {
        params.subject_alt_names = vec![uri("spiffe://a.example"), uri("spiffe://a.example")];
    });
    forge.below("x_4_authority_with_a_path", "an intermediate with a workload's ID", |params| {
        params.subject_alt_names = vec![uri("spiffe://a.example/intermediate")];
    });
    forge.below("x_4_authority_of_another_domain", "an intermediate that calls itself another's", |params| {
        params.subject_alt_names = vec![uri("spiffe://b.example")];
    });
    let (root, key) = (forge.root.certificate(), forge.root.key());
    forge.push("x_5_root_as_leaf", "the authority's own certificate, to authenticate with", vec![root]).key = key;
    let below = forge.root.intermediate(|_| {});
    forge.push("x_5_intermediate_as_leaf", "an intermediate, to authenticate with", vec![below.certificate()]).key =
        below.key();
    forge.below("x_6_intermediate_is_none", "an intermediate with CA:FALSE", |params| {
        params.is_ca = IsCa::ExplicitNoCa;
    });
    forge.below("x_6_intermediate_says_nothing", "an intermediate without basic constraints", |params| {
        params.is_ca = IsCa::NoCa;
    });
    forge.under("x_6_root_is_none", "a root with CA:FALSE", |params| params.is_ca = IsCa::ExplicitNoCa);
    forge.below("x_7_uris_permitted", "an intermediate that may vouch for one host's URIs", |params| {
        constrain_uris(params, true, b"b.example");
    });
    forge.below("x_7_uris_excluded", "an intermediate that may not vouch for this host's URIs", |params| {
        constrain_uris(params, false, b"a.example");
    });
    forge.under("x_7_root_constrains_uris", "a root that may vouch for another host's URIs", |params| {
        constrain_uris(params, true, b"b.example");
    });
    forge.below("x_8_intermediate_not_critical", "an intermediate's key usage that may be overlooked", |params| {
        lax_key_usage(params, &[3, 2, 2, 0x04]);
    });
    forge.below("x_9_intermediate_may_not_sign", "an intermediate without keyCertSign", |params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
    forge.under("x_9_root_may_not_sign", "a root without keyCertSign", |params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
}

fn paths(forge: &mut Forge) {
    let (now, minute) = (forge.now, Duration::from_secs(60));
    let leaf = forge.leaf(&forge.root, |_| {});
    forge.push("bad_080_seventeen", "seventeen certificates", vec![leaf; 17]);
    forge.direct("bad_088_expired_leaf", "a leaf that has expired", |params| {
        params.not_before = (now - HOUR).into();
        params.not_after = (now - minute).into();
    });
    forge.direct("bad_088_future_leaf", "a leaf that is not yet valid", |params| {
        params.not_before = (now + minute).into();
    });
    forge.below("bad_088_expired_intermediate", "an intermediate that has expired", |params| {
        params.not_after = (now - minute).into();
    });
    forge.under("bad_089_expired_root", "a root that has expired", |params| params.not_after = (now - minute).into());
    let (upper, lower) = forge.two_levels(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let chain = vec![forge.leaf(&lower, |_| {}), lower.certificate(), upper.certificate()];
    forge.push("bad_090_path_too_long", "an intermediate below one that may have none below it", chain);
    for (name, what, host) in [
        ("bad_092_outside", "a DNS name that the authority may not vouch for", "outside.example"),
        ("bad_092_wildcard", "a wildcard that reaches beyond what the authority may vouch for", "*.example"),
    ] {
        let issuer = forge.root.intermediate(|params| {
            let permitted_subtrees = vec![GeneralSubtree::DnsName("inside.example".into())];
            params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        });
        let leaf = forge.leaf(&issuer, |params| params.subject_alt_names.push(dns(host)));
        forge.push(name, what, vec![leaf, issuer.certificate()]);
    }
}

fn issuers(forge: &mut Forge) {
    let below = forge.root.intermediate(|_| {});
    let leaf = forge.leaf(&below, |_| {});
    forge.push("x_12_no_intermediate", "the chain lacks its intermediate", vec![leaf]);
    let mut broken = forge.leaf(&forge.root, |_| {}).to_vec();
    *broken.last_mut().unwrap() ^= 1;
    forge.push("x_12_broken_signature", "a signature with one bit wrong", vec![broken.into()]);
    let impostor = forge.other_root(TRUST_DOMAIN, |_| {});
    let chain = vec![forge.leaf(&impostor, |_| {}), impostor.certificate()];
    forge.push("x_14_impostor", "an authority that says it is ours, and brings its own root", chain);
    forge.named("x_14_foreign_id", "our root vouches for another trust domain's ID", &["spiffe://b.example/shop"]);
    let foreign = forge.other_root("b.example", |_| {});
    let leaf = forge.leaf(&foreign, |_| {});
    forge.push("x_14_foreign_root", "another trust domain's root vouches for our ID", vec![leaf]);
    let own = forge.other_root(TRUST_DOMAIN, |params| {
        params.subject_alt_names = vec![uri(ID)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        common_name(params, "own");
    });
    forge.push("x_14_self_signed", "a leaf that vouches for itself", vec![own.certificate()]).key = own.key();
}

fn forms(forge: &mut Forge) {
    const P256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const P192: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1];
    forge.rewritten("bad_093_p192", "a public key that says it is on P-192", &P256, &P192);
    forge.direct("bad_094_serial_zero", "serial number zero", |params| {
        params.serial_number = Some(SerialNumber::from_slice(&[0]));
    });
    forge.direct("bad_094_serial_too_long", "a serial number of 21 bytes", |params| {
        params.serial_number = Some(SerialNumber::from_slice(&[0x41; 21]));
    });
    forge.rewritten("bad_094_serial_negative", "a negative serial number", &[0x41; 20], &[0xc1]);
    forge.direct("bad_095_unknown_critical", "a critical extension that nobody knows", |params| {
        params.custom_extensions.push(unknown_extension(true));
    });
    forge.below("bad_095_unknown_critical_above", "the same on an intermediate", |params| {
        params.custom_extensions.push(unknown_extension(true));
    });
    forge.direct("bad_095_twice", "an extension twice", |params| {
        params.custom_extensions.extend([unknown_extension(false), unknown_extension(false)]);
    });
    forge.rewritten("bad_097_version_2", "extensions in version 2", &[0xa0, 3, 2, 1, 2], &[0xa0, 3, 2, 1, 1]);
    let leaf = forge.leaf(&forge.root, |_| {}).to_vec();
    forge.push("bad_097_trailing_byte", "a byte after the certificate", vec![[leaf.as_slice(), &[0]].concat().into()]);
    let mut padded = leaf.clone();
    padded.splice(1..2, [0x83, 0]);
    forge.push("bad_097_long_length", "a length in three bytes where two do", vec![padded.into()]);
    forge.push("bad_097_cut", "the first half of a certificate", vec![leaf[..leaf.len() / 2].to_vec().into()]);
}
