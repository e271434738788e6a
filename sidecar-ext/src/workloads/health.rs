//! Whether a workload is well: a pure machine with hysteresis, so that one slow answer moves nobody's traffic.
//!
//! ```text
//!             first answer good                 `fall` bad in a row
//!  Unknown ───────────────────────► Healthy ───────────────────────► Unhealthy
//!     │                                ▲                               │  ▲
//!     │                                └────── `rise` good in a row ───┘  │
//!     └───────────────────── first answer bad ────────────────────────────┘
//! ```
//!
//! The first answer decides alone: until then nothing was claimed, so there is nothing to hold on to.

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
    Unknown,
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
            (Self::Unknown | Self::Healthy { .. }, true) => Self::Healthy { bad: 0 },
            (Self::Healthy { bad }, false) if bad.saturating_add(1) < policy.fall => Self::Healthy { bad: bad + 1 },
            (Self::Unhealthy { good }, true) if good.saturating_add(1) >= policy.rise => Self::Healthy { bad: 0 },
            (Self::Unhealthy { good }, true) => Self::Unhealthy { good: good + 1 },
            (_, false) => Self::Unhealthy { good: 0 },
        }
    }

    /// Whether two states say the same to others.
    pub fn says_same(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}
