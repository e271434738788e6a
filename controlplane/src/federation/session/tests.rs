use std::time::UNIX_EPOCH;

use super::super::log::{Log, Said};
use super::super::publication::{Publication, beat, frame};
use super::super::resource::SetDigest;
use super::super::testing::{a_bundle, a_capacity, a_service, a_shard, policy, service};
use super::*;

const PAYMENTS: &str = "payments.shop";

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn put(resource: wire::Resource) -> Said {
    Said::Put(Arc::new(resource))
}

/// A publisher with one service of `endpoints`.
fn publisher(epoch: &'static [u8], endpoints: impl IntoIterator<Item = u32>) -> Log {
    let mut log = Log::new(Bytes::from_static(epoch), 100, 10);
    log.record("service/payments.shop", put(a_service(PAYMENTS)), UNIX_EPOCH);
    log.record("shard/payments.shop/0", put(a_shard(PAYMENTS, 0, endpoints)), UNIX_EPOCH);
    log
}

fn subscription() -> Subscription {
    Subscription::new(policy(), secs(30))
}

fn resume(said: &wire::FromSubscriber) -> Option<wire::Cursor> {
    match &said.f {
        Some(wire::from_subscriber::F::Sub(sub)) => sub.resume.clone(),
        other => panic!("not a subscription: {other:?}"),
    }
}

/// Everything that the log has to say on this stream; the number of frames, and what came of them.
fn pump(publication: &mut Publication, log: &Log, to: &mut Subscription, now: Duration) -> (usize, Effects) {
    let (mut effects, mut frames) = (Effects::default(), 0);
    while let Some(next) = publication.next(log) {
        frames += 1;
        to.take(next, now, &mut effects);
    }
    to.settle(now, &mut effects);
    (frames, effects)
}

fn connect(log: &mut Log, to: &mut Subscription, now: Duration) -> (Publication, usize, Effects) {
    let mut publication = Publication::new();
    let subscribe = to.open();
    publication.subscribe(resume(&subscribe).as_ref(), log, || Bytes::from_static(b"adopted"));
    let (frames, effects) = pump(&mut publication, log, to, now);
    (publication, frames, effects)
}

fn take(to: &mut Subscription, f: F, now: Duration) -> Effects {
    let mut effects = Effects::default();
    to.take(frame(f), now, &mut effects);
    to.settle(now, &mut effects);
    effects
}

fn endpoints(of: &Subscription) -> Option<usize> {
    of.in_force().get(&service(PAYMENTS)).map(|imported| imported.endpoints.len())
}

fn usable(of: &Subscription) -> usize {
    let imported = of.in_force().get(&service(PAYMENTS));
    imported.map_or(0, |imported| imported.endpoints.iter().filter(|e| e.health.is_usable()).count())
}

#[test]
fn a_snapshot_then_changes_then_a_resumption() {
    let (mut log, mut to) = (publisher(b"one", [1]), subscription());
    let (mut stream, frames, effects) = connect(&mut log, &mut to, secs(1));
    assert_eq!((frames, endpoints(&to), effects.publish.len()), (5, Some(1), 1), "hello, begin, two changes, end");
    log.record("shard/payments.shop/0", put(a_shard(PAYMENTS, 0, [1, 2])), UNIX_EPOCH);
    let (frames, _) = pump(&mut stream, &log, &mut to, secs(2));
    assert_eq!((frames, endpoints(&to)), (1, Some(2)));
    to.close();
    for n in 0..50 {
        log.record("shard/payments.shop/0", put(a_shard(PAYMENTS, 0, 0..n)), UNIX_EPOCH);
    }
    let (_, frames, _) = connect(&mut log, &mut to, secs(60));
    assert_eq!((frames, endpoints(&to)), (2, Some(49)), "hello, and the one change that still stands");
    let (_, frames, effects) = connect(&mut log, &mut to, secs(61));
    assert_eq!((frames, effects.publish.len()), (1, 0), "nothing happened meanwhile");
}

