//! Silence is a verdict too: load reports show nothing at all of an arm without hosts.

use serde::{Deserialize, Serialize};

use super::stats::binomial_below;

/// The fewest requests of a window.
const WINDOW: u64 = 200;
/// The chance that an honest arm is called silent in one window.
const CHANCE: f64 = 1e-5;
/// Windows in a row that make a verdict.
const STRIKES: u8 = 2;

/// Completions since the last window closed, and how many windows in a row were too quiet. Only samples whose whole interval
/// lies after the acknowledgement of the weights come here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    completions: u64,
    total: u64,
    strikes: u8,
}

impl Silence {
    /// Takes a sample; the window's counts if it was the last strike. A window is as long as it takes for complete silence to be
    /// a verdict, [`WINDOW`] at least: with a share of 2.5 % that is 455 requests, with fewer nothing could be told.
    pub(super) fn observe(&mut self, share: f64, completions: u64, total: u64) -> Option<(u64, u64)> {
        self.completions = self.completions.saturating_add(completions);
        self.total = self.total.saturating_add(total);
        if self.total < WINDOW || !binomial_below(0, self.total, share, CHANCE) {
            return None;
        }
        let quiet = binomial_below(self.completions, self.total, share, CHANCE);
        let window = (self.completions, self.total);
        *self = Self { strikes: if quiet { self.strikes + 1 } else { 0 }, ..Self::default() };
        if self.strikes < STRIKES {
            return None;
        }
        *self = Self::default();
        Some(window)
    }
}
