//! What it costs to validate a JWT-SVID: how often it allocates, which is counted and may not grow, and how fast it is beside the
//! bare signature, which is printed. Alone in its process, as the count is everybody's.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that measures real time")]

use std::alloc::System;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, ParsedPublicKey,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use symbolon_kit::spiffe::bundle::{Bundle, DEFAULT_REFRESH, JwtAuthority, TokenKey};
use symbolon_kit::spiffe::jwt::{Claims, Token, verify};
use symbolon_kit::spiffe::token_key::Algorithm;
use symbolon_proto::ids::TrustDomain;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const AUDIENCE: &str = "spiffe://a.example/ns/shop/sa/ledger";
/// Of one validation: the claims as they stand, their names, the audiences, and the subject's ID.
const ALLOCATIONS: usize = 10;

struct World {
    key: EcdsaKeyPair,
    bundle: Arc<Bundle>,
    token: Token,
    now: SystemTime,
}

fn world() -> World {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let public = TokenKey::from_spki(key.public_key().as_der().unwrap().as_ref()).unwrap();
    let authority = JwtAuthority { kid: "key-1".into(), key: public };
    let bundle = Bundle::new("a.example".parse().unwrap(), 1, DEFAULT_REFRESH, Vec::new());
    let bundle = Arc::new(bundle.with_tokens(vec![authority], Vec::new()));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let sub = "spiffe://a.example/ns/shop/sa/payments".parse().unwrap();
    let aud = [AUDIENCE.to_owned()];
    let claims =
        Claims { sub: &sub, aud: &aud, iat: now, exp: now + Duration::from_secs(300), jti: Some("0123456789") };
    let unsigned = claims.unsigned("key-1", Algorithm::Es256).unwrap();
    let signature = key.sign(&SystemRandom::new(), unsigned.signing_input()).unwrap();
    let token = unsigned.signed(signature.as_ref());
    World { key, bundle, token, now }
}

impl World {
    fn validate(&self) {
        let bundles = |_: &TrustDomain| Some(self.bundle.clone());
        verify(self.token.as_str(), AUDIENCE, bundles, self.now).unwrap();
    }
}

/// How often per second `what` can be done, by one thread.
fn per_second(mut what: impl FnMut()) -> f64 {
    let (began, mut times) = (Instant::now(), 0u32);
    while began.elapsed() < Duration::from_millis(300) {
        what();
        times += 1;
    }
    f64::from(times) / began.elapsed().as_secs_f64()
}

#[test]
fn a_validation_allocates_little() {
    let world = world();
    world.validate();
    let region = Region::new(ALLOCATOR);
    for _ in 0..100 {
        world.validate();
    }
    let change = region.change();
    let (allocations, bytes) = (change.allocations + change.reallocations, change.bytes_allocated);
    let input = world.token.as_str().rsplit_once('.').unwrap().0.as_bytes().to_vec();
    let signature = world.key.sign(&SystemRandom::new(), &input).unwrap();
    let bare = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, world.key.public_key().as_ref()).unwrap();
    let raw = per_second(|| bare.verify_sig(&input, signature.as_ref()).unwrap());
    let ours = per_second(|| world.validate());
    println!("identity.jwt_validate_per_s: {ours:.0}, the bare signature {raw:.0}, ratio {:.2}", ours / raw);
    println!("allocations per validation: {}, {} bytes", allocations as f64 / 100.0, bytes / 100);
    assert!(allocations <= 100 * ALLOCATIONS, "{allocations} of 100 validations");
    assert_eq!(change.allocations, change.deallocations, "nothing is kept");
}