#[test]
fn bad_116_a_publisher_that_restarts_never_moves_revisions_back() {
    let (mut log, mut to) = (publisher(b"one", [1]), subscription());
    for n in 0..500 {
        log.record("shard/payments.shop/0", put(a_shard(PAYMENTS, 0, 0..n % 5 + 1)), UNIX_EPOCH);
    }
    connect(&mut log, &mut to, secs(1));
    let was = to.cursor().map_or(0, |cursor| cursor.seq);
    let mut reborn = publisher(b"two", [7, 8, 9]);
    assert!(reborn.head() < was, "its clock fell back");
    let (_, _, effects) = connect(&mut reborn, &mut to, secs(2));
    assert!(effects.refused.is_empty(), "{:?}", effects.refused);
    assert_eq!(endpoints(&to), Some(3));
    assert!(to.cursor().is_some_and(|cursor| cursor.seq > was && cursor.epoch == *reborn.epoch()));
}

#[test]
fn bad_117_a_gap_is_noticed_by_the_beat_and_healed() {
    let (mut log, mut to) = (publisher(b"one", [1]), subscription());
    let (mut stream, ..) = connect(&mut log, &mut to, secs(1));
    log.record("capacity/payments.shop", put(a_capacity(PAYMENTS, 1)), UNIX_EPOCH);
    let lost = stream.next(&log);
    assert!(lost.is_some());
    log.record("shard/payments.shop/0", put(a_shard(PAYMENTS, 0, [1, 2])), UNIX_EPOCH);
    pump(&mut stream, &log, &mut to, secs(2));
    let mut effects = Effects::default();
    to.take(beat(&log, UNIX_EPOCH, None), secs(3), &mut effects);
    assert_eq!(effects.alarms, [Alarm::DigestMismatch]);
    assert_eq!(effects.send.len(), 1);
    assert_eq!(resume(&effects.send[0]), None, "a snapshot is demanded");
    assert_eq!(endpoints(&to), Some(2), "what is in force stays meanwhile");
    stream.subscribe(None, &mut log, Bytes::new);
    pump(&mut stream, &log, &mut to, secs(3));
    let mut effects = Effects::default();
    to.take(beat(&log, UNIX_EPOCH, None), secs(4), &mut effects);
    assert!(effects.alarms.is_empty() && effects.close.is_none());
    assert_eq!(to.in_force()[&service(PAYMENTS)].capacity, Some(1));
}

#[test]
fn a_peer_that_never_adds_up_is_asked_ever_more_rarely() {
    let (mut log, mut to) = (publisher(b"one", [1]), subscription());
    connect(&mut log, &mut to, secs(1));
    let (seq, epoch) = to.cursor().map(|cursor| (cursor.seq, cursor.epoch.clone())).expect("a cursor");
    let wrong = || {
        F::Beat(wire::Beat {
            epoch: epoch.clone(),
            head: seq,
            set_digest: Bytes::from_static(b"wrong"),
            ..wire::Beat::default()
        })
    };
    let mut asked = 0;
    for now in 2..202 {
        let effects = take(&mut to, wrong(), secs(now));
        if !effects.send.is_empty() {
            asked += 1;
            // It answers with the same snapshot.
            let mut stream = Publication::new();
            stream.subscribe(None, &mut log, Bytes::new);
            pump(&mut stream, &log, &mut to, secs(now));
        }
    }
    assert!((4..=10).contains(&asked), "{asked} times in 200 s");
    assert_eq!(endpoints(&to), Some(1));
}

#[test]
fn bad_118_a_snapshot_that_does_not_add_up_sweeps_nothing() {
    let (mut log, mut to) = (publisher(b"one", [1]), subscription());
    connect(&mut log, &mut to, secs(1));
    to.open();
    let hello = wire::Hello { epoch: Bytes::from_static(b"two"), resumed: false, source_synced: true, head: 900 };
    take(&mut to, F::Hello(hello), secs(2));
    take(&mut to, F::SnapBegin(wire::SnapshotBegin { seq: 900 }), secs(2));
    let end = wire::SnapshotEnd { seq: 900, count: 0, set_digest: Bytes::from_static(b"wrong"), source_synced: true };
    let effects = take(&mut to, F::SnapEnd(end), secs(2));
    assert_eq!(effects.alarms, [Alarm::DigestMismatch]);
    assert_eq!((endpoints(&to), usable(&to)), (Some(1), 1));
}

