use symbolon_kit::spiffe::svid::new_key;
use symbolon_proto::attest::attest_once;
use symbolon_proto::node as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use wire::minted::Outcome;
use wire::node_report::Report;
use wire::node_update::Update;

use super::Rig;
use super::rig::{Node, id, workload};

fn csr(entry: &str) -> wire::Csr {
    wire::Csr { entry_id: entry.into(), csr: new_key().unwrap().1.into() }
}

/// A standing conversation.
pub(super) struct Talk {
    pub(super) up: mpsc::Sender<wire::NodeReport>,
    down: Streaming<wire::NodeUpdate>,
}

impl Talk {
    pub(super) async fn open(node: &mut Node) -> Self {
        let (up, reports) = mpsc::channel(4);
        let down = node.client.sync(ReceiverStream::new(reports)).await.unwrap().into_inner();
        Self { up, down }
    }

    pub(super) async fn report(&self, revision: u64, workloads: Vec<wire::Workload>) {
        let report = Report::Workloads(wire::Workloads { revision, workloads });
        self.up.send(wire::NodeReport { report: Some(report) }).await.unwrap();
    }

    /// The next update that `pick` wants; others are passed over.
    pub(super) async fn next<T>(&mut self, pick: impl Fn(Update) -> Option<T>) -> T {
        loop {
            let update = self.down.message().await.unwrap().expect("the stream goes on");
            if let Some(picked) = update.update.and_then(&pick) {
                return picked;
            }
        }
    }

    pub(super) async fn ack(&mut self) -> wire::WorkloadsAck {
        self.next(|update| if let Update::WorkloadsAck(ack) = update { Some(ack) } else { None }).await
    }

    async fn entries(&mut self) -> Vec<wire::Entry> {
        self.said().await.entries
    }

    /// The next word on entries.
    pub(super) async fn said(&mut self) -> wire::Entries {
        self.next(|update| if let Update::Entries(entries) = update { Some(entries) } else { None }).await
    }

    async fn bundles(&mut self) -> wire::Bundles {
        self.next(|update| if let Update::Bundles(bundles) = update { Some(bundles) } else { None }).await
    }
}

#[tokio::test]
async fn a_token_attests_one_node_once() {
    let rig = Rig::start().await;
    let token = rig.token("n1").await;
    let mut node = rig.anonymous().await;
    let attest = |token: &str| wire::AttestRequest::join_token(token, new_key().unwrap().1);
    // A CSR that is no good does not spend the token.
    let bad = wire::AttestRequest::join_token(token.as_str(), vec![0x30, 0]);
    assert_eq!(attest_once(&mut node.client, bad).await.unwrap_err().code(), Code::InvalidArgument);
    let attested = attest_once(&mut node.client, attest(&token)).await.unwrap();
    assert_eq!(attested.spiffe_id, "spiffe://a.example/symbolon/node/n1");
    let again = attest_once(&mut node.client, attest(&token)).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);
    assert!(again.message().contains("symbolon token create"), "{again}");
    let wrong = attest("guessed");
    assert_eq!(attest_once(&mut node.client, wrong).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(rig.refused("unknown_token"), 2);
    assert_eq!(rig.refused("bad_csr"), 1);
}

#[tokio::test]
async fn only_attest_is_open_to_a_stranger() {
    let rig = Rig::start().await;
    let mut stranger = rig.anonymous().await;
    let mint = stranger.client.mint(wire::MintRequest::default()).await.unwrap_err();
    let sync = stranger.client.sync(tokio_stream::empty()).await.unwrap_err();
    let load = stranger.client.report_load(tokio_stream::empty()).await.unwrap_err();
    assert_eq!([mint.code(), sync.code(), load.code()], [Code::Unauthenticated; 3]);
    assert_eq!(rig.refused("anonymous"), 3);
}

#[tokio::test]
async fn a_node_mints_for_its_own_entries_only() {
    let rig = Rig::start().await;
    let (own, other) = (rig.entry("n1", "payments").await, rig.entry("n2", "ledger").await);
    let mut node = rig.node("n1").await;
    let asked = wire::MintRequest { csrs: vec![csr(&own), csr(&other), csr("none"), csr("")] };
    let results = node.client.mint(asked).await.unwrap().into_inner().results;
    let told: Vec<_> = results
        .into_iter()
        .map(|result| match result.outcome.unwrap() {
            Outcome::Svid(svid) => svid.spiffe_id,
            Outcome::Refusal(refusal) => refusal.reason,
        })
        .collect();
    let node_id = "spiffe://a.example/symbolon/node/n1".to_owned();
    assert_eq!(told, [id("payments"), "not_your_entry".into(), "unknown_entry".into(), node_id]);
    assert_eq!(rig.refused("not_your_entry"), 1);
}

