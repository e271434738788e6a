//! The longest pause of this machine: a thread that wants to sleep 5 ms and measures how much longer it slept. A shared machine
//! stops now and then; what it did is taken off absolute limits, and said.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const NAP: Duration = Duration::from_millis(5);

/// Measures until dropped.
#[derive(Debug)]
pub struct PauseProbe {
    longest_us: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl PauseProbe {
    pub fn start() -> Self {
        let probe = Self { longest_us: Arc::default(), stop: Arc::default() };
        let (longest, stop) = (probe.longest_us.clone(), probe.stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let before = tokio::time::Instant::now();
                std::thread::sleep(NAP);
                let over = before.elapsed().saturating_sub(NAP);
                longest.fetch_max(u64::try_from(over.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        probe
    }

    /// The longest pause so far, in whole milliseconds.
    pub fn longest_ms(&self) -> u64 {
        self.longest_us.load(Ordering::Relaxed) / 1000
    }
}

impl Drop for PauseProbe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
