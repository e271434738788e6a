//! How much a peer's word is worth, by the time since it was last heard. Pure.
//!
//! ```text
//!            invited or accepted            heard
//!  PENDING ───────────────────► CONNECTING ───────► LIVE ◄──────── heard ────────┐
//!                                   │                │ 3 s                       │
//!                                   │                ▼                           │
//!                                   │             SUSPECT ──────────────────────►┤
//!                                   │                │ 30 s                      │
//!                                   │ 30 s           ▼                           │
//!                                   └───────────►  STALE  ──────────────────────►┤
//!                                                    │ 15 min                    │
//!                                                    ▼                           │
//!                                                 EXPIRED ──────────────────────►┘
//! ```
//!
//! Nothing here withdraws anything: what a state means for traffic is the snapshot's business.

use std::time::Duration;

use crate::model::PeerState;

/// How patient the link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often each side of a stream says that it is there.
    pub beat: Duration,
    pub suspect_after: Duration,
    pub stale_after: Duration,
    pub expired_after: Duration,
    /// How long the guard keeps endpoints that vanished without a word of explanation.
    pub hold: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(1),
            suspect_after: Duration::from_secs(3),
            stale_after: Duration::from_secs(30),
            expired_after: Duration::from_mins(15),
            hold: Duration::from_secs(30),
        }
    }
}

/// What is known of a peer's voice; times are since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Trust was exchanged.
    pub established: bool,
    pub last: Option<Duration>,
    /// Since when we wait for the first word.
    pub since: Duration,
}

impl Heard {
    /// The peer's state at `now`, and when it changes if nothing is heard until then.
    pub fn state(&self, timing: &Timing, now: Duration) -> (PeerState, Option<Duration>) {
        if !self.established {
            return (PeerState::Pending, None);
        }
        let (from, first) = match self.last {
            Some(last) => (last, PeerState::Live),
            None => (self.since, PeerState::Connecting),
        };
        let silent = now.saturating_sub(from);
        if silent >= timing.expired_after {
            (PeerState::Expired, None)
        } else if silent >= timing.stale_after {
            (PeerState::Stale, Some(from + timing.expired_after))
        } else if first == PeerState::Live && silent >= timing.suspect_after {
            (PeerState::Suspect, Some(from + timing.stale_after))
        } else if first == PeerState::Live {
            (first, Some(from + timing.suspect_after))
        } else {
            (first, Some(from + timing.stale_after))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_ages_by_silence_alone() {
        let timing = Timing::default();
        let heard = Heard { established: true, last: Some(Duration::from_secs(100)), since: Duration::ZERO };
        let at = |ms| heard.state(&timing, Duration::from_secs(100) + Duration::from_millis(ms));
        let due = |secs: u64| Some(Duration::from_secs(100 + secs));
        assert_eq!(at(0), (PeerState::Live, due(3)));
        assert_eq!(at(2_999), (PeerState::Live, due(3)));
        assert_eq!(at(3_000), (PeerState::Suspect, due(30)));
        assert_eq!(at(29_999), (PeerState::Suspect, due(30)));
        assert_eq!(at(30_000), (PeerState::Stale, due(900)));
        assert_eq!(at(899_999), (PeerState::Stale, due(900)));
        assert_eq!(at(900_000), (PeerState::Expired, None));
        assert_eq!(heard.state(&timing, Duration::from_secs(50)).0, PeerState::Live, "a clock that stands still");
    }

    #[test]
    fn what_was_stored_ages_too() {
        let timing = Timing::default();
        let never = Heard { established: true, last: None, since: Duration::from_secs(5) };
        assert_eq!(
            never.state(&timing, Duration::from_secs(5)),
            (PeerState::Connecting, Some(Duration::from_secs(35)))
        );
        assert_eq!(never.state(&timing, Duration::from_secs(35)).0, PeerState::Stale);
        assert_eq!(never.state(&timing, Duration::from_secs(905)).0, PeerState::Expired);
        assert_eq!(Heard::default().state(&timing, Duration::from_hours(24)), (PeerState::Pending, None));
    }
}
