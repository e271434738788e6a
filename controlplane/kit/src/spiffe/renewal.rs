//! When a certificate is renewed: at half its life, give or take a tenth, so that a fleet that started together does not renew
//! together. Pure.

use std::time::SystemTime;

use rand::Rng;

/// The moment to renew an SVID valid from `not_before` to `not_after`.
pub fn renew_at(_not_before: SystemTime, _not_after: SystemTime, _rng: &mut impl Rng) -> SystemTime {
    todo!()
}
