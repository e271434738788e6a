//! A good JWT-SVID, and one mutant for each line of the specification that breaks this line and no other. Any validator that keeps
//! the line refuses the mutant; which do is what the matrix of peers shows. Needs nothing of this crate.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A P-256 key of an authority, by its name.
pub(crate) struct Signer {
    pub(crate) kid: String,
    key: EcdsaKeyPair,
}

/// A token that must be refused, and the line it breaks.
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    pub(crate) token: String,
}

impl Signer {
    pub(crate) fn new(kid: &str) -> Self {
        Self { kid: kid.into(), key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    /// The public key as JWK, for a bundle's keys of this use.
    pub(crate) fn jwk(&self, usage: &str) -> Value {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        json!({"kty": "EC", "use": usage, "kid": self.kid, "crv": "P-256", "x": x, "y": y})
    }

    /// P1363.
    pub(crate) fn sign(&self, input: &[u8]) -> Vec<u8> {
        self.key.sign(&SystemRandom::new(), input).unwrap().as_ref().to_vec()
    }

    /// A token of exactly these texts, whatever they are.
    pub(crate) fn token(&self, header: &str, claims: &str) -> String {
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }
}

pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// `object` with `member` set, or taken away if the value is null.
pub(crate) fn with(object: &Value, member: &str, value: Value) -> Value {
    let mut object = object.clone();
    match value {
        Value::Null => drop(object.as_object_mut().unwrap().remove(member)),
        value => object[member] = value,
    }
    object
}

pub(crate) fn good_header(signer: &Signer) -> Value {
    json!({"alg": "ES256", "kid": signer.kid, "typ": "JWT"})
}

/// Valid for five minutes from `now`.
pub(crate) fn good_claims(sub: &str, audience: &str, now: SystemTime) -> Value {
    json!({"sub": sub, "aud": [audience], "exp": seconds(now) + 300, "iat": seconds(now)})
}

/// All mutants of the good token for `sub` and `audience`. `jwt` is a `jwt-svid` key of the bundle, `wit` a `wit-svid` key.
pub(crate) fn mutants(jwt: &Signer, wit: &Signer, sub: &str, audience: &str, now: SystemTime) -> Vec<Mutant> {
    let (header, claims) = (good_header(jwt), good_claims(sub, audience, now));
    let signed = |header: &Value, claims: &Value| jwt.token(&header.to_string(), &claims.to_string());
    let head = |member: &str, value: Value| signed(&with(&header, member, value), &claims);
    let claim = |member: &str, value: Value| signed(&header, &with(&claims, member, value));
    let good = signed(&header, &claims);
    let parts: Vec<_> = good.split('.').collect();
    let flattened = json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]});
    let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(with(&header, "alg", json!("none")).to_string()), parts[1]);
    let past = seconds(now - Duration::from_secs(3600));
    let mutant = |name, token| Mutant { name, token };
    vec![
        mutant("j_1_flattened_json", flattened.to_string()),
        mutant("j_1_five_parts", format!("{good}.e30.e30")),
        mutant("j_2_jku", head("jku", json!("https://evil.example/keys"))),
        mutant("j_2_jwk", head("jwk", jwt.jwk("jwt-svid"))),
        mutant("j_2_crit", head("crit", json!(["exp"]))),
        mutant("j_2_private_header", head("example.com/hint", json!("x"))),
        mutant("j_3_none", none),
        mutant("j_3_hs256_with_the_public_key", hs256(jwt, &header, &claims)),
        mutant("j_3_eddsa", head("alg", json!("EdDSA"))),
        mutant("j_3_es256k", head("alg", json!("ES256K"))),
        mutant("j_3_no_alg", head("alg", Value::Null)),
        mutant("j_4_no_kid", head("kid", Value::Null)),
        mutant("j_4_unknown_kid", head("kid", json!("another"))),
        mutant("j_5_typ", head("typ", json!("at+jwt"))),
        mutant("j_6_no_sub", claim("sub", Value::Null)),
        mutant("j_6_sub_is_a_url", claim("sub", json!("https://a.example/shop"))),
        mutant("j_6_sub_of_another_trust_domain", claim("sub", json!("spiffe://another.example/shop"))),
        mutant("j_7_no_aud", claim("aud", Value::Null)),
        mutant("j_7_empty_aud", claim("aud", json!([]))),
        mutant("j_7_other_aud", claim("aud", json!([format!("{audience}x")]))),
        mutant("j_8_no_exp", claim("exp", Value::Null)),
        mutant("j_8_expired", claim("exp", json!(past))),
        mutant("j_8_exp_is_text", claim("exp", json!((seconds(now) + 300).to_string()))),
        mutant("j_11_key_of_another_use", wit.token(&good_header(wit).to_string(), &claims.to_string())),
    ]
}

/// As if the public key were a shared secret.
fn hs256(signer: &Signer, header: &Value, claims: &Value) -> String {
    let header = with(header, "alg", json!("HS256")).to_string();
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, signer.key.public_key().as_ref());
    let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, input.as_bytes()));
    format!("{input}.{tag}")
}
