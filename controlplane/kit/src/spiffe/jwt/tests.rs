//! What is taken, and each line of the specification and row of `bad input` that refuses.

use std::cell::RefCell;
use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair as _, RsaEncoding, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::json;

use super::mutants::{Signer, good_claims, good_header, mutants, seconds, with};
use super::*;
use crate::spiffe::bundle::{DEFAULT_REFRESH, JwtAuthority, TokenKey};
use crate::spiffe::testing::{Ca, noon};

static JWT: LazyLock<Signer> = LazyLock::new(|| Signer::new("jwt-1"));
static WIT: LazyLock<Signer> = LazyLock::new(|| Signer::new("wit-1"));
static RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());

const SUB: &str = "spiffe://a.example/shop";
const AUD: &str = "reports";

fn authority(kid: &str, spki: &[u8]) -> JwtAuthority {
    JwtAuthority { kid: kid.into(), key: TokenKey::from_spki(spki).unwrap() }
}

fn of(signer: &Signer) -> JwtAuthority {
    let jwk = signer.jwk("jwt-svid");
    JwtAuthority { kid: signer.kid.as_str().into(), key: TokenKey::from_jwk(jwk.as_object().unwrap()).unwrap() }
}

fn bundle(domain: &str, jwt: Vec<JwtAuthority>, wit: Vec<JwtAuthority>) -> Arc<Bundle> {
    Arc::new(Bundle::new(domain.parse().unwrap(), 1, DEFAULT_REFRESH, Vec::new()).with_tokens(jwt, wit))
}

/// a.example with an EC and an RSA key, and another domain with a key of its own.
static BUNDLES: LazyLock<[Arc<Bundle>; 2]> = LazyLock::new(|| {
    let rsa = authority("rsa", RSA.public_key().as_der().unwrap().as_ref());
    let b = JwtAuthority { kid: "b-1".into(), ..of(&B) };
    [bundle("a.example", vec![of(&JWT), rsa], vec![of(&WIT)]), bundle("b.example", vec![b], Vec::new())]
});
static B: LazyLock<Signer> = LazyLock::new(|| Signer::new("b-1"));

fn held(domain: &TrustDomain) -> Option<Arc<Bundle>> {
    BUNDLES.iter().find(|bundle| bundle.trust_domain == *domain).cloned()
}

fn verdict(token: &str) -> Result<JwtClaims, JwtError> {
    verify(token, AUD, held, noon())
}

fn header() -> Value {
    good_header(&JWT)
}

fn claims() -> Value {
    good_claims(SUB, AUD, noon())
}

fn token(header: &Value, claims: &Value) -> String {
    JWT.token(&header.to_string(), &claims.to_string())
}

fn good() -> String {
    token(&header(), &claims())
}

fn with_header(member: &str, value: Value) -> String {
    token(&with(&header(), member, value), &claims())
}

fn with_claim(member: &str, value: Value) -> String {
    token(&header(), &with(&claims(), member, value))
}

fn check(token: &str, want: &JwtError) {
    assert_eq!(verdict(token).as_ref(), Err(want), "{token}");
}

fn malformed_header(token: &str, why: &str) {
    let error = verdict(token).unwrap_err();
    assert!(matches!(&error, JwtError::Header(found) if found.contains(why)), "{error}");
}

fn malformed_claims(token: &str, why: &str) {
    let error = verdict(token).unwrap_err();
    assert!(matches!(&error, JwtError::Claims(found) if found.contains(why)), "{error}");
}

#[test]
fn a_good_token_says_who_presents_it() {
    let found = verdict(&good()).unwrap();
    assert_eq!((found.sub.as_str(), found.exp), (SUB, noon() + Duration::from_secs(300)));
    assert_eq!(Value::Object(found.all()), claims());
    for typ in [Value::Null, json!("JWT"), json!("JOSE")] {
        verdict(&with_header("typ", typ)).unwrap();
    }
    verdict(&with_claim("aud", json!(AUD))).expect("one audience need not be a list");
    verdict(&with_claim("aud", json!(["x", AUD, "y"]))).unwrap();
    verdict(&with_claim("example.com/role", json!({"a": [1, {"b": null}]}))).expect("private claims are ignored");
    let upper = verdict(&with_claim("sub", json!("SPIFFE://A.EXAMPLE/shop"))).unwrap();
    assert_eq!(upper.sub.as_str(), SUB, "in canonical form (bad input 22)");
}