#[tokio::test]
async fn bad_020_a_batch_of_501_is_refused_whole() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1").await;
    let asked = wire::MintRequest { csrs: vec![wire::Csr::default(); 501] };
    assert_eq!(node.client.mint(asked).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(rig.refused("batch_too_large"), 1);
}

#[tokio::test]
async fn entries_and_bundles_are_pushed_at_once_and_at_each_change() {
    let rig = Rig::start().await;
    rig.entry("n2", "ledger").await;
    let mut node = rig.node("n1").await;
    let mut talk = Talk::open(&mut node).await;
    assert_eq!(talk.entries().await, []);
    rig.entry("n1", "payments").await;
    let entries = talk.entries().await;
    assert_eq!(entries.iter().map(|entry| entry.spiffe_id.as_str()).collect::<Vec<_>>(), [id("payments")]);
    let mut second = Talk::open(&mut node).await;
    let bundles = second.bundles().await;
    assert_eq!(bundles.trust_domain, "a.example");
    assert!(bundles.bundles.contains_key("a.example"));
}

#[tokio::test]
async fn a_registration_is_acknowledged_with_its_refusals_and_stands_once_it_may() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1").await;
    let mut talk = Talk::open(&mut node).await;
    talk.report(1, vec![workload("pay-1", 7001)]).await;
    let ack = talk.ack().await;
    assert_eq!(ack.revision, 1);
    assert_eq!(ack.refusals[0].reason, "identity_not_entitled");
    assert_eq!(rig.refused("identity_not_entitled"), 1);
    // The operator registers it: the report that waits stands now, without the node's saying it again.
    rig.entry("n1", "payments").await;
    let ack = talk.ack().await;
    assert_eq!((ack.revision, ack.refusals.len()), (1, 0));
    let services = rig.admin().list_services(symbolon_proto::admin::ListServicesRequest::default()).await.unwrap();
    assert_eq!(services.into_inner().services[0].endpoints[0].id, "n1/pay-1");
}

#[tokio::test]
async fn a_new_conversation_replaces_the_old_one() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1").await;
    let mut old = Talk::open(&mut node).await;
    let mut new = Talk::open(&mut node).await;
    let ended = loop {
        match old.down.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Aborted);
    new.report(1, vec![]).await;
    assert_eq!(new.ack().await.revision, 1);
}

async fn report(node: &mut Node, batch: wire::LoadBatch) -> Result<wire::LoadAck, Code> {
    let mut acks = node.client.report_load(tokio_stream::iter([batch])).await.unwrap().into_inner();
    acks.message().await.map(Option::unwrap).map_err(|status| status.code())
}

#[tokio::test]
async fn load_is_acknowledged_for_the_nodes_own_proxies_only() {
    let rig = Rig::start().await;
    rig.entry("n1", "checkout").await;
    rig.entry("n2", "ledger").await;
    let mut node = rig.node("n1").await;
    let batch = |proxy: &str| wire::LoadBatch {
        proxy: id(proxy),
        boot: b"boot"[..].into(),
        sequence: 3,
        interval_ms: 1000,
        clusters: vec![wire::ClusterLoad { cluster: "app|checkout".into(), ..wire::ClusterLoad::default() }],
        ..wire::LoadBatch::default()
    };
    let ack = report(&mut node, batch("checkout")).await.unwrap();
    assert_eq!((ack.proxy, ack.sequence, ack.report_every_ms), (id("checkout"), 3, 1000));
    assert_eq!(report(&mut node, batch("ledger")).await, Err(Code::PermissionDenied));
    assert_eq!(rig.refused("not_your_proxy"), 1);
    for malformed in [
        wire::LoadBatch { proxy: "x".into(), ..batch("checkout") },
        wire::LoadBatch { boot: bytes::Bytes::new(), ..batch("checkout") },
        wire::LoadBatch { boot: vec![0; 65].into(), ..batch("checkout") },
        wire::LoadBatch { interval_ms: u64::MAX, ..batch("checkout") },
        wire::LoadBatch { clusters: vec![wire::ClusterLoad::default(); 10_001], ..batch("checkout") },
    ] {
        assert_eq!(report(&mut node, malformed).await, Err(Code::InvalidArgument));
    }
    assert_eq!(rig.refused("malformed"), 5);
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_call_and_nothing_else() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1").await;
    let csrs = vec![wire::Csr { entry_id: String::new(), csr: vec![0; 5 << 20].into() }];
    let refused = node.client.mint(wire::MintRequest { csrs }).await.unwrap_err();
    assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted | Code::Unknown), "{refused}");
    assert_eq!(
        node.client.mint(wire::MintRequest { csrs: vec![csr("")] }).await.unwrap().into_inner().results.len(),
        1
    );
}
