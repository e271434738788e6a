//! How a foreign trust domain's bundle is kept up to date from its endpoint. Pure.
//!
//! ```text
//!              due, refresh             fetched                     taken
//!   WAITING ────────────────► FETCHING ─────────► OFFERING ─────────────────► WAITING (next: a refresh hint later)
//!      ▲                        │  │                  │ refused                  ▲
//!      │   failed               │  │ withdraws all,   └──────────────────────────┤ kept what is held, alarm
//!      ├────────────────────────┘  │ seen first time                             │
//!      └───────────────────────────┘ alarm; next look soon, to confirm it        │
//!                                                                                │
//!   any ── end ──► ENDED (for good)                     (F-17: a failure waits for the next interval, too)
//! ```
//!
//! What an operator sees of it:
//!
//! | Status | When |
//! |---|---|
//! | PENDING | nothing is held, nothing failed |
//! | FRESH | held, and the last look succeeded |
//! | FAILING | the last look failed; what is held, if anything, stays |
//! | STALE | held, and no look succeeded for three intervals |
//! | TERMINATED | ended |

use std::time::{Duration, SystemTime};

use symbolon_kit::spiffe::bundle::DEFAULT_REFRESH;

/// So many intervals without success make what is held stale.
const STALE_INTERVALS: u32 = 3;

/// One relationship's state; times are since the start of the process, but where a person reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub phase: Phase,
    pub held: Option<Held>,
    /// The last look that succeeded; before the first, when we began.
    fresh_since: Duration,
    pub fetched_at: Option<SystemTime>,
    /// In a row.
    pub failures: u32,
    pub last_error: String,
    /// Looks that ended, one way or the other.
    pub looks: u64,
    /// A document that would withdraw everything, seen once.
    unconfirmed: Option<[u8; 32]>,
    stale_was_said: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Waiting { due: Duration },
    Fetching,
    Offering,
    Ended,
}

/// What is held of the trust domain's authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub sequence: u64,
    pub refresh_hint: Duration,
    /// It has X.509 authorities.
    pub vouches: bool,
}

/// How patient it is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub confirm: Duration,
    pub longest_interval: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The time has come, or the operator asks for it.
    Due,
    Fetched {
        digest: [u8; 32],
        /// It states that there are no X.509 authorities any more.
        withdraws: bool,
    },
    Failed {
        why: String,
    },
    /// The book holds it now, or held it before.
    Taken {
        at: SystemTime,
    },
    Refused {
        why: String,
    },
    /// What the book holds, whoever brought it.
    Held(Option<Held>),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Fetch,
    /// The document that was fetched last.
    Offer,
    Alarm(Alarm),
}

/// What an operator should look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The endpoint withdraws every authority: not honoured before a second look.
    Unconfirmed,
    /// It did so twice: honoured.
    Withdrawn,
    /// A document was refused.
    Refused,
    /// Three intervals without success.
    Stale,
}

/// What a person calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Pending,
    Fresh,
    Stale,
    Failing,
    Terminated,
}

impl State {
    /// Looks at once.
    pub fn new(held: Option<Held>, now: Duration) -> Self {
        Self {
            phase: Phase::Waiting { due: now },
            held,
            fresh_since: now,
            fetched_at: None,
            failures: 0,
            last_error: String::new(),
            looks: 0,
            unconfirmed: None,
            stale_was_said: false,
        }
    }

    /// When something is to be done if nothing happens before.
    pub fn due(&self) -> Option<Duration> {
        match self.phase {
            Phase::Waiting { due } => Some(due),
            _ => None,
        }
    }

    /// What comes of `event` at `now`.
    #[must_use]
    pub fn step(mut self, event: Event, patience: &Patience, now: Duration) -> (Self, Vec<Effect>) {
        let next = Phase::Waiting { due: now.saturating_add(self.interval(patience)) };
        let effects = match (self.phase, event) {
            (Phase::Ended, _) => vec![],
            (_, Event::End) => {
                (self.phase, self.held) = (Phase::Ended, None);
                vec![]
            }
            (_, Event::Held(held)) => {
                self.held = held;
                vec![]
            }
            (Phase::Waiting { .. }, Event::Due) => {
                self.phase = Phase::Fetching;
                vec![Effect::Fetch]
            }
            (Phase::Fetching, Event::Fetched { digest, withdraws }) => {
                let withdraws = withdraws && self.held.is_some_and(|held| held.vouches);
                let before = self.unconfirmed.take();
                if !withdraws {
                    self.phase = Phase::Offering;
                    vec![Effect::Offer]
                } else if before == Some(digest) {
                    self.phase = Phase::Offering;
                    vec![Effect::Alarm(Alarm::Withdrawn), Effect::Offer]
                } else {
                    self.unconfirmed = Some(digest);
                    self.looks += 1;
                    self.last_error = "it withdraws every authority; honoured if a second look finds the same".into();
                    self.phase = Phase::Waiting { due: now.saturating_add(patience.confirm) };
                    vec![Effect::Alarm(Alarm::Unconfirmed)]
                }
            }
            (Phase::Fetching, Event::Failed { why }) => self.failed(why, next, patience, now, vec![]),
            (Phase::Offering, Event::Refused { why }) => {
                self.failed(why, next, patience, now, vec![Effect::Alarm(Alarm::Refused)])
            }
            (Phase::Offering, Event::Taken { at }) => {
                (self.phase, self.fetched_at, self.fresh_since) = (next, Some(at), now);
                (self.failures, self.last_error, self.stale_was_said) = (0, String::new(), false);
                self.looks += 1;
                vec![]
            }
            // Nothing else can happen in these phases; should it, it changes nothing.
            (Phase::Waiting { .. } | Phase::Fetching | Phase::Offering, _) => vec![],
        };
        (self, effects)
    }

    fn failed(
        &mut self,
        why: String,
        next: Phase,
        patience: &Patience,
        now: Duration,
        mut alarms: Vec<Effect>,
    ) -> Vec<Effect> {
        (self.phase, self.last_error) = (next, why);
        self.failures = self.failures.saturating_add(1);
        self.looks += 1;
        if self.standing(patience, now) == Standing::Stale && !std::mem::replace(&mut self.stale_was_said, true) {
            alarms.push(Effect::Alarm(Alarm::Stale));
        }
        alarms
    }

    /// How often it is looked at: what the bundle says (F-3), five minutes without one (B-8).
    fn interval(&self, patience: &Patience) -> Duration {
        self.held.map_or(DEFAULT_REFRESH, |held| held.refresh_hint).min(patience.longest_interval)
    }

    /// What a person calls this.
    pub fn standing(&self, patience: &Patience, now: Duration) -> Standing {
        let long = now.saturating_sub(self.fresh_since) > self.interval(patience) * STALE_INTERVALS;
        match (self.phase, self.held) {
            (Phase::Ended, _) => Standing::Terminated,
            (_, Some(_)) if long => Standing::Stale,
            (_, _) if self.failures > 0 => Standing::Failing,
            (_, None) => Standing::Pending,
            (_, Some(_)) => Standing::Fresh,
        }
    }
}

impl Standing {
    pub fn label(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Fresh => "FRESH",
            Self::Stale => "STALE",
            Self::Failing => "FAILING",
            Self::Terminated => "TERMINATED",
        }
    }
}

impl Alarm {
    /// A stable word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unconfirmed => "unconfirmed_withdrawal",
            Self::Withdrawn => "withdrawn",
            Self::Refused => "refused",
            Self::Stale => "stale",
        }
    }
}

#[cfg(test)]
mod tests;
