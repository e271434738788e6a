//! Load as Envoy reports it, attempts counted where they were served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{ProxyKey, ServiceRef};

/// What one proxy reported for one interval, counted exactly once.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadSample {
    pub proxy: ProxyKey,
    /// The run of the sidecar that numbers these samples, and the number: with them a sample is counted once.
    pub boot: Arc<[u8]>,
    pub sequence: u64,
    /// When the control plane received it; the interval ended at most the reporting delay before.
    pub received: SystemTime,
    /// The time that the report covers.
    pub interval: Duration,
    /// Some load before this interval is known to be lost.
    pub gap: bool,
    pub clusters: Vec<ClusterLoad>,
}

/// The load of one cluster, by the priority that served it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterLoad {
    pub cluster: ServiceRef,
    pub by_priority: BTreeMap<u32, ArmCount>,
    /// Requests dropped before any host was chosen.
    pub dropped: u64,
}

/// Attempts of one arm in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArmCount {
    /// Completed without a server error.
    pub success: u64,
    /// Completed with HTTP 5xx or a failing gRPC status, reset, or not connected.
    pub error: u64,
    /// Begun; a refused or empty arm issues nothing, so never use it as a denominator.
    pub issued: u64,
    pub in_progress: u64,
}

impl ArmCount {
    /// Attempts that ended: the judge's `n`.
    pub fn completions(self) -> u64 {
        self.success + self.error
    }
}

impl std::ops::Add for ArmCount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            success: self.success.saturating_add(other.success),
            error: self.error.saturating_add(other.error),
            issued: self.issued.saturating_add(other.issued),
            in_progress: self.in_progress.saturating_add(other.in_progress),
        }
    }
}
