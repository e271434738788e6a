//! Time as tokens see it: the machine's clock, but never earlier than what was seen before, and never slower than time itself. A
//! clock that is set back revives no token that had expired (bad input 142).

use symbolon_kit::clock::{Clock, unix_secs};
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Time {
    latest: i64,
    seen: Instant,
}

impl Time {
    /// `latest` is what a former run has seen, Unix seconds.
    pub(super) fn new(clock: &Clock, latest: i64) -> Self {
        Self { latest: latest.max(unix_secs(clock.now())), seen: Instant::now() }
    }

    /// Unix seconds.
    pub(super) fn now(&self, clock: &Clock) -> i64 {
        unix_secs(clock.now()).max(self.latest.saturating_add_unsigned(self.seen.elapsed().as_secs()))
    }

    /// The same, remembered.
    pub(super) fn look(&mut self, clock: &Clock) -> i64 {
        *self = Self { latest: self.now(clock), seen: Instant::now() };
        self.latest
    }
}
