use super::*;
use crate::testing::{Ca, entry, selectors, view, workload};

const ID: &str = "spiffe://a.example/ns/shop/sa/web";

fn ids(view: &View, caller: &[&str]) -> Vec<String> {
    view.held_for(&selectors(caller)).map(|held| held.entry.id.to_string()).collect()
}

#[test]
fn a_caller_gets_the_entries_whose_selectors_are_all_its_own_in_their_order() {
    let entries = vec![
        (entry("both", ID, &["unix:uid:1", "unix:path:/bin/a"]), Holding::Pending),
        (entry("uid", ID, &["unix:uid:1"]), Holding::Pending),
        (entry("other", ID, &["unix:uid:2"]), Holding::Pending),
        (entry("unmet", ID, &["unix:uid:1", "k8s:ns:shop"]), Holding::Pending),
    ];
    let view = view(&Ca::new("a.example"), entries);
    assert_eq!(ids(&view, &["unix:uid:1", "unix:gid:1", "unix:path:/bin/a"]), ["both", "uid"]);
    assert_eq!(ids(&view, &["unix:uid:1", "unix:path:/bin/b"]), ["uid"]);
    assert!(ids(&view, &["unix:uid:3"]).is_empty());
}

#[test]
fn the_local_file_narrows_an_identity_and_never_widens_it() {
    let mut view = view(&Ca::new("a.example"), vec![(entry("e", ID, &["unix:uid:1"]), Holding::Pending)]);
    view.narrow(&[workload("one", ID, &["unix:gid:7"]), workload("two", ID, &["unix:gid:8"])]);
    assert_eq!(ids(&view, &["unix:uid:1", "unix:gid:7"]), ["e"]);
    assert_eq!(ids(&view, &["unix:uid:1", "unix:gid:8"]), ["e"]);
    assert!(ids(&view, &["unix:uid:1", "unix:gid:9"]).is_empty());
    assert!(ids(&view, &["unix:uid:2", "unix:gid:7"]).is_empty(), "the entry still decides");
    view.narrow(&[workload("free", ID, &[]), workload("other", "spiffe://a.example/x", &["unix:gid:9"])]);
    assert_eq!(ids(&view, &["unix:uid:1"]), ["e"], "a workload without selectors narrows nothing");
}

#[test]
fn what_no_honest_control_plane_sends_is_no_entry() {
    let own: TrustDomain = "a.example".parse().unwrap();
    let good = node::Entry {
        entry_id: "e".into(),
        spiffe_id: ID.into(),
        selectors: vec!["unix:uid:1".into()],
        ..Default::default()
    };
    assert!(Entry::parse(&good, &own).is_some());
    for bad in [
        node::Entry { selectors: Vec::new(), ..good.clone() },
        node::Entry { spiffe_id: "spiffe://b.example/w".into(), ..good.clone() },
        node::Entry { spiffe_id: "spiffe://a.example".into(), ..good.clone() },
        node::Entry { spiffe_id: "spiffe://a.example/symbolon/controlplane/0".into(), ..good.clone() },
        node::Entry { spiffe_id: "garbage".into(), ..good },
    ] {
        assert!(Entry::parse(&bad, &own).is_none(), "{bad:?}");
    }
}
