//! A file of registrations, applied as a whole; and why somebody gets nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::identity::entries::{Entry, New, Plan, Refused};

fn wanted(path: &str, uid: u32) -> (String, New) {
    let id = format!("spiffe://a.example{path}");
    (String::new(), New { spiffe_id: id, selectors: vec![format!("unix:uid:{uid}")], ..new_entry() })
}

fn with_ttl(mut wanted: (String, New), seconds: u64) -> (String, New) {
    wanted.1.ttl = Some(Duration::from_secs(seconds));
    wanted
}

fn paths<'a>(entries: impl IntoIterator<Item = &'a Arc<Entry>>) -> Vec<String> {
    entries.into_iter().map(|entry| entry.spiffe_id.path().to_owned()).collect()
}

#[tokio::test]
async fn a_file_is_applied_whole_and_a_dry_run_says_the_same() {
    let world = world();
    let identity = world.start().await;
    let entries = &identity.entries;
    entries.apply(vec![wanted("/stays", 1), wanted("/changes", 2), wanted("/goes", 3)], false, false).await.unwrap();
    let file = || vec![wanted("/stays", 1), with_ttl(wanted("/changes", 2), 90), wanted("/comes", 4)];
    let before = entries.all();
    let dry = entries.apply(file(), true, true).await.unwrap();
    assert_eq!(entries.all(), before, "nothing has happened");
    let done = entries.apply(file(), true, false).await.unwrap();
    for plan in [&dry, &done] {
        assert_eq!(paths(&plan.create), ["/comes"]);
        assert_eq!(paths(plan.change.iter().map(|(_, after)| after)), ["/changes"]);
        assert_eq!(paths(&plan.delete), ["/goes"]);
        assert_eq!(plan.unchanged, 1);
    }
    let (was, is) = &done.change[0];
    assert_eq!((was.ttl, is.ttl, &was.id), (None, Some(Duration::from_secs(90)), &is.id));
    assert!(is.revision > was.revision);
    assert_eq!(entries.apply(file(), true, false).await.unwrap(), Plan { unchanged: 3, ..Plan::default() });
    let mut kept = paths(&world.start().await.entries.all());
    kept.sort();
    assert_eq!(kept, ["/changes", "/comes", "/stays"], "after a restart too");
}

#[tokio::test]
async fn without_prune_nothing_is_deleted_and_an_id_says_which_is_meant() {
    let identity = world().start().await;
    let made = identity.entries.create(wanted("/one", 1).1).await.unwrap();
    // Other selectors are another registration, unless the file says that it is this one.
    let by_id = (made.id.to_string(), wanted("/renamed", 9).1);
    let dry = identity.entries.apply(vec![wanted("/one", 2)], false, true).await.unwrap();
    assert_eq!((paths(&dry.create), dry.change.len(), dry.delete.len()), (vec!["/one".to_owned()], 0, 0));
    let done = identity.entries.apply(vec![by_id], false, false).await.unwrap();
    assert_eq!((&done.change[0].1.id, done.change[0].1.spiffe_id.path()), (&made.id, "/renamed"));
    // An id that no entry has is that of a deleted one, from an older listing: what it says counts.
    let gone = ("00".to_owned(), wanted("/restored", 3).1);
    assert_eq!(paths(&identity.entries.apply(vec![gone], false, false).await.unwrap().create), ["/restored"]);
}

#[tokio::test]
async fn one_bad_entry_spoils_the_file_and_is_named() {
    let identity = world().start().await;
    let bad = ("".to_owned(), New { spiffe_id: "spiffe://b.example/x".into(), ..new_entry() });
    let refused = identity.entries.apply(vec![wanted("/one", 1), bad], false, false).await.unwrap_err();
    assert!(refused.to_string().starts_with("entry 2 (spiffe://b.example/x): "), "{refused}");
    let twice = vec![wanted("/one", 1), wanted("/two", 2), with_ttl(wanted("/one", 1), 60)];
    let refused = identity.entries.apply(twice, false, false).await.unwrap_err();
    assert!(refused.to_string().starts_with("entry 3 (spiffe://a.example/one): the same"), "{refused}");
    assert!(identity.entries.all().is_empty(), "nothing of it was done");
}

/// Bad input 140, I5: emptiness alone deletes nothing.
#[tokio::test]
async fn bad_140_an_empty_file_prunes_nothing() {
    let identity = world().start().await;
    identity.entries.create(new_entry()).await.unwrap();
    assert!(matches!(identity.entries.apply(vec![], true, false).await, Err(Refused::PruneAll)));
    assert_eq!(identity.entries.apply(vec![], false, false).await.unwrap(), Plan::default());
    assert_eq!(identity.entries.all().len(), 1);
}

