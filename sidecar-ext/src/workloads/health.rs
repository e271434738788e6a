//! Whether a workload is well: a pure machine with hysteresis, so that one slow answer moves nobody's traffic.
//!
//! ```text
//!       bad                    bad
//!  New ─────► Starting ◄─────────┐                `fall` bad in a row
//!   │            │ └─────────────┘        Healthy ─────────────────────► Unhealthy
//!   │ good       │ good                     ▲ ▲                              │
//!   └────────────┴──────────────────────────┘ └──── `rise` good in a row ────┘
//! ```
//!
//! Only `Healthy` is told as healthy. The first good answer decides alone: until then nothing was claimed, so there is nothing to
//! hold on to. Until then, too, the next check follows soon: what is being started is waited for.

use std::time::Duration;

/// From the first bad answer of a new workload to its next check. Each wait after it is a sixteenth longer, so that it stays near
/// a sixteenth of the time since the start: what takes a second to come up is seen within about 60 ms of being up.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const GROWTH: u32 = 16;

/// How often an answer must repeat before it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Successes in a row that make an unhealthy workload healthy.
    pub rise: u32,
    /// Failures in a row that make a healthy workload unhealthy.
    pub fall: u32,
}

/// What is known of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// No answer yet.
    #[default]
    New,
    /// No good answer yet.
    Starting {
        /// Until the next check, unless the interval is shorter.
        wait: Duration,
    },
    Healthy {
        /// Failures in a row.
        bad: u32,
    },
    Unhealthy {
        /// Successes in a row.
        good: u32,
    },
}

impl Default for Policy {
    fn default() -> Self {
        Self { rise: 1, fall: 2 }
    }
}

impl State {
    /// The state after one more answer.
    #[must_use]
    pub fn step(self, well: bool, policy: Policy) -> Self {
        match (self, well) {
            (Self::New | Self::Starting { .. } | Self::Healthy { .. }, true) => Self::Healthy { bad: 0 },
            (Self::New, false) => Self::Starting { wait: FIRST_WAIT },
            (Self::Starting { wait }, false) => Self::Starting { wait: wait.saturating_add(wait / GROWTH) },
            (Self::Healthy { bad }, false) if bad.saturating_add(1) < policy.fall => Self::Healthy { bad: bad + 1 },
            (Self::Unhealthy { good }, true) if good.saturating_add(1) >= policy.rise => Self::Healthy { bad: 0 },
            (Self::Unhealthy { good }, true) => Self::Unhealthy { good: good + 1 },
            (Self::Healthy { .. } | Self::Unhealthy { .. }, false) => Self::Unhealthy { good: 0 },
        }
    }

    /// From an answer that led here to the next check.
    pub fn wait(self, interval: Duration) -> Duration {
        match self {
            Self::Starting { wait } => wait.min(interval),
            Self::New | Self::Healthy { .. } | Self::Unhealthy { .. } => interval,
        }
    }

    /// What others are told.
    pub fn is_healthy(self) -> bool {
        matches!(self, Self::Healthy { .. })
    }
}
