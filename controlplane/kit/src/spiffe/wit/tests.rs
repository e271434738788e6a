//! What is taken, and each line of the specification that refuses.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::spiffe::bundle::{DEFAULT_REFRESH, JwtAuthority};
use crate::spiffe::jws::LEEWAY;
use crate::spiffe::jwt;
use crate::spiffe::jwt::mutants::{Signer, seconds, with};
use crate::spiffe::testing::noon;

static WIT: LazyLock<Signer> = LazyLock::new(|| Signer::new("wit-1"));
static JWT: LazyLock<Signer> = LazyLock::new(|| Signer::new("jwt-1"));
/// Of the workload.
static OWN: LazyLock<Signer> = LazyLock::new(|| Signer::new("own"));

const SUB: &str = "spiffe://a.example/shop";

fn key(signer: &Signer) -> TokenKey {
    TokenKey::from_jwk(signer.jwk("any").as_object().unwrap()).unwrap()
}

fn held(domain: &TrustDomain) -> Option<Arc<Bundle>> {
    let authority = |signer: &Signer| JwtAuthority { kid: signer.kid.as_str().into(), key: key(signer) };
    let bundle = Bundle::new(domain.clone(), 1, DEFAULT_REFRESH, Vec::new());
    let bundle = bundle.with_tokens(vec![authority(&JWT)], vec![authority(&WIT)]);
    (domain.as_str() == "a.example").then(|| Arc::new(bundle))
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "wit-1", "typ": "wit+jwt"})
}

fn claims() -> Value {
    let mut jwk = key(&OWN).to_jwk();
    jwk["alg"] = json!("ES256");
    let now = seconds(noon());
    json!({"sub": SUB, "exp": now + 300, "iat": now, "nbf": now, "jti": "one", "cnf": {"jwk": jwk}})
}

fn token(header: &Value, claims: &Value) -> String {
    WIT.token(&header.to_string(), &claims.to_string())
}

fn with_header(member: &str, value: Value) -> String {
    token(&with(&header(), member, value), &claims())
}

fn with_claim(member: &str, value: Value) -> String {
    token(&header(), &with(&claims(), member, value))
}

fn with_key(member: &str, value: Value) -> String {
    let mut claims = claims();
    claims["cnf"]["jwk"] = with(&claims["cnf"]["jwk"], member, value);
    token(&header(), &claims)
}

fn verdict(token: &str) -> Result<WitClaims, JwtError> {
    verify(token, held, noon())?.proven_by(b"fresh", &OWN.sign(b"fresh"))
}

fn check(token: &str, want: &JwtError) {
    assert_eq!(verdict(token).as_ref(), Err(want), "{token}");
}

#[test]
fn a_good_token_says_who_holds_its_key() {
    let found = verdict(&token(&header(), &claims())).unwrap();
    assert_eq!((found.sub.as_str(), found.exp), (SUB, noon() + Duration::from_secs(300)));
    assert_eq!(Value::Object(found.all()), claims());
}

#[test]
fn t_1_the_header() {
    for alg in [json!("none"), json!("HS256"), json!("EdDSA"), Value::Null] {
        check(&with_header("alg", alg), &JwtError::Algorithm);
    }
    check(&with_header("kid", Value::Null), &JwtError::Kid);
    for typ in [Value::Null, json!("JWT"), json!("jwt"), json!("WIT+JWT"), json!("application/wit+jwt")] {
        check(&with_header("typ", typ), &JwtError::Type("wit+jwt"));
    }
    verdict(&with_header("example.com/hint", json!({"a": 1}))).expect("unknown ones are ignored");
    check(&with_header("crit", json!(["example.com/hint"])), &JwtError::HeaderMember("crit".into()));
    let both = with(&with(&header(), "a", json!(1)), "crit", json!(["a"]));
    check(&token(&both, &claims()), &JwtError::HeaderMember("crit".into()));
    // Which key signs is the bundle's say, whatever the header brings along.
    let stranger = Signer::new("wit-1");
    let own_key = with(&header(), "jwk", stranger.jwk("wit-svid"));
    check(&stranger.token(&own_key.to_string(), &claims().to_string()), &JwtError::Signature);
}

#[test]
fn t_2_the_claims() {
    check(&with_claim("sub", Value::Null), &JwtError::Missing("sub"));
    check(&with_claim("sub", json!("shop")), &JwtError::Subject(symbolon_proto::ids::IdError::Scheme));
    for aud in [json!([]), json!("reports"), json!(["reports"])] {
        check(&with_claim("aud", aud), &JwtError::Claim("aud"));
    }
    check(&with_key("alg", Value::Null), &JwtError::Claim("cnf"));
    for alg in ["none", "HS256", "EdDSA", "ES384", "RS256", "es256"] {
        check(&with_key("alg", json!(alg)), &JwtError::Claim("cnf"));
    }
    check(&with_key("d", json!("AQAB")), &JwtError::Claim("cnf"));
    check(&with_key("crv", json!("secp256k1")), &JwtError::Claim("cnf"));
    for cnf in [json!({}), json!({"kid": "one"}), json!({"jwk": "one"}), json!("one"), json!([])] {
        check(&with_claim("cnf", cnf), &JwtError::Claim("cnf"));
    }
    for optional in ["jti", "iat", "nbf"] {
        verdict(&with_claim(optional, Value::Null)).unwrap();
    }
    verdict(&with_claim("iss", json!("spiffe://a.example"))).unwrap();
}

