//! What follows from the state itself, the facts and the time: transitions until nothing more follows.

use std::time::Duration;

use super::state::{Facts, PauseReason, Phase, State};
use crate::model::{PeerState, Weight};
use crate::rollout::judge::{Evidence, Judge, Verdict};
use crate::rollout::plan::Policy;

/// More transitions than any state has ahead of it at one moment.
const MOST: usize = 8;
/// The least rise of a converged share that is worth a run, in 1/10,000.
const LEAST_RISE: u16 = 100;

/// Follows transitions until none is left. Without facts (just restarted) nothing is done.
pub(super) fn settle(policy: &Policy, state: &mut State, now: u64) {
    let Some(facts) = state.facts else { return };
    for _ in 0..MOST {
        state.note_acknowledgement(&facts, now);
        if !transition(policy, state, &facts, now) {
            break;
        }
    }
    refresh(policy, state, &facts, now);
}

/// One transition, if one is due.
fn transition(policy: &Policy, state: &mut State, facts: &Facts, now: u64) -> bool {
    let live = facts.peer == PeerState::Live;
    match state.phase.clone() {
        Phase::Frozen { was } if live => {
            state.decide(policy, anew(*was), "the peer is LIVE again", Evidence::default(), now);
            true
        }
        Phase::Frozen { .. } => false,
        phase if !live && phase.is_active() => {
            let reason = format!("the peer is {}: weights stay", facts.peer.label());
            state.decide(policy, Phase::Frozen { was: Box::new(phase) }, reason, Evidence::default(), now);
            true
        }
        Phase::RollingBack { until_ms, aborted } => rolled_back(policy, state, facts, (until_ms, aborted), now),
        Phase::RolledBack { until_ms } if live && now >= until_ms => {
            if facts.capacities.remote > 0 {
                begin_run(policy, state, "the backoff has passed: probe at the first step", now);
            } else {
                state.decide(policy, Phase::Idle, "the peer offers no endpoint", Evidence::default(), now);
            }
            true
        }
        Phase::Idle if live && facts.capacities.remote > 0 => {
            begin_run(policy, state, "the peer offers capacity", now);
            true
        }
        phase if phase.is_active() => active(policy, state, &phase, facts, now),
        _ => false,
    }
}

/// What may happen to a run, or to what has converged, while the peer is LIVE.
fn active(policy: &Policy, state: &mut State, phase: &Phase, facts: &Facts, now: u64) -> bool {
    if facts.capacities.remote == 0 {
        return without_remote(policy, state, now);
    }
    if without_local(policy, state, phase, facts, now) {
        return true;
    }
    if facts.capacities.local == 0 {
        return false; // gone just now, or for good and acted on
    }
    if lower(policy, state, phase, facts, now) {
        return true;
    }
    match phase {
        Phase::Detected if now.saturating_sub(state.offered_ms) < ms(policy.initial_delay) => {
            state.message = "waiting until the peer's offer stands still".into();
            false
        }
        Phase::Detected => {
            state.decide(policy, Phase::Preflight, "checking what the first step needs", Evidence::default(), now);
            true
        }
        Phase::Preflight => preflight(policy, state, facts, now),
        Phase::Ramping { step } | Phase::Holding { step, .. } => under_test(policy, state, *step, now),
        Phase::Converged { sole: false } => grown(policy, state, facts, now),
        _ => false,
    }
}

fn without_remote(policy: &Policy, state: &mut State, now: u64) -> bool {
    if state.weight > Weight::ZERO {
        let evidence = state.judge.evidence(policy, state.regime(), Verdict::Fail);
        roll_back(policy, state, evidence, "the peer offers no usable endpoint any more".into(), now);
        return true;
    }
    if matches!(state.phase, Phase::Paused { .. }) {
        return false;
    }
    state.decide(policy, Phase::Idle, "the peer offers no endpoint", Evidence::default(), now);
    true
}

