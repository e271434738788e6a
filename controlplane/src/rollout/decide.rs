//! The machine of one rollout, pure: [`step`] takes what happened and answers with the next state and what is to be done.
//!
//! ```text
//!                 capacity > 0       it stands still     weights and endpoints
//!                  peer LIVE        for initialDelay     acknowledged
//!         ┌► Idle ───────────► Detected ───────► Preflight ─────────┐
//!         │   ▲ no capacity        ▲ ▲                              │
//!         │   │                    │ └───── share rose ≥ 1 point ┐  ▼            Pass, not the last step
//!         │   │                    │ probe (new run)             │ Ramping(i) ─────────────► Ramping(i+1)
//!         │   │                    │                             │  │  │  ▲ evidence late
//!         │   └───────────── RolledBack(until)                   │  │  ▼  │
//!         │                        ▲                             │  │ Holding(i) ── maxHold ──► Paused(Inconclusive)
//!         │            acked       │                             │  │  │ Pass
//!         │        RollingBack ────┘                             └─ Converged ◄── Pass at the last step
//!         │             │  ▲
//!         │     aborted │  └── Fail, no endpoints, abort: from every state with weight, paused and frozen too
//!         │             ▼
//!         └─ resume ─ Paused(why, was) ◄── pause: from every state; resume goes back to what was
//!
//!  Frozen(was): the peer is not LIVE, entered from Detected to Converged and from Paused over those; weights stay; LIVE goes back.
//!  Converged(sole): no healthy local endpoint: the remote arm takes everything at once, without a baseline.
//! ```
//!
//! Rules, and where the design leaves a choice, the choice:
//!
//! - A Fail is acted on in the evaluation that finds it, whatever else is in force. Inconclusive and Error hold; a person is asked
//!   after `maxHold`; they never roll back.
//! - The remote share falls at once (scale-in there, scale-out here) and rises only by a ramp. Capacity that grows while a run is
//!   under way is taken in by its next step. Capacity that grows once converged, by a point of traffic or more, starts a run of
//!   its own that holds what was passed and ramps the increment alone; if that fails, everything is taken back, since the arm is
//!   judged as a whole.
//! - No remote endpoint left, by the living peer's word, is a rollback: the weight falls at once and the next run waits out the
//!   backoff. The count of failures is forgotten once a converged share has lasted for `maxBackoff`.
//! - An abort stays: after it nothing starts until somebody resumes.
//! - No healthy local endpoint: acted on only when it lasts for one `interval` (priority 1 carries the traffic from the first
//!   moment), so that a mesh that is still being restored does not look like an outage. When local endpoints return, the remote
//!   arm falls to its fair share and counts as converged: it has carried everything meanwhile.
//! - While nothing local is left, nothing fails: there is nothing better to go back to.

mod commands;
mod evaluate;
mod state;

pub use commands::{Command, Refusal};
pub use state::{Facts, HistoryItem, PauseReason, Phase, State};

use super::judge::{Alarm, Reading, Regime, Setting, Verdict};
use super::plan::Policy;
use crate::model::{PeerState, Weight};

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The mesh or the acknowledgements, as they are now.
    Facts(Facts),
    /// One load sample of a calling proxy, counted once.
    Load(Reading),
    /// Time went on.
    Tick,
    Command(Command),
}

/// What is to be done, after the state is durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The remote arm's weight is now this.
    Weight(Weight),
    /// A decision was made; for the log.
    Decided(HistoryItem),
    /// The command was not taken.
    Refused(Refusal),
}

/// One step of the machine. `now` is wall time in Unix milliseconds.
pub fn step(policy: &Policy, mut state: State, event: Event, now: u64) -> (State, Vec<Effect>) {
    let (weight, decisions) = (state.weight, state.decisions);
    let mut effects = Vec::new();
    match event {
        Event::Facts(facts) => state.learn(facts, now),
        Event::Load(reading) => judge(policy, &mut state, &reading, now),
        Event::Tick => {}
        Event::Command(command) => {
            if let Err(refusal) = commands::take(policy, &mut state, command, now) {
                effects.push(Effect::Refused(refusal));
            }
        }
    }
    evaluate::settle(policy, &mut state, now);
    if state.weight != weight {
        effects.push(Effect::Weight(state.weight));
    }
    effects.extend(state.decided_since(decisions).map(Effect::Decided));
    (state, effects)
}

/// Lets the judge see a sample; a Fail is acted on before anything else is.
fn judge(policy: &Policy, state: &mut State, reading: &Reading, now: u64) {
    if state.weight == Weight::ZERO {
        return; // late reports of a weight that is no more
    }
    let setting = Setting {
        weight: state.weight,
        acked_ms: state.acked_ms,
        in_step: state.phase.under_test().is_some(),
        counting: !matches!(state.phase, Phase::Frozen { .. }),
        in_use: state.facts.is_some_and(|f| !matches!(f.peer, PeerState::Stale | PeerState::Expired)),
    };
    let alarm = state.judge.observe(policy, reading, &setting);
    let sole = matches!(state.phase.inner(), Phase::Converged { sole: true });
    let nothing_local = state.facts.is_some_and(|facts| facts.capacities.local == 0);
    if let Some(alarm) = alarm.filter(|_| !sole && !nothing_local) {
        let regime = match alarm {
            Alarm::Evidence { regime } => regime,
            _ => state.regime(),
        };
        let evidence = state.judge.evidence(policy, regime, Verdict::Fail);
        evaluate::roll_back(policy, state, evidence, alarm.to_string(), now);
    }
}

impl State {
    /// The thresholds that apply now.
    fn regime(&self) -> Regime {
        if self.phase.under_test().is_some() { Regime::Step } else { Regime::Converged }
    }
}

#[cfg(test)]
mod tests;