/// What we write, we and others read.
#[test]
fn what_is_written_reads_back() {
    let (sub, aud) = (SUB.parse().unwrap(), [AUD.to_owned(), "b".to_owned()]);
    let asked = Claims { sub: &sub, aud: &aud, iat: noon(), exp: noon() + LEEWAY, jti: Some("7") };
    let unsigned = asked.unsigned("jwt-1", Algorithm::Es256).unwrap();
    let signature = JWT.sign(unsigned.signing_input());
    let token = unsigned.signed(&signature);
    assert_eq!(format!("{token:?}"), "Token(redacted)");
    let parts: Vec<_> = token.as_str().split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
    assert_eq!(parts[0], br#"{"alg":"ES256","kid":"jwt-1","typ":"JWT"}"#);
    let (exp, iat) = (seconds(noon()) + 10, seconds(noon()));
    let want = format!(r#"{{"aud":["{AUD}","b"],"exp":{exp},"iat":{iat},"jti":"7","sub":"{SUB}"}}"#);
    assert_eq!(parts[1], want.as_bytes());
    assert_eq!(parts[2], signature);
    assert_eq!(verdict(token.as_str()).unwrap().sub, sub);
    let mute = Claims { jti: None, ..asked }.unsigned("jwt-1", Algorithm::Es256).unwrap();
    let payload = std::str::from_utf8(mute.signing_input()).unwrap().split_once('.').unwrap().1;
    assert!(!String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap().contains("jti"));
}

#[test]
fn what_no_verifier_would_take_is_not_written() {
    let sub = SUB.parse().unwrap();
    let aud = [AUD.to_owned()];
    let good = Claims { sub: &sub, aud: &aud, iat: noon(), exp: noon() + LEEWAY, jti: None };
    let refused = |claims: Claims<'_>, kid: &str| claims.unsigned(kid, Algorithm::Es256).unwrap_err();
    let many = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    for aud in [&[][..], &[String::new()], &many(MAX_AUDIENCES + 1)] {
        assert_eq!(refused(Claims { aud, ..good }, "k"), EncodeError::Audience);
    }
    assert!(Claims { aud: &many(MAX_AUDIENCES), ..good }.unsigned("k", Algorithm::Es256).is_ok());
    assert_eq!(refused(Claims { aud: &["x".repeat(MAX_TOKEN_BYTES)], ..good }, "k"), EncodeError::TooLarge);
    for kid in ["", &"k".repeat(256)] {
        assert_eq!(refused(good, kid), EncodeError::Kid);
    }
    assert!(good.unsigned(&"k".repeat(255), Algorithm::Es256).is_ok());
    assert_eq!(refused(good, &"\u{1}".repeat(123)), EncodeError::TooLarge, "it would not fit a header");
    assert!(good.unsigned(&"\u{1}".repeat(122), Algorithm::Es256).is_ok());
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    assert!(Claims { exp: last, ..good }.unsigned("k", Algorithm::Es256).is_ok());
    let before = SystemTime::UNIX_EPOCH - LEEWAY;
    for (iat, exp) in
        [(noon(), noon()), (before, noon()), (noon(), SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800))]
    {
        assert_eq!(refused(Claims { iat, exp, ..good }, "k"), EncodeError::Time);
    }
}

/// Whatever is written can be read, however large the signature.
#[test]
fn the_largest_token_written_is_read() {
    let sub = SUB.parse().unwrap();
    let unsigned = |length: usize| {
        let aud = ["x".repeat(length)];
        let claims = Claims { sub: &sub, aud: &aud, iat: noon(), exp: noon() + LEEWAY, jti: None };
        claims.unsigned("jwt-1", Algorithm::Es256).ok()
    };
    let lengths: Vec<_> = (0..MAX_TOKEN_BYTES).collect();
    let longest = lengths.partition_point(|length| *length == 0 || unsigned(*length).is_some()) - 1;
    let token = unsigned(longest).unwrap().signed(&[0; 1024]);
    // One more letter is one or two more when encoded.
    assert!((MAX_TOKEN_BYTES - 1..=MAX_TOKEN_BYTES).contains(&token.as_str().len()));
    let largest = unsigned(longest).unwrap();
    let signature = JWT.sign(largest.signing_input());
    verify(largest.signed(&signature).as_str(), &"x".repeat(longest), held, noon()).unwrap();
}

/// Names of `mutants` as the table has them; which refusal each must meet.
#[test]
fn one_mutant_per_line() {
    let cases: [(&str, JwtError); 24] = [
        ("j_1_flattened_json", JwtError::Form),
        ("j_1_five_parts", JwtError::Form),
        ("j_2_jku", JwtError::HeaderMember("jku".into())),
        ("j_2_jwk", JwtError::HeaderMember("jwk".into())),
        ("j_2_crit", JwtError::HeaderMember("crit".into())),
        ("j_2_private_header", JwtError::HeaderMember("example.com/hint".into())),
        ("j_3_none", JwtError::Algorithm),
        ("j_3_hs256_with_the_public_key", JwtError::Algorithm),
        ("j_3_eddsa", JwtError::Algorithm),
        ("j_3_es256k", JwtError::Algorithm),
        ("j_3_no_alg", JwtError::Algorithm),
        ("j_4_no_kid", JwtError::Kid),
        ("j_4_unknown_kid", JwtError::UnknownKey("a.example".parse().unwrap())),
        ("j_5_typ", JwtError::Type("JWT")),
        ("j_6_no_sub", JwtError::Missing("sub")),
        ("j_6_sub_is_a_url", JwtError::Subject(symbolon_proto::ids::IdError::Scheme)),
        ("j_6_sub_of_another_trust_domain", JwtError::UnknownTrustDomain("another.example".parse().unwrap())),
        ("j_7_no_aud", JwtError::Missing("aud")),
        ("j_7_empty_aud", JwtError::Claim("aud")),
        ("j_7_other_aud", JwtError::Audience),
        ("j_8_no_exp", JwtError::Missing("exp")),
        ("j_8_expired", JwtError::Expired),
        ("j_8_exp_is_text", JwtError::Claim("exp")),
        ("j_11_key_of_another_use", JwtError::UnknownKey("a.example".parse().unwrap())),
    ];
    let found: Vec<_> = mutants(&JWT, &WIT, SUB, AUD, noon())
        .into_iter()
        .map(|mutant| (mutant.name, verdict(&mutant.token).expect_err(mutant.name)))
        .collect();
    assert_eq!(found, cases);
}

/// The nine algorithms, each with a key of its kind, and none with a key of another (bad input 62).
#[test]
fn j_3_the_nine_algorithms() {
    let sub = SUB.parse().unwrap();
    let aud = [AUD.to_owned()];
    let claims = Claims { sub: &sub, aud: &aud, iat: noon(), exp: noon() + LEEWAY, jti: None };
    let ec = |algorithm, signing| {
        let key = EcdsaKeyPair::generate(signing).unwrap();
        let spki = key.public_key().as_der().unwrap().as_ref().to_vec();
        let sign = move |input: &[u8]| key.sign(&SystemRandom::new(), input).unwrap().as_ref().to_vec();
        (algorithm, spki, Box::new(sign) as Box<dyn Fn(&[u8]) -> Vec<u8>>)
    };
    let rsa = |algorithm, padding: &'static dyn RsaEncoding| {
        let spki = RSA.public_key().as_der().unwrap().as_ref().to_vec();
        let sign = move |input: &[u8]| {
            let mut signature = vec![0; RSA.public_modulus_len()];
            RSA.sign(padding, &SystemRandom::new(), input, &mut signature).unwrap();
            signature
        };
        (algorithm, spki, Box::new(sign) as Box<dyn Fn(&[u8]) -> Vec<u8>>)
    };
    use signature as s;
    let signers = [
        rsa(Algorithm::Rs256, &s::RSA_PKCS1_SHA256),
        rsa(Algorithm::Rs384, &s::RSA_PKCS1_SHA384),
        rsa(Algorithm::Rs512, &s::RSA_PKCS1_SHA512),
        rsa(Algorithm::Ps256, &s::RSA_PSS_SHA256),
        rsa(Algorithm::Ps384, &s::RSA_PSS_SHA384),
        rsa(Algorithm::Ps512, &s::RSA_PSS_SHA512),
        ec(Algorithm::Es256, &s::ECDSA_P256_SHA256_FIXED_SIGNING),
        ec(Algorithm::Es384, &s::ECDSA_P384_SHA384_FIXED_SIGNING),
        ec(Algorithm::Es512, &s::ECDSA_P521_SHA512_FIXED_SIGNING),
    ];
    for (algorithm, spki, sign) in &signers {
        let held = bundle("a.example", vec![authority("k", spki)], Vec::new());
        let able: Vec<_> = held.jwt[0].key.algorithms().collect();
        for (named, ..) in &signers {
            let unsigned = claims.unsigned("k", *named).unwrap();
            let signature = sign(unsigned.signing_input());
            let token = unsigned.signed(&signature);
            let found = verify(token.as_str(), AUD, |_| Some(held.clone()), noon()).map(|claims| claims.sub);
            let want = match (named == algorithm, able.contains(named)) {
                (true, _) => Ok(sub.clone()),
                (false, true) => Err(JwtError::Signature),
                (false, false) => Err(JwtError::KeyAlgorithm),
            };
            assert_eq!(found, want, "signed with {algorithm}, said to be {named}");
        }
    }
}