/// No healthy local endpoint: everything to the remote arm, and back to the fair share when one returns.
fn without_local(policy: &Policy, state: &mut State, phase: &Phase, facts: &Facts, now: u64) -> bool {
    let sole = matches!(phase.inner(), Phase::Converged { sole: true });
    if sole && facts.capacities.local > 0 {
        let weight = policy.full_share(facts.capacities).min(state.weight);
        state.set_weight(weight);
        state.base = weight;
        let reason = format!("local endpoints are back: the remote arm keeps its fair share of {weight}");
        let to = rewrap(phase, Phase::Converged { sole: false });
        state.decide(policy, to, reason, Evidence::default(), now);
        return true;
    }
    let lasting = state.local_gone_ms.is_some_and(|since| now.saturating_sub(since) >= ms(policy.interval));
    if sole || !lasting || matches!(phase, Phase::Paused { .. }) {
        return false;
    }
    let weight = policy.sole_share(facts.capacities).min(facts.room).max(state.weight);
    state.set_weight(weight);
    state.base = weight;
    state.judge.begin_step();
    let reason =
        "no healthy local endpoint: the remote arm takes everything at once, without a baseline to compare with";
    state.decide(policy, Phase::Converged { sole: true }, reason, Evidence::default(), now);
    true
}

/// The share falls at once, wherever the run stands.
fn lower(policy: &Policy, state: &mut State, phase: &Phase, facts: &Facts, now: u64) -> bool {
    let most = match phase.inner() {
        Phase::Ramping { step } | Phase::Holding { step, .. } => policy.step_share(facts.capacities, state.base, *step),
        _ => policy.full_share(facts.capacities),
    };
    if most >= state.weight {
        return false;
    }
    let before = state.weight;
    state.set_weight(most);
    state.base = state.base.min(most);
    let reason = format!("the fair share fell: from {before} to {most} at once");
    state.decide(policy, phase.clone(), reason, Evidence::default(), now);
    true
}

fn preflight(policy: &Policy, state: &mut State, facts: &Facts, now: u64) -> bool {
    if state.weight > Weight::ZERO && !worth_a_run(policy, state, facts) {
        let to = Phase::Converged { sole: false };
        state.decide(policy, to, "the capacity that grew is gone again", Evidence::default(), now);
        return true;
    }
    if !facts.in_force(state.weight) || !facts.endpoints_acked {
        return false;
    }
    enter_step(policy, state, facts, 0, "endpoints and weights are acknowledged".into(), Evidence::default(), now);
    true
}

fn under_test(policy: &Policy, state: &mut State, step: usize, now: u64) -> bool {
    let Some(terms) = policy.steps.get(step) else {
        // The policy has fewer steps than when this one began: what is left to test is the last.
        let last = Phase::Ramping { step: policy.last_step() };
        state.decide(policy, last, "the policy has fewer steps now", Evidence::default(), now);
        return true;
    };
    let (verdict, why) = state.judge.verdict(policy, terms, state.acked_ms.is_some(), now);
    let evidence = state.judge.evidence(policy, state.regime(), verdict);
    let waited = now.saturating_sub(state.phase_ms);
    match (verdict, &state.phase) {
        (Verdict::Pass, _) => advance(policy, state, step, why, now),
        // The judge speaks when a sample comes; this is the same word, should it still stand.
        (Verdict::Fail, _) => roll_back(policy, state, evidence, why, now),
        (_, Phase::Holding { since_ms, .. }) if now.saturating_sub(*since_ms) >= ms(policy.max_hold) => {
            let was = Box::new(Phase::Ramping { step });
            let reason = format!("no verdict within {}: {why}", words(policy.max_hold));
            state.decide(policy, Phase::Paused { why: PauseReason::Inconclusive, was }, reason, evidence, now);
        }
        (_, Phase::Ramping { .. }) if waited >= ms(terms.min_duration + policy.grace()) => {
            let to = Phase::Holding { step, since_ms: now };
            state.decide(policy, to, format!("holding: {why}"), evidence, now);
        }
        _ => return false,
    }
    true
}

/// Converged, and the peer offers more: ramp the increment.
fn grown(policy: &Policy, state: &mut State, facts: &Facts, now: u64) -> bool {
    if !worth_a_run(policy, state, facts) {
        return false;
    }
    begin_run(policy, state, "the fair share grew: ramp the increment", now);
    true
}

fn worth_a_run(policy: &Policy, state: &State, facts: &Facts) -> bool {
    let full = policy.full_share(facts.capacities).min(room(policy, facts));
    full.value() >= state.weight.value().saturating_add(LEAST_RISE)
}

fn rolled_back(policy: &Policy, state: &mut State, facts: &Facts, then: (u64, bool), now: u64) -> bool {
    let nobody = facts.total == 0 && facts.programmed == Weight::ZERO;
    if !facts.in_force(Weight::ZERO) && !nobody {
        return false;
    }
    let reason = format!("{} of {} proxies have weight 0", facts.acked, facts.total);
    let to = match then {
        (_, true) => Phase::Paused { why: PauseReason::Aborted, was: Box::new(Phase::Idle) },
        (until_ms, false) => Phase::RolledBack { until_ms },
    };
    let said = std::mem::take(&mut state.message);
    state.decide(policy, to, reason, Evidence::default(), now);
    state.message = said; // why it is out matters more than that it is
    true
}

