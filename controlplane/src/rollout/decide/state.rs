//! What a rollout remembers.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::model::{PeerState, Weight};
use crate::rollout::judge::{Evidence, Judge, Verdict};
use crate::rollout::plan::{Capacities, Policy};

/// The most decisions that are remembered.
pub(super) const HISTORY: usize = 32;

/// Where a rollout stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing to ramp.
    #[default]
    Idle,
    /// The peer offers capacity that has no traffic yet; waits until the offer has stood still for `initialDelay`.
    Detected,
    /// Waits until the proxies have what the first step needs.
    Preflight,
    /// Step `step` is under test.
    Ramping { step: usize },
    /// As `Ramping`, but its evidence is overdue.
    Holding { step: usize, since_ms: u64 },
    /// The last step passed; the detector watches.
    Converged {
        /// There is no healthy local endpoint: the remote arm has everything.
        sole: bool,
    },
    /// Goes on only when told to.
    Paused { why: PauseReason, was: Box<Phase> },
    /// Weight 0 is decided, not every proxy has it yet.
    RollingBack { until_ms: u64, aborted: bool },
    /// Out, until the backoff has passed.
    RolledBack { until_ms: u64 },
    /// The peer is not LIVE: the weights stay as they are.
    Frozen { was: Box<Phase> },
}

/// Why a rollout is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PauseReason {
    Operator,
    /// No verdict within `maxHold`.
    Inconclusive,
    Aborted,
}

/// What the machine reads of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub peer: PeerState,
    pub capacities: Capacities,
    /// What the other arms leave at most: 10,000 less their weights.
    pub room: Weight,
    /// The remote arm's weight as the mesh has it now.
    pub programmed: Weight,
    /// Of the connected proxies that call the service, how many have acknowledged that weight.
    pub acked: u32,
    pub total: u32,
    /// Whether all of them have acknowledged the peer's endpoints too.
    pub endpoints_acked: bool,
}

/// A decision, as it is remembered and shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryItem {
    pub at_ms: u64,
    pub from: String,
    pub to: String,
    /// Percent of the fair share.
    pub step_weight: u32,
    #[serde(with = "weight")]
    pub weight: Weight,
    pub reason: String,
    pub evidence: Evidence,
    pub decision: u64,
}

/// One rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub phase: Phase,
    /// The remote arm's weight, as wanted.
    #[serde(with = "weight")]
    pub weight: Weight,
    /// What had passed before this run.
    #[serde(with = "weight")]
    pub base: Weight,
    /// Rises with each run.
    pub run: u64,
    /// Rises with each decision.
    pub decisions: u64,
    /// The last decision.
    pub decided_ms: u64,
    /// When this phase was entered or taken up again.
    pub(super) phase_ms: u64,
    /// When every calling proxy had acknowledged `weight`.
    pub acked_ms: Option<u64>,
    /// Rollbacks in a row.
    pub failures: u32,
    pub(super) converged_ms: Option<u64>,
    /// Since when there has been no healthy local endpoint.
    pub(super) local_gone_ms: Option<u64>,
    /// What the peer offers, and since when.
    #[serde(default)]
    pub(super) offered: u64,
    #[serde(default)]
    pub(super) offered_ms: u64,
    pub judge: Judge,
    /// The judge's last word on the step, and why.
    pub verdict: Verdict,
    pub message: String,
    /// Newest last.
    pub history: VecDeque<HistoryItem>,
    /// Read anew after a restart.
    #[serde(skip)]
    pub facts: Option<Facts>,
}

// === impl Phase ===

