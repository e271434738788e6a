use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::*;
use crate::spiffe::jwt::{self, JwtError};
use crate::spiffe::verify::{Anchors, Usage, VerifyError};

/// One key of each kind.
fn keys() -> Vec<TokenKey> {
    let of = |key: KeyPair| TokenKey::from_spki(&key.subject_public_key_info()).unwrap();
    let ec = |algorithm| of(KeyPair::generate_for(algorithm).unwrap());
    let rsa = of(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap());
    vec![
        ec(&rcgen::PKCS_ECDSA_P256_SHA256),
        ec(&rcgen::PKCS_ECDSA_P384_SHA384),
        ec(&rcgen::PKCS_ECDSA_P521_SHA512),
        rsa,
    ]
}

fn named(prefix: &str, keys: &[TokenKey]) -> Vec<JwtAuthority> {
    let authority =
        |(n, key): (usize, &TokenKey)| JwtAuthority { kid: format!("{prefix}-{n}").into(), key: key.clone() };
    keys.iter().enumerate().map(authority).collect()
}

fn whole() -> Bundle {
    A.bundle().with_tokens(named("jwt", &keys()), named("wit", &keys()))
}

#[test]
fn keys_of_all_uses_read_back() {
    let bundle = whole();
    let parsed = parse(&serde_json::from_slice(&bundle.to_jwks()).unwrap()).unwrap();
    assert_eq!((parsed.warnings.len(), parsed.content), (0, Content::Authorities));
    assert_eq!(parsed.bundle, bundle);
    assert_eq!(parsed.bundle.sha256(), bundle.sha256());
    assert_ne!(parsed.bundle.sha256(), A.bundle().sha256());
}

#[test]
fn j_10_a_key_for_jwts_has_its_use_and_a_kid() {
    let bundle = whole();
    let document: Value = serde_json::from_slice(&bundle.to_jwks()).unwrap();
    let written: Vec<_> = document["keys"].as_array().unwrap().iter().filter(|key| key["use"] == "jwt-svid").collect();
    let mut want: Vec<_> = bundle.jwt.iter().map(|authority| authority.key.to_jwk()).collect();
    for (n, key) in want.iter_mut().enumerate() {
        key["use"] = json!("jwt-svid");
        key["kid"] = json!(format!("jwt-{n}"));
    }
    assert_eq!(written, want.iter().collect::<Vec<_>>(), "and nothing else (B-6)");
}

/// Those of the other use, or of none that we know, verify nothing.
#[test]
fn j_11_each_use_has_its_own_keys() {
    let keys = [token_jwk("jwt-svid", "1"), token_jwk("wit-svid", "2"), token_jwk("sig", "3")];
    let mut document = good();
    document["keys"].as_array_mut().unwrap().extend(keys);
    let bundle = parse(&document).unwrap().bundle;
    let kids = |keys: &[JwtAuthority]| keys.iter().map(|key| key.kid.to_string()).collect::<Vec<_>>();
    assert_eq!((kids(&bundle.jwt), kids(&bundle.wit)), (vec!["1".to_owned()], vec!["2".to_owned()]));
}

