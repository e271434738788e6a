//! Two bounds on a share.

/// Upper end of the Wilson interval of an error rate; 1 if nothing was completed.
#[expect(clippy::cast_precision_loss, reason = "counts of requests")]
pub fn wilson_upper(completions: u64, errors: u64, z: f64) -> f64 {
    if completions == 0 {
        return 1.0;
    }
    let (n, p) = (completions as f64, errors as f64 / completions as f64);
    let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    (p + z * z / (2.0 * n) + spread) / (1.0 + z * z / n)
}

/// Whether seeing at most `k` of `n` has a probability below `chance` when each is seen with probability `share`. Exact: the terms
/// from `k` downwards are summed until they no longer matter.
#[expect(clippy::cast_precision_loss, reason = "counts of requests")]
pub fn binomial_below(k: u64, n: u64, share: f64, chance: f64) -> bool {
    if n == 0 || share.is_nan() || share <= 0.0 {
        return false;
    }
    let (kf, nf) = (k as f64, n as f64);
    if kf >= nf * share {
        return false; // at or above what was expected
    }
    if share >= 1.0 {
        return true; // k < n is impossible
    }
    let choose = ln_factorial(nf) - ln_factorial(kf) - ln_factorial(nf - kf);
    let mut term = (choose + kf * share.ln() + (nf - kf) * (1.0 - share).ln()).exp();
    let (mut sum, mut i) = (0.0, kf);
    while i >= 0.0 {
        sum += term;
        if sum >= chance || term < chance * 1e-12 {
            break;
        }
        term *= i * (1.0 - share) / ((nf - i + 1.0) * share);
        i -= 1.0;
    }
    sum < chance
}

/// ln(n!), by Stirling's series; exact to 1e-10 from 0 on.
fn ln_factorial(n: f64) -> f64 {
    if n < 10.0 {
        let mut product = 1.0;
        let mut i = 2.0;
        while i <= n {
            product *= i;
            i += 1.0;
        }
        return product.ln();
    }
    let x = n + 1.0;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series
}
