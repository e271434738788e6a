//! Peers that misbehave, frame by frame (bad input 114 to 129), in paused time.

use bytes::Bytes;
use futures::StreamExt as _;
use symbolon_kit::spiffe::bundle::Bundle as TrustBundle;
use symbolon_proto::federation as wire;
use symbolon_proto::federation::from_publisher::F;
use symbolon_proto::federation::resource::R;
use symbolon_proto::federation::{Reason, from_subscriber};
use symbolon_proto::ids::SpiffeId;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::super::publication::frame;
use super::super::resource::SetDigest;
use super::super::server::NotAPeer;
use super::super::streams::{self, Ended};
use super::super::testing::{a_service, a_shard, endpoint, put};
use super::super::*;
use super::harness::{Ca, SOON, Side, side, until};

struct Script {
    say: mpsc::Sender<Result<wire::FromPublisher, tonic::Status>>,
    hear: mpsc::Receiver<wire::FromSubscriber>,
    ended: JoinHandle<Ended>,
    seq: u64,
    digest: SetDigest,
}

/// b publishes to `a` by script.
fn script(a: &Side) -> Script {
    let (say, frames) = mpsc::channel(64);
    let (to_peer, hear) = mpsc::channel(64);
    let (context, peer) = (a.context(), a.peer());
    let frames = ReceiverStream::new(frames);
    let ended = tokio::spawn(async move { streams::subscribe(&context, &peer, frames, to_peer).await });
    Script { say, hear, ended, seq: 1_000, digest: SetDigest::default() }
}

impl Script {
    async fn say(&self, f: F) {
        self.say.send(Ok(frame(f))).await.expect("the stream is open");
    }

    /// A snapshot of one service with one endpoint.
    async fn begins(&mut self) {
        self.hears_subscribe().await;
        let epoch = Bytes::from_static(b"scripted");
        self.say(F::Hello(wire::Hello { epoch, resumed: false, source_synced: true, head: 1_000 })).await;
        self.say(F::SnapBegin(wire::SnapshotBegin { seq: 1_000 })).await;
        self.puts("service/pay.shop", a_service("pay.shop")).await;
        self.puts("shard/pay.shop/0", a_shard("pay.shop", 0, [1])).await;
        let (seq, set_digest) = (self.seq, self.digest.bytes());
        self.say(F::SnapEnd(wire::SnapshotEnd { seq, count: 2, set_digest, source_synced: true })).await;
    }

    async fn puts(&mut self, key: &str, resource: wire::Resource) {
        self.seq += 1;
        self.digest.toggle(key, self.seq);
        let (seq, op) = (self.seq, Some(wire::change::Op::Put(resource)));
        let change = wire::Change { seq, key: key.into(), revision: seq, op, ..wire::Change::default() };
        self.say(F::Change(change)).await;
    }

    async fn hears(&mut self, what: &str, wanted: impl Fn(&from_subscriber::F) -> bool) -> from_subscriber::F {
        let found = async {
            loop {
                let heard = self.hear.recv().await.expect("the stream is open").f.expect("a frame");
                if wanted(&heard) {
                    return heard;
                }
            }
        };
        tokio::time::timeout(SOON, found).await.unwrap_or_else(|_| panic!("in vain waited for {what}"))
    }

    async fn hears_subscribe(&mut self) -> Option<wire::Cursor> {
        match self.hears("a subscription", |f| matches!(f, from_subscriber::F::Sub(_))).await {
            from_subscriber::F::Sub(sub) => sub.resume,
            _ => None,
        }
    }

    async fn hears_nack(&mut self) -> Reason {
        match self.hears("a nack", |f| matches!(f, from_subscriber::F::Nack(_))).await {
            from_subscriber::F::Nack(nack) => nack.reason(),
            _ => Reason::Unspecified,
        }
    }
}

async fn a() -> (Side, Ca) {
    let (a_ca, b_ca) = (Ca::new("a.example"), Ca::new("b.example"));
    let a = side("a", "b", &a_ca, Arc::default()).await;
    a.trusts(&b_ca, Role::Dialer).await;
    (a, b_ca)
}

