//! Every state against every event, as one text: `decide/transitions.txt`. A change of the machine shows there.

use super::*;

const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rollout/decide/transitions.txt");

fn states() -> Vec<(&'static str, World)> {
    let with = |mut world: World, change: &dyn Fn(&mut World)| {
        change(&mut world);
        world
    };
    let rolling_back = || with(World::converged(), &|w| drop(w.report(30, 0)));
    vec![
        ("Idle", World::new()),
        (
            "Idle, aborted",
            with(World::ramping(0), &|w| {
                w.command(abort());
                w.acked();
            }),
        ),
        (
            "Detected",
            with(World::new(), &|w| {
                w.facts(|f| (f.peer, f.capacities) = (PeerState::Live, Capacities { local: 0, remote: 2, others: 0 }));
            }),
        ),
        ("Preflight", World::offered()),
        ("Ramping(0)", with(World::ramping(0), &|w| drop(w.acked()))),
        ("Ramping(2)", World::ramping(2)),
        ("Holding(1)", with(World::ramping(1), &|w| w.wait(12))),
        ("Paused(Operator, Ramping(1))", with(World::ramping(1), &|w| drop(w.command(pause())))),
        ("Paused(Inconclusive, Ramping(1))", with(World::ramping(1), &|w| w.wait(72))),
        ("Converged", World::converged()),
        (
            "Converged(sole)",
            with(World::converged(), &|w| {
                w.facts(|f| f.capacities.local = 0);
                w.wait(1);
                w.acked();
            }),
        ),
        ("Paused(Operator, Converged)", with(World::converged(), &|w| drop(w.command(pause())))),
        ("RollingBack", rolling_back()),
        ("RolledBack", with(rolling_back(), &|w| drop(w.acked()))),
        ("Frozen(Ramping(1))", with(World::ramping(1), &|w| drop(w.facts(|f| f.peer = PeerState::Suspect)))),
        ("Frozen(Converged)", with(World::converged(), &|w| drop(w.facts(|f| f.peer = PeerState::Suspect)))),
        (
            "Frozen(Paused(Ramping(1)))",
            with(World::ramping(1), &|w| {
                w.command(pause());
                w.facts(|f| f.peer = PeerState::Suspect);
            }),
        ),
    ]
}

type Act = fn(&mut World);

fn events() -> Vec<(&'static str, Act)> {
    vec![
        ("acknowledged", |w| drop(w.acked())),
        ("peer SUSPECT", |w| drop(w.facts(|f| f.peer = PeerState::Suspect))),
        ("peer LIVE", |w| drop(w.facts(|f| f.peer = PeerState::Live))),
        ("remote 0", |w| drop(w.facts(|f| f.capacities.remote = 0))),
        ("remote 1", |w| drop(w.facts(|f| f.capacities.remote = 1))),
        ("remote 6", |w| drop(w.facts(|f| f.capacities.remote = 6))),
        ("local 0 for 1 s", |w| {
            w.facts(|f| f.capacities.local = 0);
            w.wait(1);
        }),
        ("local 2", |w| drop(w.facts(|f| f.capacities.local = 2))),
        ("a good report", |w| drop(w.report(0, 0))),
        ("good reports", |w| {
            for _ in 0..12 {
                w.report(0, 0);
            }
        }),
        ("30 % errors", |w| drop(w.report(30, 0))),
        ("60 % errors", |w| drop(w.report(60, 0))),
        ("30 % on both arms", |w| drop(w.report(30, 30))),
        ("13 s of silence", |w| w.wait(13)),
        ("a day of silence", |w| {
            w.now += 86_400_000;
            w.send(Event::Tick);
            w.send(Event::Tick);
        }),
        ("pause", |w| drop(w.command(pause()))),
        ("resume", |w| drop(w.command(Command::Resume))),
        ("promote", |w| drop(w.command(Command::Promote { full: false }))),
        ("promote --full", |w| drop(w.command(Command::Promote { full: true }))),
        ("abort", |w| drop(w.command(abort()))),
    ]
}

fn shown(phase: &Phase) -> String {
    match phase {
        Phase::Ramping { step } => format!("Ramping({step})"),
        Phase::Holding { step, .. } => format!("Holding({step})"),
        Phase::Converged { sole: true } => "Converged(sole)".into(),
        Phase::Paused { why, was } => format!("Paused({why:?}, {})", shown(was)),
        Phase::Frozen { was } => format!("Frozen({})", shown(was)),
        Phase::RollingBack { aborted: true, .. } => "RollingBack(aborted)".into(),
        other => other.label().into(),
    }
}

fn table() -> String {
    let mut text = String::from(
        "# state at weight: event -> states at weight, for what reason; events that decide nothing are left out\n",
    );
    for (name, world) in states() {
        let _ = writeln!(text, "\n{name} at {}", world.state.weight.value());
        for (event, act) in events() {
            let mut after = world.clone();
            act(&mut after);
            let mut path: Vec<_> = after
                .state
                .history
                .iter()
                .filter(|item| item.decision > world.state.decisions)
                .map(|item| format!("{} {}", item.to, item.weight.value()))
                .collect();
            let Some(last) = path.last_mut() else { continue };
            *last = format!("{} {}", shown(&after.state.phase), after.state.weight.value());
            let reason = after.state.history.back().map_or("", |item| item.reason.as_str());
            let _ = writeln!(text, "  {event:<18} -> {} | {reason}", path.join(", "));
        }
    }
    text
}

#[test]
fn every_transition_is_as_written_down() {
    let (is, written) = (table(), std::fs::read_to_string(TEXT).unwrap_or_default());
    assert!(is == written, "the machine differs from {TEXT}; it now is:\n{is}");
}