#[test]
fn j_7_the_audience_is_compared_byte_for_byte() {
    let domain = |_: &TrustDomain| BUNDLES.first().cloned();
    for other in ["", "Reports", "report", "reports ", "reports/", "x"] {
        assert_eq!(verify(&good(), other, domain, noon()).unwrap_err(), JwtError::Audience, "{other:?}");
    }
}

/// Within ten seconds of clock skew; not after.
#[test]
fn j_8_the_leeway_is_small() {
    let exp = noon() + Duration::from_secs(300);
    let at = |now| verify(&good(), AUD, held, now).map(|claims| claims.exp);
    let second = Duration::from_secs(1);
    assert_eq!(at(exp + LEEWAY - second), Ok(exp));
    assert_eq!(at(exp + LEEWAY), Err(JwtError::Expired));
    let from = with_claim("nbf", json!(seconds(noon())));
    let at = |now| verify(&from, AUD, held, now).map(|claims| claims.exp);
    assert_eq!(at(noon() - LEEWAY), Ok(exp));
    assert_eq!(at(noon() - LEEWAY - second), Err(JwtError::NotYetValid));
    let fraction = with_claim("exp", json!(seconds(noon()) as f64 + 1.9));
    assert_eq!(verdict(&fraction).unwrap().exp, noon() + second, "RFC 7519 §2: a date may have a fraction");
}