#[test]
fn w_12_one_use_alone() {
    let bundle = whole();
    let read = |only| serde_json::from_slice::<Value>(&bundle.to_jwks_of(only)).unwrap();
    for (only, count, name) in [(Use::X509, 1, "x509-svid"), (Use::Jwt, 4, "jwt-svid"), (Use::Wit, 4, "wit-svid")] {
        let document = read(only);
        assert_eq!(document.as_object().unwrap().keys().collect::<Vec<_>>(), ["keys"]);
        let keys = document["keys"].as_array().unwrap();
        assert!(keys.len() == count && keys.iter().all(|key| key["use"] == name), "{document}");
    }
    assert_eq!(A.bundle().to_jwks_of(Use::Jwt), br#"{"keys":[]}"#);
}

#[test]
fn t_5_a_kid_is_unique_in_the_whole_bundle() {
    for (first, second) in [("wit-svid", "wit-svid"), ("jwt-svid", "wit-svid"), ("x509-svid", "wit-svid")] {
        let mut document = with_key(token_jwk(first, "one"));
        document["keys"].as_array_mut().unwrap().push(token_jwk(second, "one"));
        assert_eq!(refused(&document), BundleError::DuplicateKid("one".into()), "{first} {second}");
    }
    let mut x509 = jwk(&Ca::new("a.example").certificate());
    x509["kid"] = json!("one");
    let mut document = with_key(x509);
    document["keys"].as_array_mut().unwrap().push(token_jwk("wit-svid", "two"));
    let bundle = parse(&document).unwrap().bundle;
    assert_eq!((bundle.x509.len(), &*bundle.wit[0].kid), (2, "two"));
    ignored(json!({"kty": "EC", "use": "wit-svid"}), "without kid");
}

#[test]
fn bad_048_names_of_keys() {
    let with_kid = |kid: Value| {
        let mut key = token_jwk("jwt-svid", "x");
        key["kid"] = kid;
        key
    };
    for kid in [json!(""), json!(7), json!(null), json!(["x"])] {
        ignored(with_kid(kid), "without kid");
    }
    ignored(with_kid(json!("k".repeat(256))), "longer than 255 bytes");
    assert_eq!(parse(&with_key(with_kid(json!("k".repeat(255))))).unwrap().bundle.jwt.len(), 1);
    let hostile = "../../\u{0}'; DROP";
    let parsed = parse(&with_key(with_kid(json!(hostile)))).unwrap();
    assert_eq!(&*parsed.bundle.jwt[0].kid, hostile, "a name is only ever compared");
}

/// One key that cannot be used costs nobody the others.
#[test]
fn bad_052_broken_keys_for_tokens_are_ignored() {
    let changed = |member: &str, value: Value| {
        let mut key = token_jwk("jwt-svid", "x");
        key[member] = value;
        key
    };
    ignored(changed("kty", json!("LWE")), "cannot sign tokens");
    ignored(changed("kty", json!("OKP")), "cannot sign tokens");
    ignored(changed("crv", json!("secp256k1")), "cannot sign tokens");
    ignored(changed("x", json!("AAAA")), "cannot be read");
    let rsa = |n: &[u8], e: &[u8]| {
        let [n, e] = [n, e].map(|number| URL_SAFE_NO_PAD.encode(number));
        json!({"kty": "RSA", "use": "jwt-svid", "kid": "x", "n": n, "e": e})
    };
    ignored(rsa(&[0xff; 256], &[1]), "too weak");
    ignored(rsa(&[0xff; 64], &[1, 0, 1]), "too weak");
}

/// Keys for tokens that are all broken, and nothing else: an accident (invariant I5).
#[test]
fn broken_keys_for_tokens_alone_are_refused() {
    let broken = json!({"kty": "EC", "use": "jwt-svid", "kid": "x", "crv": "P-256", "x": "AA", "y": "AA"});
    let alone = json!({"keys": [broken], "spiffe_sequence": 2});
    assert!(matches!(refused(&alone), BundleError::Unusable(why) if why.contains("cannot be read")));
    let beside = json!({"keys": [broken, token_jwk("jwt-svid", "y")], "spiffe_sequence": 2});
    assert_eq!(parse(&beside).unwrap().content, Content::TokensOnly);
    let unknown_beside = json!({"keys": [{"kty": "EC", "use": "future"}, token_jwk("jwt-svid", "y")]});
    assert!(matches!(refused(&unknown_beside), BundleError::Unusable(_)), "perhaps that was its X.509 authority");
    let expired = Ca::with("a.example", |params| params.not_after = (noon() - HOUR / 2).into());
    let beside = json!({"keys": [jwk(&expired.certificate()), broken]});
    assert_eq!(parse(&beside).unwrap().content, Content::Authorities, "expired is not withdrawn");
}

#[test]
fn bad_054_other_keys_for_tokens_are_other_content() {
    let stored = whole();
    let same = Bundle::admit(Some(&stored), &stored.clone(), noon());
    assert_eq!(same, Ok(Admission::Unchanged));
    let fewer = |jwt: usize, wit: usize| {
        let (jwt, wit) = (stored.jwt[..jwt].to_vec(), stored.wit[..wit].to_vec());
        Bundle::admit(Some(&stored), &stored.clone().with_tokens(jwt, wit), noon())
    };
    assert_eq!(fewer(4, 4), Ok(Admission::Unchanged));
    assert_eq!(fewer(3, 4), Err(BundleError::SameSequence(1)));
    assert_eq!(fewer(4, 3), Err(BundleError::SameSequence(1)));
}

/// The number has 64 bits, stands in every document, and says which of two is newer.
#[test]
fn b_1_the_sequence() {
    for sequence in [0, 1, u64::from(u32::MAX) + 1, (1 << 53) + 1, u64::MAX] {
        let bundle = numbered(sequence, &[&A]);
        let document: Value = serde_json::from_slice(&bundle.to_jwks()).unwrap();
        assert_eq!(document["spiffe_sequence"].as_u64(), Some(sequence));
        assert_eq!(parse(&document).unwrap().bundle.sequence, sequence);
    }
    let newest = numbered(u64::MAX, &[&A]);
    assert!(Bundle::admit(Some(&newest), &numbered(0, &[&A]), noon()).is_err(), "it does not come round");
}

#[test]
fn b_2_the_hint_is_whole_seconds() {
    let bundle = Bundle { refresh_hint: Duration::from_millis(60_900), ..A.bundle() };
    let document: Value = serde_json::from_slice(&bundle.to_jwks()).unwrap();
    assert_eq!(document["spiffe_refresh_hint"], json!(60));
    assert_eq!(parse(&document).unwrap().bundle.refresh_hint.as_secs(), 60);
}

/// A bundle that is empty, or that has nothing for a kind of SVID, makes all SVIDs of that kind invalid.
#[test]
fn b_3_without_keys_no_svid_is_valid() {
    let verdicts = |document: Value| {
        let bundle = Arc::new(parse(&document).unwrap().bundle);
        let table = [(domain(), bundle.clone())].into_iter().collect();
        let leaf: CertificateDer<'static> = A.leaf("spiffe://a.example/shop", |_| {});
        let x509 = Anchors::new(&table).verify(&[leaf], Usage::Client, noon()).map(|id| id.to_string());
        let signer = jwt::mutants::Signer::new("1");
        let claims = jwt::mutants::good_claims("spiffe://a.example/shop", "b", noon());
        let token = signer.token(&jwt::mutants::good_header(&signer).to_string(), &claims.to_string());
        (x509, jwt::verify(&token, "b", |_| Some(bundle.clone()), noon()).map(|claims| claims.sub.to_string()))
    };
    let (x509, token) = verdicts(json!({"keys": []}));
    assert_eq!(x509, Err(VerifyError::UnknownIssuer(domain())));
    assert_eq!(token, Err(JwtError::UnknownKey(domain())));
    let (x509, _) = verdicts(json!({"keys": [token_jwk("jwt-svid", "1")]}));
    assert_eq!(x509, Err(VerifyError::UnknownIssuer(domain())), "X-16");
    let (x509, token) = verdicts(good());
    assert_eq!((x509, token), (Ok("spiffe://a.example/shop".to_owned()), Err(JwtError::UnknownKey(domain()))));
}

#[test]
fn b_4_unknown_kinds_of_key_are_ignored() {
    for usage in ["x509-svid", "jwt-svid", "wit-svid", "future"] {
        let key = |kty: Value| json!({"use": usage, "kid": "x", "kty": kty, "pub": "AAAA"});
        for kty in [json!("AKP"), json!("ec"), json!(1)] {
            let parsed = parse(&with_key(key(kty))).unwrap();
            assert_eq!((parsed.bundle, parsed.warnings.len()), (A.bundle(), 1), "{usage}");
        }
    }
}

#[test]
fn b_5_unknown_uses_are_ignored() {
    for usage in [json!("X509-SVID"), json!("Jwt-svid"), json!("sig"), json!(""), json!(1), json!(null)] {
        let mut key = token_jwk("any", "x");
        key["use"] = usage;
        let parsed = parse(&with_key(key.clone())).unwrap();
        assert_eq!((parsed.bundle, parsed.warnings.len()), (A.bundle(), 1), "{key}");
    }
}

/// Whatever else stands there makes no difference, and we write nothing else.
#[test]
fn b_6_no_other_members() {
    let mut dressed = with_key(token_jwk("jwt-svid", "1"));
    let plain = parse(&dressed).unwrap().bundle;
    dressed["future"] = json!({"a": [1]});
    for key in dressed["keys"].as_array_mut().unwrap() {
        for (member, value) in [("alg", json!("HS256")), ("key_ops", json!([])), ("x5t", json!(1)), ("exp", json!(0))] {
            key[member] = value;
        }
    }
    let parsed = parse(&dressed).unwrap();
    assert_eq!((parsed.bundle, parsed.warnings.len()), (plain, 0));
    let bare = parse(&json!({"keys": good()["keys"]})).unwrap();
    assert_eq!(bare.bundle, Bundle { sequence: 0, ..A.bundle() }, "nothing but keys is needed");
    let written: Value = serde_json::from_slice(&whole().to_jwks()).unwrap();
    let members = written.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(members, ["keys", "spiffe_refresh_hint", "spiffe_sequence"]);
    for key in written["keys"].as_array().unwrap() {
        let members: Vec<_> = key.as_object().unwrap().keys().map(String::as_str).collect();
        let want: &[&[&str]] = &[
            &["crv", "kty", "use", "x", "x5c", "y"],
            &["crv", "kid", "kty", "use", "x", "y"],
            &["e", "kid", "kty", "n", "use"],
        ];
        assert!(want.contains(&&members[..]), "{members:?}");
    }
}

#[test]
fn b_8_five_minutes_by_default() {
    assert_eq!(DEFAULT_REFRESH, Duration::from_secs(300));
    assert_eq!(parse(&json!({"keys": []})).unwrap().bundle.refresh_hint, DEFAULT_REFRESH);
}