// === what several of them do ===

/// Takes the next step after `step`, or converges after the last.
pub(super) fn advance(policy: &Policy, state: &mut State, step: usize, reason: String, now: u64) {
    let evidence = state.judge.evidence(policy, state.regime(), Verdict::Pass);
    let Some(facts) = state.facts else { return };
    if step < policy.last_step() {
        enter_step(policy, state, &facts, step + 1, reason, evidence, now);
        return;
    }
    let full = policy.full_share(facts.capacities).min(room(policy, &facts)).max(state.weight);
    let promoted = state.phase.under_test() != Some(step); // skipped to the end
    if promoted {
        state.set_weight(full);
    }
    state.base = state.weight;
    state.converged_ms = Some(now);
    state.decide(policy, Phase::Converged { sole: false }, reason, evidence, now);
}

fn enter_step(
    policy: &Policy,
    state: &mut State,
    facts: &Facts,
    step: usize,
    reason: String,
    evidence: Evidence,
    now: u64,
) {
    let weight = policy.step_share(facts.capacities, state.base, step).min(room(policy, facts)).max(state.weight);
    if state.weight == Weight::ZERO {
        state.judge = Judge::default();
    }
    state.judge.begin_step();
    state.set_weight(weight);
    state.verdict = Verdict::Inconclusive;
    state.decide(policy, Phase::Ramping { step }, reason, evidence, now);
}

pub(super) fn begin_run(policy: &Policy, state: &mut State, reason: &str, now: u64) {
    state.run += 1;
    state.base = state.weight;
    state.decide(policy, Phase::Detected, reason, Evidence::default(), now);
}

/// Takes the remote arm out for a fault of its own, with a backoff that doubles.
pub(super) fn roll_back(policy: &Policy, state: &mut State, evidence: Evidence, reason: String, now: u64) {
    let lasted = state.converged_ms.is_some_and(|since| now.saturating_sub(since) >= ms(policy.max_backoff));
    state.failures = if lasted { 1 } else { state.failures.saturating_add(1) };
    let until_ms = now.saturating_add(ms(policy.backoff_after(state.failures)));
    withdraw(policy, state, Phase::RollingBack { until_ms, aborted: false }, evidence, reason, now);
}

pub(super) fn withdraw(policy: &Policy, state: &mut State, to: Phase, evidence: Evidence, reason: String, now: u64) {
    state.set_weight(Weight::ZERO);
    (state.base, state.converged_ms) = (Weight::ZERO, None);
    state.judge = Judge::default();
    state.verdict = evidence.verdict;
    state.decide(policy, to, reason, evidence, now);
}

/// What the other peers' arms and the holdback leave.
fn room(policy: &Policy, facts: &Facts) -> Weight {
    let kept = policy.holdback.saturating_mul(100);
    Weight::new(u32::from(facts.room.value()).saturating_sub(kept)).unwrap_or_default()
}

/// A phase that is taken up again: its patience starts anew.
pub(super) fn anew(phase: Phase) -> Phase {
    match phase {
        Phase::Holding { step, .. } => Phase::Ramping { step },
        other => other,
    }
}

fn rewrap(outer: &Phase, inner: Phase) -> Phase {
    match outer {
        Phase::Paused { why, was } => Phase::Paused { why: *why, was: Box::new(rewrap(was, inner)) },
        _ => inner,
    }
}

/// What is shown between decisions: what the phase waits for.
fn refresh(policy: &Policy, state: &mut State, facts: &Facts, now: u64) {
    match (&state.phase, state.phase.under_test()) {
        (_, Some(step)) => {
            let Some(terms) = policy.steps.get(step) else { return };
            let (verdict, why) = state.judge.verdict(policy, terms, state.acked_ms.is_some(), now);
            state.verdict = verdict;
            if matches!(state.phase, Phase::Ramping { .. } | Phase::Holding { .. }) {
                state.message = why;
            }
        }
        (Phase::Preflight, _) => {
            state.message = if facts.total == 0 {
                "no connected proxy calls the service".into()
            } else {
                format!("{} of {} proxies have acknowledged the weights", facts.acked, facts.total)
            };
        }
        _ => {}
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds >= 120 && seconds % 60 == 0 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}