/// The same token is as good the second time; its name makes no difference.
#[test]
fn j_12_jti_is_not_tracked() {
    let named = with_claim("jti", json!("one"));
    for _ in 0..2 {
        assert_eq!(verdict(&named).unwrap().all()["jti"], "one");
    }
    check(&with_claim("jti", json!(1)), &JwtError::Claim("jti"));
}

#[test]
fn bad_059_alg_none_absent_or_misspelt() {
    for alg in [json!("none"), json!("nOnE"), json!("NONE"), json!(""), json!("es256"), json!(null), json!(256)] {
        check(&with_header("alg", alg), &JwtError::Algorithm);
    }
    let unsigned = with_header("alg", json!("none"));
    check(&format!("{}.", unsigned.rsplit_once('.').unwrap().0), &JwtError::Algorithm);
    check(unsigned.rsplit_once('.').unwrap().0, &JwtError::Form);
}

/// The public key as HMAC secret, in each form that an attacker could guess.
#[test]
fn bad_060_hs256_keyed_with_the_public_key() {
    let spki = of(&JWT).key.spki().to_vec();
    let jwk = JWT.jwk("jwt-svid").to_string().into_bytes();
    for secret in [spki, jwk, Vec::new()] {
        let header = with(&header(), "alg", json!("HS256")).to_string();
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims().to_string()));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
        let tag = URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, input.as_bytes()));
        check(&format!("{input}.{tag}"), &JwtError::Algorithm);
    }
}

