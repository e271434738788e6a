use proptest::prelude::*;

use super::*;

const MS: u64 = 1000;

fn proxy(name: &str) -> SpiffeId {
    format!("spiffe://a.example/{name}").parse().unwrap()
}

fn arm(cluster: &str, priority: u32) -> Arm {
    Arm { cluster: cluster.into(), priority, region: "eu".into() }
}

fn report(success: u64) -> Report {
    let counts = Counts { success, error: 1, in_progress: 7, issued: success + 1 };
    Report { interval: Duration::from_millis(MS), arms: [(arm("c", 0), counts)].into(), ..Report::default() }
}

fn ledger() -> Ledger {
    Ledger::new(Bytes::from_static(b"boot"))
}

fn reported(name: &str, success: u64) -> Event {
    Event::Reported { proxy: proxy(name), report: report(success), at: Instant::now() }
}

fn acked(name: &str, sequence: u64) -> Event {
    Event::Acked { proxy: proxy(name), sequence }
}

fn success(batch: &LoadBatch) -> u64 {
    batch.clusters.iter().flat_map(|cluster| &cluster.localities).map(|locality| locality.success).sum()
}

/// What is sent: (sequence, successes, interval, gap).
fn step(ledger: &mut Ledger, event: Event) -> Vec<(u64, u64, u64, bool)> {
    ledger.step(event).send.iter().map(|b| (b.sequence, success(b), b.interval_ms, b.gap)).collect()
}

#[test]
fn a_report_goes_at_once_and_the_next_after_the_acknowledgement() {
    let mut ledger = ledger();
    assert_eq!(step(&mut ledger, Event::Opened), []);
    assert_eq!(step(&mut ledger, reported("p", 10)), [(1, 10, MS, false)]);
    assert_eq!(step(&mut ledger, reported("p", 20)), []);
    assert_eq!(step(&mut ledger, reported("p", 30)), []);
    assert_eq!(step(&mut ledger, acked("p", 1)), [(2, 20, MS, false)], "at the granularity of reports");
    assert_eq!(step(&mut ledger, acked("p", 1)), [], "an old acknowledgement acknowledges nothing");
    assert_eq!(step(&mut ledger, acked("p", 2)), [(3, 30, MS, false)]);
    assert_eq!(step(&mut ledger, acked("p", 3)), []);
    assert_eq!(ledger.unacknowledged(), (0, false));
}

#[test]
fn proxies_do_not_wait_for_each_other() {
    let mut ledger = ledger();
    step(&mut ledger, Event::Opened);
    assert_eq!(step(&mut ledger, reported("p", 1)), [(1, 1, MS, false)]);
    assert_eq!(step(&mut ledger, reported("q", 2)), [(1, 2, MS, false)], "numbered per proxy");
    assert_eq!(step(&mut ledger, acked("x", 1)), [], "an unknown proxy acknowledges nothing");
    assert_eq!(ledger.unacknowledged(), (2, true));
}

#[test]
fn what_was_in_flight_is_sent_again_as_it_was() {
    let mut ledger = ledger();
    ledger.step(Event::Opened);
    let first = ledger.step(reported("p", 10)).send;
    ledger.step(Event::Closed);
    assert_eq!(ledger.step(reported("p", 20)).send, []);
    assert_eq!(ledger.step(Event::Opened).send, first, "same number, same content");
    assert_eq!(step(&mut ledger, acked("p", 1)), [(2, 20, MS, false)]);
}

#[test]
fn an_absence_merges_and_loses_nothing() {
    let mut ledger = ledger();
    for at in 0..100 {
        let outcome = ledger.step(reported("p", 1));
        assert_eq!((outcome.send, outcome.lost, outcome.merged), (vec![], 0, at >= QUEUE));
    }
    assert_eq!(ledger.unacknowledged(), (QUEUE, false), "bounded");
    let mut sent = ledger.step(Event::Opened).send;
    for sequence in 1..=QUEUE as u64 {
        sent.extend(ledger.step(acked("p", sequence)).send);
    }
    assert_eq!(sent.len(), QUEUE);
    assert_eq!(sent.iter().map(success).sum::<u64>(), 100);
    assert_eq!(sent.iter().map(|batch| batch.interval_ms).sum::<u64>(), 100 * MS, "the time is told too");
    assert!(sent.iter().all(|batch| !batch.gap), "merged, not lost");
    let last = &sent.last().unwrap().clusters[0].localities[0];
    assert_eq!(last.in_progress, 7, "a level, not a sum");
}

/// An Envoy reports each second; its stream breaks at 2 s. What its next report must cover to lose nothing.
#[test]
fn a_broken_stream_is_a_gap_unless_the_next_report_reaches_back() {
    let start = Instant::now();
    let at = |ms: u64, interval: u64, success| Event::Reported {
        proxy: proxy("p"),
        report: Report { interval: Duration::from_millis(interval), ..report(success) },
        at: start + Duration::from_millis(ms),
    };
    for (interval, gap) in [(1000, true), (4700, true), (4800, false), (5237, false)] {
        let mut ledger = ledger();
        ledger.step(Event::Opened);
        ledger.step(Event::Broke { proxy: proxy("p") });
        assert_eq!(step(&mut ledger, at(1000, 1000, 1)), [(1, 1, 1000, false)], "nothing was counted before the first");
        ledger.step(Event::Broke { proxy: proxy("p") });
        assert_eq!(step(&mut ledger, at(6000, interval, 2)), []);
        assert_eq!(step(&mut ledger, at(9000, 1000, 3)), [], "late, but on one stream nothing is lost");
        assert_eq!(step(&mut ledger, acked("p", 1)), [(2, 2, interval, gap)]);
        assert_eq!(step(&mut ledger, acked("p", 2)), [(3, 3, 1000, false)]);
    }
}

