//! The two families of e-values, in logarithms.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Count, Pair};

/// Rate ratios that are tested against: one component each.
const RATIOS: [f64; 6] = [1.5, 2.0, 4.0, 8.0, 16.0, 64.0];

/// Running products of both families, one component per ratio. Each factor has expectation ≤ 1 under its null, so each mean of
/// components is a supermartingale: it may be looked at whenever one likes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Products {
    relative: [f64; RATIOS.len()],
    absolute: [f64; RATIOS.len()],
}

impl Products {
    /// Takes counts of both arms over the same time into the relative family: given that there was an error, whose was it? Errors
    /// that strike both arms alike cancel. An arm that completed nothing makes the factor 1.
    pub(super) fn relative(&mut self, rho: f64, pair: Pair) {
        let (canary, baseline) = (float(pair.canary), float(pair.baseline));
        if canary.0 == 0.0 || baseline.0 == 0.0 {
            return;
        }
        let theta = |ratio: f64| rho * ratio * canary.0 / (rho * ratio * canary.0 + baseline.0);
        let null = theta(1.0);
        for (product, ratio) in self.relative.iter_mut().zip(RATIOS) {
            let alternative = theta(ratio);
            *product += canary.1 * (alternative / null).ln() + baseline.1 * ((1.0 - alternative) / (1.0 - null)).ln();
        }
    }

    /// Takes the remote arm's counts into the absolute family: more errors than the tolerance explains?
    pub(super) fn absolute(&mut self, tolerance: f64, canary: Count) {
        let (completions, errors) = float(canary);
        for (product, ratio) in self.absolute.iter_mut().zip(RATIOS) {
            *product += errors * ratio.ln() - (ratio - 1.0) * tolerance * completions;
        }
    }

    /// Forgets what spoke for the remote arm: without this a day of health would hide a regression for half an hour.
    pub(super) fn floor(&mut self) {
        for product in self.relative.iter_mut().chain(&mut self.absolute) {
            *product = product.max(0.0);
        }
    }

    /// Logarithms of the relative and the absolute e-value.
    pub fn e_values(&self) -> (f64, f64) {
        (log_mean(&self.relative), log_mean(&self.absolute))
    }

    /// The smaller of the two: both must reach the threshold.
    pub(super) fn least(&self) -> f64 {
        let (relative, absolute) = self.e_values();
        relative.min(absolute)
    }
}

/// log of the mean of exponentials, without overflow.
fn log_mean(logs: &[f64; RATIOS.len()]) -> f64 {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = logs.iter().map(|log| (log - top).exp()).sum::<f64>() / RATIOS.len() as f64;
    top + mean.ln()
}

#[expect(clippy::cast_precision_loss, reason = "counts of one interval")]
fn float(count: Count) -> (f64, f64) {
    (count.completions as f64, count.errors.min(count.completions) as f64)
}

// Bits, not decimals: a control plane that is restarted goes on with the very same products.
impl Serialize for Products {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.relative.map(f64::to_bits), self.absolute.map(f64::to_bits)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Products {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (relative, absolute) = <([u64; RATIOS.len()], [u64; RATIOS.len()])>::deserialize(deserializer)?;
        Ok(Self { relative: relative.map(f64::from_bits), absolute: absolute.map(f64::from_bits) })
    }
}