#[test]
fn bad_061_algorithms_that_are_not_in_the_list() {
    for alg in ["EdDSA", "Ed25519", "ES256K", "HS384", "HS512", "RS1", "ML-DSA-65", "A128KW", "dir"] {
        check(&with_header("alg", json!(alg)), &JwtError::Algorithm);
    }
}

#[test]
fn bad_062_an_algorithm_of_another_kind_of_key() {
    check(&with_header("kid", json!("rsa")), &JwtError::KeyAlgorithm);
    for alg in ["RS256", "PS256", "ES384", "ES512"] {
        check(&with_header("alg", json!(alg)), &JwtError::KeyAlgorithm);
    }
}

/// Nobody is asked for a key but the bundles that we hold, and they once.
#[test]
fn bad_063_headers_that_bring_or_name_a_key() {
    let jwk = JWT.jwk("sig");
    let members = [
        ("jku", json!("https://evil.example/jwks")),
        ("x5u", json!("https://evil.example/chain")),
        ("jwk", jwk),
        ("x5c", json!([""])),
        ("x5t", json!("")),
        ("x5t#S256", json!("")),
        ("iss", json!(SUB)),
    ];
    for (member, value) in members {
        let asked = RefCell::new(0);
        let bundles = |domain: &TrustDomain| {
            *asked.borrow_mut() += 1;
            held(domain)
        };
        let refused = verify(&with_header(member, value), AUD, bundles, noon()).unwrap_err();
        assert_eq!((refused, asked.into_inner()), (JwtError::HeaderMember(member.into()), 0));
    }
}

#[test]
fn bad_064_crit_b64_zip() {
    let members = [("crit", json!(["b64"])), ("crit", json!([])), ("b64", json!(false)), ("zip", json!("DEF"))];
    for (member, value) in members {
        check(&with_header(member, value), &JwtError::HeaderMember(member.into()));
    }
}

#[test]
fn bad_065_typ() {
    for typ in [json!("jwt"), json!("JWS"), json!("wit+jwt"), json!("JWT "), json!(""), json!(1), json!(["JWT"])] {
        check(&with_header("typ", typ), &JwtError::Type("JWT"));
    }
    let null = JWT.token(r#"{"alg":"ES256","kid":"jwt-1","typ":null}"#, &claims().to_string());
    check(&null, &JwtError::Type("JWT"));
}

#[test]
fn bad_066_an_unknown_kid_is_looked_for_once() {
    let asked = RefCell::new(Vec::new());
    let bundles = |domain: &TrustDomain| {
        asked.borrow_mut().push(domain.to_string());
        held(domain)
    };
    let refused = verify(&with_header("kid", json!("none-such")), AUD, bundles, noon()).unwrap_err();
    assert_eq!(refused, JwtError::UnknownKey("a.example".parse().unwrap()));
    assert_eq!(asked.into_inner(), ["a.example"]);
}

#[test]
fn bad_067_a_hostile_kid() {
    let unknown = JwtError::UnknownKey("a.example".parse().unwrap());
    for kid in ["../../etc/passwd", "' OR 1=1 --", "jwt-1\u{0}", "JWT-1", " jwt-1", "\u{202e}", &"k".repeat(255)] {
        check(&with_header("kid", json!(kid)), &unknown);
    }
    for kid in [json!(""), json!("k".repeat(256)), json!(1), json!(["jwt-1"])] {
        check(&with_header("kid", kid), &JwtError::Kid);
    }
    malformed_header(&with_header("kid", json!("k".repeat(800))), "longer than 1 KiB");
    let wide = |bytes: usize| {
        let header = header().to_string();
        let blanks = " ".repeat(bytes - header.len());
        JWT.token(&header.replacen('{', &format!("{{{blanks}"), 1), &claims().to_string())
    };
    verdict(&wide(768)).unwrap();
    malformed_header(&wide(769), "longer than 1 KiB");
    check(&with_header("kid", json!("k".repeat(64 * 1024))), &JwtError::TooLarge);
}

/// Signed by b.example's key, which is good, about a workload of a.example; and the other way round (invariant I2).
#[test]
fn bad_068_a_key_of_another_trust_domain() {
    let foreign = B.token(&good_header(&B).to_string(), &claims().to_string());
    check(&foreign, &JwtError::UnknownKey("a.example".parse().unwrap()));
    let same_name = B.token(&header().to_string(), &claims().to_string());
    check(&same_name, &JwtError::Signature);
    let theirs = good_claims("spiffe://b.example/shop", AUD, noon());
    assert_eq!(verdict(&B.token(&good_header(&B).to_string(), &theirs.to_string())).unwrap().sub.path(), "/shop");
}

#[test]
fn bad_069_other_serialisations() {
    let good = good();
    let parts: Vec<_> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { unreachable!() };
    let general = json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]});
    let two = format!("{header}.{payload}");
    let four = format!("{good}.{signature}");
    let five = format!("{header}.{payload}.{signature}.{payload}.{signature}");
    let jwe = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.e30.e30.e30.e30".to_owned();
    let detached = format!("{header}..{signature}");
    for token in [general.to_string(), format!("[{general}]"), two, four, five, jwe, header.into(), String::new()] {
        check(&token, &JwtError::Form);
    }
    malformed_claims(&detached, "EOF");
    malformed_header(&format!(".{payload}.{signature}"), "EOF");
}

