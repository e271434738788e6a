use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::rollout::judge::{Count, Pair};
use crate::rollout::plan::{Capacities, Step};

mod table;

/// As the demo has it.
fn policy() -> Policy {
    let step = |weight, seconds| Step { weight, min_duration: Duration::from_secs(seconds), min_requests: 0 };
    Policy {
        steps: vec![step(5, 12), step(25, 9), step(100, 9)],
        interval: Duration::from_secs(1),
        initial_delay: Duration::ZERO,
        report_every: Duration::from_secs(1),
        backoff: Duration::from_secs(5),
        max_backoff: Duration::from_secs(60),
        max_hold: Duration::from_secs(60),
        ..Policy::default()
    }
}

/// A rollout, the mesh around it, and time.
#[derive(Clone)]
struct World {
    policy: Policy,
    state: State,
    facts: Facts,
    now: u64,
}

impl World {
    fn new() -> Self {
        let facts = Facts {
            peer: PeerState::Connecting,
            room: Weight::ALL,
            total: 1,
            acked: 1,
            endpoints_acked: true,
            ..Facts::default()
        };
        let facts = Facts { capacities: Capacities { local: 2, remote: 0, others: 0 }, ..facts };
        let mut world = Self { policy: policy(), state: State::default(), facts, now: 1_000_000 };
        world.facts(|_| {});
        world
    }

    /// A world whose peer is LIVE and offers two endpoints; the proxies have not acknowledged anything since.
    fn offered() -> Self {
        let mut world = Self::new();
        world.facts(|facts| {
            (facts.peer, facts.capacities.remote, facts.acked) = (PeerState::Live, 2, 0);
        });
        world
    }

    fn ramping(step: usize) -> Self {
        let mut world = Self::offered();
        world.acked();
        for _ in 0..step {
            world.pass();
        }
        assert_eq!(world.state.phase, Phase::Ramping { step });
        world
    }

    fn converged() -> Self {
        let mut world = Self::ramping(2);
        world.pass();
        assert_eq!(world.state.phase, Phase::Converged { sole: false });
        world
    }

    fn send(&mut self, event: Event) -> Vec<Effect> {
        let (state, effects) = step(&self.policy, self.state.clone(), event, self.now);
        self.state = state;
        effects
    }

    fn facts(&mut self, change: impl FnOnce(&mut Facts)) -> Vec<Effect> {
        change(&mut self.facts);
        self.send(Event::Facts(self.facts))
    }

    /// Every proxy acknowledges the weight as it is wanted.
    fn acked(&mut self) -> Vec<Effect> {
        let weight = self.state.weight;
        self.facts(|facts| {
            (facts.programmed, facts.acked, facts.endpoints_acked) = (weight, facts.total, true);
        })
    }

    fn command(&mut self, command: Command) -> Vec<Effect> {
        self.send(Event::Command(command))
    }

    /// A second passes, and its report comes: 1,000 requests, split as the weight is.
    fn report(&mut self, canary_errors: u64, baseline_errors: u64) -> Vec<Effect> {
        self.now += 1000;
        let canary = u64::from(self.state.weight.value()) / 10;
        let pair = Pair {
            canary: Count { completions: canary, errors: canary * canary_errors / 100 },
            baseline: Count { completions: 1000 - canary, errors: (1000 - canary) * baseline_errors / 100 },
        };
        let reading = Reading {
            pair,
            total: 1000,
            dropped: 0,
            received_ms: self.now,
            begun_ms: Some(self.now - 1000),
            in_force_ms: Some(0),
        };
        self.send(Event::Load(reading))
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += 1000;
            self.send(Event::Tick);
        }
    }

    /// Good reports until the next decision.
    fn pass(&mut self) {
        let before = self.state.decisions;
        for _ in 0..40 {
            self.acked();
            self.report(0, 0);
            if self.state.decisions != before {
                break;
            }
        }
        self.acked();
    }

    fn path(&self) -> Vec<String> {
        self.state.history.iter().map(|item| format!("{} {}", item.to, item.weight.value())).collect()
    }
}

fn pause() -> Command {
    Command::Pause { reason: "lunch".into() }
}

