use std::time::UNIX_EPOCH;

use super::super::log::Said;
use super::super::testing::{a_bundle, a_capacity, a_service, a_shard};
use super::*;

fn frames(publication: &mut Publication, log: &Log) -> Vec<F> {
    std::iter::from_fn(|| publication.next(log)?.f).collect()
}

#[test]
fn a_snapshot_says_what_others_need_first_and_then_follows() {
    let mut log = Log::new(Bytes::from_static(b"one"), 0, 10);
    for (key, resource) in [
        ("shard/a.shop/0", a_shard("a.shop", 0, [1])),
        ("capacity/a.shop", a_capacity("a.shop", 1)),
        ("service/a.shop", a_service("a.shop")),
        ("bundle", a_bundle("b.example")),
    ] {
        log.record(key, Said::Put(Arc::new(resource)), UNIX_EPOCH);
    }
    let mut publication = Publication::new();
    assert!(publication.next(&log).is_none(), "nobody asked");
    publication.subscribe(None, &mut log, Bytes::new);
    let first = publication.next(&log);
    assert!(matches!(first.and_then(|frame| frame.f), Some(F::Hello(hello)) if !hello.resumed && hello.head == 4));
    // What happens during the snapshot comes after it.
    log.record("capacity/a.shop", Said::Put(Arc::new(a_capacity("a.shop", 2))), UNIX_EPOCH);
    let rest = frames(&mut publication, &log);
    let said: Vec<String> = rest
        .iter()
        .map(|f| match f {
            F::SnapBegin(_) => "begin".to_owned(),
            F::SnapEnd(end) => format!("end {} {}", end.seq, end.count),
            F::Change(change) => format!("{} {}", change.key, change.seq),
            other => format!("{other:?}"),
        })
        .collect();
    let expected = [
        "begin",
        "bundle 4",
        "service/a.shop 3",
        "capacity/a.shop 2",
        "shard/a.shop/0 1",
        "end 4 4",
        "capacity/a.shop 5",
    ];
    assert_eq!(said, expected);
    assert!(publication.next(&log).is_none());
}
