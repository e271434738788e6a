//! Which refusals get a record of their own: the first of a caller and reason in a while; those that follow are counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long refusals of one caller and reason are counted together.
const WHILE: Duration = Duration::from_secs(10);
/// The most callers and reasons that are told apart at once.
const MAX_KINDS: usize = 1024;
/// Whoever comes after.
const OTHERS: &str = "others";

/// Cheap to clone. A std mutex: nothing awaits while it is held.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(Arc<Mutex<BTreeMap<(String, &'static str), Counted>>>);

#[derive(Debug)]
struct Counted {
    since: Instant,
    /// After the first.
    more: u64,
}

/// What is to be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// This refusal.
    pub(super) record: bool,
    /// Callers and reasons whose while is over, with how many were counted.
    pub(super) ended: Vec<(String, &'static str, u64)>,
}

impl Refusals {
    /// What to write now that `caller` is refused for `reason`.
    pub(super) fn ask(&self, caller: &str, reason: &'static str) -> Due {
        let now = Instant::now();
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Due::default();
        kinds.retain(|(caller, reason), counted| {
            let ended = now.saturating_duration_since(counted.since) >= WHILE;
            if ended && counted.more > 0 {
                due.ended.push((caller.clone(), *reason, counted.more));
            }
            !ended
        });
        let known = (caller.to_owned(), reason);
        let kind =
            if kinds.len() < MAX_KINDS || kinds.contains_key(&known) { known } else { (OTHERS.to_owned(), reason) };
        match kinds.get_mut(&kind) {
            Some(counted) => counted.more += 1,
            None => {
                due.record = true;
                kinds.insert(kind, Counted { since: now, more: 0 });
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_of_a_kind_is_written_and_the_rest_is_counted() {
        let refusals = Refusals::default();
        assert!(refusals.ask("node-1", "bad_csr").record);
        for _ in 0..5 {
            assert_eq!(refusals.ask("node-1", "bad_csr"), Due::default());
        }
        assert!(refusals.ask("node-1", "weak_key").record, "another reason");
        assert!(refusals.ask("node-2", "bad_csr").record, "another caller");
        tokio::time::advance(WHILE).await;
        let due = refusals.ask("node-3", "bad_csr");
        assert_eq!(due, Due { record: true, ended: vec![("node-1".into(), "bad_csr", 5)] });
        assert!(refusals.ask("node-1", "bad_csr").record, "a new while");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_callers_is_bounded() {
        let refusals = Refusals::default();
        let written = (0..10_000).filter(|n| refusals.ask(&format!("node-{n}"), "bad_csr").record).count();
        assert_eq!(written, MAX_KINDS + 1);
    }
}