fn abort() -> Command {
    Command::Abort { reason: String::new() }
}

#[test]
fn a_healthy_ramp_takes_its_steps_and_converges() {
    let world = World::converged();
    let path = ["Detected 0", "Preflight 0", "Ramping 250", "Ramping 1250", "Ramping 5000", "Converged 5000"];
    assert_eq!(world.path(), path);
    let seconds: Vec<_> = world.state.history.iter().map(|item| (item.at_ms - 1_000_000) / 1000).collect();
    assert_eq!(seconds, [0, 0, 0, 12, 21, 30]);
    assert_eq!((world.state.run, world.state.decisions, world.state.failures), (1, 6, 0));
}

#[test]
fn a_run_begins_when_the_offer_has_stood_still() {
    let mut world = World::new();
    world.policy.initial_delay = Duration::from_secs(2);
    let offer = |world: &mut World, remote| {
        world.facts(|facts| {
            (facts.peer, facts.capacities.remote) = (PeerState::Live, remote);
        });
    };
    offer(&mut world, 1);
    world.wait(1);
    offer(&mut world, 2);
    world.wait(1);
    assert_eq!(world.state.phase, Phase::Detected, "the second endpoint came a second ago");
    world.wait(1);
    assert_eq!(world.path(), ["Detected 0", "Preflight 0", "Ramping 250"], "a share of both");
}

#[test]
fn a_fail_is_acted_on_in_the_same_evaluation_from_every_state_with_weight() {
    let mut frozen = World::ramping(2);
    frozen.facts(|facts| facts.peer = PeerState::Suspect);
    let mut paused = World::ramping(2);
    paused.command(pause());
    let mut both = paused.clone();
    both.facts(|facts| facts.peer = PeerState::Stale);
    let mut holding = World::ramping(2);
    holding.wait(13);
    assert_eq!(holding.state.phase.label(), "Holding");
    let mut regrown = World::converged();
    regrown.facts(|facts| (facts.capacities.remote, facts.acked, facts.endpoints_acked) = (6, 0, false));
    assert_eq!(regrown.state.phase, Phase::Preflight);
    for mut world in [World::ramping(2), World::converged(), frozen, paused, both, holding, regrown] {
        let from = world.state.phase.label();
        let effects = world.report(30, 0);
        assert_eq!(effects[0], Effect::Weight(Weight::ZERO), "{from}");
        assert_eq!(world.state.phase.label(), "RollingBack", "{from}");
        let evidence = world.state.history.back().unwrap().evidence;
        assert!(evidence.relative >= evidence.threshold && evidence.absolute >= evidence.threshold, "{evidence:?}");
        assert_eq!(evidence.verdict, Verdict::Fail);
    }
}

#[test]
fn a_rollback_waits_for_the_proxies_and_its_backoff_and_probes_at_the_first_step() {
    let mut world = World::converged();
    world.report(30, 0);
    world.facts(|_| {}); // the proxies still have the old weight
    assert_eq!(world.state.phase.label(), "RollingBack");
    world.acked();
    assert_eq!(world.state.phase, Phase::RolledBack { until_ms: world.now + 5_000 });
    world.wait(4);
    assert_eq!(world.state.phase.label(), "RolledBack");
    world.wait(1);
    assert_eq!((world.state.phase.clone(), world.state.weight.value()), (Phase::Ramping { step: 0 }, 250));
    assert_eq!(world.state.run, 2);
    // Bad still: the wait doubles, up to its bound, and a probe never begins higher.
    for backoff in [10, 20, 40, 60, 60] {
        world.acked();
        world.report(100, 0);
        world.acked();
        assert_eq!(world.state.phase, Phase::RolledBack { until_ms: world.now + backoff * 1000 });
        world.wait(backoff);
        assert_eq!(world.state.weight.value(), 250);
    }
    assert_eq!(world.state.failures, 6);
}

