//! Two sides, joined in memory, in paused time.

use std::sync::atomic::Ordering;

use super::super::*;
use super::harness::{Ca, Memory, Side, name, side, side_again, until, wire};
use crate::model::{Health, ProxyAck, ResourceType, Workload};

/// a imports from b.
async fn pair() -> (Side, Side) {
    let (a_ca, b_ca) = (Ca::new("a.example"), Ca::new("b.example"));
    let a = side("a", "b", &a_ca, Arc::default()).await;
    let b = side("b", "a", &b_ca, Arc::default()).await;
    a.trusts(&b_ca, Role::Dialer).await;
    b.trusts(&a_ca, Role::Listener).await;
    (a, b)
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_reaches_the_other_side_and_leaves_it() {
    let (a, b) = pair().await;
    b.serves("pay.shop", [1, 2]);
    let _wire = wire(&b, &a);
    a.imports("pay.shop", 2).await;
    a.is(PeerState::Live).await;
    let imported = a.imported("pay.shop").expect("imported");
    assert_eq!((imported.capacity, imported.identities.len()), (Some(2), 1));
    let began = a.context().now();
    b.serves("pay.shop", [1, 2, 3]);
    a.imports("pay.shop", 3).await;
    assert_eq!(a.context().now(), began, "no time passed: nothing waits for more to come");
    b.serves("pay.shop", []);
    a.imports("pay.shop", 0).await;
    assert_eq!(a.status().refusals, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn two_hundred_comings_and_goings_are_never_held() {
    let (a, b) = pair().await;
    b.serves("ledger.shop", [1]);
    let _wire = wire(&b, &a);
    a.imports("ledger.shop", 1).await;
    for n in 0..100 {
        b.serves("ledger.shop", [1, 100 + n]);
        a.imports("ledger.shop", 2).await;
        b.serves("ledger.shop", [1]);
        a.imports("ledger.shop", 1).await;
    }
    let seen = a.changes.lock().expect("not poisoned").clone();
    let unhealthy = seen.iter().any(|change| match change {
        Change::Import { imported: Some(one), .. } => one.endpoints.iter().any(|e| e.health == Health::Unhealthy),
        _ => false,
    });
    assert!(!unhealthy);
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_resumes_from_the_cursor() {
    let (a, b) = pair().await;
    b.serves("pay.shop", 0..250);
    b.serves("ledger.shop", [900]);
    let first = wire(&b, &a);
    a.imports("pay.shop", 250).await;
    a.imports("ledger.shop", 1).await;
    let (whole, whole_bytes) = (first.changes.load(Ordering::Relaxed), first.bytes.load(Ordering::Relaxed));
    drop(first);
    b.serves("ledger.shop", [900, 901]);
    let second = wire(&b, &a);
    a.imports("ledger.shop", 2).await;
    let (tail, tail_bytes) = (second.changes.load(Ordering::Relaxed), second.bytes.load(Ordering::Relaxed));
    assert_eq!((whole, tail), (9, 2), "bundle, 2 services, 2 capacities, 3 + 1 shards; then a capacity and a shard");
    assert!(tail_bytes < 600 && whole_bytes > 20 * tail_bytes, "{tail_bytes} of {whole_bytes} bytes");
}

#[tokio::test(start_paused = true)]
async fn acks_reach_programmed_when_the_proxies_have_it() {
    let (a, b) = pair().await;
    let workload = Workload {
        name: "checkout".into(),
        identity: "spiffe://a.example/ns/shop/sa/checkout".parse().expect("an ID"),
        service: None,
        address: None,
        inbound: None,
        outbound: None,
        upstreams: vec!["pay.shop.b".parse().expect("a reference")],
        health: Health::Unknown,
        weight: NonZeroU32::MIN,
    };
    a.view.send_modify(|view| {
        Arc::make_mut(view).workloads.insert("n1".parse().expect("a name"), vec![workload].into());
    });
    let ack = |generation| {
        let generations = [ResourceType::Cluster, ResourceType::Endpoint].map(|of| (of, generation));
        let mesh = a.view.borrow().clone();
        let proxies =
            mesh.proxies().into_keys().map(|key| (key, ProxyAck { generations: generations.into_iter().collect() }));
        AckTable(proxies.collect())
    };
    a.acks.send_replace(Arc::new(ack(0)));
    b.serves("pay.shop", [1]);
    let _wire = wire(&b, &a);
    a.imports("pay.shop", 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = b.status();
    assert!(status.programmed_seq < status.head_seq, "no proxy has it yet");
    a.acks.send_replace(Arc::new(ack(a.view.borrow().generation)));
    until("programmed", || b.status().programmed_seq == b.status().head_seq).await;
    assert_eq!(b.status().proxies, (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_ages_and_withdraws_nothing() {
    let (a, b) = pair().await;
    b.serves("pay.shop", [1, 2]);
    let link = wire(&b, &a);
    a.imports("pay.shop", 2).await;
    a.is(PeerState::Live).await;
    let before = a.imported("pay.shop");
    drop(link);
    let died = a.context().now();
    for (state, least, most) in [(PeerState::Suspect, 2, 4), (PeerState::Stale, 29, 31), (PeerState::Expired, 899, 901)]
    {
        a.is(state).await;
        let silent = (a.context().now() - died).as_secs();
        assert!((least..=most).contains(&silent), "{state:?} after {silent} s");
        assert_eq!(a.imported("pay.shop"), before, "{state:?}");
    }
    let _again = wire(&b, &a);
    a.is(PeerState::Live).await;
    assert_eq!(a.imported("pay.shop"), before);
}

#[tokio::test(start_paused = true)]
async fn a_restart_while_the_peer_is_down_keeps_the_imports() {
    let (a, b) = pair().await;
    b.serves("pay.shop", [1, 2]);
    let link = wire(&b, &a);
    a.imports("pay.shop", 2).await;
    until("stored", || a.store.commits.load(Ordering::Relaxed) >= 2).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(link);
    a.drain.start();
    let store: Arc<Memory> = a.store.clone();
    let held = a.book.of(&"b.example".parse().expect("a name")).expect("it is held");
    let again = side_again("a", "b", &Ca::new("a.example"), store, Vec::new(), &[(*held).clone()]).await;
    assert_eq!(again.status().state, PeerState::Connecting);
    assert_eq!(again.imported("pay.shop"), a.imported("pay.shop"));
    assert_eq!(again.status().imported_endpoints, 2);
    let resumed = wire(&b, &again);
    again.is(PeerState::Live).await;
    b.serves("pay.shop", [1, 2, 3]);
    again.imports("pay.shop", 3).await;
    assert_eq!(resumed.changes.load(Ordering::Relaxed), 2, "its cursor was stored with the imports");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_not_loaded_publishes_nothing() {
    let (a, b) = pair().await;
    b.serves("pay.shop", [1, 2, 3, 4]);
    let link = wire(&b, &a);
    a.imports("pay.shop", 4).await;
    drop(link);
    b.drain.start();
    // The other side starts again, and has loaded one of four endpoints when we connect.
    let (a_ca, b_ca) = (Ca::new("a.example"), Ca::new("b.example"));
    let reborn = side_unsynced("b", "a", &b_ca).await;
    reborn.trusts(&a_ca, Role::Listener).await;
    reborn.serves("pay.shop", [1]);
    let link = wire(&reborn, &a);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(link.changes.load(Ordering::Relaxed), 0);
    a.imports("pay.shop", 4).await;
    a.is(PeerState::Live).await;
    reborn.serves("pay.shop", [1, 2, 3, 4, 5]);
    reborn.synced.send_replace(true);
    a.imports("pay.shop", 5).await;
}

async fn side_unsynced(own: &str, peer: &str, ca: &Ca) -> Side {
    let side = side(own, peer, ca, Arc::default()).await;
    // The export task has not run yet: this future has not yielded since it was spawned.
    side.synced.send_replace(false);
    side
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_goodbye_and_withdraws_nothing() {
    let (a, b) = pair().await;
    b.serves("pay.shop", [1]);
    let _wire = wire(&b, &a);
    a.imports("pay.shop", 1).await;
    let before = a.imported("pay.shop");
    b.drain.start();
    a.is(PeerState::Suspect).await;
    assert_eq!(a.imported("pay.shop"), before);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_is_not_acknowledged() {
    let (a, b) = pair().await;
    b.serves("pay.shop", [1]);
    let link = wire(&b, &a);
    a.imports("pay.shop", 1).await;
    until("programmed", || b.status().programmed_seq == b.status().head_seq).await;
    a.store.broken.store(true, Ordering::Relaxed);
    let before = b.status().programmed_seq;
    b.serves("pay.shop", [1, 2]);
    until("the stream ended", || a.status().last_error.contains("disk is full")).await;
    assert_eq!(b.status().programmed_seq, before);
    a.store.broken.store(false, Ordering::Relaxed);
    drop(link);
    let _again = wire(&b, &a);
    a.imports("pay.shop", 2).await;
    until("programmed", || b.status().programmed_seq == b.status().head_seq).await;
    assert_eq!(a.handle.peer(&name("b")).map(|status| status.imported_endpoints), Some(2));
}

/// F-18: what the peer said goes with the trust in it, from the mesh, the store and the next start.
#[tokio::test(start_paused = true)]
async fn f_18_ending_trust_withdraws_what_the_peer_said() {
    let (a, b) = pair().await;
    b.serves("pay.shop", [1, 2]);
    let _link = wire(&b, &a);
    a.imports("pay.shop", 2).await;
    until("stored", || a.store.commits.load(Ordering::Relaxed) >= 2).await;
    let began = a.context().now();
    a.handle.end(&"b.example".parse().expect("a name")).await;
    a.is(PeerState::Pending).await;
    until("withdrawn", || a.imported("pay.shop").is_none()).await;
    assert!(a.context().now() - began < Duration::from_secs(1));
    assert_eq!((a.status().imported_services, a.status().role), (0, None));
    // A frame that was on its way changes nothing, nor does a stream that was let in just before.
    b.serves("pay.shop", [1, 2, 3]);
    let _late = wire(&b, &a);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(a.imported("pay.shop"), None);
    let held = a.book.of(&"b.example".parse().expect("a name")).expect("this book knows no end");
    let again = side_again("a", "b", &Ca::new("a.example"), a.store.clone(), Vec::new(), &[(*held).clone()]).await;
    assert_eq!((again.status().state, again.imported("pay.shop")), (PeerState::Pending, None));
}

/// An established peer whose bundle is gone cannot be verified: its imports do not come back.
#[tokio::test(start_paused = true)]
async fn a_peer_without_a_bundle_is_no_ally_at_the_next_start() {
    let (a, b) = pair().await;
    b.serves("pay.shop", [1, 2]);
    let _link = wire(&b, &a);
    a.imports("pay.shop", 2).await;
    until("stored", || a.store.commits.load(Ordering::Relaxed) >= 2).await;
    a.drain.start();
    let again = side("a", "b", &Ca::new("a.example"), a.store.clone()).await;
    assert_eq!((again.status().state, again.status().role), (PeerState::Pending, None));
    assert_eq!(again.imported("pay.shop"), None);
}
