//! What a node hears of its entries, and when.

use std::sync::Arc;

use futures::FutureExt as _;
use symbolon_kit::clock::unix_secs;

use super::*;
use crate::identity::entries::{Delta, Entry, Feed, New, Refused};

fn ids(entries: &[Arc<Entry>]) -> Vec<String> {
    entries.iter().map(|entry| entry.spiffe_id.path().to_owned()).collect()
}

fn entry(path: &str, node: &str) -> New {
    New { spiffe_id: format!("spiffe://a.example{path}"), node: node.into(), ..new_entry() }
}

fn below(path: &str, alias: &str) -> New {
    New { node: String::new(), parent: format!("spiffe://a.example{alias}"), ..entry(path, "") }
}

fn alias(path: &str, selector: &str) -> New {
    New {
        spiffe_id: format!("spiffe://a.example{path}"),
        node_alias: true,
        selectors: vec![selector.into()],
        ..New::default()
    }
}

/// What waits for the feed now.
fn waiting(feed: &mut Feed) -> Option<Delta> {
    feed.next().now_or_never()
}

async fn attest(identity: &Identity, name: &str, selector: &str) {
    let minted = identity.renew_node(&node(name), &plain_csr()).unwrap();
    let attested = crate::identity::nodes::Attested {
        name: node(name),
        selectors: [selector.parse().unwrap()].into(),
        can_reattest: true,
    };
    identity.nodes.admit("x509pop", attested, &minted).await.unwrap();
}

#[tokio::test]
async fn a_change_reaches_the_nodes_that_it_concerns_and_no_other() {
    let identity = world().start().await;
    let entries = &identity.entries;
    let first = entries.create(entry("/one", "n1")).await.unwrap();
    let (mut n1, mut n2) = (entries.feed(&node("n1")), entries.feed(&node("n2")));
    assert_eq!((ids(&n1.all()), ids(&n2.all())), (vec!["/one".to_owned()], vec![]));
    assert_eq!((waiting(&mut n1), waiting(&mut n2)), (None, None));
    let second = entries.create(entry("/two", "n1")).await.unwrap();
    assert_eq!(waiting(&mut n1), Some(Delta { changed: vec![second.clone()], removed: vec![] }));
    entries.delete(&first.id).await.unwrap();
    // Changes that come faster than they are asked for come at once, and what came and went is not spoken of.
    let third = entries.create(entry("/three", "n1")).await.unwrap();
    entries.delete(&third.id).await.unwrap();
    assert_eq!(waiting(&mut n1), Some(Delta { changed: vec![], removed: vec![first.id.clone()] }));
    assert_eq!((waiting(&mut n1), waiting(&mut n2)), (None, None), "each change once");
}

#[tokio::test]
async fn an_entry_that_moves_to_another_node_leaves_the_first() {
    let identity = world().start().await;
    let made = identity.entries.create(entry("/one", "n1")).await.unwrap();
    let (mut n1, mut n2) = (identity.entries.feed(&node("n1")), identity.entries.feed(&node("n2")));
    n1.all();
    n2.all();
    let moved = vec![(made.id.to_string(), entry("/one", "n2"))];
    identity.entries.apply(moved, false, false).await.unwrap();
    assert_eq!(waiting(&mut n1).unwrap().removed, std::slice::from_ref(&made.id));
    assert_eq!(ids(&waiting(&mut n2).unwrap().changed), ["/one"]);
}

#[tokio::test]
async fn an_alias_gives_its_entries_to_the_nodes_that_it_names() {
    let world = world();
    let identity = world.start().await;
    let entries = &identity.entries;
    let shared = entries.create(below("/web", "/nodes/web")).await.unwrap();
    attest(&identity, "n1", "x509pop:subject:cn:web").await;
    attest(&identity, "n2", "x509pop:subject:cn:db").await;
    let (mut n1, mut n2) = (entries.feed(&node("n1")), entries.feed(&node("n2")));
    assert_eq!((n1.all(), n2.all()), (vec![], vec![]), "nothing is called that yet");
    let mint = |name: &str| identity.mint_for_entry(&node(name), &shared.id, &plain_csr()).map(|minted| minted.id);
    assert_eq!(mint("n1"), Err(Refusal::NotYourEntry));
    let web = entries.create(alias("/nodes/web", "x509pop:subject:cn:web")).await.unwrap();
    assert_eq!(ids(&waiting(&mut n1).unwrap().changed), ["/web"]);
    assert_eq!(waiting(&mut n2), None);
    assert_eq!((mint("n1"), mint("n2")), (Ok(shared.spiffe_id.clone()), Err(Refusal::NotYourEntry)));
    assert_eq!(mint_alias(&identity, &web), Refusal::NotYourEntry, "no SVID is minted for an alias");
    assert!(entries.may_run(&node("n1"), &shared.spiffe_id) && !entries.may_run(&node("n2"), &shared.spiffe_id));
    // Attested anew as something else, a node loses what it had and gets what it now may have.
    attest(&identity, "n2", "x509pop:subject:cn:web").await;
    let gained = tokio::time::timeout(Duration::from_secs(10), n2.next()).await.unwrap();
    assert_eq!(ids(&gained.changed), ["/web"]);
    attest(&identity, "n1", "x509pop:subject:cn:db").await;
    let lost = tokio::time::timeout(Duration::from_secs(10), n1.next()).await.unwrap();
    assert_eq!(lost.removed, std::slice::from_ref(&shared.id));
    assert_eq!(mint("n1"), Err(Refusal::NotYourEntry));
    entries.delete(&web.id).await.unwrap();
    assert_eq!(waiting(&mut n2).unwrap().removed, std::slice::from_ref(&shared.id));
}