#[test]
fn failures_are_forgotten_once_converged_for_max_backoff() {
    let mut world = World::converged();
    for (seconds, failures) in [(10, 1), (10, 2), (61, 1)] {
        for _ in 0..seconds {
            world.report(0, 0);
        }
        world.report(30, 0);
        assert_eq!(world.state.failures, failures);
        world.acked();
        world.wait(10);
        while world.state.phase.label() != "Converged" {
            world.pass();
        }
    }
}

#[test]
fn lack_of_evidence_holds_then_asks_and_never_rolls_back() {
    let mut world = World::ramping(1);
    world.wait(12);
    assert_eq!(world.state.phase.label(), "Holding");
    assert_eq!((world.state.verdict, world.state.message.as_str()), (Verdict::Error, "no load reports"));
    world.wait(59);
    assert_eq!(world.state.phase.label(), "Holding");
    world.wait(1);
    let phase = Phase::Paused { why: PauseReason::Inconclusive, was: Box::new(Phase::Ramping { step: 1 }) };
    assert_eq!((world.state.phase.clone(), world.state.weight.value()), (phase, 1_250));
    world.wait(3600);
    assert_eq!((world.state.weight.value(), world.state.failures), (1_250, 0));
    world.command(Command::Resume);
    assert_eq!(world.state.phase, Phase::Ramping { step: 1 });
    world.pass();
    assert_eq!(world.state.phase, Phase::Ramping { step: 2 });
}

#[test]
fn a_hold_ends_with_the_evidence() {
    let mut world = World::ramping(1);
    world.wait(20);
    assert_eq!(world.state.phase.label(), "Holding");
    world.pass();
    assert_eq!(world.state.phase, Phase::Ramping { step: 2 });
}

#[test]
fn weights_that_are_not_acknowledged_hold() {
    let mut world = World::ramping(0);
    world.facts(|facts| facts.total = 2); // a second proxy, which has not even the first weight
    world.pass();
    world.facts(|facts| facts.acked = 1);
    assert_eq!(world.state.phase, Phase::Ramping { step: 1 });
    let mut stuck = world.clone();
    stuck.state.acked_ms = None;
    for _ in 0..30 {
        stuck.report(0, 0);
    }
    assert_eq!((stuck.state.phase.label(), stuck.state.verdict), ("Holding", Verdict::Error));
    assert_eq!(stuck.state.weight.value(), 1_250);
}

#[test]
fn a_partition_mid_step_freezes_and_changes_nothing() {
    let mut world = World::ramping(1);
    for _ in 0..4 {
        world.report(0, 0);
    }
    let (weight, evidence) = (world.state.weight, world.state.judge.evidence_ms());
    for peer in [PeerState::Suspect, PeerState::Stale, PeerState::Expired] {
        world.facts(|facts| {
            facts.peer = peer;
            facts.capacities.remote = if peer == PeerState::Expired { 0 } else { 2 };
        });
        for _ in 0..30 {
            world.report(0, 0);
            world.send(Event::Tick);
        }
        assert_eq!((world.state.phase.label(), world.state.weight), ("Frozen", weight), "{peer:?}");
    }
    assert_eq!(world.state.judge.evidence_ms(), evidence, "no time passes for the step");
    world.facts(|facts| (facts.peer, facts.capacities.remote) = (PeerState::Live, 2));
    assert_eq!((world.state.phase.clone(), world.state.weight), (Phase::Ramping { step: 1 }, weight));
    world.pass();
    assert_eq!(world.state.phase, Phase::Ramping { step: 2 });
    assert_eq!(world.state.failures, 0);
}

#[test]
fn a_demoted_peers_silence_is_our_own_doing() {
    let mut world = World::converged();
    world.facts(|facts| facts.peer = PeerState::Stale);
    for _ in 0..20 {
        world.now += 1000;
        let pair = Pair { baseline: Count { completions: 1000, errors: 0 }, ..Pair::default() };
        let (received_ms, begun_ms) = (world.now, Some(world.now - 1000));
        world.send(Event::Load(Reading { pair, total: 1000, dropped: 0, received_ms, begun_ms, in_force_ms: Some(0) }));
    }
    assert_eq!(world.state.phase.label(), "Frozen");
}

