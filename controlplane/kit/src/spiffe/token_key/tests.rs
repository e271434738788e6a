//! Keys in and out, against the vectors of the RFCs where there are some.

use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(jwk: &Value) -> Result<TokenKey, KeyError> {
    TokenKey::from_jwk(jwk.as_object().unwrap())
}

/// RFC 7515 A.3.
fn p256() -> Value {
    json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    })
}

/// RFC 7638 §3.1.
fn rsa() -> Value {
    let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3ok\
             njhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6\
             qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awa\
             pJzKnqDKgw";
    json!({"kty": "RSA", "n": n, "e": "AQAB"})
}

fn with(jwk: &Value, member: &str, value: Value) -> Value {
    let mut jwk = jwk.clone();
    jwk[member] = value;
    jwk
}

#[test]
fn the_vectors_of_the_rfcs() {
    let key = read(&p256()).unwrap();
    let input = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cn\
                 VlfQ";
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    assert_eq!(key.verifies(Algorithm::Es256, input.as_bytes(), &signature), Some(true));
    assert_eq!(key.verifies(Algorithm::Es256, &input.as_bytes()[1..], &signature), Some(false));
    assert_eq!(key.verifies(Algorithm::Es384, input.as_bytes(), &signature), None);
    assert_eq!(key.verifies(Algorithm::Rs256, input.as_bytes(), &signature), None);
    assert_eq!(read(&rsa()).unwrap().thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

#[test]
fn a_key_is_the_same_from_jwk_and_from_spki() {
    for jwk in [p256(), rsa()] {
        let key = read(&jwk).unwrap();
        assert_eq!(key.to_jwk(), jwk);
        let again = TokenKey::from_spki(key.spki()).unwrap();
        assert_eq!((&again, again.to_jwk(), again.thumbprint()), (&key, jwk, key.thumbprint()));
        assert_eq!(format!("{key:?}"), format!("TokenKey({})", key.thumbprint()));
    }
    assert_ne!(read(&p256()), read(&rsa()));
    let algorithms = |jwk| read(&jwk).unwrap().algorithms().map(Algorithm::name).collect::<Vec<_>>();
    assert_eq!(algorithms(p256()), ["ES256"]);
    assert_eq!(algorithms(rsa()), ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]);
}

#[test]
fn other_members_are_ignored() {
    let dressed = with(&with(&p256(), "alg", json!("RS256")), "key_ops", json!(["verify"]));
    assert_eq!(read(&dressed), read(&p256()));
}

#[test]
fn what_is_no_key() {
    let refused = |jwk: Value, why: KeyError| assert_eq!(read(&jwk), Err(why), "{jwk}");
    for member in SECRETS {
        refused(with(&p256(), member, json!("AQAB")), KeyError::Secret);
    }
    refused(json!({"kty": "oct"}), KeyError::Secret);
    for kty in [json!("OKP"), json!("ec"), json!("LWE"), json!(null), json!(1)] {
        refused(with(&p256(), "kty", kty), KeyError::Kind);
    }
    for crv in ["secp256k1", "P-192", "p-256", "Ed25519"] {
        refused(with(&p256(), "crv", json!(crv)), KeyError::Kind);
    }
    refused(with(&p256(), "crv", json!("P-384")), KeyError::Malformed);
    refused(with(&p256(), "crv", json!(256)), KeyError::Malformed);
    for coordinate in ["x", "y"] {
        let good = p256()[coordinate].as_str().unwrap().to_owned();
        // Not on the curve; one byte less; more; padded; not base64; absent.
        let off = if good.starts_with('A') { good.replacen('A', "B", 1) } else { format!("A{}", &good[1..]) };
        for text in [off, good[..good.len() - 2].to_owned(), format!("{good}AA"), format!("{good}="), "!".into()] {
            refused(with(&p256(), coordinate, json!(text)), KeyError::Malformed);
        }
        refused(with(&p256(), coordinate, json!(null)), KeyError::Malformed);
    }
}

fn encode(number: &[u8]) -> Value {
    json!(URL_SAFE_NO_PAD.encode(number))
}

#[test]
fn bad_052_weak_rsa() {
    let n = URL_SAFE_NO_PAD.decode(rsa()["n"].as_str().unwrap()).unwrap();
    let modulus = |n: &[u8]| read(&with(&rsa(), "n", encode(n)));
    let exponent = |e: &[u8]| read(&with(&rsa(), "e", encode(e)));
    assert_eq!(exponent(&[1]), Err(KeyError::Weak));
    exponent(&[3]).unwrap();
    exponent(&[0xff, 0xff, 0xff, 0xff]).unwrap();
    assert_eq!(exponent(&[1, 0, 0, 0, 1]), Err(KeyError::Weak), "so large that verifying takes long");
    for malformed in [&[][..], &[2], &[0, 3], &[0]] {
        assert_eq!(exponent(malformed), Err(KeyError::Malformed), "{malformed:?}");
    }
    assert_eq!(modulus(&n[n.len() - 64..]).map_err(|_| ()), Err(()), "512 bits");
    assert_eq!(modulus(&[&[0x7f], &n[1..]].concat()), Err(KeyError::Weak), "2047 bits");
    assert_eq!(modulus(&[&[0xff], &[1; 1024][..]].concat()), Err(KeyError::Weak), "8200 bits");
    modulus(&[&[0xff], &[1; 1023][..]].concat()).unwrap();
    assert_eq!(modulus(&[&[0], &n[..]].concat()), Err(KeyError::Malformed), "RFC 7518 §6.3.1.1");
    assert_eq!(modulus(&[&n[..255], &[2]].concat()), Err(KeyError::Malformed), "even");
    assert_eq!(modulus(&[]), Err(KeyError::Malformed));
}

#[test]
fn spki_that_is_no_key() {
    let refused = |der: &[u8], why: KeyError| assert_eq!(TokenKey::from_spki(der), Err(why));
    let good = read(&p256()).unwrap().spki().to_vec();
    refused(b"", KeyError::Malformed);
    refused(&[&good[..], &[0]].concat(), KeyError::Malformed);
    refused(&good[..good.len() - 1], KeyError::Malformed);
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    refused(&rcgen::PublicKeyData::subject_public_key_info(&ed25519), KeyError::Kind);
    let p192 = [&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7][..], &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1]];
    let at = good.windows(8).position(|window| window == p192[0]).unwrap();
    let mut other = good.clone();
    other[at..at + 8].copy_from_slice(p192[1]);
    refused(&other, KeyError::Kind);
    let mut compressed = good;
    let point = compressed.len() - 65;
    compressed[point] = 3;
    refused(&compressed, KeyError::Kind);
    let rsa = KeyPair::generate(KeySize::Rsa3072).unwrap();
    TokenKey::from_spki(rsa.public_key().as_der().unwrap().as_ref()).unwrap();
}

