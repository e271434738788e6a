//! Which registrations are taken.

use super::*;
use crate::identity::entries::{AskedFederation, New, Parent, Refused};

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
    let new = New {
        selectors: vec!["unix:uid:1000".into(), "unix:path:/bin/shop".into(), "unix:uid:1000".into()],
        ttl: Some(Duration::from_secs(7200)),
        dns_names: vec!["shop.example".into()],
        hint: "main".into(),
        ..new_entry()
    };
    let entry = identity.entries.create(new).await.unwrap();
    let selectors: Vec<_> = entry.selectors.iter().map(|one| one.as_str()).collect();
    assert_eq!(selectors, ["unix:path:/bin/shop", "unix:uid:1000"], "sorted, each once");
    assert_eq!(identity.entries.by_id(&entry.id).as_ref(), Some(&entry));
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
        assert!(
            matches!(refused(|new| new.selectors.push(selector.into())).await, Refused::Selector(..)),
            "{selector}"
        );
    }
    let of_node = refused(|new| new.selectors.push("x509pop:subject:cn:web".into())).await;
    assert_eq!(
        of_node.to_string(),
        "x509pop:subject:cn:web does not speak of a workload, and that is what this entry chooses"
    );
}

#[tokio::test]
async fn nodes_and_names_are_well_formed() {
    for node in ["a/b", "..", "node 1"] {
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
        assert!(matches!(refused(|new| new.ttl = Some(ttl)).await, Refused::Ttl { .. }), "{ttl:?}");
        assert!(matches!(refused(|new| new.jwt_ttl = Some(ttl)).await, Refused::Ttl { .. }), "{ttl:?}");
    }
    let identity = world().start().await;
    identity.entries.create(New { ttl: Some(Duration::from_secs(60)), ..new_entry() }).await.expect("below svidTtl");
}

#[tokio::test]
async fn bad_135_a_leaf_that_would_outlive_its_authority() {
    let longer = refused(|new| new.ttl = Some(CA_TTL + Duration::from_secs(1))).await;
    assert_eq!(
        longer.to_string(),
        "the TTL must be whole seconds, from 2 to 86400 s: nothing outlives the authority that signs it"
    );
    world().start().await.entries.create(New { ttl: Some(CA_TTL), ..new_entry() }).await.expect("as long as it");
}

#[tokio::test]
async fn bad_033_and_034_wildcards_and_templates_are_no_ids() {
    for path in ["*", "ns/*/sa/x", "ns/**", "ns/.*", "ns/[a-z]+", "ns/{{label}}", "ns/${label}", "ns/../x", "ns/%2e%2e"]
    {
        let id = format!("spiffe://a.example/{path}");
        assert!(matches!(refused(|new| new.spiffe_id = id.clone()).await, Refused::Id(..)), "{id}");
    }
    // A value with such characters is itself, and nothing else (see the selectors' own test).
    let literal = New { selectors: vec!["unix:path:/bin/*".into()], ..new_entry() };
    let entry = world().start().await.entries.create(literal).await.unwrap();
    assert!(!entry.selectors.is_subset(&["unix:path:/bin/shop".parse().unwrap()].into()));
}

#[tokio::test]
async fn w_16_a_hint_has_at_most_1024_bytes() {
    assert!(matches!(refused(|new| new.hint = "x".repeat(1025)).await, Refused::Hint));
    assert!(matches!(refused(|new| new.hint = "é".repeat(513)).await, Refused::Hint), "bytes, not characters");
    assert!(matches!(refused(|new| new.hint = "a\u{1b}[2J".into()).await, Refused::Hint));
    let longest = New { hint: "x".repeat(1024), ..new_entry() };
    assert_eq!(world().start().await.entries.create(longest).await.unwrap().hint.len(), 1024);
}

#[tokio::test]
async fn a_parent_is_a_node_or_an_alias() {
    let identity = world().start().await;
    let with = |parent: &str| New { node: String::new(), parent: parent.into(), ..new_entry() };
    let node = identity.entries.create(with("spiffe://a.example/symbolon/node/node-1")).await.unwrap();
    assert_eq!(node.parent, Parent::Node("node-1".parse().unwrap()), "a node by its ID is the node");
    let alias = identity.entries.create(with("spiffe://a.example/nodes/web")).await.unwrap();
    assert_eq!(alias.parent, Parent::Alias("spiffe://a.example/nodes/web".parse().unwrap()));
    assert!(matches!(refused(|new| new.node.clear()).await, Refused::Parent));
    assert!(matches!(refused(|new| new.parent = "spiffe://a.example/nodes/web".into()).await, Refused::Parent), "both");
    let parent = |id: &'static str| refused(move |new| (new.node, new.parent) = (String::new(), id.into()));
    assert!(matches!(parent("spiffe://b.example/nodes/web").await, Refused::ForeignTrustDomain { .. }));
    assert!(matches!(parent("spiffe://a.example/symbolon/controlplane/0").await, Refused::Reserved(_)));
    assert!(matches!(parent("spiffe://a.example").await, Refused::Id(..)));
}