/// A well-formed snapshot of nothing but `entries`.
fn snapshot(to: &mut Subscription, entries: &[(&str, wire::Resource)], source_synced: bool, now: Duration) -> Effects {
    to.open();
    let mut all = Effects::default();
    let mut digest = SetDigest::default();
    let hello = wire::Hello { epoch: Bytes::from_static(b"two"), resumed: false, source_synced, head: 900 };
    let mut frames = vec![F::Hello(hello), F::SnapBegin(wire::SnapshotBegin { seq: 900 })];
    for (key, resource) in entries {
        digest.toggle(key, 900);
        let op = Some(wire::change::Op::Put(resource.clone()));
        frames.push(F::Change(wire::Change {
            seq: 900,
            key: (*key).into(),
            revision: 900,
            op,
            ..wire::Change::default()
        }));
    }
    let count = u32::try_from(entries.len()).expect("few");
    frames.push(F::SnapEnd(wire::SnapshotEnd { seq: 900, count, set_digest: digest.bytes(), source_synced }));
    frames.into_iter().for_each(|f| to.take(frame(f), now, &mut all));
    to.settle(now, &mut all);
    all
}

#[test]
fn bad_119_an_empty_snapshot_withdraws_nothing() {
    let (mut log, mut to) = (publisher(b"one", [1, 2, 3, 4]), subscription());
    connect(&mut log, &mut to, secs(1));
    for entries in [&[][..], &[("bundle", a_bundle("b.example"))]] {
        let effects = snapshot(&mut to, entries, true, secs(2));
        assert_eq!(effects.alarms, [Alarm::EmptySnapshot { kept: 2 }]);
        assert!(effects.publish.is_empty());
        let mut later = Effects::default();
        to.release(secs(100_000), &mut later);
        assert!(later.publish.is_empty());
        assert_eq!((endpoints(&to), usable(&to)), (Some(4), 4));
    }
    // An explicit tombstone does.
    let why = Why::Unexported.into();
    let gone = wire::change::Op::Del(wire::Tombstone { why });
    let change = wire::Change {
        seq: 901,
        key: "service/payments.shop".into(),
        revision: 901,
        op: Some(gone),
        ..wire::Change::default()
    };
    let effects = take(&mut to, F::Change(change), secs(3));
    assert_eq!(effects.publish.len(), 1);
    assert_eq!(endpoints(&to), None);
}

#[test]
fn a_snapshot_that_lacks_a_service_is_held_then_believed() {
    let (mut log, mut to) = (publisher(b"one", [1, 2]), subscription());
    log.record("service/ledger.shop", put(a_service("ledger.shop")), UNIX_EPOCH);
    connect(&mut log, &mut to, secs(1));
    let ledger = [("service/ledger.shop", a_service("ledger.shop"))];
    let effects = snapshot(&mut to, &ledger, false, secs(2));
    assert!(effects.publish.is_empty() && effects.alarms.is_empty(), "a half-loaded publisher is no news");
    let effects = snapshot(&mut to, &ledger, true, secs(3));
    assert_eq!(effects.alarms, [Alarm::Held(service(PAYMENTS))]);
    assert_eq!((endpoints(&to), usable(&to)), (Some(2), 0), "listed, for when nothing better is left");
    assert_eq!(to.next_release(), Some(secs(33)));
    let mut effects = Effects::default();
    to.release(secs(33), &mut effects);
    assert_eq!((endpoints(&to), effects.publish.len()), (None, 1));
}

#[test]
fn an_explained_loss_is_believed_at_once() {
    let (mut log, mut to) = (publisher(b"one", 0..10), subscription());
    let (mut stream, ..) = connect(&mut log, &mut to, secs(1));
    log.record("shard/payments.shop/0", Said::Gone(Why::ScaledToZero), UNIX_EPOCH);
    let (_, effects) = pump(&mut stream, &log, &mut to, secs(2));
    assert!(effects.alarms.is_empty());
    assert_eq!(endpoints(&to), Some(0));
}

