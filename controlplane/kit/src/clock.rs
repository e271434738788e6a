//! Wall time, through one seam: the certificates' edges need it, everything else uses `tokio::time::Instant`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "this is the seam that everything else goes through")]
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Tells the wall time; cheap to clone.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<Hands>),
}

struct Hands {
    /// Milliseconds since the Unix epoch.
    wall: AtomicU64,
    /// Milliseconds that have really passed.
    passed: AtomicU64,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is told to move; for tests and simulation.
    pub fn manual(start: SystemTime) -> Self {
        let wall = AtomicU64::new(unix_ms(start).unsigned_abs());
        Self(Source::Manual(Arc::new(Hands { wall, passed: AtomicU64::new(0) })))
    }

    /// The wall time now.
    #[expect(clippy::disallowed_methods, reason = "this is the seam that everything else goes through")]
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Source::System => SystemTime::now(),
            Source::Manual(hands) => UNIX_EPOCH + Duration::from_millis(hands.wall.load(Ordering::Relaxed)),
        }
    }

    /// How much time has passed since some moment, whatever was done to the wall clock meanwhile: where the two part, the wall clock
    /// was set.
    #[expect(clippy::disallowed_methods, reason = "this is the seam that everything else goes through")]
    pub fn passed(&self) -> Duration {
        match &self.0 {
            Source::System => Instant::now().saturating_duration_since(*STARTED),
            Source::Manual(hands) => Duration::from_millis(hands.passed.load(Ordering::Relaxed)),
        }
    }

    /// Lets time pass on a manual clock; does nothing to the machine's.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(hands) = &self.0 {
            hands.wall.fetch_add(millis(by), Ordering::Relaxed);
            hands.passed.fetch_add(millis(by), Ordering::Relaxed);
        }
    }

    /// Sets a manual clock forward, or back, without that time passes; does nothing to the machine's.
    pub fn set(&self, forward: bool, by: Duration) {
        if let Source::Manual(hands) = &self.0 {
            let moved = if forward { millis(by) } else { 0u64.wrapping_sub(millis(by)) };
            hands.wall.fetch_add(moved, Ordering::Relaxed); // wraps: two's complement
        }
    }
}

fn millis(by: Duration) -> u64 {
    u64::try_from(by.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self.0, Source::System) { "Clock::system" } else { "Clock::manual" })
    }
}

/// Whole seconds since the Unix epoch; negative before it.
pub fn unix_secs(at: SystemTime) -> i64 {
    unix_ms(at).div_euclid(1000)
}

/// Whole milliseconds since the Unix epoch; negative before it.
pub fn unix_ms(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_parts_from_the_time_that_passes() {
        let start = UNIX_EPOCH + Duration::from_secs(1_000);
        let clock = Clock::manual(start);
        clock.advance(Duration::from_secs(5));
        assert_eq!((clock.now(), clock.passed()), (start + Duration::from_secs(5), Duration::from_secs(5)));
        clock.set(true, Duration::from_secs(100));
        clock.set(false, Duration::from_secs(40));
        assert_eq!((clock.now(), clock.passed()), (start + Duration::from_secs(65), Duration::from_secs(5)));
        let system = Clock::system();
        let before = system.passed();
        assert!(system.passed() >= before);
    }
}