#[test]
fn algorithms_have_their_names() {
    for (algorithm, name) in Algorithm::ALL {
        assert_eq!(
            (Algorithm::parse(name), algorithm.name(), algorithm.to_string().as_str()),
            (Some(algorithm), name, name)
        );
    }
    for other in ["", "es256", "HS256", "none", "ES256 "] {
        assert_eq!(Algorithm::parse(other), None);
    }
}

proptest! {
    #[test]
    fn any_spki_is_survived(bytes: Vec<u8>) {
        let _ = TokenKey::from_spki(&bytes);
    }

    #[test]
    fn any_damage_to_an_spki_is_survived(at in 0..1024usize, byte: u8, ec: bool) {
        let mut der = read(&if ec { p256() } else { rsa() }).unwrap().spki().to_vec();
        let at = at % der.len();
        der[at] = byte;
        if let Ok(key) = TokenKey::from_spki(&der) {
            prop_assert_eq!(TokenKey::from_spki(key.spki()).unwrap(), key);
        }
    }

    #[test]
    fn any_jwk_is_survived(x in "[A-Za-z0-9_-]{0,90}", y in "[A-Za-z0-9_-]{0,90}", crv in "P-(256|384|521)") {
        let _ = read(&json!({"kty": "EC", "crv": crv, "x": x, "y": y}));
        if let Ok(key) = read(&json!({"kty": "RSA", "n": x, "e": y})) {
            prop_assert_eq!(TokenKey::from_spki(key.spki()).unwrap(), key);
        }
    }

    #[test]
    fn any_point_reads_back(_: u8) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = TokenKey::from_spki(pair.public_key().as_der().unwrap().as_ref()).unwrap();
        prop_assert_eq!(read(&key.to_jwk()).unwrap(), key);
    }
}