#[test]
fn a_silent_arm_is_taken_out() {
    let mut world = World::converged();
    let mut silent = || {
        world.now += 1000;
        let pair = Pair { baseline: Count { completions: 1000, errors: 0 }, ..Pair::default() };
        let (received_ms, begun_ms) = (world.now, Some(world.now - 1000));
        world.send(Event::Load(Reading { pair, total: 1000, dropped: 0, received_ms, begun_ms, in_force_ms: Some(0) }));
        world.state.phase.label()
    };
    assert_eq!((silent(), silent()), ("Converged", "RollingBack"));
    assert!(world.state.message.contains("silent"), "{}", world.state.message);
}

#[test]
fn the_share_falls_at_once_and_rises_only_by_a_ramp() {
    let mut world = World::converged();
    let effects = world.facts(|facts| facts.capacities.remote = 1);
    assert_eq!(effects[0], Effect::Weight(Weight::new(3_333).unwrap()));
    world.acked();
    // One of two comes back: the increment is ramped, the rest stays.
    world.facts(|facts| facts.capacities.remote = 2);
    assert_eq!((world.state.phase.clone(), world.state.run), (Phase::Ramping { step: 0 }, 2));
    let mut weights = vec![world.state.weight.value()];
    for _ in 0..3 {
        world.pass();
        weights.push(world.state.weight.value());
    }
    assert_eq!(weights, [3_416, 3_750, 5_000, 5_000]);
    assert_eq!(world.state.phase.label(), "Converged");
}

#[test]
fn from_none_to_thirty_replicas_each_step_takes_what_is_there_then() {
    let mut world = World::offered();
    world.facts(|facts| facts.capacities.remote = 1);
    world.acked();
    assert_eq!(world.state.weight.value(), 167); // 5 % of a third: the first pod gets no more than its share
    for remote in 2..=30 {
        world.facts(|facts| facts.capacities.remote = remote);
        assert_eq!(world.state.weight.value(), 167);
    }
    world.pass();
    assert_eq!(world.state.weight.value(), 2_344); // 25 % of 30/32
}

#[test]
fn no_remote_endpoint_is_a_rollback_and_nothing_begins_until_there_is_one() {
    let mut world = World::ramping(1);
    let effects = world.facts(|facts| facts.capacities.remote = 0);
    assert_eq!((&effects[0], world.state.phase.label()), (&Effect::Weight(Weight::ZERO), "RollingBack"));
    world.acked();
    world.wait(5);
    assert_eq!(world.state.phase, Phase::Idle);
    world.facts(|facts| facts.capacities.remote = 2);
    assert_eq!((world.state.phase.clone(), world.state.weight.value()), (Phase::Ramping { step: 0 }, 250));
}

#[test]
fn without_a_local_endpoint_the_remote_takes_all_and_gives_it_back() {
    for mut world in [World::ramping(0), World::converged()] {
        world.facts(|facts| facts.capacities.local = 0);
        assert_ne!(world.state.weight, Weight::ALL, "not for a moment's gap");
        world.wait(1);
        assert_eq!((world.state.phase.clone(), world.state.weight), (Phase::Converged { sole: true }, Weight::ALL));
        assert!(world.state.message.contains("without a baseline"));
        world.acked();
        for _ in 0..10 {
            world.report(60, 0); // bad, but there is nothing better
        }
        assert_eq!(world.state.weight, Weight::ALL);
        world.facts(|facts| facts.capacities.local = 2);
        assert_eq!((world.state.phase.clone(), world.state.weight.value()), (Phase::Converged { sole: false }, 5_000));
    }
}

#[test]
fn a_new_process_sees_no_outage_in_a_mesh_that_is_still_being_restored() {
    let mut world = World::converged();
    world.state.facts = None;
    world.facts(|facts| facts.capacities.local = 0);
    world.now += 900;
    world.facts(|facts| facts.capacities.local = 2);
    world.wait(5);
    assert_eq!((world.state.phase.label(), world.state.weight.value()), ("Converged", 5_000));
}

