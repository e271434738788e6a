//! JWT-SVIDs that are wrong in one respect each: at least one per line of JWT-SVID.md that a token can break.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use symbolon_kit::clock::{Clock, unix_secs};

use super::cases::{Case, Expect, Input};
use super::mutants::{DOMAIN, bundle};

pub const AUDIENCE: &str = "spiffe://a.example/ns/shop/sa/ledger";
const SUBJECT: &str = "spiffe://a.example/ns/shop/sa/payments";
const KID: &str = "key-1";

/// A P-256 key that signs tokens.
pub struct Key(EcdsaKeyPair);

impl Key {
    /// # Panics
    /// If there is no randomness.
    #[expect(clippy::new_without_default, reason = "a new key each time is no default")]
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"))
    }

    pub fn jwk(&self, purpose: &str) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({
            "use": purpose, "kty": "EC", "crv": "P-256", "kid": KID,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    fn sign(&self, input: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), input).expect("a signature").as_ref().to_vec()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": KID, "typ": "JWT" })
}

fn claims() -> Value {
    let now = unix_secs(Clock::system().now());
    json!({ "sub": SUBJECT, "aud": [AUDIENCE], "exp": now + 3600, "iat": now })
}

fn compact(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let input = format!("{}.{}", encode(header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(input.as_bytes()));
    format!("{input}.{signature}")
}

fn without(mut object: Value, member: &str) -> Value {
    object.as_object_mut().and_then(|object| object.remove(member));
    object
}

fn with(mut object: Value, member: &str, value: impl Into<Value>) -> Value {
    object[member] = value.into();
    object
}

/// Every case about tokens.
///
/// # Panics
/// If there is no randomness.
pub fn jwt() -> Vec<Case> {
    use Expect::{Accept, Refuse};
    let key = Key::new();
    let bundle_of = |purpose: &str| bundle(&[key.jwk(purpose)]);
    let case = |name: &str, expect, bundle: Value, token: String| Case {
        name: name.into(),
        expect,
        trust_domain: DOMAIN.into(),
        bundle,
        input: Input::Jwt { token, audience: AUDIENCE.into() },
    };
    let signed = |header: &Value, claims: &Value| compact(header, claims, |input| key.sign(input));
    let now = unix_secs(Clock::system().now());
    let table: [(&str, Expect, Value, Value); 24] = [
        ("j_0_plain", Accept, header(), claims()),
        ("j_5_typ_jose", Accept, with(header(), "typ", "JOSE"), claims()),
        ("j_5_no_typ", Accept, without(header(), "typ"), claims()),
        ("j_7_one_audience_as_a_string", Accept, header(), with(claims(), "aud", AUDIENCE)),
        ("j_7_two_audiences", Accept, header(), with(claims(), "aud", json!(["other", AUDIENCE]))),
        ("j_12_jti", Accept, header(), with(claims(), "jti", "0123456789")),
        ("j_2_jku", Refuse, with(header(), "jku", "https://evil.example/keys"), claims()),
        ("j_2_jwk", Refuse, with(header(), "jwk", key.jwk("jwt-svid")), claims()),
        ("j_2_crit", Refuse, with(header(), "crit", json!(["exp"])), claims()),
        ("j_3_none", Refuse, with(header(), "alg", "none"), claims()),
        ("j_3_another_algorithm_of_the_list", Refuse, with(header(), "alg", "ES384"), claims()),
        ("j_4_no_kid", Refuse, without(header(), "kid"), claims()),
        ("j_4_unknown_kid", Refuse, with(header(), "kid", "key-2"), claims()),
        ("j_5_typ_at_jwt", Refuse, with(header(), "typ", "at+jwt"), claims()),
        ("j_6_no_sub", Refuse, header(), without(claims(), "sub")),
        ("j_6_sub_is_no_spiffe_id", Refuse, header(), with(claims(), "sub", "payments")),
        ("j_6_sub_of_another_trust_domain", Refuse, header(), with(claims(), "sub", "spiffe://b.example/payments")),
        ("j_7_no_aud", Refuse, header(), without(claims(), "aud")),
        ("j_7_empty_aud", Refuse, header(), with(claims(), "aud", json!([]))),
        ("j_7_aud_of_others", Refuse, header(), with(claims(), "aud", json!(["spiffe://a.example/other"]))),
        ("j_8_no_exp", Refuse, header(), without(claims(), "exp")),
        ("j_8_expired", Refuse, header(), with(claims(), "exp", now - 600)),
        ("j_8_exp_is_a_string", Refuse, header(), with(claims(), "exp", (now + 3600).to_string())),
        ("j_8_not_before_in_the_future", Refuse, header(), with(claims(), "nbf", now + 1800)),
    ];
    let mut cases: Vec<_> = table
        .into_iter()
        .map(|(name, expect, header, claims)| case(name, expect, bundle_of("jwt-svid"), signed(&header, &claims)))
        .collect();

    let plain = signed(&header(), &claims());
    let parts: Vec<&str> = plain.split('.').collect();
    let json = json!({ "protected": parts[0], "payload": parts[1], "signature": parts[2] }).to_string();
    let altered = signed(&header(), &claims()).replacen(
        parts[1],
        &URL_SAFE_NO_PAD.encode(with(claims(), "sub", "spiffe://a.example/admin").to_string()),
        1,
    );
    let secret = hmac::Key::new(hmac::HMAC_SHA256, key.0.public_key().as_ref());
    let symmetric =
        compact(&with(header(), "alg", "HS256"), &claims(), |input| hmac::sign(&secret, input).as_ref().to_vec());
    let edwards = Ed25519KeyPair::generate().expect("a key");
    let eddsa = compact(&with(header(), "alg", "EdDSA"), &claims(), |input| edwards.sign(input).as_ref().to_vec());
    for (name, purpose, token) in [
        ("j_1_json_serialisation", "jwt-svid", json),
        ("j_1_two_parts", "jwt-svid", format!("{}.{}", parts[0], parts[1])),
        ("j_1_five_parts", "jwt-svid", format!("{plain}.x.y")),
        ("j_3_symmetric", "jwt-svid", symmetric),
        ("j_3_eddsa", "jwt-svid", eddsa),
        ("j_3_altered_claims", "jwt-svid", altered),
        ("j_10_key_for_x509_svids", "x509-svid", plain.clone()),
        ("j_11_key_for_wit_svids", "wit-svid", plain.clone()),
    ] {
        cases.push(case(name, Refuse, bundle_of(purpose), token));
    }
    cases
}
