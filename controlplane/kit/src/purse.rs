//! What somebody may spend: a purse that fills with time (a token bucket). Whoever keeps purses decides whose they are, what things
//! cost, and which are forgotten: a full purse is as good as none.

use std::time::Duration;

use tokio::time::Instant;

/// How deep purses are, and what flows into each.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub full: f64,
    pub per_second: f64,
}

/// One purse, as it was last looked at.
#[derive(Clone, Copy, Debug)]
pub struct Purse {
    holds: f64,
    at: Instant,
}

impl Flow {
    /// A full purse.
    pub fn purse(self, now: Instant) -> Purse {
        Purse { holds: self.full, at: now }
    }

    /// Whether the purse is full again.
    pub fn is_full(self, purse: Purse, now: Instant) -> bool {
        self.holds(purse, now) >= self.full
    }

    /// Takes `amount`, if there is as much.
    ///
    /// # Errors
    /// How long to wait until there is.
    pub fn take(self, purse: &mut Purse, amount: f64, now: Instant) -> Result<(), Duration> {
        let holds = self.holds(*purse, now);
        if holds < amount {
            return Err(Duration::from_secs_f64((amount - holds) / self.per_second));
        }
        *purse = Purse { holds: holds - amount, at: now };
        Ok(())
    }

    /// Takes `amount` even if that leaves a debt.
    pub fn charge(self, purse: &mut Purse, amount: f64, now: Instant) {
        *purse = Purse { holds: self.holds(*purse, now) - amount, at: now };
    }

    fn holds(self, purse: Purse, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(purse.at).as_secs_f64();
        (purse.holds + passed * self.per_second).min(self.full)
    }
}