impl Phase {
    /// As commands and the API show it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Detected => "Detected",
            Self::Preflight => "Preflight",
            Self::Ramping { .. } => "Ramping",
            Self::Holding { .. } => "Holding",
            Self::Converged { .. } => "Converged",
            Self::Paused { .. } => "Paused",
            Self::RollingBack { .. } => "RollingBack",
            Self::RolledBack { .. } => "RolledBack",
            Self::Frozen { .. } => "Frozen",
        }
    }

    /// What lies under a pause or a freeze.
    pub fn inner(&self) -> &Self {
        match self {
            Self::Paused { was, .. } | Self::Frozen { was } => was.inner(),
            other => other,
        }
    }

    /// The step under test, paused or frozen too.
    pub fn under_test(&self) -> Option<usize> {
        match self.inner() {
            Self::Ramping { step } | Self::Holding { step, .. } => Some(*step),
            _ => None,
        }
    }

    /// Whether a run is under way or has converged: what freezes when the peer falls silent.
    pub(super) fn is_active(&self) -> bool {
        matches!(
            self.inner(),
            Self::Detected | Self::Preflight | Self::Ramping { .. } | Self::Holding { .. } | Self::Converged { .. }
        )
    }
}

// === impl Facts ===

impl Facts {
    /// Whether every connected calling proxy has `weight`. Without such a proxy nothing is in force.
    pub(super) fn in_force(&self, weight: Weight) -> bool {
        self.programmed == weight && self.total > 0 && self.acked == self.total
    }
}

// === impl State ===

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Idle,
            weight: Weight::ZERO,
            base: Weight::ZERO,
            run: 0,
            decisions: 0,
            decided_ms: 0,
            phase_ms: 0,
            acked_ms: None,
            failures: 0,
            converged_ms: None,
            local_gone_ms: None,
            offered: 0,
            offered_ms: 0,
            judge: Judge::default(),
            verdict: Verdict::Inconclusive,
            message: "nothing to ramp".into(),
            history: VecDeque::new(),
            facts: None,
        }
    }
}

impl State {
    pub(super) fn learn(&mut self, facts: Facts, now: u64) {
        self.local_gone_ms = match (facts.capacities.local, self.local_gone_ms) {
            (0, since) => since.or(Some(now)),
            _ => None,
        };
        if self.offered != facts.capacities.remote {
            (self.offered, self.offered_ms) = (facts.capacities.remote, now);
        }
        self.facts = Some(facts);
    }

    /// Notes when the weight is in force everywhere.
    pub(super) fn note_acknowledgement(&mut self, facts: &Facts, now: u64) {
        if self.acked_ms.is_none() && facts.in_force(self.weight) {
            self.acked_ms = Some(now);
        }
    }

    /// Enters `to` for `reason`, and remembers it.
    pub(super) fn decide(
        &mut self,
        policy: &Policy,
        to: Phase,
        reason: impl Into<String>,
        evidence: Evidence,
        now: u64,
    ) {
        let from = std::mem::replace(&mut self.phase, to);
        self.message = reason.into();
        self.decisions += 1;
        (self.decided_ms, self.phase_ms) = (now, now);
        self.history.push_back(HistoryItem {
            at_ms: now,
            from: from.label().into(),
            to: self.phase.label().into(),
            step_weight: self.percent(policy),
            weight: self.weight,
            reason: self.message.clone(),
            evidence,
            decision: self.decisions,
        });
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// Gives the arm another weight; it is in force once acknowledged.
    pub(super) fn set_weight(&mut self, weight: Weight) {
        if self.weight != weight {
            self.weight = weight;
            self.acked_ms = None;
            self.judge.weight_changed();
        }
    }

    /// Percent of the fair share that is asked for now.
    pub fn percent(&self, policy: &Policy) -> u32 {
        match self.phase.inner() {
            Phase::Ramping { step } | Phase::Holding { step, .. } => policy.percent(*step),
            Phase::Converged { .. } => policy.percent(policy.last_step()),
            _ if self.weight > Weight::ZERO => policy.percent(policy.last_step()), // before the increment is ramped
            _ => 0,
        }
    }

    pub(super) fn decided_since(&self, decision: u64) -> impl Iterator<Item = HistoryItem> + '_ {
        self.history.iter().filter(move |item| item.decision > decision).cloned()
    }
}

/// Weights as the numbers they are; a stored one out of range is refused.
pub(super) mod weight {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::model::Weight;

    pub(in crate::rollout) fn serialize<S: Serializer>(weight: &Weight, serializer: S) -> Result<S::Ok, S::Error> {
        weight.value().serialize(serializer)
    }

    pub(in crate::rollout) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Weight, D::Error> {
        Weight::new(u32::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