#[test]
fn bad_070_no_audience() {
    for aud in [json!([]), json!([""]), json!(""), json!([AUD, ""]), json!([AUD, 1]), json!({}), json!(1)] {
        check(&with_claim("aud", aud), &JwtError::Claim("aud"));
    }
    check(&with_claim("aud", Value::Null), &JwtError::Missing("aud"));
    let null = claims().to_string().replace(r#"["reports"]"#, "null");
    check(&JWT.token(&header().to_string(), &null), &JwtError::Claim("aud"));
}

#[test]
fn bad_071_an_audience_that_is_almost_ours() {
    for aud in ["report", "reports2", "REPORTS", "reports ", "*", "reports/", "\u{440}eports"] {
        check(&with_claim("aud", json!([aud])), &JwtError::Audience);
    }
}

#[test]
fn bad_072_a_thousand_audiences() {
    let many = |count: usize| {
        let others = (1..count).map(|n| json!(n.to_string()));
        with_claim("aud", Value::Array([json!(AUD)].into_iter().chain(others).collect()))
    };
    check(&many(1000), &JwtError::Claim("aud"));
    check(&many(MAX_AUDIENCES + 1), &JwtError::Claim("aud"));
    verdict(&many(MAX_AUDIENCES)).unwrap();
}

#[test]
fn bad_073_no_expiry() {
    check(&with_claim("exp", Value::Null), &JwtError::Missing("exp"));
}

/// `1e400` is no number that JSON readers can hold; the others are numbers and no dates.
#[test]
fn bad_074_an_expiry_that_is_no_date() {
    let with_exp = |exp: &str| {
        let exp_now = format!("\"exp\":{}", seconds(noon()) + 300);
        let text = claims().to_string();
        assert!(text.contains(&exp_now));
        JWT.token(&header().to_string(), &text.replace(&exp_now, &format!("\"exp\":{exp}")))
    };
    for exp in ["\"1790000300\"", "-1", "-0.5", "null", "true", "[1790000300]", "{}", "1e300", "253402300800"] {
        check(&with_exp(exp), &JwtError::Claim("exp"));
    }
    check(&with_exp("18446744073709551615"), &JwtError::Claim("exp"));
    check(&with_exp("18446744073709551616"), &JwtError::Claim("exp"));
    malformed_claims(&with_exp("1e400"), "out of range");
    malformed_claims(&with_exp("NaN"), "expected");
    check(&with_exp("0"), &JwtError::Expired);
    check(&with_exp("0.0"), &JwtError::Expired);
    verdict(&with_exp("253402300799")).unwrap();
    verdict(&with_exp("1.7900003e9")).unwrap();
}

#[test]
fn bad_075_not_before() {
    for nbf in [json!("1790000000"), json!(-1), json!(true), json!([])] {
        check(&with_claim("nbf", nbf), &JwtError::Claim("nbf"));
    }
    check(&with_claim("nbf", json!(seconds(noon()) + 60)), &JwtError::NotYetValid);
    verdict(&with_claim("nbf", json!(seconds(noon())))).unwrap();
    check(&with_claim("iat", json!("now")), &JwtError::Claim("iat"));
    verdict(&with_claim("iat", json!(seconds(noon()) + 60))).expect("only nbf says from when");
}

#[test]
fn bad_076_whom_it_is_about() {
    use symbolon_proto::ids::IdError;
    let cases = [
        ("", IdError::Scheme),
        ("shop", IdError::Scheme),
        ("https://a.example/shop", IdError::Scheme),
        ("spiffe://", IdError::EmptyTrustDomain),
        ("spiffe://a.example", IdError::NoPath),
        ("spiffe://a.example/", IdError::EmptySegment),
        ("spiffe://a.example/../shop", IdError::DotSegment),
        ("spiffe://a.example/shop?x", IdError::PathCharacter),
        ("spiffe://a.example:8443/shop", IdError::TrustDomainCharacter),
    ];
    for (sub, why) in cases {
        check(&with_claim("sub", json!(sub)), &JwtError::Subject(why));
    }
    check(&with_claim("sub", json!([SUB])), &JwtError::Claim("sub"));
    let elsewhere = |domain: &str| JwtError::UnknownTrustDomain(domain.parse().unwrap());
    check(&with_claim("sub", json!("spiffe://c.example/shop")), &elsewhere("c.example"));
    check(&with_claim("sub", json!("spiffe://b.example/shop")), &JwtError::UnknownKey("b.example".parse().unwrap()));
}

#[test]
fn bad_077_a_claim_twice() {
    let text = claims().to_string();
    let twice = |more: &str| JWT.token(&header().to_string(), &text.replacen('{', &format!("{{{more},"), 1));
    malformed_claims(&twice(r#""sub":"spiffe://a.example/admin""#), "\"sub\" appears twice");
    malformed_claims(&twice(r#""\u0073ub":"spiffe://a.example/admin""#), "\"sub\" appears twice");
    malformed_claims(&twice(r#""aud":"other""#), "\"aud\" appears twice");
    malformed_claims(&twice(r#""x":{"y":1,"y":2}"#), "\"y\" appears twice");
    let header = |text: &str| JWT.token(text, &claims().to_string());
    malformed_header(&header(r#"{"alg":"none","alg":"ES256","kid":"jwt-1"}"#), "\"alg\" appears twice");
    malformed_header(&header(r#"{"alg":"ES256","kid":"x","kid":"jwt-1"}"#), "\"kid\" appears twice");
    malformed_header(&header("[]"), "an object");
    malformed_claims(&JWT.token(&self::header().to_string(), "[]"), "an object");
    malformed_claims(&JWT.token(&self::header().to_string(), "{} {}"), "trailing");
}

#[test]
fn bad_078_signatures_of_the_wrong_form() {
    let good = good();
    let (input, signature) = good.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let check =
        |signature: &[u8]| check(&format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)), &JwtError::Signature);
    let (r, s) = signature.split_at(32);
    let zero = [0; 32];
    check(&[0; 64]);
    check(&[&zero, s].concat());
    check(&[r, &zero].concat());
    check(&[0xff; 64]);
    check(&signature[..63]);
    check(&[&signature[..], &[0]].concat());
    check(&[r, &[0], s].concat());
    check(&[]);
    // As certificates have it.
    let integer = |number: &[u8]| [&[2, 33, 0], number].concat();
    let body = [integer(r), integer(s)].concat();
    check(&[&[0x30, body.len() as u8], &body[..]].concat());
    check(&[0; 1024]);
    for longer in [1027, 4096] {
        self::check(&format!("{input}.{}", URL_SAFE_NO_PAD.encode(vec![0; longer])), &JwtError::Form);
    }
}

/// One token has one spelling.
#[test]
fn bad_079_too_large_or_spelt_otherwise() {
    let good = good();
    check(&with_claim("x", json!("x".repeat(MAX_TOKEN_BYTES))), &JwtError::TooLarge);
    check(&" ".repeat(MAX_TOKEN_BYTES + 1), &JwtError::TooLarge);
    check(&" ".repeat(MAX_TOKEN_BYTES), &JwtError::Form);
    for at in [0, 5, good.find('.').unwrap(), good.find('.').unwrap() + 1, good.len() - 3, good.len()] {
        for what in [" ", "\n", "\r\n", "\t", "=", "%2e", "\u{0}", "\u{feff}"] {
            let mut spelt = good.clone();
            spelt.insert_str(at, what);
            check(&spelt, &JwtError::Form);
        }
    }
    // 64 bytes of signature leave four bits of the last letter unused: they are zero.
    let (rest, last) = good.split_at(good.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    assert_eq!(at % 16, 0);
    check(&format!("{rest}{}", &alphabet[at + 1..at + 2]), &JwtError::Form);
    check(&good.replace(['-', '_'], "+").replacen('e', "+", 1), &JwtError::Form);
}

/// The keys are the bundle's: what a JWKS says is what verifies, and only under the use and the name that it says.
#[test]
fn j_11_only_keys_of_the_use_count() {
    let ca = Ca::new("a.example");
    let read = |keys: Value| {
        let document = serde_json::to_vec(&json!({"keys": keys})).unwrap();
        let parsed = Bundle::parse_jwks(&"a.example".parse().unwrap(), &document, noon()).unwrap();
        let bundle = Arc::new(parsed.bundle);
        verify(&good(), AUD, |_| Some(bundle.clone()), noon()).map(|claims| claims.sub.to_string())
    };
    let root: Value = serde_json::from_slice(&ca.bundle().to_jwks()).unwrap();
    let root = &root["keys"][0];
    let unknown = Err(JwtError::UnknownKey("a.example".parse().unwrap()));
    assert_eq!(read(json!([root, JWT.jwk("jwt-svid")])), Ok(SUB.to_owned()));
    for other in ["wit-svid", "sig", "JWT-SVID"] {
        assert_eq!(read(json!([root, JWT.jwk(other)])), unknown, "{other}");
    }
    assert_eq!(read(json!([root])), unknown);
}

proptest! {
    #[test]
    fn any_text_is_survived(text in ".{0,200}") {
        prop_assert!(verdict(&text).is_err());
    }

    #[test]
    fn any_parts_are_survived(header: Vec<u8>, claims: Vec<u8>, signature: Vec<u8>) {
        let parts = [header, claims, signature].map(|part| URL_SAFE_NO_PAD.encode(part));
        prop_assert!(verdict(&parts.join(".")).is_err());
    }

    /// Also under a signature that is right: header and claims are read before it is looked at.
    #[test]
    fn any_damage_under_a_good_signature_is_survived(at in 0..4096usize, byte: u8, header_first: bool) {
        let (mut header, mut claims) = (header().to_string().into_bytes(), claims().to_string().into_bytes());
        let damaged = if header_first { &mut header } else { &mut claims };
        let at = at % damaged.len();
        damaged[at] = byte;
        let [header, claims] = [header, claims].map(|part| String::from_utf8_lossy(&part).into_owned());
        let _ = verdict(&JWT.token(&header, &claims));
    }

    /// No letter can be another.
    #[test]
    fn any_damage_is_found(at in 0..4096usize, letter in "[A-Za-z0-9_.-]") {
        let good = good();
        let at = at % good.len();
        let mut damaged = good.clone();
        damaged.replace_range(at..=at, &letter);
        prop_assume!(damaged != good);
        prop_assert!(verdict(&damaged).is_err());
    }

    /// What is asked for is what is read, whatever the texts are.
    #[test]
    fn any_claims_read_back(
        path in "(/[a-zA-Z0-9._-]{1,20}[a-z]){1,4}",
        aud in prop::collection::vec("\\PC{1,40}", 1..=8),
        jti in prop::option::of("\\PC{0,40}"),
        life in 1..1_000_000u64,
    ) {
        let sub = format!("spiffe://a.example{path}").parse().unwrap();
        let exp = noon() + Duration::from_secs(life);
        let asked = Claims { sub: &sub, aud: &aud, iat: noon(), exp, jti: jti.as_deref() };
        let unsigned = asked.unsigned("jwt-1", Algorithm::Es256).unwrap();
        let signature = JWT.sign(unsigned.signing_input());
        let token = unsigned.signed(&signature);
        for audience in &aud {
            let found = verify(token.as_str(), audience, held, noon()).unwrap();
            prop_assert_eq!((&found.sub, found.exp), (&sub, exp));
            prop_assert_eq!(&found.all()["aud"], &json!(aud));
        }
    }
}
