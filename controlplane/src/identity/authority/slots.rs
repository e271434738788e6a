//! The slots of one kind of authority (X.509, JWT, WIT) and what becomes of them, purely.
//!
//! ```text
//!            ┌──── prepare (the schedule, or the operator)
//!            ▼
//!        Prepared ──the bundle is published──► Published ──activate──► Active ──its successor is activated──► Old
//!            │                                     │                     │                                     │
//!            └─────────────── taint ───────────────┴─ taint ──►┐         │ taint, which activates another      │
//!                                                              ▼         ▼                                     │
//!                                                           Tainted ◄────┴──────────────── taint ──────────────┘
//!                                                              │
//!                                                              └── revoke ──► Revoked        all: forgotten a while after they expired
//! ```
//!
//! In the bundle are all but the revoked. Only the active one signs, and it was published before (invariant I8). A state is written
//! down before its effects are performed, and [`Event::Started`] performs again whatever a crash may have cut off.

mod step;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use super::super::schedule::{Life, Policy};
pub use step::step;

/// What names an authority: an X.509 one's subject key identifier in hex, a token authority's `kid`.
pub type Id = Arc<str>;

/// Where one authority stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its key exists; it is about to be published.
    Prepared,
    /// In the bundle since then; it signs nothing yet.
    Published { at: SystemTime },
    /// Signs.
    Active,
    /// Signs no more; in the bundle for what it signed.
    Old,
    /// As `Old`, and since then everything that it signed is to be replaced at once.
    Tainted { at: SystemTime },
    /// Out of the bundle: nothing that it signed is accepted.
    Revoked,
}

/// One authority. `M` is what the kind needs beside: a certificate, a public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot<M> {
    pub id: Id,
    /// Its key's name at the key manager; none once the key was destroyed, or is lost.
    pub key: Option<Arc<str>>,
    pub state: State,
    pub life: Life,
    /// The upstream root above it; none if it is its own.
    pub root: Option<Id>,
    pub material: M,
}

/// All authorities of one kind, and what is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots<M> {
    pub slots: Vec<Slot<M>>,
    /// The name of the key that is being made.
    pub making: Option<Arc<str>>,
    /// Names of keys that are to be destroyed.
    pub doomed: BTreeSet<Arc<str>>,
    /// The published bundle may not be what the slots say.
    pub unpublished: bool,
    /// Nothing is forgotten before: the clock has jumped.
    pub hold: Option<SystemTime>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<M> {
    /// The process has read these slots; these keys are lost.
    Started {
        lost: BTreeSet<Arc<str>>,
    },
    /// Time has passed.
    Tick,
    /// The key was made, and this is its authority, in state [`State::Prepared`].
    Made(Slot<M>),
    /// The key could not be made.
    NotMade,
    /// The bundle says what the slots say.
    Published,
    /// The key is no more.
    Destroyed(Arc<str>),
    /// The wall clock went by this much more, or less, than time did.
    ClockStepped {
        forward: bool,
        by: Duration,
    },
    /// The operator's words; the id is whole.
    Prepare {
        force: bool,
    },
    Activate {
        id: Id,
        force: bool,
    },
    Taint {
        id: Id,
        force: bool,
    },
    Revoke {
        id: Id,
        force: bool,
    },
    /// Of everything below an upstream root.
    TaintRoot {
        root: Id,
        force: bool,
    },
    RevokeRoot {
        root: Id,
        force: bool,
    },
}

/// What is to be done, in this order, after the new state is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a key of this name and an authority with it; answer with [`Event::Made`] or [`Event::NotMade`].
    Make(Arc<str>),
    /// Write the bundle; answer with [`Event::Published`].
    Publish,
    /// Sign with this one from now on.
    Sign(Id),
    /// Destroy the key of this name; answer with [`Event::Destroyed`].
    Destroy(Arc<str>),
}

/// What the decision depends on beside the slots.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub now: SystemTime,
    pub policy: &'a Policy,
    /// A name for a key, never used before.
    pub fresh: &'a str,
    /// The upstream root that a new authority would be below.
    pub root: Option<&'a Id>,
    /// Its end, which no authority below it outlives.
    pub root_end: Option<SystemTime>,
}

