//! What our certificates look like, read back; and that no TTL makes one outlive what it may.

use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use super::*;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn read<'a>(der: &'a CertificateDer<'static>) -> X509Certificate<'a> {
    X509Certificate::from_der(der).unwrap().1
}

fn minted(identity: &Identity, ttl: Duration, dns: &[String]) -> Minted {
    let id = "spiffe://a.example/shop".parse().unwrap();
    let key = profile::Request::parse(&plain_csr()).unwrap().key_for(&id, dns).unwrap();
    identity.issuer.mint(&key, &id, ttl, dns).unwrap()
}

#[tokio::test]
async fn id_9_the_signing_authority_carries_its_trust_domains_own_id() {
    let identity = world().start().await;
    let own = identity.bundles.own().unwrap();
    assert!(!own.x509.is_empty());
    for root in own.x509.iter().chain(&identity.issuer.active_certificate()) {
        let root = read(root);
        let names = &root.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(
            matches!(names[..], [GeneralName::URI("spiffe://a.example")]),
            "of that domain, without a path: {names:?}"
        );
        assert!(root.is_ca() && root.key_usage().unwrap().unwrap().value.key_cert_sign());
    }
}

#[tokio::test]
async fn x_7_our_authorities_constrain_no_uris() {
    let identity = world().start().await;
    let root = identity.issuer.active_certificate().unwrap();
    assert!(!symbolon_kit::spiffe::verify::uri_name_constraints(&root), "no verifier that we know of can check them");
    assert!(read(&root).name_constraints().unwrap().is_none());
}

#[tokio::test]
async fn x_1_to_x_11_what_is_minted_keeps_the_profile() {
    let identity = world().start().await;
    let svid = minted(&identity, SVID_TTL, &["shop.example".to_owned()]);
    let leaf = read(&svid.chain[0]);
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    let names = &san.value.general_names;
    assert!(
        matches!(names[..], [GeneralName::URI("spiffe://a.example/shop"), GeneralName::DNSName("shop.example")]),
        "X-1, X-2: {names:?}"
    );
    assert!(leaf.subject().iter().next().is_none() && san.critical, "X-3");
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca, "X-6, and said in so many words: others demand the extension");
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical, "X-8");
    assert_eq!(usage.value.flags, 1, "X-10: digitalSignature and nothing else");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any, "X-11");
    let root = identity.issuer.active_certificate().unwrap();
    let root = read(&root);
    let identifier = |certificate: &X509Certificate<'_>, own: bool| {
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) if own => Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) if !own => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        })
    };
    assert!(identifier(&root, true).is_some());
    assert_eq!(identifier(&leaf, false), identifier(&root, true), "which of two authorities of one name it was");
}

#[tokio::test]
async fn bad_019_no_ttl_outlives_the_authority_or_is_nothing() {
    let world = world();
    let identity = world.start().await;
    let end = validity_of(&identity.issuer.active_certificate().unwrap());
    for ttl in [100 * YEAR, Duration::MAX, Duration::from_secs(u64::from(u32::MAX)), CA_TTL * 2] {
        let svid = minted(&identity, ttl, &[]);
        assert_eq!((svid.not_after, validity_of(&svid.chain[0])), (end, end), "{ttl:?}");
    }
    let svid = minted(&identity, SVID_TTL, &[]);
    assert_eq!(svid.not_after, world.clock.now() + SVID_TTL, "and a shorter one is what was asked for");
}

fn validity_of(der: &CertificateDer<'static>) -> SystemTime {
    symbolon_kit::spiffe::svid::validity(der).unwrap().1
}
