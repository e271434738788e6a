//! When an authority is prepared, handed over to and forgotten, purely. By default as SPIRE does it: the next one is prepared at
//! half of the active one's life, 30 days before its end at most; takes over when a sixth remains, 7 days at most; and what has
//! expired stays known for a day, since other clocks are not ours.

use std::time::{Duration, SystemTime};

/// SPIRE's caps, for authorities that live for years.
const LATEST_PREPARATION: Duration = Duration::from_hours(30 * 24);
const LATEST_ACTIVATION: Duration = Duration::from_hours(7 * 24);
const LONGEST_KEPT: Duration = Duration::from_hours(24);
/// After the clock has jumped nothing is forgotten for this long: it may jump back.
const LONGEST_HOLD: Duration = Duration::from_hours(1);

/// The schedule of one kind of authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The life of a new authority.
    pub ttl: Duration,
    /// How long before the active one's end its successor is prepared; unset: SPIRE's half.
    pub prepare_before: Option<Duration>,
    /// How long before its end the active one hands over; unset: SPIRE's sixth.
    pub activate_before: Option<Duration>,
    /// How long a new authority must have been published before it signs while another one still can (F-1).
    pub propagation: Duration,
}

/// The life of one authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Policy {
    /// SPIRE's schedule for authorities of `ttl`.
    pub fn new(ttl: Duration, propagation: Duration) -> Self {
        Self { ttl, prepare_before: None, activate_before: None, propagation }
    }

    /// When the successor of an active authority is prepared.
    pub fn prepare_at(&self, active: Life) -> SystemTime {
        // A life shorter than configured, cut by an upstream authority's end, keeps the proportions.
        let before = self.prepare_before.unwrap_or(LATEST_PREPARATION).min(match self.prepare_before {
            Some(_) => active.length() * 9 / 10,
            None => active.length() / 2,
        });
        active.not_after - before
    }

    /// When an active authority hands over.
    pub fn activate_at(&self, active: Life) -> SystemTime {
        let before = self.activate_before.unwrap_or(LATEST_ACTIVATION).min(match self.activate_before {
            Some(_) => active.length() / 2,
            None => active.length() / 6,
        });
        active.not_after - before
    }

    /// The longest SVID that a handover does not cut short.
    pub fn longest_svid(&self) -> Duration {
        let epoch = SystemTime::UNIX_EPOCH;
        let life = Life { not_before: epoch, not_after: epoch + self.ttl };
        life.not_after.duration_since(self.activate_at(life)).unwrap_or_default()
    }

    /// When an authority is forgotten.
    pub fn forget_at(&self, life: Life) -> SystemTime {
        life.not_after + LONGEST_KEPT.min(self.ttl)
    }

    /// How long nothing is forgotten after the clock has jumped.
    pub fn hold(&self) -> Duration {
        LONGEST_HOLD.min(self.ttl)
    }
}

impl Life {
    pub fn length(self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// Whether `now` lies in it.
    pub fn holds(self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const DAY: Duration = Duration::from_hours(24);

    fn of(ttl: Duration, prepare: Option<Duration>, activate: Option<Duration>) -> (Duration, Duration) {
        let policy = Policy { prepare_before: prepare, activate_before: activate, ..Policy::new(ttl, Duration::ZERO) };
        let life = Life { not_before: SystemTime::UNIX_EPOCH, not_after: SystemTime::UNIX_EPOCH + ttl };
        let before = |at: SystemTime| life.not_after.duration_since(at).unwrap();
        (before(policy.prepare_at(life)), before(policy.activate_at(life)))
    }

    #[test]
    fn spires_schedule_is_the_default() {
        assert_eq!(of(DAY, None, None), (12 * HOUR, 4 * HOUR));
        assert_eq!(of(60 * DAY, None, None), (30 * DAY, 7 * DAY));
        assert_eq!(of(3650 * DAY, None, None), (30 * DAY, 7 * DAY));
        assert_eq!(of(Duration::from_secs(60), None, None), (Duration::from_secs(30), Duration::from_secs(10)));
    }

    #[test]
    fn the_operators_schedule_is_taken_and_keeps_its_order_in_a_life_that_was_cut_short() {
        assert_eq!(of(DAY, Some(20 * HOUR), Some(2 * HOUR)), (20 * HOUR, 2 * HOUR));
        let (prepare, activate) = of(HOUR, Some(20 * HOUR), Some(2 * HOUR));
        assert_eq!((prepare, activate), (HOUR * 9 / 10, HOUR / 2));
    }

    #[test]
    fn an_svid_of_a_sixth_is_not_cut() {
        assert_eq!(Policy::new(DAY, Duration::ZERO).longest_svid(), 4 * HOUR);
    }

    #[test]
    fn what_expired_is_kept_for_a_day_or_as_long_as_it_lived() {
        let life = Life { not_before: SystemTime::UNIX_EPOCH, not_after: SystemTime::UNIX_EPOCH + HOUR };
        assert_eq!(Policy::new(HOUR, Duration::ZERO).forget_at(life), life.not_after + HOUR);
        assert_eq!(Policy::new(30 * DAY, Duration::ZERO).forget_at(life), life.not_after + DAY);
    }
}