/// Why a step is not taken; nothing changes then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("there is no authority {0}; `symbolon authority list` shows all")]
    Unknown(String),
    #[error("{0} begins the id of more than one authority")]
    Ambiguous(String),
    #[error("{0} is prepared already; activate it, or taint and revoke it first")]
    Pending(Id),
    #[error("an authority is just being prepared; try again")]
    Busy,
    #[error("{id} is {state}: it cannot be {step}")]
    State { id: Id, state: &'static str, step: &'static str },
    #[error("{id} has expired, or is not valid yet")]
    NotValid { id: Id },
    #[error("the key of {0} is gone")]
    NoKey(Id),
    #[error("{id} was published a moment ago: whoever has not fetched the bundle since refuses what it signs. Wait for {} s more, or use --force", .wait.as_secs())]
    TooSoon { id: Id, wait: Duration },
    #[error(
        "{0} signs now, and no other authority is ready to. Run `symbolon authority prepare` first, or use --force"
    )]
    OnlyOne(Id),
    #[error(
        "upstream authorities are made elsewhere: lay its files where identity.upstream says, then `symbolon authority prepare`"
    )]
    Upstream,
    #[error("the files of identity.upstream still hold {0}. Replace them first, then `symbolon authority prepare`")]
    UpstreamInUse(Id),
    #[error("what {0} signed is still in use. Taint it first, so that everything is replaced, or use --force")]
    NotTainted(Id),
    #[error("{id} was tainted a moment ago: what it signed is still being replaced. Wait for {} s more, or use --force", .wait.as_secs())]
    StillUsed { id: Id, wait: Duration },
}

// === impl State ===

impl State {
    /// As it is stored, shown, and counted.
    pub fn word(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Published { .. } => "published",
            Self::Active => "active",
            Self::Old => "old",
            Self::Tainted { .. } => "tainted",
            Self::Revoked => "revoked",
        }
    }
}

// === impl Slots ===

impl<M> Default for Slots<M> {
    fn default() -> Self {
        Self { slots: Vec::new(), making: None, doomed: BTreeSet::new(), unpublished: false, hold: None }
    }
}

impl<M> Slots<M> {
    /// The one that signs.
    pub fn active(&self) -> Option<&Slot<M>> {
        self.slots.iter().find(|slot| slot.state == State::Active)
    }

    /// The one that signs next.
    pub fn pending(&self) -> Option<&Slot<M>> {
        self.slots.iter().find(|slot| matches!(slot.state, State::Prepared | State::Published { .. }))
    }

    /// All that the bundle holds, in the order in which they were made.
    pub fn in_bundle(&self) -> impl Iterator<Item = &Slot<M>> {
        self.slots.iter().filter(|slot| slot.state != State::Revoked)
    }

    /// What is not to be used any more: sidecars replace it at once.
    pub fn tainted(&self) -> impl Iterator<Item = &Slot<M>> {
        self.slots.iter().filter(|slot| matches!(slot.state, State::Tainted { .. } | State::Revoked))
    }

    /// The one with this id, or else the one whose id begins so.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn find(&self, prefix: &str) -> Result<&Slot<M>, Refused> {
        if let Some(whole) = self.slots.iter().find(|slot| *slot.id == *prefix) {
            return Ok(whole);
        }
        let mut found = self.slots.iter().filter(|slot| !prefix.is_empty() && slot.id.starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(Refused::Unknown(prefix.to_owned())),
            (Some(_), Some(_)) => Err(Refused::Ambiguous(prefix.to_owned())),
        }
    }

    /// What happens to a slot next by itself, and when.
    pub fn outlook(&self, slot: &Slot<M>, policy: &Policy) -> (&'static str, Option<SystemTime>) {
        let forgotten = ("is forgotten", Some(policy.forget_at(slot.life)));
        match (slot.state, self.active(), self.pending()) {
            (State::Prepared, ..) => ("is published", None),
            (State::Published { at }, Some(active), _) => {
                ("takes over", Some(policy.activate_at(active.life).max(at + policy.propagation)))
            }
            (State::Published { .. }, None, _) => ("takes over", None),
            (State::Active, _, None) => ("its successor is prepared", Some(policy.prepare_at(slot.life))),
            (State::Active, _, Some(_)) => ("hands over", Some(policy.activate_at(slot.life))),
            (State::Old | State::Tainted { .. } | State::Revoked, ..) => forgotten,
        }
    }

    /// When [`Event::Tick`] will have something to do, as far as is known now.
    pub fn next_at(&self, policy: &Policy) -> Option<SystemTime> {
        self.slots.iter().filter_map(|slot| self.outlook(slot, policy).1).min()
    }
}

impl Refused {
    /// A stable word for metrics and answers.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_authority",
            Self::Ambiguous(_) => "ambiguous_authority",
            Self::Pending(_) => "authority_pending",
            Self::Busy => "authority_busy",
            Self::State { .. } => "authority_state",
            Self::NotValid { .. } => "authority_not_valid",
            Self::NoKey(_) => "authority_without_key",
            Self::TooSoon { .. } => "authority_too_soon",
            Self::OnlyOne(_) => "only_authority",
            Self::Upstream => "upstream_elsewhere",
            Self::UpstreamInUse(_) => "upstream_in_use",
            Self::NotTainted(_) => "authority_not_tainted",
            Self::StillUsed { .. } => "authority_still_used",
        }
    }
}

#[cfg(test)]
mod tests;
