//! Which registrations are taken.

use super::*;
use crate::identity::entries::{New, Refused};

async fn refused(change: impl FnOnce(&mut New)) -> Refused {
    let identity = world().start().await;
    let mut new = new_entry();
    change(&mut new);
    let refused = identity.entries.create(new).await.unwrap_err();
    assert!(identity.entries.all().is_empty());
    refused
}

#[tokio::test]
async fn an_entry_is_kept_and_seen() {
    let world = world();
    let identity = world.start().await;
    let mut watch = identity.entries.watch();
    let new = New {
        selectors: vec!["unix:uid:1000".into(), "unix:path:/bin/shop".into(), "unix:uid:1000".into()],
        ttl: Some(Duration::from_secs(7200)),
        dns_names: vec!["shop.example".into()],
        hint: "main".into(),
        ..new_entry()
    };
    let entry = identity.entries.create(new).await.unwrap();
    assert_eq!(entry.selectors, ["unix:path:/bin/shop", "unix:uid:1000"], "sorted, each once");
    assert!(watch.has_changed().unwrap());
    assert_eq!(watch.borrow_and_update().get(&entry.id), Some(&entry));
    assert_eq!(world.start().await.entries.by_id(&entry.id), Some(entry), "after a restart too");
}

#[tokio::test]
async fn i_1_ids_outside_the_trust_domain() {
    assert!(matches!(
        refused(|new| new.spiffe_id = "spiffe://b.example/shop".into()).await,
        Refused::ForeignTrustDomain { .. }
    ));
}

#[tokio::test]
async fn bad_021_to_031_ids_that_are_none() {
    for id in [
        "",
        "spiffe://",
        "spiffe://a.example",
        "spiffe://a.example/",
        "spiffe://a.example/../x",
        "spiffe://a.example/%2e",
        "shop",
    ] {
        assert!(matches!(refused(|new| new.spiffe_id = id.into()).await, Refused::Id(..)), "{id}");
    }
}

#[tokio::test]
async fn bad_032_reserved_ids() {
    for path in ["symbolon", "symbolon/node/x", "symbolon/controlplane/0"] {
        assert!(matches!(
            refused(|new| new.spiffe_id = format!("spiffe://a.example/{path}")).await,
            Refused::Reserved(_)
        ));
    }
}

#[tokio::test]
async fn selectors_are_needed_and_known() {
    assert!(matches!(refused(|new| new.selectors.clear()).await, Refused::Selectors));
    let many = |new: &mut New| new.selectors = (0..65).map(|uid| format!("unix:uid:{uid}")).collect();
    assert!(matches!(refused(many).await, Refused::Selectors));
    for selector in [
        "uid:1000",
        "unix:uid:root",
        "unix:uid:-1",
        "unix:uid:4294967296",
        "unix:path:bin/shop",
        "unix:sha256:AB",
        "k8s:ns:shop",
        "",
    ] {
        assert!(matches!(refused(|new| new.selectors.push(selector.into())).await, Refused::Selector(_)), "{selector}");
    }
}

#[tokio::test]
async fn nodes_and_names_are_well_formed() {
    for node in ["", "a/b", "..", "node 1"] {
        assert!(matches!(refused(|new| new.node = node.into()).await, Refused::Node(_)), "{node:?}");
    }
    for name in ["", "-x", "a..b", "a_b", "*.example", "a\0b"] {
        assert!(matches!(refused(|new| new.dns_names = vec![name.into()]).await, Refused::DnsName(_)), "{name:?}");
    }
}

#[tokio::test]
async fn bad_019_lifetimes() {
    for ttl in [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(100 * 365 * 24 * 3600), Duration::MAX]
    {
        assert!(matches!(refused(|new| new.ttl = Some(ttl)).await, Refused::Ttl), "{ttl:?}");
    }
    let short = refused(|new| new.ttl = Some(Duration::from_secs(60))).await;
    assert!(matches!(short, Refused::ShorterThanConnections(_)), "connections live by svidTtl: {short}");
}

#[tokio::test]
async fn the_same_registration_twice() {
    let identity = world().start().await;
    let first = identity.entries.create(new_entry()).await.unwrap();
    let again = identity.entries.create(new_entry()).await.unwrap_err();
    assert!(matches!(again, Refused::Exists(id) if id == first.id));
    identity.entries.create(New { node: "node-2".into(), ..new_entry() }).await.expect("another node's is another");
    assert_eq!(identity.entries.all().len(), 2);
}