#[test]
fn t_3_what_must_be_there_and_when_it_is_good() {
    check(&with_claim("cnf", Value::Null), &JwtError::Missing("cnf"));
    check(&with_claim("exp", Value::Null), &JwtError::Missing("exp"));
    check(&with_claim("exp", json!(seconds(noon()) - 60)), &JwtError::Expired);
    check(&with_claim("nbf", json!(seconds(noon()) + 60)), &JwtError::NotYetValid);
    verdict(&with_claim("iat", json!(seconds(noon()) + 60))).expect("iat limits nothing");
    let good = token(&header(), &claims());
    for _ in 0..2 {
        verdict(&good).expect("jti is no protection against replay");
    }
}

/// Without the proof nobody is told whom the token is about.
#[test]
fn t_4_only_with_proof_of_possession() {
    let bound = verify(&token(&header(), &claims()), held, noon()).unwrap();
    assert!(!format!("{bound:?}").contains("shop"), "{bound:?}");
    let signature = OWN.sign(b"fresh");
    for (message, signature) in
        [(&b"other"[..], &signature[..]), (b"fresh", &WIT.sign(b"fresh")), (b"fresh", b""), (b"", &signature)]
    {
        assert_eq!(bound.clone().proven_by(message, signature), Err(JwtError::Proof));
    }
    bound.proven_by(b"fresh", &signature).unwrap();
    // Neither kind of token passes as the other.
    let as_jwt = |token: &str| jwt::verify(token, "reports", held, noon()).unwrap_err();
    assert_eq!(as_jwt(&token(&header(), &claims())), JwtError::Type("JWT"));
    let bearer = JWT
        .token(r#"{"alg":"ES256","kid":"jwt-1","typ":"JWT"}"#, &with(&claims(), "aud", json!("reports")).to_string());
    jwt::verify(&bearer, "reports", held, noon()).unwrap();
    check(&bearer, &JwtError::Type("wit+jwt"));
}

#[test]
fn t_5_only_keys_of_the_use_count() {
    let unknown = JwtError::UnknownKey("a.example".parse().unwrap());
    let other_use = JWT.token(&with(&header(), "kid", json!("jwt-1")).to_string(), &claims().to_string());
    check(&other_use, &unknown);
    check(&with_header("kid", json!("own")), &unknown);
    let elsewhere = with_claim("sub", json!("spiffe://b.example/shop"));
    check(&elsewhere, &JwtError::UnknownTrustDomain("b.example".parse().unwrap()));
}

#[test]
fn what_is_written_reads_back() {
    let sub = SUB.parse().unwrap();
    let (key, exp) = (key(&OWN), noon() + Duration::from_secs(60));
    let asked =
        Claims { sub: &sub, key: &key, algorithm: Algorithm::Es256, nbf: noon(), iat: noon(), exp, jti: Some("7") };
    let unsigned = asked.unsigned("wit-1", Algorithm::Es256).unwrap();
    let signature = WIT.sign(unsigned.signing_input());
    let token = unsigned.signed(&signature);
    let header = URL_SAFE_NO_PAD.decode(token.as_str().split('.').next().unwrap()).unwrap();
    assert_eq!(header, br#"{"alg":"ES256","kid":"wit-1","typ":"wit+jwt"}"#);
    let found = verdict(token.as_str()).unwrap();
    let mut jwk = key.to_jwk();
    jwk["alg"] = json!("ES256");
    let now = seconds(noon());
    let want = json!({"cnf": {"jwk": jwk}, "exp": now + 60, "iat": now, "jti": "7", "nbf": now, "sub": SUB});
    assert_eq!((found.sub.as_str(), Value::Object(found.all())), (SUB, want), "and no aud");
    let refused = |claims: Claims<'_>| claims.unsigned("wit-1", Algorithm::Es256).unwrap_err();
    assert_eq!(refused(Claims { algorithm: Algorithm::Rs256, ..asked }), EncodeError::Key);
    assert_eq!(refused(Claims { exp: noon(), ..asked }), EncodeError::Time);
    assert_eq!(refused(Claims { nbf: exp, ..asked }), EncodeError::Time);
    assert_eq!(refused(Claims { iat: SystemTime::UNIX_EPOCH - LEEWAY, ..asked }), EncodeError::Time);
}

proptest! {
    #[test]
    fn any_damage_under_a_good_signature_is_survived(at in 0..4096usize, byte: u8, header_first: bool) {
        let (mut header, mut claims) = (header().to_string().into_bytes(), claims().to_string().into_bytes());
        let damaged = if header_first { &mut header } else { &mut claims };
        let at = at % damaged.len();
        damaged[at] = byte;
        let [header, claims] = [header, claims].map(|part| String::from_utf8_lossy(&part).into_owned());
        let _ = verdict(&WIT.token(&header, &claims));
    }

    #[test]
    fn any_text_is_survived(text in ".{0,200}") {
        prop_assert!(verdict(&text).is_err());
    }
}