#[test]
fn pause_resume_promote_abort() {
    let mut world = World::ramping(0);
    world.acked();
    world.command(pause());
    assert_eq!(world.state.phase.label(), "Paused");
    assert_eq!(world.command(pause()), [Effect::Refused(Refusal::AlreadyPaused)]);
    for _ in 0..60 {
        world.report(0, 0);
    }
    assert_eq!(world.state.weight.value(), 250);
    world.command(Command::Resume);
    world.report(0, 0);
    assert_eq!(world.state.phase, Phase::Ramping { step: 1 });
    assert_eq!(world.command(Command::Resume), [Effect::Refused(Refusal::NotPaused)]);
    world.acked();
    world.command(Command::Promote { full: false });
    assert_eq!((world.state.phase.clone(), world.state.weight.value()), (Phase::Ramping { step: 2 }, 5_000));
    world.command(abort());
    world.acked();
    assert_eq!((world.state.phase.label(), world.state.weight.value()), ("Paused", 0));
    world.wait(3600);
    assert_eq!(world.state.phase.label(), "Paused", "an abort stays");
    assert_eq!(world.state.failures, 0);
    world.command(Command::Resume);
    assert_eq!(world.state.phase, Phase::Ramping { step: 0 });
    world.command(Command::Promote { full: true });
    assert_eq!((world.state.phase.label(), world.state.weight.value()), ("Converged", 5_000));
    world.facts(|facts| facts.peer = PeerState::Suspect);
    assert_eq!(world.command(Command::Promote { full: true }), [Effect::Refused(Refusal::Frozen)]);
}

#[test]
fn one_request_a_second_is_never_falsely_rolled_back() {
    let mut world = World::offered();
    world.policy.max_hold = Duration::from_hours(2);
    world.acked();
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..5 * 3600 {
        world.acked();
        world.now += 1000;
        // One of two hundred fails, wherever it goes.
        let (remote, error) = (rng.random_bool(world.state.weight.fraction()), u64::from(rng.random_bool(0.005)));
        let count = |n: bool| Count { completions: n.into(), errors: u64::from(n) * error };
        let pair = Pair { canary: count(remote), baseline: count(!remote) };
        let (received_ms, begun_ms) = (world.now, Some(world.now - 1000));
        world.send(Event::Load(Reading { pair, total: 1, dropped: 0, received_ms, begun_ms, in_force_ms: Some(0) }));
        assert_eq!(world.state.failures, 0, "{}", world.state.message);
    }
    assert_eq!(world.state.phase.label(), "Converged");
}

// === properties ===

#[derive(Clone, Copy, Debug)]
enum Happening {
    Report { canary: u64, baseline: u64 },
    Wait(u64),
    Ack,
    Peer(PeerState),
    Local(u64),
    Remote(u64),
    Pause,
    Resume,
    Promote(bool),
    Abort,
}

fn happening(errors: impl Strategy<Value = (u64, u64)> + 'static) -> impl Strategy<Value = Happening> {
    let peer = prop_oneof![Just(PeerState::Suspect), Just(PeerState::Stale), Just(PeerState::Connecting)];
    prop_oneof![
        12 => errors.prop_map(|(canary, baseline)| Happening::Report { canary, baseline }),
        8 => Just(Happening::Ack),
        3 => (1_u64..20).prop_map(Happening::Wait),
        1 => peer.prop_map(Happening::Peer),
        3 => Just(Happening::Peer(PeerState::Live)),
        1 => (0_u64..4).prop_map(Happening::Local),
        2 => (0_u64..6).prop_map(Happening::Remote),
        1 => Just(Happening::Pause),
        1 => Just(Happening::Resume),
        1 => any::<bool>().prop_map(Happening::Promote),
        1 => Just(Happening::Abort),
    ]
}

impl World {
    fn happen(&mut self, happening: Happening) -> Vec<Effect> {
        match happening {
            Happening::Report { canary, baseline } => self.report(canary, baseline),
            Happening::Wait(seconds) => {
                self.now += seconds * 1000;
                self.send(Event::Tick)
            }
            Happening::Ack => self.acked(),
            Happening::Peer(peer) => self.facts(|facts| facts.peer = peer),
            Happening::Local(local) => self.facts(|facts| facts.capacities.local = local),
            Happening::Remote(remote) => self.facts(|facts| facts.capacities.remote = remote),
            Happening::Pause => self.command(pause()),
            Happening::Resume => self.command(Command::Resume),
            Happening::Promote(full) => self.command(Command::Promote { full }),
            Happening::Abort => self.command(abort()),
        }
    }