#[tokio::test]
async fn it_is_said_which_entry_is_nearest_and_what_it_lacks() {
    let identity = world().start().await;
    let on = |path: &str, node: &str, selectors: &[&str]| New {
        spiffe_id: format!("spiffe://a.example{path}"),
        node: node.into(),
        selectors: selectors.iter().map(|text| (*text).to_owned()).collect(),
        ..New::default()
    };
    for new in [
        on("/exact", "node-1", &["unix:uid:1001"]),
        on("/other-uid", "node-1", &["unix:uid:1000", "unix:path:/bin/shop"]),
        on("/unit", "node-1", &["systemd:id:shop.service"]),
        on("/far", "node-1", &["unix:uid:7", "unix:gid:7", "unix:supplementary_gid:7"]),
        on("/elsewhere", "node-2", &["unix:uid:1001"]),
        New {
            node: String::new(),
            parent: "spiffe://a.example/nodes/web".into(),
            ..on("/aliased", "", &["unix:uid:1001"])
        },
    ] {
        identity.entries.create(new).await.unwrap();
    }
    let caller = ["unix:uid:1001", "unix:gid:1001", "unix:path:/bin/shop"].map(|text| text.parse().unwrap()).into();
    let told = identity.entries.explain(Some(&node("node-1")), &caller);
    assert_eq!(paths(&told.granted), ["/exact"]);
    let near: BTreeMap<_, _> =
        told.nearest.iter().map(|near| (near.entry.spiffe_id.path(), near.why.as_str())).collect();
    assert_eq!(near["/other-uid"], "the caller has unix:uid:1001, the entry wants unix:uid:1000");
    assert_eq!(near["/unit"], "the entry wants systemd:id:shop.service, the caller has no systemd:id");
    assert_eq!(near["/elsewhere"], "it is registered for node node-2, the caller is on node-1");
    assert_eq!(near["/aliased"], "its parent spiffe://a.example/nodes/web is no node alias that is registered");
    assert_eq!(told.nearest[0].entry.spiffe_id.path(), "/other-uid", "one selector differs and one is met");
    assert_eq!(told.nearest[4].entry.spiffe_id.path(), "/far");
    let anywhere = identity.entries.explain(None, &caller);
    assert_eq!(anywhere.granted.len(), 3, "without a node, the selectors alone decide");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Invariant I1: whatever was registered, changed, deleted and let expire, a node mints an ID exactly if an entry that has not
    /// expired gives it to that node.
    #[test]
    fn i_1_a_node_mints_what_an_unexpired_entry_gives_it_and_nothing_else(
        steps in prop::collection::vec((0u8..4, 0u8..3, 0u8..3, 0u8..4), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = world();
            let identity = world.start().await;
            let mut csrs: BTreeMap<Arc<str>, Vec<u8>> = BTreeMap::new(); // a key is for one entry
            // (path, node) to when it expires.
            let mut model: BTreeMap<(u8, u8), (Arc<str>, i64)> = BTreeMap::new();
            for (what, path, on, ttl) in steps {
                let now = symbolon_kit::clock::unix_secs(world.clock.now());
                model.retain(|_, (_, end)| *end > now);
                let new = |expires: i64| New {
                    spiffe_id: format!("spiffe://a.example/p{path}"),
                    node: format!("node-{on}"),
                    expires_at: Some(expires),
                    ..new_entry()
                };
                match what {
                    0 => {
                        let end = now + 10 * (1 + i64::from(ttl));
                        match identity.entries.create(new(end)).await {
                            Ok(entry) => drop(model.insert((path, on), (entry.id.clone(), end))),
                            // Also while one that has expired is not deleted yet.
                            Err(Refused::Exists(_)) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                    1 => {
                        if let Some((id, _)) = model.remove(&(path, on)) {
                            identity.entries.delete(&id).await.unwrap();
                        }
                    }
                    2 => world.clock.advance(Duration::from_secs(10)),
                    _ => {
                        let end = now + 15;
                        if let Some((id, known)) = model.get_mut(&(path, on)) {
                            identity.entries.apply(vec![(id.to_string(), new(end))], false, false).await.unwrap();
                            *known = end;
                        }
                    }
                }
                let now = symbolon_kit::clock::unix_secs(world.clock.now());
                for entry in identity.entries.all() {
                    let csr = csrs.entry(entry.id.clone()).or_insert_with(plain_csr);
                    for name in ["node-0", "node-1", "node-2"] {
                        let minted = identity.mint_for_entry(&node(name), &entry.id, csr);
                        let granted = model.iter().find(|((_, on), (id, end))| {
                            *id == entry.id && *end > now && format!("node-{on}") == name
                        });
                        prop_assert_eq!(minted.is_ok(), granted.is_some(), "{:?} for {}", entry, name);
                        if let (Ok(minted), Some(((path, _), (_, end)))) = (minted, granted) {
                            prop_assert_eq!(minted.id.path(), format!("/p{path}"));
                            prop_assert!(symbolon_kit::clock::unix_secs(minted.not_after) <= *end);
                        }
                    }
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn every_change_of_an_entry_is_in_the_audit_log() {
    let world = world();
    let identity = world.start().await;
    let entries = &identity.entries;
    entries.apply(vec![wanted("/a", 1), wanted("/b", 2)], false, false).await.unwrap();
    entries.apply(vec![with_ttl(wanted("/a", 1), 90)], true, true).await.unwrap(); // a dry run does nothing
    entries.apply(vec![with_ttl(wanted("/a", 1), 90)], true, false).await.unwrap();
    let made = entries.create(wanted("/c", 3).1).await.unwrap();
    entries.delete(&made.id).await.unwrap();
    let (lines, _) = identity.audit.last(100).await.unwrap();
    let told: Vec<(String, String)> = lines
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|record| record["kind"].as_str().unwrap().starts_with("entry_"))
        .map(|record| (record["kind"].as_str().unwrap().to_owned(), record["id"].as_str().unwrap().to_owned()))
        .collect();
    let id = |path: &str| format!("spiffe://a.example{path}");
    let expected = [
        ("entry_created", "/a"),
        ("entry_created", "/b"),
        ("entry_updated", "/a"),
        ("entry_deleted", "/b"),
        ("entry_created", "/c"),
        ("entry_deleted", "/c"),
    ];
    assert_eq!(told, expected.map(|(kind, path)| (kind.to_owned(), id(path))));
}
