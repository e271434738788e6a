//! Log lines about what anybody can cause: one per kind and period, with the number of those that were left out, so that a stranger
//! can neither hide in the log's silence nor fill the disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Says of each kind whether it is time for a line; cheap to clone.
#[derive(Clone, Debug)]
pub struct Seldom {
    every: Duration,
    /// When each kind was last let through, and how many were not since. The kinds are words of ours, so they are few.
    last: Arc<Mutex<BTreeMap<&'static str, (Instant, u64)>>>,
}

impl Seldom {
    pub fn new(every: Duration) -> Self {
        Self { every, last: Arc::default() }
    }

    /// `Some`: write a line, and how many were left out since the last.
    pub fn ask(&self, kind: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get_mut(kind) {
            Some((at, left_out)) if now.saturating_duration_since(*at) < self.every => {
                *left_out += 1;
                None
            }
            Some((at, left_out)) => {
                *at = now;
                Some(std::mem::take(left_out))
            }
            None => {
                last.insert(kind, (now, 0));
                Some(0)
            }
        }
    }
}

impl Default for Seldom {
    /// One line in ten seconds.
    fn default() -> Self {
        Self::new(Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_per_kind_and_period_says_how_many_were_left_out() {
        let seldom = Seldom::new(Duration::from_secs(10));
        assert_eq!(seldom.ask("not_tls"), Some(0));
        assert_eq!((seldom.ask("not_tls"), seldom.ask("not_tls")), (None, None));
        assert_eq!(seldom.ask("timeout"), Some(0), "another kind is not affected");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(seldom.ask("not_tls"), Some(2));
        assert_eq!(seldom.ask("not_tls"), None);
    }
}