    /// What a new process knows: the stored bytes, then the facts as they are.
    fn restart(&mut self) {
        let bytes = serde_json::to_vec(&self.state).unwrap();
        self.state = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(self.state.facts, None);
        self.send(Event::Facts(self.facts));
    }
}

fn any_errors() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![4 => Just((0, 0)), 1 => Just((30, 0)), 1 => Just((30, 30)), 1 => (0_u64..100, 0_u64..100)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Never above the cap of the step, never up without a Pass, an operator, a first step or an outage of the local arm; frozen
    /// changes nothing but by a Fail or an operator; an abort ends at 0; every change of weight is a decision.
    #[test]
    fn weights_move_only_as_they_may(happenings in prop::collection::vec(happening(any_errors()), 1..120)) {
        let mut world = World::ramping(0);
        for happening in happenings {
            let before = world.state.clone();
            let effects = world.happen(happening);
            let state = &world.state;
            let (from, to) = (before.weight, state.weight);
            prop_assert_eq!(effects.contains(&Effect::Weight(to)), from != to);
            prop_assert!(from == to || state.decisions > before.decisions);
            if to > from {
                let raised = state.history.iter().filter(|item| item.decision > before.decisions && item.weight == to);
                let by_operator = matches!(happening, Happening::Promote(_));
                let sole = matches!(state.phase.inner(), Phase::Converged { sole: true });
                let first = state.phase == Phase::Ramping { step: 0 } && before.phase.under_test().is_none();
                let passed = raised.clone().any(|item| item.evidence.verdict == Verdict::Pass);
                prop_assert!(passed || by_operator || sole || first, "{:?} -> {:?} by {:?}", before.phase, state.phase, happening);
                prop_assert!(world.facts.peer == PeerState::Live);
            }
            if let (Some(step), true) = (state.phase.under_test(), world.facts.peer == PeerState::Live && world.facts.capacities.local > 0) {
                let cap = world.policy.step_share(world.facts.capacities, state.base, step);
                prop_assert!(to <= cap, "{} above the cap {} of step {}", to, cap, step);
            }
            if matches!(before.phase, Phase::Frozen { .. }) && matches!(state.phase, Phase::Frozen { .. }) {
                prop_assert_eq!(from, to);
            }
            if matches!(happening, Happening::Abort) {
                prop_assert_eq!(to, Weight::ZERO);
            }
            if matches!(state.phase.inner(), Phase::Idle | Phase::RollingBack { .. } | Phase::RolledBack { .. }) {
                prop_assert_eq!(to, Weight::ZERO);
            }
            prop_assert!(state.history.len() <= 32);
        }
    }

    /// A control plane that is killed and restarted anywhere decides exactly what it would have decided.
    #[test]
    fn a_restart_changes_no_decision(happenings in prop::collection::vec((happening(any_errors()), any::<bool>()), 1..120)) {
        let (mut steady, mut killed) = (World::ramping(0), World::ramping(0));
        for (happening, kill) in happenings {
            if kill {
                killed.restart();
            }
            prop_assert_eq!(steady.happen(happening), killed.happen(happening));
            prop_assert_eq!(&steady.state, &killed.state);
        }
    }

    /// Both arms failing alike, at 30 % or at any rate, whatever else happens: no evidence against the remote one.
    #[test]
    fn a_shared_outage_never_rolls_back(rate in 0_u64..100, happenings in prop::collection::vec(happening(Just((0, 0))), 1..120)) {
        let mut world = World::ramping(0);
        for happening in happenings {
            let happening = match happening {
                Happening::Report { .. } => Happening::Report { canary: rate, baseline: rate },
                Happening::Remote(remote) => Happening::Remote(remote.max(1)),
                other => other,
            };
            world.happen(happening);
            prop_assert_eq!(world.state.failures, 0, "{}", world.state.message);
        }
    }
}
