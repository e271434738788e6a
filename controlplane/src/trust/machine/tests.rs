use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience { confirm: Duration::from_secs(10), longest_interval: Duration::MAX };
const HINT: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn held(vouches: bool) -> Held {
    Held { sequence: 7, refresh_hint: HINT, vouches }
}

fn fetched(digest: u8, withdraws: bool) -> Event {
    Event::Fetched { digest: [digest; 32], withdraws }
}

fn failed() -> Event {
    Event::Failed { why: "no".into() }
}

fn refused() -> Event {
    Event::Refused { why: "older".into() }
}

fn taken() -> Event {
    Event::Taken { at: SystemTime::UNIX_EPOCH }
}

/// Runs `events` at their seconds; what is there at the end, and the last effects.
fn run(start: Option<Held>, events: &[(u64, Event)]) -> (State, Vec<Effect>) {
    let mut now = (State::new(start, at(0)), Vec::new());
    for (second, event) in events {
        now = now.0.step(event.clone(), &PATIENCE, at(*second));
    }
    now
}

#[test]
fn the_table_of_a_relationship() {
    use Effect::{Alarm as A, Fetch, Offer};
    type Row = (&'static str, Option<Held>, Vec<(u64, Event)>, Phase, Standing, Vec<Effect>);
    let wait = |due| Phase::Waiting { due: at(due) };
    let due = (1, Event::Due);
    let table: Vec<Row> = vec![
        ("new", None, vec![], wait(0), Standing::Pending, vec![]),
        ("restored", Some(held(true)), vec![], wait(0), Standing::Fresh, vec![]),
        ("looks", None, vec![due.clone()], Phase::Fetching, Standing::Pending, vec![Fetch]),
        ("fetched", None, vec![due.clone(), (2, fetched(1, false))], Phase::Offering, Standing::Pending, vec![Offer]),
        // B-8: without a bundle that says otherwise, five minutes.
        ("f_17 failed", None, vec![due.clone(), (2, failed())], wait(302), Standing::Failing, vec![]),
        ("f_17 failed, held", Some(held(true)), vec![due.clone(), (2, failed())], wait(62), Standing::Failing, vec![]),
        (
            "taken",
            None,
            vec![due.clone(), (2, fetched(1, false)), (2, Event::Held(Some(held(true)))), (3, taken())],
            wait(63),
            Standing::Fresh,
            vec![],
        ),
        (
            "refused",
            Some(held(true)),
            vec![due.clone(), (2, fetched(1, false)), (3, refused())],
            wait(63),
            Standing::Failing,
            vec![A(Alarm::Refused)],
        ),
        (
            "bad_040 withdraws, once",
            Some(held(true)),
            vec![due.clone(), (2, fetched(1, true))],
            wait(12),
            Standing::Fresh,
            vec![A(Alarm::Unconfirmed)],
        ),
        (
            "bad_040 withdraws, confirmed",
            Some(held(true)),
            vec![due.clone(), (2, fetched(1, true)), (12, Event::Due), (13, fetched(1, true))],
            Phase::Offering,
            Standing::Fresh,
            vec![A(Alarm::Withdrawn), Offer],
        ),
        (
            "bad_040 withdraws, then something else that does: begins anew",
            Some(held(true)),
            vec![due.clone(), (2, fetched(1, true)), (12, Event::Due), (13, fetched(2, true))],
            wait(23),
            Standing::Fresh,
            vec![A(Alarm::Unconfirmed)],
        ),
        (
            "bad_040 withdraws, then no longer",
            Some(held(true)),
            vec![due.clone(), (2, fetched(1, true)), (12, Event::Due), (13, fetched(2, false))],
            Phase::Offering,
            Standing::Fresh,
            vec![Offer],
        ),
        (
            "nothing to withdraw",
            Some(held(false)),
            vec![due.clone(), (2, fetched(1, true))],
            Phase::Offering,
            Standing::Fresh,
            vec![Offer],
        ),
        ("ended", Some(held(true)), vec![(1, Event::End)], Phase::Ended, Standing::Terminated, vec![]),
        (
            "ended while fetching",
            Some(held(true)),
            vec![due, (2, Event::End), (3, fetched(1, false))],
            Phase::Ended,
            Standing::Terminated,
            vec![],
        ),
        (
            "ended is for good",
            None,
            vec![(1, Event::End), (2, Event::Held(Some(held(true)))), (3, Event::Due)],
            Phase::Ended,
            Standing::Terminated,
            vec![],
        ),
        ("late answer", None, vec![(2, fetched(1, false))], wait(0), Standing::Pending, vec![]),
    ];
    for (what, start, events, phase, standing, effects) in table {
        let (state, done) = run(start, &events);
        let last = events.last().map_or(0, |(second, _)| *second);
        assert_eq!((state.phase, state.standing(&PATIENCE, at(last)), done), (phase, standing, effects), "{what}");
    }
}

#[test]
fn f_3_what_is_held_grows_stale_after_three_hints_without_success_and_is_said_once() {
    let mut state = State::new(Some(held(true)), at(0));
    let (mut now, mut alarms) = (at(0), Vec::new());
    for _ in 0..10 {
        now = state.due().unwrap();
        let (fetching, _) = state.step(Event::Due, &PATIENCE, now);
        let (after, effects) = fetching.step(failed(), &PATIENCE, now);
        alarms.extend(effects.into_iter().map(|effect| (now.as_secs(), effect)));
        state = after;
    }
    assert_eq!(alarms, [(240, Effect::Alarm(Alarm::Stale))]);
    assert_eq!(state.standing(&PATIENCE, now), Standing::Stale);
    assert_eq!(state.failures, 10);
    assert_eq!(state.held, Some(held(true)), "nothing is withdrawn for it (I5)");
}

proptest! {
    /// Whatever happens, in any order: one fetch at a time, an offer only of what was fetched, and an end is an end.
    #[test]
    fn no_order_of_events_breaks_it(events in proptest::collection::vec((0u64..100, 0usize..8, any::<bool>()), 0..60)) {
        let mut state = State::new(None, at(0));
        let (mut now, mut fetching, mut ended) = (0, false, false);
        for (later, which, flag) in events {
            now += later;
            let event = match which {
                0 | 1 => Event::Due,
                2 => fetched(u8::from(flag), flag),
                3 => failed(),
                4 => taken(),
                5 => refused(),
                6 => Event::Held(flag.then(|| held(flag))),
                _ if later == 0 => Event::End,
                _ => Event::Due,
            };
            ended |= event == Event::End;
            let (after, effects) = state.step(event, &PATIENCE, at(now));
            for effect in &effects {
                prop_assert!(!ended, "an effect after the end: {effect:?}");
                match effect {
                    Effect::Fetch => {
                        prop_assert!(!fetching);
                        fetching = true;
                    }
                    Effect::Offer => prop_assert_eq!(after.phase, Phase::Offering),
                    Effect::Alarm(_) => {}
                }
            }
            fetching = after.phase == Phase::Fetching;
            prop_assert_eq!(ended, after.phase == Phase::Ended);
            if let Some(due) = after.due() {
                prop_assert!(due <= at(now) + DEFAULT_REFRESH, "it always looks again in time");
            }
            state = after;
        }
    }
}