#[test]
fn a_refused_resource_is_nacked_and_the_stream_goes_on() {
    let (mut log, mut to) = (publisher(b"one", [1]), subscription());
    let (mut stream, ..) = connect(&mut log, &mut to, secs(1));
    log.record("service/evil.bank", put(a_service("evil.bank")), UNIX_EPOCH);
    log.record("shard/payments.shop/0", put(a_shard(PAYMENTS, 0, [1, 2])), UNIX_EPOCH);
    let (_, effects) = pump(&mut stream, &log, &mut to, secs(2));
    assert_eq!((effects.refused.len(), effects.send.len(), endpoints(&to)), (1, 1, Some(2)));
    let Some(wire::from_subscriber::F::Nack(nack)) = &effects.send[0].f else { panic!("not a nack") };
    assert_eq!((nack.key.as_str(), nack.reason()), ("service/evil.bank", Reason::NameNotGranted));
    let mut effects = Effects::default();
    to.take(beat(&log, UNIX_EPOCH, None), secs(3), &mut effects);
    assert!(effects.alarms.is_empty(), "both sides agree on what was said");
}

#[test]
fn bad_126_frames_and_operations_of_a_later_version_are_tolerated() {
    let (mut log, mut to) = (publisher(b"one", [1]), subscription());
    connect(&mut log, &mut to, secs(1));
    let mut effects = Effects::default();
    to.take(wire::FromPublisher { f: None }, secs(2), &mut effects);
    assert!(effects.close.is_none() && effects.send.is_empty());
    let later =
        wire::Change { seq: 200, key: "shard/payments.shop/0".into(), revision: 200, ..wire::Change::default() };
    let effects = take(&mut to, F::Change(later), secs(2));
    assert_eq!((effects.close, effects.refused.len(), endpoints(&to)), (None, 1, Some(1)));
}

#[test]
fn a_broken_protocol_ends_the_stream_and_withdraws_nothing() {
    let change =
        |seq, revision| F::Change(wire::Change { seq, key: "bundle".into(), revision, ..wire::Change::default() });
    let other_epoch = wire::Beat { epoch: Bytes::from_static(b"other"), ..wire::Beat::default() };
    let hello = wire::Hello { epoch: Bytes::from_static(b"one"), resumed: true, source_synced: true, head: 1 };
    let broken = [
        F::Hello(hello),
        F::SnapBegin(wire::SnapshotBegin { seq: 1 }),
        F::SnapEnd(wire::SnapshotEnd::default()),
        F::Beat(other_epoch),
        change(u64::MAX, 1),
        change(MAX_SEQUENCE + 1, 1),
        change(300, 301),
        F::Terminated(wire::Terminated { reason: "\n\u{202e}bye".into() }),
    ];
    for f in broken {
        let (mut log, mut to) = (publisher(b"one", [1]), subscription());
        connect(&mut log, &mut to, secs(1));
        let effects = take(&mut to, f.clone(), secs(2));
        let why = effects.close.unwrap_or_else(|| panic!("{f:?}"));
        assert!(!why.contains('\n'), "escaped");
        assert_eq!(endpoints(&to), Some(1), "{f:?}");
    }
}

#[test]
fn what_was_stored_is_in_force_again_and_resumes() {
    let (mut log, mut to) = (publisher(b"one", [1, 2]), subscription());
    connect(&mut log, &mut to, secs(1));
    let records: Vec<_> =
        to.unstored().into_iter().filter_map(|(key, record)| Some((key.to_string(), record?))).collect();
    let cursor = to.cursor().cloned();
    let mut again = subscription();
    let (published, refused) = again.restore(records.clone(), cursor.clone());
    assert_eq!((published.len(), refused.len(), endpoints(&again)), (1, 0, Some(2)));
    let (_, frames, _) = connect(&mut log, &mut again, secs(1));
    assert_eq!(frames, 1, "resumed");
    let mut damaged = subscription();
    damaged.restore(records.into_iter().take(1), cursor);
    assert_eq!(damaged.cursor(), None, "a store that lost a record does not resume");
}

#[test]
fn a_bundle_is_offered_and_its_refusal_told() {
    let (mut log, mut to) = (publisher(b"one", [1]), subscription());
    log.record(BUNDLE, put(a_bundle("b.example")), UNIX_EPOCH);
    let (_, _, effects) = connect(&mut log, &mut to, secs(1));
    let offered = effects.bundle.expect("an offer");
    let mut effects = Effects::default();
    let refused = Refused { reason: Reason::BundleSequence, detail: "older".into() };
    to.refuse_bundle(&offered, refused, &mut effects);
    assert_eq!((effects.send.len(), effects.refused.len()), (1, 1));
    let mut effects = Effects::default();
    to.take(beat(&log, UNIX_EPOCH, None), secs(3), &mut effects);
    assert!(effects.alarms.is_empty());
}