#[tokio::test]
async fn a_node_alias_names_nodes_and_nothing_else() {
    let alias = || New {
        spiffe_id: "spiffe://a.example/nodes/web".into(),
        node_alias: true,
        selectors: vec!["x509pop:subject:cn:web".into()],
        ..New::default()
    };
    let identity = world().start().await;
    assert!(identity.entries.create(alias()).await.unwrap().is_alias());
    for refused in [
        New { node: "node-1".into(), ..alias() },
        New { parent: "spiffe://a.example/nodes/x".into(), ..alias() },
        New { ttl: Some(SVID_TTL), ..alias() },
        New { dns_names: vec!["x".into()], ..alias() },
        New { hint: "x".into(), ..alias() },
        New { federates_with: Some(AskedFederation::default()), ..alias() },
    ] {
        assert!(matches!(identity.entries.create(refused).await, Err(Refused::Alias)));
    }
    let workload = New { selectors: vec!["unix:uid:1".into()], ..alias() };
    assert!(matches!(identity.entries.create(workload).await, Err(Refused::WrongSubject { .. })));
}

#[tokio::test]
async fn federation_targets_are_well_formed() {
    let asks = |change: fn(&mut AskedFederation)| async move {
        let mut asked = AskedFederation::default();
        change(&mut asked);
        refused(move |new| new.federates_with = Some(asked)).await.to_string()
    };
    type Change = fn(&mut AskedFederation);
    let cases: [(Change, &str); 6] = [
        (|asked| asked.trust_domains = vec!["b/example".into()], "may hold only"),
        (|asked| asked.trust_domains = vec!["A.example".into()], "our own trust domain"),
        (|asked| asked.except = vec!["b.example".into()], "excepted from"),
        (
            |asked| (asked.trust_domains, asked.except, asked.all) = (vec!["b".into()], vec!["B".into()], true),
            "named and excepted",
        ),
        (|asked| drop(asked.labels.insert(String::new(), "x".into())), "a label is"),
        (|asked| asked.trust_domains = (0..65).map(|n| format!("b{n}.example")).collect(), "at most 64"),
    ];
    for (change, why) in cases {
        let said = asks(change).await;
        assert!(said.contains(why), "{said}");
    }
}

#[tokio::test]
async fn what_an_older_program_stored_can_be_read() {
    let world = world();
    let old = serde_json::json!({
        "spiffe_id": "spiffe://a.example/shop", "node": "node-1", "selectors": ["unix:uid:1000"],
        "ttl_seconds": 7200, "dns_names": [], "hint": "main",
    });
    let put = store::Txn::new().put(store::keys::entry("0123"), store::codec::encode("entry", 1, &old).unwrap());
    world.store.commit(put).await.unwrap();
    let entry = world.start().await.entries.by_id("0123").unwrap();
    assert_eq!((entry.parent.clone(), entry.ttl), (Parent::Node("node-1".parse().unwrap()), Some(SVID_TTL * 2)));
    assert_eq!((entry.federates_with.clone(), entry.expires_at), (None, None));
}

#[tokio::test]
async fn everything_an_entry_says_survives_a_restart() {
    let world = world();
    let identity = world.start().await;
    let all = New {
        node: String::new(),
        parent: "spiffe://a.example/nodes/web".into(),
        ttl: Some(Duration::from_secs(90)),
        jwt_ttl: Some(Duration::from_secs(60)),
        dns_names: vec!["shop.example".into()],
        hint: "main".into(),
        federates_with: Some(AskedFederation {
            trust_domains: vec!["b.example".into()],
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            all: true,
            except: vec!["c.example".into()],
        }),
        expires_at: Some(symbolon_kit::clock::unix_secs(world.clock.now()) + 60),
        ..new_entry()
    };
    let entry = identity.entries.create(all).await.unwrap();
    assert!(entry.revision > 0);
    assert_eq!(world.start().await.entries.by_id(&entry.id), Some(entry));
}

#[tokio::test]
async fn a_deleted_entry_is_gone_for_good() {
    let world = world();
    let identity = world.start().await;
    let entry = identity.entries.create(new_entry()).await.unwrap();
    assert_eq!(identity.entries.delete(&entry.id).await.unwrap(), entry);
    assert!(matches!(identity.entries.delete(&entry.id).await, Err(Refused::Unknown(_))));
    let refused = identity.mint_for_entry(&node("node-1"), &entry.id, &plain_csr()).unwrap_err();
    assert_eq!(refused, Refusal::UnknownEntry);
    assert!(world.start().await.entries.all().is_empty());
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