#[test]
fn what_finds_no_room_is_a_gap() {
    let mut ledger = ledger();
    ledger.step(Event::Opened);
    let counts = Counts { success: 1, ..Counts::default() };
    let arms = (0..MAX_ARMS + 5).map(|at| (arm(&format!("{at:06}"), 0), counts)).collect();
    let huge = Report { interval: Duration::from_secs(1), arms, ..Report::default() };
    let outcome = ledger.step(Event::Reported { proxy: proxy("p"), report: huge, at: Instant::now() });
    assert_eq!((outcome.lost, outcome.send[0].clusters.len(), outcome.send[0].gap), (5, MAX_ARMS, true));
    for at in 0..MAX_PROXIES - 1 {
        assert_eq!(ledger.step(reported(&format!("q{at}"), 1)).lost, 0);
    }
    assert_eq!(ledger.step(reported("one-too-many", 1)).lost, 1);
}

#[test]
fn what_is_refused_for_ever_does_not_block_what_follows() {
    let mut ledger = ledger();
    ledger.step(Event::Opened);
    ledger.step(reported("p", 1));
    ledger.step(reported("p", 2));
    ledger.step(reported("q", 3));
    ledger.step(Event::Closed);
    assert_eq!(ledger.step(Event::Refused).lost, 2);
    assert_eq!(step(&mut ledger, Event::Opened), [(2, 2, MS, true)]);
    assert_eq!(step(&mut ledger, reported("q", 4)), [(2, 4, MS, true)]);
}

#[test]
fn clusters_arms_and_drops_find_their_places() {
    let mut ledger = ledger();
    ledger.step(Event::Opened);
    let counts = |success| Counts { success, ..Counts::default() };
    let arms = [(arm("a", 0), counts(1)), (arm("a", 1), counts(2)), (arm("b", 0), counts(3))].into();
    let dropped = [("a".to_owned(), 4), ("z".to_owned(), 5)].into();
    let report = Report { interval: Duration::ZERO, arms, dropped };
    let sent = ledger.step(Event::Reported { proxy: proxy("p"), report, at: Instant::now() }).send;
    let told: Vec<_> = sent[0]
        .clusters
        .iter()
        .map(|c| (c.cluster.as_str(), c.localities.iter().map(|l| (l.priority, l.success)).collect(), c.dropped))
        .collect();
    assert_eq!(told, [("a", vec![(0, 1), (1, 2)], 4), ("b", vec![(0, 3)], 0), ("z", vec![], 5)]);
    assert_eq!((sent[0].boot.as_ref(), sent[0].proxy.as_str()), (b"boot".as_ref(), "spiffe://a.example/p"));
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Act {
    Report(u8),
    Open,
    Close,
    /// The control plane counts what it got, and its acknowledgement arrives or is lost with the stream.
    Count {
        ack_arrives: bool,
    },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => any::<u8>().prop_map(Act::Report),
        1 => Just(Act::Open),
        1 => Just(Act::Close),
        3 => any::<bool>().prop_map(|ack_arrives| Act::Count { ack_arrives }),
    ]
}

proptest! {
    /// A control plane that counts a number once ends with exactly what was reported, whatever is lost on the way.
    #[test]
    fn each_request_is_counted_once(acts in proptest::collection::vec(act(), 1..80)) {
        let mut ledger = ledger();
        let (mut open, mut wire, mut counted, mut last) = (false, Vec::<LoadBatch>::new(), 0, 0);
        let mut reported_sum = 0;
        let ending = [Act::Close, Act::Open].into_iter().chain((0..100).map(|_| Act::Count { ack_arrives: true }));
        for act in acts.into_iter().chain(ending) {
            let events = match act {
                Act::Report(n) => {
                    reported_sum += u64::from(n);
                    vec![reported("p", u64::from(n))]
                }
                Act::Open if !open => { open = true; vec![Event::Opened] }
                Act::Close if open => { open = false; wire.clear(); vec![Event::Closed] }
                Act::Open | Act::Close => vec![],
                Act::Count { ack_arrives } => {
                    let got: Vec<_> = std::mem::take(&mut wire);
                    for batch in &got {
                        prop_assert!(batch.sequence == last || batch.sequence == last + 1, "numbers rise by one");
                        if batch.sequence == last + 1 {
                            counted += success(batch);
                            last += 1;
                        }
                    }
                    if ack_arrives {
                        got.iter().map(|batch| acked("p", batch.sequence)).collect()
                    } else if open && !got.is_empty() {
                        open = false;
                        vec![Event::Closed]
                    } else {
                        vec![]
                    }
                }
            };
            for event in events {
                wire.extend(ledger.step(event).send);
            }
        }
        prop_assert_eq!(counted, reported_sum);
        prop_assert_eq!(ledger.unacknowledged(), (0, false));
    }
}
