//! When a certificate is renewed: at half its life, give or take a tenth, so that a fleet that started together does not renew
//! together. Pure.

use std::time::SystemTime;

use rand::Rng;

/// The moment to renew an SVID valid from `not_before` to `not_after`: between 45 % and 55 % of its life.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, rng: &mut impl Rng) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_before + life.mul_f64(rng.random_range(0.45..=0.55))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn half_life_give_or_take_a_tenth() {
        let (start, hour) = (SystemTime::UNIX_EPOCH, Duration::from_secs(3600));
        let mut rng = StdRng::seed_from_u64(7);
        let draws: Vec<_> = (0..1000).map(|_| renew_at(start, start + hour, &mut rng)).collect();
        assert!(draws.iter().all(|at| (start + hour.mul_f64(0.45)..=start + hour.mul_f64(0.55)).contains(at)));
        let spread = draws.iter().max().unwrap().duration_since(*draws.iter().min().unwrap()).unwrap();
        assert!(spread > hour.mul_f64(0.09), "a fleet must not renew together: {spread:?}");
        let again = renew_at(start, start + hour, &mut StdRng::seed_from_u64(7));
        assert_eq!(draws[0], again, "the same seed gives the same moment");
    }

    #[test]
    fn an_impossible_validity_is_due_at_once() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!(renew_at(now, SystemTime::UNIX_EPOCH, &mut StdRng::seed_from_u64(1)), now);
    }
}
