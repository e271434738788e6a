//! Traffic weights in 1/10,000, and the split of one federated service between its arms.

use std::fmt;

use super::PeerName;

/// The sum of the weights of every split (invariant I7).
pub const TOTAL: u16 = 10_000;

/// A share of traffic in 1/10,000: 0 to 10,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

/// How the traffic of a federated service is split: the local arm, then one arm per peer, in an order that never changes while
/// the service is federated with the same peers. Sums to [`TOTAL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    local: Weight,
    remote: Vec<(PeerName, Weight)>,
}

/// Why weights were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    #[error("{0} is more than 10,000")]
    TooLarge(u32),
    #[error("the remote weights sum to {0}, more than 10,000")]
    Sum(u32),
}

// === impl Weight ===

impl Weight {
    /// No traffic.
    pub const ZERO: Self = Self(0);
    /// All traffic.
    pub const ALL: Self = Self(TOTAL);

    /// # Errors
    /// If `value` is more than 10,000.
    pub fn new(value: u32) -> Result<Self, WeightError> {
        match u16::try_from(value) {
            Ok(small) if small <= TOTAL => Ok(Self(small)),
            _ => Err(WeightError::TooLarge(value)),
        }
    }

    /// The nearest weight to `fraction` of all traffic; clamped to 0..=10,000.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=10,000 before the cast"
    )]
    pub fn of_fraction(fraction: f64) -> Self {
        Self((fraction.clamp(0.0, 1.0) * f64::from(TOTAL)).round() as u16)
    }

    /// 0 to 10,000.
    pub fn value(self) -> u16 {
        self.0
    }

    /// 0.0 to 1.0.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(TOTAL)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} %", self.0 / 100, self.0 % 100)
    }
}

// === impl Split ===

impl Split {
    /// All traffic local, every peer at 0: how a federated service begins.
    pub fn all_local(peers: impl IntoIterator<Item = PeerName>) -> Self {
        Self { local: Weight::ALL, remote: peers.into_iter().map(|peer| (peer, Weight::ZERO)).collect() }
    }

    /// The given remote weights; the local arm gets the rest.
    ///
    /// # Errors
    /// If the remote weights sum to more than 10,000.
    pub fn with_remote(remote: Vec<(PeerName, Weight)>) -> Result<Self, WeightError> {
        let sum: u32 = remote.iter().map(|(_, weight)| u32::from(weight.value())).sum();
        let rest = u32::from(TOTAL).checked_sub(sum).ok_or(WeightError::Sum(sum))?;
        Ok(Self { local: Weight::new(rest)?, remote })
    }

    /// The local arm's weight.
    pub fn local(&self) -> Weight {
        self.local
    }

    /// The peers' weights, in the frozen order.
    pub fn remote(&self) -> &[(PeerName, Weight)] {
        &self.remote
    }

    /// The weight of one peer's arm; 0 for a peer that has none.
    pub fn of(&self, peer: &PeerName) -> Weight {
        self.remote.iter().find(|(name, _)| name == peer).map_or(Weight::ZERO, |(_, weight)| *weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_split_always_sums_to_the_total(weights in prop::collection::vec(0u32..=10_000, 0..5)) {
            let remote: Vec<_> = weights.iter().enumerate()
                .map(|(i, w)| (format!("p{i}").parse::<PeerName>().unwrap(), Weight::new(*w).unwrap())).collect();
            match Split::with_remote(remote) {
                Ok(split) => {
                    let sum: u32 = u32::from(split.local().value())
                        + split.remote().iter().map(|(_, w)| u32::from(w.value())).sum::<u32>();
                    prop_assert_eq!(sum, u32::from(TOTAL));
                }
                Err(_) => prop_assert!(weights.iter().sum::<u32>() > u32::from(TOTAL)),
            }
        }
    }

    #[test]
    fn bad_123_weights_out_of_range_are_refused() {
        assert!(Weight::new(10_000).is_ok());
        assert_eq!(Weight::new(10_001), Err(WeightError::TooLarge(10_001)));
        assert_eq!(Weight::new(u32::MAX), Err(WeightError::TooLarge(u32::MAX)));
        assert_eq!(Weight::of_fraction(f64::NAN).value(), 0);
        assert_eq!(Weight::of_fraction(0.025).value(), 250);
    }
}