#[tokio::test(start_paused = true)]
async fn bad_114_and_115_callers_that_are_no_peer() {
    let (a_ca, b_ca) = (Ca::new("a.example"), Ca::new("b.example"));
    let a = side("a", "b", &a_ca, Arc::default()).await;
    let caller = |id: &str| {
        let id: SpiffeId = id.parse().expect("an ID");
        a.handle.0.caller(Some(&id)).map(|peer| peer.config.name.clone())
    };
    assert_eq!(a.handle.0.caller(None).map(|_| ()), Err(NotAPeer::Anonymous));
    let b = "spiffe://b.example/symbolon/controlplane/0";
    assert!(matches!(caller(b), Err(NotAPeer::NotEstablished(_))), "no trust was exchanged");
    a.trusts(&b_ca, Role::Listener).await;
    assert_eq!(caller(b), Ok("b".parse().expect("a name")));
    for stranger in ["spiffe://c.example/symbolon/controlplane/0", "spiffe://a.example/symbolon/controlplane/0"] {
        assert!(matches!(caller(stranger), Err(NotAPeer::UnknownTrustDomain(_))), "{stranger}");
    }
    for other in ["spiffe://b.example/symbolon/node/n1", "spiffe://b.example/ns/shop/sa/pay", "spiffe://b.example"] {
        assert!(matches!(caller(other), Err(NotAPeer::NotAControlPlane(_))), "{other}");
    }
}

