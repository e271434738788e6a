use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData as _,
    RsaKeySize,
};
use serde_json::{Value, json};

use super::*;
use crate::spiffe::testing::{Ca, HOUR, noon, patched};

static A: LazyLock<Ca> = LazyLock::new(|| Ca::new("a.example"));

fn domain() -> TrustDomain {
    "a.example".parse().unwrap()
}

fn parse(document: &Value) -> Result<Parsed, BundleError> {
    Bundle::parse_jwks(&domain(), &serde_json::to_vec(document).unwrap(), noon())
}

/// A good document with one authority.
fn good() -> Value {
    serde_json::from_slice(&A.bundle().to_jwks()).unwrap()
}

/// A good document with one more key behind the authority.
fn with_key(key: Value) -> Value {
    let mut document = good();
    document["keys"].as_array_mut().unwrap().push(key);
    document
}

/// A JWK for `der` with the members of a good one.
fn jwk(der: &[u8]) -> Value {
    let mut key = good()["keys"][0].clone();
    key["x5c"] = json!([STANDARD.encode(der)]);
    key
}

/// A key for tokens.
fn token_jwk(usage: &str, kid: &str) -> Value {
    let mut key = TokenKey::from_spki(&KeyPair::generate().unwrap().subject_public_key_info()).unwrap().to_jwk();
    key["use"] = json!(usage);
    key["kid"] = json!(kid);
    key
}

/// The key is ignored with a warning that says `why`; the rest of the document is not.
fn ignored(key: Value, why: &str) {
    let parsed = parse(&with_key(key)).unwrap();
    assert_eq!(parsed.bundle.x509, [A.certificate()]);
    assert_eq!(parsed.warnings.len(), 1, "{:?}", parsed.warnings);
    assert!(parsed.warnings[0].contains(why), "{:?} does not say {why:?}", parsed.warnings);
}

fn refused(document: &Value) -> BundleError {
    parse(document).unwrap_err()
}

#[test]
fn what_is_written_reads_back() {
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let root = |key| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca::keyed("a.example", params, key).certificate()
    };
    let roots = vec![A.certificate(), root(rsa), root(p384), root(ed25519)];
    let bundle = Bundle::new(domain(), u64::MAX, Duration::from_secs(60), roots);
    let parsed = Bundle::parse_jwks(&domain(), &bundle.to_jwks(), noon()).unwrap();
    assert_eq!(parsed.warnings, Vec::<String>::new());
    assert_eq!(parsed.bundle, bundle);
    assert_eq!(parsed.bundle.to_jwks(), bundle.to_jwks());
    assert_eq!(parsed.bundle.sha256(), bundle.sha256());
    assert_ne!(A.bundle().sha256(), bundle.sha256());
}

/// Also what SPIRE's decoder insists on: `use` known, no `kid`, exactly one certificate, a hint (spec/identity.md).
#[test]
fn x_15_what_is_written() {
    let text = String::from_utf8(A.bundle().to_jwks()).unwrap();
    let key =
        x509_parser::parse_x509_certificate(&A.certificate()).unwrap().1.subject_pki.subject_public_key.data.to_vec();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&key[1..33]), URL_SAFE_NO_PAD.encode(&key[33..]));
    let x5c = STANDARD.encode(A.certificate());
    // Byte for byte: a token pins the document's hash.
    let want = format!(
        r#"{{"keys":[{{"use":"x509-svid","kty":"EC","crv":"P-256","x":"{x}","y":"{y}","x5c":["{x5c}"]}}],"spiffe_sequence":1,"spiffe_refresh_hint":300}}"#
    );
    assert_eq!(text, want);
}

#[test]
fn x_16_the_first_certificate_counts() {
    let mut document = good();
    let other = STANDARD.encode(Ca::new("a.example").certificate());
    document["keys"][0]["x5c"].as_array_mut().unwrap().push(json!(other));
    assert_eq!(parse(&document).unwrap().bundle.x509, [A.certificate()]);
    document["keys"][0]["x5c"] = json!([]);
    assert!(matches!(refused(&document), BundleError::Unusable(_)));
}

