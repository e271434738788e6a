//! When an authority is prepared, activated and dropped, purely (SPIRE's schedule: prepare at half life, activate when a sixth
//! remains). A key signs nothing before it was published (invariant I8).
//!
//! ```text
//!   (none) ──prepare──► Prepared ──activate──► Active ──its successor is activated──► Retired ──expired──► dropped
//! ```

use std::time::{Duration, SystemTime};

/// Where one authority stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// In the bundle, signs nothing yet.
    Prepared,
    /// Signs.
    Active,
    /// Signs no more; in the bundle until it expires, for what it signed.
    Retired,
}

/// One authority, as far as the schedule cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub state: SlotState,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Make a new authority and publish it. `then_activate`: there is none that signs, so it is activated at once.
    Prepare { then_activate: bool },
    /// Let the slot with this index sign from now on.
    Activate(usize),
    /// Take the slot with this index out of the bundle.
    Drop(usize),
    /// Nothing before this moment.
    Wait(SystemTime),
}

/// What is due now.
pub fn due(slots: &[Slot], now: SystemTime) -> Due {
    if let Some(expired) = slots.iter().position(|slot| slot.not_after <= now) {
        return Due::Drop(expired);
    }
    let prepared = slots.iter().position(|slot| slot.state == SlotState::Prepared);
    let Some(active) = slots.iter().find(|slot| slot.state == SlotState::Active) else {
        return prepared.map_or(Due::Prepare { then_activate: true }, Due::Activate);
    };
    let life = active.not_after.duration_since(active.not_before).unwrap_or(Duration::ZERO);
    match prepared {
        None => at(active.not_before + life / 2, now, Due::Prepare { then_activate: false }),
        Some(index) => at(active.not_after - life / 6, now, Due::Activate(index)),
    }
}

fn at(when: SystemTime, now: SystemTime, due: Due) -> Due {
    if now >= when { due } else { Due::Wait(when) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(state: SlotState, from: u64, to: u64) -> Slot {
        Slot { state, not_before: second(from), not_after: second(to) }
    }

    fn second(at: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(at)
    }

    #[test]
    fn the_schedule() {
        use SlotState::{Active, Prepared, Retired};
        let table: [(&[Slot], u64, Due); 9] = [
            (&[], 0, Due::Prepare { then_activate: true }),
            (&[slot(Active, 0, 600)], 299, Due::Wait(second(300))),
            (&[slot(Active, 0, 600)], 300, Due::Prepare { then_activate: false }),
            (&[slot(Active, 0, 600), slot(Prepared, 300, 900)], 499, Due::Wait(second(500))),
            (&[slot(Active, 0, 600), slot(Prepared, 300, 900)], 500, Due::Activate(1)),
            (&[slot(Retired, 0, 600), slot(Active, 300, 900)], 500, Due::Wait(second(600))),
            (&[slot(Retired, 0, 600), slot(Active, 300, 900)], 600, Due::Drop(0)),
            (&[slot(Active, 0, 600)], 10_000, Due::Drop(0)),
            (&[slot(Prepared, 300, 900)], 700, Due::Activate(0)),
        ];
        for (slots, now, want) in table {
            assert_eq!(due(slots, second(now)), want, "{slots:?} at {now}");
        }
    }
}