#[tokio::test(start_paused = true)]
async fn bad_116_a_replayed_older_bundle_is_refused() {
    let (a, b_ca) = a().await;
    let mut b = script(&a);
    b.begins().await;
    let offered = |bundle: TrustBundle| {
        let jwks = bundle.to_jwks().into();
        put(R::Bundle(wire::TrustBundle { trust_domain: "b.example".into(), jwks }))
    };
    b.puts("bundle", offered(b_ca.bundle(9))).await;
    let td = b_ca.trust_domain.clone();
    until("the newer bundle", || a.book.of(&td).is_some_and(|bundle| bundle.sequence == 9)).await;
    b.puts("bundle", offered(b_ca.bundle(5))).await;
    assert_eq!(b.hears_nack().await, Reason::BundleSequence);
    b.puts("bundle", offered(Ca::new("b.example").bundle(9))).await;
    assert_eq!(b.hears_nack().await, Reason::BundleSequence, "the same sequence with other content");
    let mut nonsense = offered(b_ca.bundle(10));
    if let Some(R::Bundle(bundle)) = &mut nonsense.r {
        bundle.jwks = Bytes::from_static(br#"{"keys":null,"spiffe_sequence":11}"#);
    }
    b.puts("bundle", nonsense).await;
    assert_eq!(b.hears_nack().await, Reason::BundleContent);
    assert_eq!(a.book.of(&td).map(|bundle| bundle.sequence), Some(9));
    assert_eq!(a.status().refusals.get("bundle_sequence"), Some(&2));
    b.puts("shard/pay.shop/0", a_shard("pay.shop", 0, [1, 2])).await;
    a.imports("pay.shop", 2).await;
}

#[tokio::test(start_paused = true)]
async fn bad_117_a_digest_that_differs_demands_a_snapshot() {
    let (a, _) = a().await;
    let mut b = script(&a);
    b.begins().await;
    a.imports("pay.shop", 1).await;
    let epoch = Bytes::from_static(b"scripted");
    let beat = wire::Beat { epoch, head: b.seq, set_digest: Bytes::from_static(b"x"), ..wire::Beat::default() };
    b.say(F::Beat(beat)).await;
    assert_eq!(b.hears_subscribe().await, None);
    a.imports("pay.shop", 1).await;
}

#[tokio::test(start_paused = true)]
async fn bad_120_to_125_each_refusal_is_told_counted_and_harmless() {
    let (a, _) = a().await;
    let mut b = script(&a);
    b.begins().await;
    a.imports("pay.shop", 1).await;
    let shard = |change: fn(&mut wire::Endpoint)| {
        let mut one = endpoint(2);
        change(&mut one);
        put(R::Shard(wire::EndpointShard { service: "pay.shop".into(), shard: 0, endpoints: vec![one] }))
    };
    let refused = [
        ("shard/pay.shop/0", shard(|e| e.address = "169.254.169.254".into()), Reason::AddressNotGranted),
        ("shard/pay.shop/0", shard(|e| e.identity = "spiffe://a.example/x".into()), Reason::ForeignTrustDomain),
        ("shard/pay.shop/0", shard(|e| e.weight = 0), Reason::Malformed),
        ("service/pay.bank", a_service("pay.bank"), Reason::NameNotGranted),
        ("shard/pay.shop/1", a_shard("pay.shop", 1, 0..101), Reason::TooLarge),
        ("later/x", wire::Resource { r: None }, Reason::UnknownType),
    ];
    for (key, resource, reason) in refused {
        b.puts(key, resource).await;
        assert_eq!(b.hears_nack().await, reason, "{key}");
    }
    let imported = a.imported("pay.shop").expect("still there");
    assert_eq!(imported.endpoints.len(), 1);
    assert_eq!(a.status().refusals.values().sum::<u64>(), 6);
    let counter = a.metrics.counter("symbolon_federation_refused", "");
    assert_eq!(counter.value(&[("peer", "b"), ("reason", "address_not_granted")]), 1);
    b.puts("shard/pay.shop/0", shard(|e| e.port = 0)).await;
    until("ignored", || a.status().refusals.contains_key("ignored_endpoint")).await;
}

#[tokio::test(start_paused = true)]
async fn bad_127_a_subscriber_that_never_reads_is_let_go() {
    let (a, _) = a().await;
    let (ask, asks) = mpsc::channel(8);
    let (to_peer, _never_read) = mpsc::channel(1);
    let (context, peer) = (a.context(), a.peer());
    let asks = ReceiverStream::new(asks).map(Ok);
    let ended = tokio::spawn(async move { streams::publish(&context, &peer, asks, to_peer).await });
    let beating = tokio::spawn(async move {
        let beat = wire::FromSubscriber { f: Some(from_subscriber::F::Beat(wire::Beat::default())) };
        while ask.send(beat.clone()).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("in time").expect("no panic");
    assert_eq!(ended, Ended::NotReading);
    beating.abort();
}

#[tokio::test(start_paused = true)]
async fn bad_128_a_half_open_stream_is_noticed_in_seconds() {
    let (a, _) = a().await;
    let mut b = script(&a);
    b.begins().await;
    a.is(PeerState::Live).await;
    let Script { say, ended, .. } = b;
    let began = a.context().now();
    assert_eq!(ended.await.expect("no panic"), Ended::Silent(Duration::from_secs(3)));
    assert_eq!((a.context().now() - began).as_secs(), 3);
    a.is(PeerState::Suspect).await;
    assert_eq!(a.imported("pay.shop").map(|one| one.endpoints.len()), Some(1));
    drop(say);
}

#[tokio::test(start_paused = true)]
async fn bad_129_the_newest_stream_wins_and_the_older_is_fenced() {
    let (a, _) = a().await;
    let mut old = script(&a);
    old.begins().await;
    a.imports("pay.shop", 1).await;
    let mut new = script(&a);
    let cursor = new.hears_subscribe().await.expect("a cursor");
    assert_eq!(old.ended.await.expect("no panic"), Ended::Fenced);
    let hello = wire::Hello { epoch: cursor.epoch, resumed: true, source_synced: true, head: cursor.seq };
    new.say(F::Hello(hello)).await;
    new.seq = cursor.seq;
    new.puts("shard/pay.shop/0", a_shard("pay.shop", 0, [1, 2, 3])).await;
    a.imports("pay.shop", 3).await;
    // The same towards a subscriber: it is told why.
    let mut pulls = Vec::new();
    for _ in 0..2 {
        let (ask, asks) = mpsc::channel::<wire::FromSubscriber>(8);
        let (to_peer, hear) = mpsc::channel(64);
        let (context, peer) = (a.context(), a.peer());
        let asks = ReceiverStream::new(asks).map(Ok);
        pulls.push((tokio::spawn(async move { streams::publish(&context, &peer, asks, to_peer).await }), hear, ask));
        tokio::task::yield_now().await;
    }
    let (ended, mut hear, _ask) = pulls.remove(0);
    assert_eq!(ended.await.expect("no panic"), Ended::Fenced);
    let mut last = None;
    while let Some(next) = hear.recv().await {
        last = next.f;
    }
    assert!(matches!(last, Some(F::Terminated(_))), "{last:?}");
    assert!(!pulls[0].0.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_restarts_its_epoch_in_the_stream_is_let_go() {
    let (a, _) = a().await;
    let mut b = script(&a);
    b.begins().await;
    a.imports("pay.shop", 1).await;
    let beat = wire::Beat { epoch: Bytes::from_static(b"another"), ..wire::Beat::default() };
    b.say(F::Beat(beat)).await;
    assert_eq!(b.ended.await.expect("no panic"), Ended::Stopped);
    assert!(a.status().last_error.contains("epoch"), "{}", a.status().last_error);
    a.imports("pay.shop", 1).await;
}