fn mint_alias(identity: &Identity, alias: &Entry) -> Refusal {
    identity.mint_for_entry(&node("n1"), &alias.id, &plain_csr()).unwrap_err()
}

#[tokio::test]
async fn an_evicted_node_is_named_by_no_alias() {
    let identity = world().start().await;
    identity.entries.create(alias("/nodes/web", "x509pop:subject:cn:web")).await.unwrap();
    let shared = identity.entries.create(below("/web", "/nodes/web")).await.unwrap();
    attest(&identity, "n1", "x509pop:subject:cn:web").await;
    let mut n1 = identity.entries.feed(&node("n1"));
    assert_eq!(ids(&n1.all()), ["/web"]);
    identity.nodes.evict(&node("n1")).await.unwrap();
    assert!(!identity.entries.may_run(&node("n1"), &shared.spiffe_id));
    let lost = tokio::time::timeout(Duration::from_secs(10), n1.next()).await.unwrap();
    assert_eq!(lost.removed, std::slice::from_ref(&shared.id));
}

#[tokio::test]
async fn an_expired_entry_goes_by_itself_and_for_good() {
    let world = world();
    let identity = world.start().await;
    let now = unix_secs(world.clock.now());
    let fleeting = New { expires_at: Some(now + 60), ..entry("/fleeting", "n1") };
    let fleeting = identity.entries.create(fleeting).await.unwrap();
    let mut n1 = identity.entries.feed(&node("n1"));
    assert_eq!(ids(&n1.all()), ["/fleeting"]);
    // Nothing that is minted for it outlives it.
    world.clock.advance(Duration::from_secs(40));
    let minted = identity.mint_for_entry(&node("n1"), &fleeting.id, &plain_csr()).unwrap();
    assert_eq!(unix_secs(minted.not_after), now + 60);
    assert_eq!(waiting(&mut n1), None);
    world.clock.advance(Duration::from_secs(20));
    let refused = identity.mint_for_entry(&node("n1"), &fleeting.id, &plain_csr()).unwrap_err();
    assert_eq!(refused, Refusal::UnknownEntry, "from that moment on, whether or not it is deleted yet");
    assert!(!identity.entries.may_run(&node("n1"), &fleeting.spiffe_id));
    identity.entries.create(entry("/other", "n2")).await.unwrap(); // any change wakes what lets entries expire
    let gone = tokio::time::timeout(Duration::from_secs(10), n1.next()).await.unwrap();
    assert_eq!(gone, Delta { changed: vec![], removed: vec![fleeting.id.clone()] });
    let deleted = async {
        while world.store.get(&store::keys::entry(&fleeting.id)).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), deleted).await.unwrap();
    let past = identity.entries.create(New { expires_at: Some(now + 50), ..entry("/late", "n1") }).await.unwrap_err();
    assert!(matches!(past, Refused::Expired));
}

#[tokio::test]
async fn ten_thousand_entries_on_one_node_and_a_change_tells_one() {
    let identity = world().start().await;
    let many = (0..10_000).map(|n| (String::new(), entry(&format!("/w{n}"), "n1"))).collect();
    let done = identity.entries.apply(many, false, false).await.unwrap();
    assert_eq!(done.create.len(), 10_000);
    let mut n1 = identity.entries.feed(&node("n1"));
    assert_eq!(n1.all().len(), 10_000);
    let one = identity.entries.create(entry("/one", "n1")).await.unwrap();
    assert_eq!(waiting(&mut n1), Some(Delta { changed: vec![one], removed: vec![] }));
    let many = (0..10_001).map(|n| (String::new(), entry(&format!("/x{n}"), "n1"))).collect();
    assert!(matches!(identity.entries.apply(many, false, false).await, Err(Refused::TooMany(20_000))));
}
