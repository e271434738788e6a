//! Bad input 1 to 19: what a CSR may say. Row 20, the size of a batch, is the API's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};

use super::*;
use crate::identity::profile::Request;

/// Made by OpenSSL, since rcgen makes no such keys; each signs itself correctly.
fn made_by_openssl(name: &str) -> Vec<u8> {
    let all: serde_json::Value = serde_json::from_str(include_str!("../../../../tests/data/csrs.json")).unwrap();
    STANDARD.decode(all[name].as_str().unwrap()).unwrap()
}

/// Refused as a request, whatever it is for.
fn refused(csr: &[u8], why: &str) {
    let Err(Refusal::BadCsr(reason)) = Request::parse(csr) else { panic!("not refused as a bad CSR: {why}") };
    assert!(reason.contains(why), "{reason:?} does not say {why:?}");
}

fn weak(csr: &[u8]) {
    assert!(matches!(Request::parse(csr), Err(Refusal::WeakKey(_))));
}

/// What a workload with the name `shop.example` is told.
fn for_shop(csr: &[u8]) -> Result<(), Refusal> {
    let id = "spiffe://a.example/shop".parse().unwrap();
    Request::parse(csr)?.key_for(&id, &["shop.example".to_owned()]).map(drop)
}

fn not_granted(csr: &[u8], what: &str) {
    let Err(Refusal::NotGranted(name)) = for_shop(csr) else { panic!("{what} was granted") };
    assert!(name.contains(what), "{name:?} does not say {what:?}");
}

fn asking_for(uris: &[&str]) -> Vec<u8> {
    csr(|params| params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect())
}

fn extended(oid: &[u64], content: &[u8], critical: bool) -> Vec<u8> {
    csr(|params| params.custom_extensions = vec![extension(oid, content, critical)])
}

fn extension(oid: &[u64], content: &[u8], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

const SAN: [u64; 4] = [2, 5, 29, 17];

#[test]
fn bad_001_not_der() {
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n", STANDARD.encode(plain_csr()));
    for bytes in [b"".as_slice(), pem.as_bytes(), &[0; 100], &[0x30, 0x80, 0, 0], &plain_csr()[1..]] {
        refused(bytes, "not a PKCS#10 request");
    }
}

#[test]
fn bad_002_bytes_after_it() {
    let mut csr = plain_csr();
    csr.push(0);
    refused(&csr, "bytes after");
}

#[test]
fn bad_003_too_large() {
    let mut csr = plain_csr();
    csr.resize(16 * 1024 + 1, 0);
    refused(&csr, "longer than 16 KiB"); // said before the bytes after it are noticed
}

#[test]
fn bad_004_no_proof_of_possession() {
    let mut csr = plain_csr();
    let last = csr.len() - 1;
    csr[last] ^= 1;
    refused(&csr, "possession");
    // Somebody else's key in a request that is well signed by ours.
    let (ours, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (own, other) = (rcgen::PublicKeyData::der_bytes(&ours), rcgen::PublicKeyData::der_bytes(&theirs));
    let mut csr = csr_of(&ours, |_| {});
    let at = csr.windows(own.len()).position(|window| window == own).unwrap();
    csr[at..at + own.len()].copy_from_slice(other);
    refused(&csr, "possession");
}

#[test]
fn bad_005_weak_keys() {
    for name in ["rsa_1024", "p_192", "secp256k1", "explicit_p256"] {
        weak(&made_by_openssl(name));
    }
    weak(&csr_of(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), |_| {})); // Envoy loads none
    for good in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256] {
        Request::parse(&csr_of(&KeyPair::generate_for(good).unwrap(), |_| {})).unwrap();
    }
}

/// rcgen's own CSR type reads the curve off the signature, and would mint a certificate whose key nobody can read.
#[tokio::test]
async fn the_key_is_what_the_csr_says_and_not_what_its_signature_says() {
    let identity = world().start().await;
    let minted = identity.renew_node(&node("node-1"), &made_by_openssl("p_384_sha_256")).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&minted.chain[0]).unwrap();
    let csr = made_by_openssl("p_384_sha_256");
    assert!(csr.windows(leaf.subject_pki.raw.len()).any(|window| window == leaf.subject_pki.raw));
}

#[tokio::test]
async fn bad_006_the_authoritys_own_key() {
    let world = world();
    let identity = world.start().await;
    let key = KeyPair::from_pem(&std::fs::read_to_string(&world.keys()[0].0).unwrap()).unwrap();
    let refusal = identity.renew_node(&node("node-1"), &csr_of(&key, |_| {})).unwrap_err();
    assert!(matches!(refusal, Refusal::WeakKey(why) if why.contains("authority's own key")));
}

#[tokio::test]
async fn bad_007_the_key_of_another_identity() {
    let world = world();
    let identity = world.start().await;
    let key = KeyPair::generate().unwrap();
    let csr = csr_of(&key, |_| {});
    let mint = |name: &str| identity.renew_node(&node(name), &csr).map(drop);
    assert_eq!(mint("node-1"), Ok(()));
    assert_eq!(mint("node-1"), Ok(()), "renewed with the same key");
    let refusal = mint("node-2").unwrap_err();
    assert_eq!(refusal.label(), "key_in_use");
    assert!(refusal.to_string().contains("make a new key"), "{refusal}");
    assert!(!refusal.to_string().contains("node-1"), "whose key it is, is nobody else's business: {refusal}");
    world.clock.advance(world.config.node_ttl + Duration::from_secs(1));
    assert_eq!(mint("node-2"), Ok(()), "no living certificate speaks for the key any more");
}

