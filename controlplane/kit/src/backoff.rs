//! Exponential backoff with full jitter, seeded so that a simulation repeats.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Waits between attempts: each is drawn from zero to a bound that doubles from `first` to `longest`.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    bound: Duration,
    rng: StdRng,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self { first, longest, bound: first, rng: StdRng::seed_from_u64(seed) }
    }

    /// How long to wait before the next attempt: at least a tenth of the bound, so that no failure loops hot.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.bound.mul_f64(self.rng.random_range(0.1..=1.0));
        self.bound = (self.bound * 2).min(self.longest);
        wait
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}
