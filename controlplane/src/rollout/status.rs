//! A rollout as people and programs see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decide::{Phase, State};
use super::judge::{Evidence, Regime};
use super::plan::Policy;
use crate::model::{PeerName, ServiceName, Weight};

pub use super::decide::HistoryItem;

/// All rollouts, by service and peer.
pub type Statuses = BTreeMap<(ServiceName, PeerName), Arc<Status>>;

/// One rollout now. Times are Unix milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub service: ServiceName,
    pub peer: PeerName,
    /// As [`Phase::label`] names it.
    pub phase: &'static str,
    /// In words: why it is there, or what it waits for.
    pub message: String,
    /// Index of the step under test, or of the last one once converged; 0 otherwise.
    pub step: usize,
    /// Percent of the fair share.
    pub steps: Vec<u32>,
    /// Percent asked for now.
    pub step_weight: u32,
    /// As wanted in RDS.
    pub weight: Weight,
    pub acked_proxies: u32,
    pub total_proxies: u32,
    /// When every proxy had acknowledged `weight`.
    pub weights_acked_at_ms: Option<u64>,
    pub decided_at_ms: u64,
    /// Rises with each run: scale-out, increment or probe.
    pub generation: u64,
    pub decisions: u64,
    pub evidence: Evidence,
    /// Time with evidence in this step.
    pub evidence_ms: u64,
    pub backoff_until_ms: Option<u64>,
    pub failures: u32,
    pub local_capacity: u64,
    pub remote_capacity: u64,
    /// Of the remote arm since the weights were acknowledged, in 1/10,000, by load reports.
    pub observed_share: u32,
    /// Newest last, bounded.
    pub history: Vec<HistoryItem>,
}

impl Status {
    pub(super) fn of(service: ServiceName, peer: PeerName, state: &State, policy: &Policy) -> Self {
        let inner = state.phase.inner();
        let step = match inner {
            Phase::Ramping { step } | Phase::Holding { step, .. } => *step,
            Phase::Converged { .. } => policy.last_step(),
            _ => 0,
        };
        let backoff_until_ms = match inner {
            Phase::RollingBack { until_ms, aborted: false } | Phase::RolledBack { until_ms } => Some(*until_ms),
            _ => None,
        };
        let facts = state.facts.unwrap_or_default();
        Self {
            service,
            peer,
            phase: state.phase.label(),
            message: state.message.clone(),
            step,
            steps: policy.steps.iter().map(|step| step.weight).collect(),
            step_weight: state.percent(policy),
            weight: state.weight,
            acked_proxies: if facts.programmed == state.weight { facts.acked } else { 0 },
            total_proxies: facts.total,
            weights_acked_at_ms: state.acked_ms,
            decided_at_ms: state.decided_ms,
            generation: state.run,
            decisions: state.decisions,
            evidence: evidence(state, policy),
            evidence_ms: state.judge.evidence_ms(),
            backoff_until_ms,
            failures: state.failures,
            local_capacity: facts.capacities.local,
            remote_capacity: facts.capacities.remote,
            observed_share: state.judge.observed_share(),
            history: state.history.iter().cloned().collect(),
        }
    }

    /// Local, then the peer; sum 10,000.
    pub fn weights(&self) -> [u32; 2] {
        weights(self.weight)
    }
}

impl HistoryItem {
    /// Local, then the peer; sum 10,000.
    pub fn weights(&self) -> [u32; 2] {
        weights(self.weight)
    }
}

fn weights(remote: Weight) -> [u32; 2] {
    [u32::from(Weight::ALL.value() - remote.value()), remote.value().into()]
}

/// What the judge sees now; while out, what took the arm out.
fn evidence(state: &State, policy: &Policy) -> Evidence {
    match state.phase.inner() {
        Phase::RollingBack { .. } | Phase::RolledBack { .. } => {
            let fall = state.history.iter().rev().find(|item| item.to == "RollingBack");
            fall.map_or_else(Evidence::default, |item| item.evidence)
        }
        _ if state.phase.under_test().is_some() => state.judge.evidence(policy, Regime::Step, state.verdict),
        _ => state.judge.evidence(policy, Regime::Converged, state.verdict),
    }
}