#[test]
fn bad_035_not_json_too_large_too_deep() {
    let read = |text: &str| Bundle::parse_jwks(&domain(), text.as_bytes(), noon()).unwrap_err();
    for text in
        ["", "keys", "[]", "null", "7", "{\"keys\":[]", "{\"keys\":[]} {}", "{\"keys\":[]}x", "\u{feff}{\"keys\":[]}"]
    {
        assert!(matches!(read(text), BundleError::Malformed(_)), "{text:?}");
    }
    assert!(Bundle::parse_jwks(&domain(), b"{\"keys\":[],\"x\":\"\xff\"}", noon()).is_err(), "not UTF-8");
    assert_eq!(read(&" ".repeat(MAX_BYTES + 1)), BundleError::TooLarge);
    assert!(matches!(read(&" ".repeat(MAX_BYTES)), BundleError::Malformed(_)));
    let nested = |depth: usize| format!("{{\"keys\":[],\"x\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(Bundle::parse_jwks(&domain(), nested(31).as_bytes(), noon()).is_ok());
    assert!(matches!(read(&nested(32)), BundleError::Malformed(why) if why.contains("nested")));
    assert!(matches!(read(&nested(100_000)), BundleError::Malformed(_)));
}

#[test]
fn bad_038_a_member_twice() {
    let twice = format!(r#"{{"keys":[],"spiffe_sequence":1,"keys":{}}}"#, good()["keys"]);
    let error = Bundle::parse_jwks(&domain(), twice.as_bytes(), noon()).unwrap_err();
    assert!(matches!(&error, BundleError::Malformed(why) if why.contains("\"keys\" appears twice")), "{error}");
    let inside = r#"{"keys":[{"kty":"EC","use":"x509-svid","use":"jwt-svid"}]}"#;
    assert!(Bundle::parse_jwks(&domain(), inside.as_bytes(), noon()).is_err());
}

#[test]
fn bad_039_b_3_keys_must_be_a_list() {
    for document in [json!({}), json!({"keys": null}), json!({"keys": {}}), json!({"keys": "none"})] {
        assert_eq!(refused(&document), BundleError::NoKeys, "{document}");
    }
}

#[test]
fn bad_040_an_empty_list_is_a_statement() {
    let parsed = parse(&json!({"keys": [], "spiffe_sequence": 2})).unwrap();
    assert_eq!(parsed.bundle, Bundle::new(domain(), 2, DEFAULT_REFRESH, Vec::new()));
    assert!(parsed.warnings.is_empty());
    assert_eq!(Bundle::admit(Some(&A.bundle()), &parsed.bundle, noon()), Ok(Admission::Newer));
    assert_eq!(parsed.content, Content::Empty);
    let jwt_only = parse(&json!({"keys": [token_jwk("jwt-svid", "1")], "spiffe_sequence": 2})).unwrap();
    assert_eq!((jwt_only.content, jwt_only.bundle.x509.len(), jwt_only.bundle.jwt.len()), (Content::TokensOnly, 0, 1));
}

#[test]
fn bad_041_b_4_b_5_unknown_elements() {
    let changed = |member: &str, value: Value| {
        let mut key = jwk(&A.certificate());
        key[member] = value;
        key
    };
    ignored(changed("use", json!("ssh-svid")), "unknown use");
    ignored(changed("use", json!("X509-SVID")), "unknown use");
    ignored(changed("use", Value::Null), "no use");
    ignored(changed("kty", json!("LWE")), "unknown kty");
    ignored(changed("kty", Value::Null), "no kty");
    ignored(json!({"kty": "EC"}), "no use");
    ignored(json!("a key"), "not an object");
}

#[test]
fn bad_042_no_x5c() {
    let with = |x5c: Value| json!({"kty": "EC", "use": "x509-svid", "x5c": x5c});
    ignored(json!({"kty": "EC", "use": "x509-svid"}), "no x5c");
    ignored(with(json!([])), "no x5c");
    ignored(with(json!(null)), "no x5c");
    ignored(with(json!("MIIB")), "no x5c");
    ignored(with(json!([7])), "no x5c");
}

#[test]
fn bad_043_two_certificates() {
    let second = Ca::new("a.example").certificate();
    let mut key = jwk(&second);
    key["x5c"].as_array_mut().unwrap().push(json!("garbage"));
    assert_eq!(parse(&with_key(key)).unwrap().bundle.x509, [A.certificate(), second]);
}

#[test]
fn bad_044_x5c_that_cannot_be_decoded() {
    let with = |text: &str| json!({"kty": "EC", "use": "x509-svid", "x5c": [text]});
    ignored(with("not base64!"), "not base64");
    ignored(with(""), "not a certificate");
    ignored(with(&URL_SAFE_NO_PAD.encode(A.certificate())), "not base64");
    ignored(jwk(b"not a certificate"), "not a certificate");
    let mut longer = A.certificate().to_vec();
    longer.push(0);
    ignored(jwk(&longer), "not a certificate");
}

#[test]
fn bad_045_not_an_authority_or_expired() {
    ignored(jwk(&A.leaf("spiffe://a.example/shop", |_| {})), "CA:TRUE");
    let leaf_usage = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    ignored(jwk(&Ca::with("a.example", leaf_usage).certificate()), "keyCertSign");
    let expired = Ca::with("a.example", |params| params.not_after = (noon() - HOUR / 2).into());
    ignored(jwk(&expired.certificate()), "expired");
    let mut only_expired = good();
    only_expired["keys"] = json!([jwk(&expired.certificate())]);
    assert_eq!(
        parse(&only_expired).unwrap().bundle.x509,
        [],
        "true, and of no use: it withdraws nothing that still counts"
    );
}

#[test]
fn x_4_an_authoritys_id_has_no_path() {
    let named = Ca::with("a.example", |params| {
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://a.example/shop".try_into().unwrap())];
    });
    ignored(jwk(&named.certificate()), "has a path");
    let nameless = Ca::with("a.example", |params| params.subject_alt_names.clear()).certificate();
    assert_eq!(parse(&with_key(jwk(&nameless))).unwrap().bundle.x509, [A.certificate(), nameless]);
}

#[test]
fn bad_046_an_authority_of_another_domain() {
    let b = Ca::new("b.example");
    let want = BundleError::OtherTrustDomain { index: 1, owner: "b.example".into() };
    assert_eq!(refused(&with_key(jwk(&b.certificate()))), want);
    let broken = Ca::with("a.example", |params| {
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://a.example/../b".try_into().unwrap())];
    });
    assert!(matches!(refused(&with_key(jwk(&broken.certificate()))), BundleError::OtherTrustDomain { .. }));
}

#[test]
fn bad_048_jwt_keys_without_kid() {
    ignored(json!({"kty": "EC", "use": "jwt-svid"}), "without kid");
}

#[test]
fn bad_049_two_keys_with_one_kid() {
    let key = token_jwk("jwt-svid", "one");
    let mut document = with_key(key.clone());
    assert!(parse(&document).is_ok());
    document["keys"].as_array_mut().unwrap().push(key);
    assert_eq!(refused(&document), BundleError::DuplicateKid("one".into()));
}

#[test]
fn bad_050_private_keys() {
    for member in ["d", "p", "q", "dp", "dq", "qi"] {
        let mut key = jwk(&A.certificate());
        key[member] = json!("AQAB");
        assert_eq!(refused(&with_key(key)), BundleError::SecretKey(1), "{member}");
    }
    // Even in an element that would be ignored.
    assert_eq!(refused(&with_key(json!({"kty": "new", "d": "AQAB"}))), BundleError::SecretKey(1));
}

#[test]
fn bad_051_symmetric_keys() {
    assert_eq!(refused(&with_key(json!({"kty": "oct", "use": "jwt-svid"}))), BundleError::SecretKey(1));
    assert_eq!(refused(&with_key(json!({"kty": "EC", "k": "AQAB"}))), BundleError::SecretKey(1));
}

#[test]
fn bad_052_weak_keys() {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let rsa = Ca::keyed("a.example", params, key).certificate();
    ignored(jwk(&patched(&rsa, &[2, 3, 1, 0, 1], &[2, 3, 0, 0, 1])), "weak");
    let p192 =
        patched(&A.certificate(), &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1]);
    ignored(jwk(&p192), "weak");
}

fn numbered(sequence: u64, roots: &[&Ca]) -> Bundle {
    Bundle::new(domain(), sequence, DEFAULT_REFRESH, roots.iter().map(|ca| ca.certificate()).collect())
}

#[test]
fn bad_053_an_older_sequence() {
    let stored = numbered(7, &[&A]);
    let older = Err(BundleError::Older { offered: 6, stored: 7 });
    assert_eq!(Bundle::admit(Some(&stored), &numbered(6, &[&A]), noon()), older);
    let unnumbered = parse(&json!({"keys": good()["keys"]})).unwrap().bundle;
    let older = Err(BundleError::Older { offered: 0, stored: 7 });
    assert_eq!(Bundle::admit(Some(&stored), &unnumbered, noon()), older, "none at all");
    assert_eq!(Bundle::admit(Some(&stored), &numbered(8, &[&A]), noon()), Ok(Admission::Newer));
    assert_eq!(Bundle::admit(None, &numbered(0, &[&A]), noon()), Ok(Admission::Newer));
}

#[test]
fn bad_054_the_same_sequence_with_other_content() {
    let stored = numbered(7, &[&A]);
    let other = Ca::new("a.example");
    assert_eq!(Bundle::admit(Some(&stored), &numbered(7, &[&A]), noon()), Ok(Admission::Unchanged));
    assert_eq!(Bundle::admit(Some(&stored), &numbered(7, &[&other]), noon()), Err(BundleError::SameSequence(7)));
    assert_eq!(Bundle::admit(Some(&stored), &numbered(7, &[]), noon()), Err(BundleError::SameSequence(7)));
    let hinted = Bundle { refresh_hint: HOUR, ..stored.clone() };
    assert_eq!(Bundle::admit(Some(&stored), &hinted, noon()), Err(BundleError::SameSequence(7)));
}

#[test]
fn the_same_document_read_after_a_root_expired_is_unchanged() {
    let short = Ca::with("a.example", |params| params.not_after = (noon() + HOUR).into());
    let stored = numbered(7, &[&A, &short]);
    let later = Bundle::parse_jwks(&domain(), &stored.to_jwks(), noon() + HOUR).unwrap().bundle;
    assert_eq!(later.x509, [A.certificate()]);
    assert_eq!(Bundle::admit(Some(&stored), &later, noon() + HOUR), Ok(Admission::Unchanged));
    assert_eq!(Bundle::admit(Some(&stored), &later, noon()), Err(BundleError::SameSequence(7)), "but not before");
}

#[test]
fn bad_055_what_is_no_sequence() {
    for sequence in [json!(-1), json!(1.5), json!("7"), json!(null), json!(18_446_744_073_709_551_616.0)] {
        let mut document = good();
        document["spiffe_sequence"] = sequence.clone();
        assert_eq!(refused(&document), BundleError::Sequence, "{sequence}");
    }
    let text = good().to_string().replace("\"spiffe_sequence\":1", "\"spiffe_sequence\":18446744073709551616");
    let error = Bundle::parse_jwks(&domain(), text.as_bytes(), noon()).unwrap_err();
    assert_eq!(error, BundleError::Sequence, "2^64");
}

#[test]
fn bad_056_refresh_hints_are_clamped() {
    let hint = |hint: Value| {
        let mut document = good();
        document["spiffe_refresh_hint"] = hint;
        parse(&document).unwrap().bundle.refresh_hint.as_secs()
    };
    let day = 24 * 3600;
    for (offered, taken) in
        [(60, 60), (1, 30), (29, 30), (30, 30), (day, day), (1_000_000_000_000, day), (u64::MAX, day)]
    {
        assert_eq!(hint(json!(offered)), taken, "{offered}");
    }
    // In bounds, too: a hint that is none is the default.
    for no_hint in [json!(0), json!(-1), json!(i64::MIN), json!("60"), json!(1.5), json!(null)] {
        assert_eq!(hint(no_hint.clone()), 300, "{no_hint}");
    }
    let mut absent = good();
    absent.as_object_mut().unwrap().remove("spiffe_refresh_hint");
    assert_eq!(parse(&absent).unwrap().bundle.refresh_hint, DEFAULT_REFRESH);
}

#[test]
fn bad_058_too_many_keys() {
    let keys = |count| json!({"keys": vec![json!({"kty": "EC", "use": "future"}); count]});
    assert_eq!(refused(&keys(10_000)), BundleError::TooManyKeys);
    assert_eq!(refused(&keys(MAX_KEYS + 1)), BundleError::TooManyKeys);
    assert!(matches!(refused(&keys(MAX_KEYS)), BundleError::Unusable(_)));
}

/// What is in two bundles would let one domain's authority vouch for the other's IDs, whatever it is there for.
#[test]
fn bad_047_a_key_of_another_bundle() {
    let b = Ca::new("b.example").bundle();
    let token = |kid: &str| -> JwtAuthority {
        let key = TokenKey::from_jwk(B_KEY.as_object().unwrap()).unwrap();
        JwtAuthority { kid: kid.into(), key }
    };
    let with = |x509, jwt, wit| Bundle::new(domain(), 1, DEFAULT_REFRESH, x509).with_tokens(jwt, wit);
    let ours = with(vec![A.certificate()], vec![token("1")], Vec::new());
    assert!(!ours.shares_a_key_with(&b) && !b.shares_a_key_with(&ours));
    for shared in [
        with(vec![A.certificate()], Vec::new(), Vec::new()),
        with(Vec::new(), vec![token("2")], Vec::new()),
        with(b.x509.clone(), Vec::new(), vec![token("3")]),
    ] {
        assert!(ours.shares_a_key_with(&shared) && shared.shares_a_key_with(&ours));
    }
}

/// A key for tokens, always the same.
static B_KEY: LazyLock<Value> = LazyLock::new(|| token_jwk("jwt-svid", "any"));

#[test]
fn an_authority_twice_counts_once() {
    ignored(jwk(&A.certificate()), "the same again");
}

/// An accident withdraws nothing (invariant I5): a bundle whose every key is broken is not an empty bundle.
#[test]
fn nothing_usable_is_not_nothing() {
    let document = json!({"keys": [jwk(b"garbage")], "spiffe_sequence": 2});
    assert!(matches!(refused(&document), BundleError::Unusable(why) if why.contains("key 0")));
}

/// How documents are damaged, and that nothing of it ends in a panic.
mod damage;
/// Several bundles in one document.
mod map;
/// What SPIRE reads and sends.
mod spire;
/// Keys for tokens.
mod tokens;
