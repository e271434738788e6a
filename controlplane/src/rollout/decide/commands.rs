//! What an operator may tell a rollout.

use super::evaluate;
use super::state::{PauseReason, Phase, State};
use crate::model::{PeerState, Weight};
use crate::rollout::judge::Evidence;
use crate::rollout::plan::Policy;

/// The longest reason that is kept.
const LONGEST_REASON: usize = 200;

/// An operator's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Stay at this weight. The judge goes on.
    Pause { reason: String },
    /// Go on.
    Resume,
    /// To the next step now, or, `full`, to the last and count as converged. Out: probe now instead of after the backoff.
    Promote { full: bool },
    /// To weight 0, and stay there until resumed.
    Abort { reason: String },
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is paused already")]
    AlreadyPaused,
    #[error("it is not paused")]
    NotPaused,
    #[error("no step is under test")]
    NoStep,
    #[error("it is frozen: the peer is not LIVE, so what it can bear is not known")]
    Frozen,
    #[error("it is being rolled back")]
    RollingBack,
    #[error("the remote arm has no traffic and no run is under way")]
    NothingToAbort,
}

// === impl Refusal ===

impl Refusal {
    /// A fixed word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::AlreadyPaused => "already_paused",
            Self::NotPaused => "not_paused",
            Self::NoStep => "no_step",
            Self::Frozen => "frozen",
            Self::RollingBack => "rolling_back",
            Self::NothingToAbort => "nothing_to_abort",
        }
    }
}

pub(super) fn take(policy: &Policy, state: &mut State, command: Command, now: u64) -> Result<(), Refusal> {
    match command {
        Command::Pause { reason } => pause(policy, state, &reason, now),
        Command::Resume => resume(policy, state, now),
        Command::Promote { full } => promote(policy, state, full, now),
        Command::Abort { reason } => abort(policy, state, &reason, now),
    }
}

fn pause(policy: &Policy, state: &mut State, reason: &str, now: u64) -> Result<(), Refusal> {
    let why = PauseReason::Operator;
    let to = match state.phase.clone() {
        Phase::Paused { .. } => return Err(Refusal::AlreadyPaused),
        Phase::RollingBack { .. } => return Err(Refusal::RollingBack),
        Phase::Frozen { was } if matches!(*was, Phase::Paused { .. }) => return Err(Refusal::AlreadyPaused),
        Phase::Frozen { was } => Phase::Frozen { was: Box::new(Phase::Paused { why, was }) },
        other => Phase::Paused { why, was: Box::new(other) },
    };
    state.decide(policy, to, worded("paused by an operator", reason), Evidence::default(), now);
    Ok(())
}

fn resume(policy: &Policy, state: &mut State, now: u64) -> Result<(), Refusal> {
    let to = match state.phase.clone() {
        Phase::Paused { was, .. } => evaluate::anew(*was),
        Phase::Frozen { was } => match *was {
            Phase::Paused { was, .. } => Phase::Frozen { was },
            _ => return Err(Refusal::NotPaused),
        },
        _ => return Err(Refusal::NotPaused),
    };
    state.decide(policy, to, "resumed by an operator", Evidence::default(), now);
    Ok(())
}

fn promote(policy: &Policy, state: &mut State, full: bool, now: u64) -> Result<(), Refusal> {
    if matches!(state.phase, Phase::Frozen { .. }) {
        return Err(Refusal::Frozen);
    }
    match state.phase.inner().clone() {
        Phase::Ramping { step } | Phase::Holding { step, .. } => {
            let from = if full { policy.last_step() } else { step };
            evaluate::advance(policy, state, from, "promoted by an operator".into(), now);
            Ok(())
        }
        Phase::RolledBack { .. }
            if state.facts.is_some_and(|f| f.peer == PeerState::Live && f.capacities.remote > 0) =>
        {
            evaluate::begin_run(policy, state, "probe at once, by an operator", now);
            Ok(())
        }
        Phase::RollingBack { .. } => Err(Refusal::RollingBack),
        _ => Err(Refusal::NoStep),
    }
}

fn abort(policy: &Policy, state: &mut State, reason: &str, now: u64) -> Result<(), Refusal> {
    let reason = worded("aborted by an operator", reason);
    match state.phase.inner() {
        Phase::RollingBack { until_ms, .. } => {
            let to = Phase::RollingBack { until_ms: *until_ms, aborted: true };
            state.decide(policy, to, reason, Evidence::default(), now);
        }
        Phase::RolledBack { .. } => {
            let to = Phase::Paused { why: PauseReason::Aborted, was: Box::new(Phase::Idle) };
            state.decide(policy, to, reason, Evidence::default(), now);
        }
        Phase::Idle if state.weight == Weight::ZERO => return Err(Refusal::NothingToAbort),
        _ => {
            let evidence = state.judge.evidence(policy, state.regime(), state.verdict);
            evaluate::withdraw(
                policy,
                state,
                Phase::RollingBack { until_ms: now, aborted: true },
                evidence,
                reason,
                now,
            );
        }
    }
    Ok(())
}

fn worded(what: &str, reason: &str) -> String {
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect();
    if reason.is_empty() { what.into() } else { format!("{what}: {reason}") }
}
