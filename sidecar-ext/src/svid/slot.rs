//! What is held for one entry, as a pure machine. A new key for each issuance; the old SVID is served until the new one is there;
//! an expired one is never served.
//!
//! ```text
//!            Tick ≥ at                  Issued
//!   Empty ───────────────► Requested ───────────────► Valid ◄──────────────┐
//!     ▲                       │  ▲                     │ Tick ≥ renew_at   │ Issued
//!     └────── Failed ─────────┘  │                     ▼                   │
//!            (backoff)           │                  Renewing ──────────────┘
//!                                └── Tick ≥ not_after ─┤  Failed (backoff)
//!                                     (withdraw)       └──────────────────────► Valid
//! ```
//! An SVID of a tainted authority is good until it expires, and is to be replaced at once: `Tainted` makes it due. What is issued by
//! such an authority all the same counts as a failure where something is held, and is taken where nothing is, to be replaced.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::Rng;
use symbolon_kit::spiffe::renewal::renew_at;
use symbolon_kit::spiffe::svid::Svid;

/// The bound of the first wait after a failure; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The bound of any wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// One entry's SVID.
#[derive(Clone, Debug)]
pub enum Slot {
    /// Nothing held; asks from `at` on.
    Empty { at: SystemTime, failures: u32 },
    /// Nothing held; asked.
    Requested { failures: u32 },
    /// Held; asks for the next from `renew_at` on.
    Valid { svid: Arc<Svid>, renew_at: SystemTime, failures: u32 },
    /// Held; asked for the next.
    Renewing { svid: Arc<Svid>, failures: u32 },
}

#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The control plane issued this, or it was found on disk.
    Issued(Arc<Svid>),
    /// The control plane issued this by an authority that is tainted.
    IssuedTainted(Arc<Svid>),
    /// The request was refused or lost.
    Failed,
    /// The authority that signed what is held is tainted.
    Tainted,
    /// The entry now says something else about the same identity: the next SVID is wanted at once.
    Changed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a key and ask.
    Request,
    /// What [`Slot::svid`] says has changed.
    Publish,
}

impl Slot {
    /// Nothing yet, wanted now.
    pub fn wanted(now: SystemTime) -> Self {
        Self::Empty { at: now, failures: 0 }
    }

    /// What may be served.
    pub fn svid(&self) -> Option<&Arc<Svid>> {
        match self {
            Self::Valid { svid, .. } | Self::Renewing { svid, .. } => Some(svid),
            Self::Empty { .. } | Self::Requested { .. } => None,
        }
    }

    /// Failed attempts since the last success.
    pub fn failures(&self) -> u32 {
        match self {
            Self::Empty { failures, .. }
            | Self::Requested { failures }
            | Self::Valid { failures, .. }
            | Self::Renewing { failures, .. } => *failures,
        }
    }

    /// When the next [`Event::Tick`] is of use.
    pub fn wakes(&self) -> Option<SystemTime> {
        match self {
            Self::Empty { at, .. } => Some(*at),
            Self::Requested { .. } => None,
            Self::Valid { renew_at, svid, .. } => Some((*renew_at).min(svid.not_after)),
            Self::Renewing { svid, .. } => Some(svid.not_after),
        }
    }

    /// The one transition function. `rng` draws the jitter.
    #[must_use]
    pub fn step(self, event: Event, now: SystemTime, rng: &mut impl Rng) -> (Self, Vec<Effect>) {
        match event {
            Event::Tick => self.tick(now),
            Event::Issued(svid) => self.issued(svid, now, rng),
            Event::IssuedTainted(svid) => self.issued_tainted(svid, now, rng),
            Event::Failed => self.failed(now, rng),
            Event::Tainted => self.tainted(now),
            Event::Changed => self.changed(now),
        }
    }

    fn tick(self, now: SystemTime) -> (Self, Vec<Effect>) {
        match self {
            Self::Empty { at, failures } if now >= at => (Self::Requested { failures }, vec![Effect::Request]),
            Self::Valid { svid, failures, .. } if now >= svid.not_after => {
                (Self::Requested { failures }, vec![Effect::Publish, Effect::Request])
            }
            Self::Valid { svid, renew_at, failures } if now >= renew_at => {
                (Self::Renewing { svid, failures }, vec![Effect::Request])
            }
            Self::Renewing { svid, failures } if now >= svid.not_after => {
                (Self::Requested { failures }, vec![Effect::Publish])
            }
            same => (same, Vec::new()),
        }
    }

    /// An SVID that is no newer than the one held, or expired already, changes nothing but counts as a failure of its request.
    fn issued(self, svid: Arc<Svid>, now: SystemTime, rng: &mut impl Rng) -> (Self, Vec<Effect>) {
        let stale = self.svid().is_some_and(|held| held.not_after > svid.not_after);
        if svid.not_after <= now || stale {
            return self.failed(now, rng);
        }
        let renew_at = renew_at(svid.not_before, svid.not_after, rng);
        (Self::Valid { svid, renew_at, failures: 0 }, vec![Effect::Publish])
    }

    fn issued_tainted(self, svid: Arc<Svid>, now: SystemTime, rng: &mut impl Rng) -> (Self, Vec<Effect>) {
        if self.svid().is_some() || svid.not_after <= now {
            return self.failed(now, rng);
        }
        let failures = self.failures();
        let next = Self::Valid { svid, renew_at: now + wait(failures, rng), failures: failures.saturating_add(1) };
        (next, vec![Effect::Publish])
    }

    fn tainted(self, now: SystemTime) -> (Self, Vec<Effect>) {
        let next = match self {
            Self::Valid { svid, failures, .. } => Self::Valid { svid, renew_at: now, failures },
            same => same, // an answer under way is looked at when it comes
        };
        (next, Vec::new())
    }

    fn failed(self, now: SystemTime, rng: &mut impl Rng) -> (Self, Vec<Effect>) {
        let again = now + wait(self.failures(), rng);
        let next = match self {
            Self::Requested { failures } => Self::Empty { at: again, failures: failures.saturating_add(1) },
            Self::Renewing { svid, failures } => {
                Self::Valid { svid, renew_at: again, failures: failures.saturating_add(1) }
            }
            idle => idle, // nothing was asked: an answer to a request that a change has overtaken
        };
        // Whoever waits for the first SVID may now be told that it failed.
        let told = matches!(next, Self::Empty { failures: 1, .. });
        (next, if told { vec![Effect::Publish] } else { Vec::new() })
    }

    fn changed(self, now: SystemTime) -> (Self, Vec<Effect>) {
        let next = match self {
            Self::Valid { svid, .. } => Self::Valid { svid, renew_at: now, failures: 0 },
            // What was asked by the old entry must not settle the matter.
            Self::Renewing { svid, .. } => Self::Valid { svid, renew_at: now, failures: 0 },
            Self::Empty { .. } | Self::Requested { .. } => Self::wanted(now),
        };
        (next, Vec::new())
    }
}

/// Between half and all of a bound that doubles with each failure.
fn wait(failures: u32, rng: &mut impl Rng) -> Duration {
    let bound = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(LONGEST_WAIT);
    bound.mul_f64(rng.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests;
