//! How many JWT-SVIDs one core validates, against the bare signatures.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, ParsedPublicKey};
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::jwt;
use symbolon_kit::spiffe::token_key::{Algorithm, JwtAuthority, TokenKey};
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use tokio::time::Instant;

use super::{Row, Target};

const LASTS: Duration = Duration::from_secs(3);

/// # Errors
/// If no token can be made.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let key = rcgen::KeyPair::generate()?;
    let signing = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der())?;
    let (domain, now): (TrustDomain, _) = ("a.example".parse()?, Clock::system().now());
    let sub: SpiffeId = "spiffe://a.example/ns/shop/sa/payments".parse()?;
    let claims = jwt::Claims { sub: &sub, aud: &["db".into()], iat: now, exp: now + LASTS * 100, jti: Some("x") };
    let unsigned = claims.unsigned("kid", Algorithm::Es256)?;
    let signature = signing.sign(&SystemRandom::new(), unsigned.signing_input())?;
    let message = unsigned.signing_input().to_vec();
    let token = unsigned.signed(signature.as_ref());
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    let authority = JwtAuthority { kid: "kid".into(), key: TokenKey::from_spki(&spki)? };
    let bundle = Bundle::new(domain, 1, Duration::from_mins(5), Vec::new()).with_tokens(vec![authority], Vec::new());
    let bundle = Arc::new(bundle);

    let public = signing.public_key().as_ref();
    let public = ParsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED, public)?;
    let raw = || public.verify_sig(&message, signature.as_ref()).is_ok();
    let ours = || jwt::verify(token.as_str(), "db", |_| Some(bundle.clone()), now).is_ok();
    anyhow::ensure!(raw() && ours(), "the token is good");
    let (before, validated, after) = (per_second(raw), per_second(ours), per_second(raw));
    let baseline = Some(f64::midpoint(before, after));
    Ok(vec![Row { name: "identity.jwt_validate_per_s", value: validated, unit: "/s", baseline, target: Target::None }])
}

fn per_second(mut work: impl FnMut() -> bool) -> f64 {
    let (began, mut done) = (Instant::now(), 0u32);
    while began.elapsed() < LASTS {
        for _ in 0..100 {
            std::hint::black_box(work());
        }
        done += 100;
    }
    f64::from(done) / began.elapsed().as_secs_f64()
}