#[test]
fn bad_008_no_name_means_the_entrys() {
    assert_eq!(for_shop(&plain_csr()), Ok(()));
    assert!(!Request::parse(&plain_csr()).unwrap().asks_for_names());
}

#[test]
fn bad_009_two_uris() {
    refused(&asking_for(&["spiffe://a.example/shop", "spiffe://a.example/admin"]), "two URI names");
    refused(&asking_for(&["spiffe://a.example/shop", "spiffe://a.example/shop"]), "two URI names");
}

#[test]
fn bad_010_another_workloads_id() {
    assert_eq!(for_shop(&asking_for(&["spiffe://a.example/shop"])), Ok(()));
    not_granted(&asking_for(&["spiffe://a.example/admin"]), "spiffe://a.example/admin");
    not_granted(&asking_for(&["spiffe://a.example/shop/more"]), "shop/more");
    not_granted(&asking_for(&["https://a.example/shop"]), "https://");
}

#[tokio::test]
async fn bad_011_a_reserved_id() {
    not_granted(&asking_for(&["spiffe://a.example/symbolon/controlplane/0"]), "controlplane");
    let identity = world().start().await;
    let token = identity.tokens.create(&node("node-1"), SVID_TTL).await.unwrap().token;
    let asking = asking_for(&["spiffe://a.example/symbolon/controlplane/0"]);
    let refusal = join_with(&identity, &token, &asking).await.unwrap_err();
    assert!(matches!(refusal, Refusal::BadCsr(_)), "{refusal}");
    let refusal = identity.renew_node(&node("node-1"), &asking).unwrap_err();
    assert!(matches!(refusal, Refusal::NotGranted(_)), "{refusal}");
    join_with(&identity, &token, &plain_csr()).await.expect("the token was not spent");
}

#[test]
fn bad_012_a_foreign_id() {
    not_granted(&asking_for(&["spiffe://b.example/shop"]), "b.example");
}

#[test]
fn bad_013_an_unregistered_dns_name() {
    let asking = |name: &str| csr(|params| params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())]);
    assert_eq!(for_shop(&asking("shop.example")), Ok(()));
    not_granted(&asking("admin.example"), "admin.example");
    let address = csr(|params| params.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())]);
    not_granted(&address, "neither a URI nor a DNS name");
}

#[test]
fn bad_014_names_with_nul_and_other_kinds() {
    not_granted(&extended(&SAN, b"\x30\x0f\x82\x0dshop.example\0", false), "shop.example\\0");
    let other = b"\x30\x10\xa0\x0e\x06\x03\x2a\x03\x04\xa0\x07\x0c\x05shop\0";
    not_granted(&extended(&SAN, other, false), "neither a URI nor a DNS name");
}

#[test]
fn bad_015_it_asks_to_be_an_authority() {
    refused(&extended(&[2, 5, 29, 19], &[0x30, 3, 1, 1, 0xff], true), "CA:TRUE");
}

#[test]
fn bad_016_it_asks_to_sign() {
    refused(&csr(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]), "keyCertSign");
    refused(&csr(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]), "keyCertSign");
    let usual = csr(|params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(for_shop(&usual), Ok(()), "what it would get anyway");
}

#[test]
fn bad_017_an_unknown_critical_extension() {
    refused(&extended(&[1, 3, 6, 1, 4, 1, 55555, 1], &[5, 0], true), "unknown critical");
    assert_eq!(for_shop(&extended(&[1, 3, 6, 1, 4, 1, 55555, 1], &[5, 0], false)), Ok(()));
    refused(&extended(&SAN, &[0x30, 0x7f], false), "cannot be read");
}

#[test]
fn bad_018_extensions_twice_or_by_the_thousand() {
    let many = |count: u64, kinds: u64| {
        let one = |n: u64| extension(&[1, 3, 6, 1, 4, 1, 55555, n % kinds], &[5, 0], false);
        csr(|params| params.custom_extensions = (0..count).map(one).collect())
    };
    refused(&many(2, 1), "an extension twice");
    refused(&many(33, 1000), "more than 32 extensions");
    let thousand = many(1000, 1000);
    refused(&thousand, if thousand.len() > 16 * 1024 { "longer than" } else { "more than 32 extensions" });
    assert_eq!(for_shop(&many(32, 1000)), Ok(()));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>) {
        prop_assert!(Request::parse(&bytes).is_err());
    }

    /// The parser lets some tags outside the signed part pass; what is signed, no damage gets through.
    #[test]
    fn no_damage_changes_what_is_signed(at in 0..4096usize, flip in 1..=255u8) {
        let key = KeyPair::generate().unwrap();
        let ask = |params: &mut CertificateParams| {
            params.subject_alt_names = vec![SanType::URI("spiffe://a.example/shop".try_into().unwrap())];
        };
        let good = csr_of(&key, ask);
        let mut damaged = good.clone();
        let at = at % good.len();
        damaged[at] ^= flip;
        let id = "spiffe://a.example/shop".parse().unwrap();
        let granted = |csr: &[u8]| Request::parse(csr)?.key_for(&id, &[]);
        let wanted = rcgen::PublicKeyData::der_bytes(&key);
        let got = granted(&good).unwrap();
        prop_assert_eq!(rcgen::PublicKeyData::der_bytes(&got), wanted);
        if let Ok(got) = granted(&damaged) {
            prop_assert_eq!(rcgen::PublicKeyData::der_bytes(&got), wanted, "byte {}", at);
        }
    }
}
