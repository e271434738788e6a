use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use proptest::prelude::*;

use super::*;
use crate::model::{
    ArmCount, ClusterLoad, Endpoint, FederatedDefinition, Health, ImportedService, LoadSample, PeerState, ProxyAck,
    ProxyKey, ResourceType, Weight, Workload,
};
use crate::rollout::decide::Command;
use crate::rollout::plan::Step;
use crate::state;
use crate::store::{Committed, Event, Key, LeaseId, Prefix, Store, Stored, Txn};

/// As the demo has it, but for the tick: these tests are driven by reports alone.
fn policy() -> Policy {
    let step = |weight, seconds| Step { weight, min_duration: Duration::from_secs(seconds), min_requests: 0 };
    Policy {
        steps: vec![step(5, 12), step(25, 9), step(100, 9)],
        interval: Duration::from_hours(1),
        initial_delay: Duration::ZERO,
        report_every: Duration::from_secs(1),
        backoff: Duration::from_secs(5),
        ..Policy::default()
    }
}

fn service() -> ServiceName {
    "payments.shop".parse().unwrap()
}

fn peer(name: &str) -> PeerName {
    name.parse().unwrap()
}

fn caller() -> ProxyKey {
    ProxyKey { node: "c1".parse().unwrap(), identity: "spiffe://a.example/ns/shop/sa/checkout".parse().unwrap() }
}

fn workload(name: &str, port: Option<u16>, upstreams: &[&str]) -> Workload {
    Workload {
        name: name.into(),
        identity: format!("spiffe://a.example/ns/shop/sa/{name}").parse().unwrap(),
        service: port.map(|_| service()),
        address: port.map(|port| ([127, 0, 0, 1], port).into()),
        inbound: port.map(|port| ([127, 0, 0, 1], port + 1).into()),
        outbound: None,
        upstreams: upstreams.iter().map(|upstream| upstream.parse().unwrap()).collect(),
        health: Health::Healthy,
        weight: NonZeroU32::MIN,
    }
}

fn imported(peer_name: &str, endpoints: u16) -> Change {
    let endpoints = (0..endpoints).map(|i| Endpoint {
        id: format!("n{i}/payments").into(),
        address: ([127, 0, 2, 1], 9000 + i).into(),
        identity: format!("spiffe://{peer_name}.example/ns/shop/sa/payments").parse().unwrap(),
        health: Health::Healthy,
        weight: NonZeroU32::MIN,
    });
    let imported = ImportedService { endpoints: endpoints.collect(), ..ImportedService::default() };
    Change::Import { peer: peer(peer_name), service: service(), imported: Some(imported) }
}

fn live(peer_name: &str, state: PeerState) -> Change {
    Change::Peer { peer: peer(peer_name), trust_domain: format!("{peer_name}.example").parse().unwrap(), state }
}

/// A caller, two local endpoints, and each peer LIVE with two endpoints.
fn mesh(peers: &[&str]) -> MeshView {
    let mut view = MeshView::empty("a.example".parse().unwrap());
    let federated = vec![FederatedDefinition { name: service(), peers: peers.iter().map(|p| peer(p)).collect() }];
    let node = |node: &str, workloads| Change::Workloads { node: node.parse().unwrap(), workloads };
    let mut changes = vec![
        Change::Definitions { services: vec![], federated },
        node("c1", vec![workload("checkout", None, &["payments.shop"])]),
        node("p1", vec![workload("payments", Some(8000), &[])]),
        node("p2", vec![workload("payments", Some(8010), &[])]),
    ];
    for name in peers {
        changes.extend([live(name, PeerState::Live), imported(name, 2)]);
    }
    for change in changes {
        state::apply(&mut view, change);
    }
    view
}

/// A control plane's state and rollouts, and the proxies and sidecars around them.
struct Plane {
    peers: Vec<&'static str>,
    store: SharedStore,
    clock: Clock,
    acks: watch::Sender<Arc<AckTable>>,
    state: state::Handle,
    handle: Handle,
    tasks: Tasks,
    drain: Drain,
    sequence: u64,
}

impl Plane {
    async fn start(store: SharedStore, clock: Clock, peers: &[&'static str]) -> Self {
        let (drain, acks) = (Drain::new(), watch::Sender::new(Arc::new(AckTable::default())));
        let tasks = Tasks::new(drain.clone());
        let (state, unstarted) = state::new(mesh(peers));
        let parts = Parts {
            policy: policy(),
            store: store.clone(),
            clock: clock.clone(),
            view: state.view.clone(),
            acks: acks.subscribe(),
            changes: state.changes.clone(),
            metrics: Metrics::new(),
        };
        let (handle, restored) = Engine::start(parts, &tasks, drain.clone()).await.unwrap();
        unstarted.fold(restored);
        unstarted.spawn(&tasks, drain.clone());
        let mut plane = Self { peers: peers.to_vec(), store, clock, acks, state, handle, tasks, drain, sequence: 0 };
        // Answered after the engine's first look: what is shown before that is only what was stored.
        let nobody = plane.handle.command("nobody.here".parse().unwrap(), peer("b"), Command::Resume).await;
        assert_eq!(nobody.unwrap_err().label(), "unknown");
        plane.settle().await;
        plane
    }

    /// Ends this one and starts another over the same store.
    async fn restart(self) -> Self {
        let Self { peers, store, clock, tasks, drain, sequence, .. } = self;
        drain.start();
        assert!(tasks.join(Duration::from_secs(10)).await);
        let mut next = Self::start(store, clock, &peers).await;
        next.sequence = sequence;
        next
    }

    fn status(&self, name: &str) -> Arc<Status> {
        self.handle.watch().borrow()[&(service(), peer(name))].clone()
    }

    /// Until the mesh has the weights that are wanted and the engine knows that every proxy has them.
    async fn settle(&mut self) {
        let mut view = self.state.view.clone();
        let mut statuses = self.handle.watch();
        loop {
            let mesh = view.borrow_and_update().clone();
            let generations = [(ResourceType::Route, mesh.generation), (ResourceType::Endpoint, mesh.generation)];
            let ack = ProxyAck { generations: generations.into_iter().collect() };
            self.acks.send_replace(Arc::new(AckTable([(caller(), ack)].into())));
            let all = statuses.borrow_and_update().clone();
            let known = all.len() == self.peers.len();
            let told = all.values().all(|status| mesh.splits[&service()].0.of(&status.peer) == status.weight);
            let acked = all.values().all(|status| status.weights_acked_at_ms.is_some() && status.acked_proxies == 1);
            let resting = all.values().all(|status| !["Detected", "Preflight", "RollingBack"].contains(&status.phase));
            if known && told && acked && resting {
                return;
            }
            let changed = async {
                tokio::select! {
                    changed = view.changed() => changed.unwrap(),
                    changed = statuses.changed() => changed.unwrap(),
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(10), changed).await;
            waited.unwrap_or_else(|_| panic!("does not settle: {all:#?}"));
        }
    }

    /// The report of the next second, 1,000 requests split by the weights, with these percentages of errors.
    fn sample(&mut self, remote_errors: u64, local_errors: u64) -> LoadSample {
        self.sequence += 1;
        self.clock.advance(Duration::from_secs(1));
        let arm = |n: u64, percent: u64| {
            let count =
                ArmCount { success: n - n * percent / 100, error: n * percent / 100, issued: n, in_progress: 0 };
            [(0, count)].into()
        };
        let mut local = 1000;
        let mut clusters: Vec<_> = self
            .peers
            .iter()
            .map(|name| {
                let n = u64::from(self.status(name).weight.value()) / 10;
                local -= n;
                ClusterLoad { cluster: service().of(&peer(name)), by_priority: arm(n, remote_errors), dropped: 0 }
            })
            .collect();
        clusters.push(ClusterLoad { cluster: service().local(), by_priority: arm(local, local_errors), dropped: 0 });
        LoadSample {
            proxy: caller(),
            boot: b"boot".as_slice().into(),
            sequence: self.sequence,
            received: self.clock.now(),
            interval: Duration::from_secs(1),
            gap: false,
            clusters,
        }
    }

    async fn report(&mut self, remote_errors: u64, local_errors: u64) -> LoadSample {
        let sample = self.sample(remote_errors, local_errors);
        assert_eq!(self.handle.load(sample.clone()).await.unwrap(), Outcome::Counted);
        self.settle().await;
        sample
    }

    async fn change(&mut self, change: Change) {
        self.state.changes.send(change).await.unwrap();
    }

    async fn until(&self, what: impl Fn(&Status) -> bool) -> Arc<Status> {
        let mut statuses = self.handle.watch();
        let seen =
            tokio::time::timeout(Duration::from_secs(10), statuses.wait_for(|all| all.values().any(|s| what(s))));
        let all = seen.await.expect("in time").expect("the engine runs").clone();
        all.values().find(|status| what(status)).unwrap().clone()
    }
}

fn start_of_time() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn open() -> (tempfile::TempDir, SharedStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = store::redb::open(&folder.path().join("state.redb")).unwrap();
    (folder, store)
}

async fn plane(peers: &[&'static str]) -> (tempfile::TempDir, Plane) {
    let (folder, store) = open();
    (folder, Plane::start(store, Clock::manual(start_of_time()), peers).await)
}

fn decisions(status: &Status) -> Vec<(u64, u64, String, u16, String)> {
    let item = |i: &super::super::HistoryItem| (i.decision, i.at_ms, i.to.clone(), i.weight.value(), i.reason.clone());
    status.history.iter().map(item).collect()
}

#[tokio::test]
async fn a_service_that_scales_out_at_a_peer_is_ramped_by_reports_alone() {
    let (_folder, mut plane) = plane(&["b"]).await;
    let mut weights = vec![];
    for _ in 0..40 {
        let status = plane.status("b");
        if weights.last() != Some(&status.weights()) {
            weights.push(status.weights());
        }
        plane.report(0, 0).await;
    }
    assert_eq!(weights, [[9_750, 250], [8_750, 1_250], [5_000, 5_000]]);
    let status = plane.status("b");
    assert_eq!((status.phase, status.generation, status.decisions), ("Converged", 1, 6));
    assert_eq!(status.observed_share, 5_000);
    assert_eq!(status.weights_acked_at_ms.map(|at| at > 0), Some(true));
}

#[tokio::test]
async fn thirty_percent_errors_are_one_report_then_weight_zero_then_a_probe() {
    let (_folder, mut plane) = plane(&["b"]).await;
    while plane.status("b").phase != "Converged" {
        plane.report(0, 0).await;
    }
    plane.report(30, 0).await;
    let status = plane.status("b");
    assert_eq!((status.phase, status.weight, status.failures), ("RolledBack", Weight::ZERO, 1));
    assert!(status.evidence.relative >= status.evidence.threshold, "{:?}", status.evidence);
    assert_eq!(plane.state.view.borrow().splits[&service()].0.local(), Weight::ALL);
    for _ in 0..5 {
        plane.report(0, 0).await;
    }
    let status = plane.status("b");
    assert_eq!((status.phase, status.weight.value(), status.generation), ("Ramping", 250, 2));
}

#[tokio::test]
async fn both_arms_failing_alike_is_no_rollback() {
    let (_folder, mut plane) = plane(&["b"]).await;
    for _ in 0..30 {
        plane.report(30, 30).await;
    }
    let status = plane.status("b");
    assert_eq!((status.failures, status.weight.value()), (0, 250));
}

#[tokio::test]
async fn a_sample_is_counted_once_across_restarts() {
    let (_folder, mut plane) = plane(&["b"]).await;
    for _ in 0..3 {
        plane.report(0, 0).await;
    }
    let before = plane.report(0, 0).await;
    let counted = |plane: &Plane| (plane.status("b").evidence.canary, plane.status("b").evidence_ms);
    let then = counted(&plane);
    assert_eq!(plane.handle.load(before.clone()).await.unwrap(), Outcome::Duplicate);
    let mut plane = plane.restart().await;
    assert_eq!(plane.handle.load(before.clone()).await.unwrap(), Outcome::Duplicate);
    assert_eq!(counted(&plane), then);
    // The same number of another run of the sidecar is another sample; an old run's leftovers are not counted again.
    let other = LoadSample { boot: b"boot 2".as_slice().into(), ..before.clone() };
    assert_eq!(plane.handle.load(other).await.unwrap(), Outcome::Counted);
    assert_eq!(plane.handle.load(before).await.unwrap(), Outcome::Duplicate);
    let stranger = LoadSample { proxy: ProxyKey { node: "p1".parse().unwrap(), ..caller() }, ..plane.sample(100, 0) };
    assert_eq!(plane.handle.load(stranger).await.unwrap(), Outcome::NotACaller);
}

#[tokio::test]
async fn many_samples_at_once_are_each_counted() {
    let (_folder, mut plane) = plane(&["b"]).await;
    let samples: Vec<_> = (0..100).map(|_| plane.sample(0, 0)).collect();
    let before = plane.status("b").evidence.baseline.completions;
    let loads = samples.iter().map(|sample| plane.handle.load(sample.clone()));
    let outcomes = futures::future::join_all(loads).await;
    assert!(outcomes.into_iter().all(|outcome| outcome.unwrap() == Outcome::Counted));
    let status = plane.until(|status| status.evidence.baseline.completions > before).await;
    assert!(status.step >= 1, "{status:?}");
}

#[tokio::test]
async fn a_partition_mid_step_freezes_and_a_restart_does_not_thaw() {
    let (_folder, mut plane) = plane(&["b"]).await;
    for _ in 0..15 {
        plane.report(0, 0).await;
    }
    plane.change(live("b", PeerState::Suspect)).await;
    plane.until(|status| status.phase == "Frozen").await;
    for _ in 0..20 {
        plane.report(0, 0).await;
    }
    assert_eq!((plane.status("b").phase, plane.status("b").weight.value()), ("Frozen", 1_250));
    plane.change(live("b", PeerState::Live)).await;
    plane.until(|status| status.phase == "Ramping").await;
    while plane.status("b").phase != "Converged" {
        plane.report(0, 0).await;
    }
    assert_eq!(plane.status("b").failures, 0);
}

#[tokio::test]
async fn a_proxy_that_lost_its_stream_keeps_the_old_share_and_is_no_proof_of_silence() {
    let (_folder, mut plane) = plane(&["b"]).await;
    while plane.status("b").step != 1 {
        plane.report(0, 0).await;
    }
    // Not connected, so nothing is known of its weights; it reports the share that it has: none.
    plane.acks.send_replace(Arc::new(AckTable::default()));
    plane.until(|status| status.total_proxies == 0).await;
    let evidence = plane.status("b").evidence_ms;
    for _ in 0..10 {
        let mut sample = plane.sample(0, 0);
        sample.clusters.retain(|load| load.cluster.peer.is_none());
        plane.handle.load(sample).await.unwrap();
    }
    let status = plane.status("b");
    assert_eq!((status.phase, status.failures, status.evidence_ms), ("Ramping", 0, evidence), "{}", status.message);
}

#[tokio::test]
async fn a_silent_arm_trips_by_reports_that_began_with_the_weights() {
    let (_folder, mut plane) = plane(&["b"]).await;
    while plane.status("b").step != 1 {
        plane.report(0, 0).await;
    }
    for trips in [false, true] {
        let mut sample = plane.sample(0, 0);
        sample.clusters.retain(|load| load.cluster.peer.is_none());
        plane.handle.load(sample).await.unwrap();
        assert_eq!(plane.status("b").failures, u32::from(trips), "{}", plane.status("b").message);
    }
}

#[tokio::test]
async fn commands_are_durable_and_refusals_say_why() {
    let (_folder, plane) = plane(&["b"]).await;
    let give = |handle: Handle, command| async move { handle.command(service(), peer("b"), command).await };
    let status = give(plane.handle.clone(), Command::Pause { reason: "lunch".into() }).await.unwrap();
    assert_eq!((status.phase, status.message.as_str()), ("Paused", "paused by an operator: lunch"));
    let plane = plane.restart().await;
    assert_eq!(plane.status("b").phase, "Paused");
    let refused = give(plane.handle.clone(), Command::Pause { reason: String::new() }).await.unwrap_err();
    assert_eq!((refused.label(), refused.to_string().as_str()), ("already_paused", "not taken: it is paused already"));
    let unknown = plane.handle.command(service(), peer("x"), Command::Resume).await.unwrap_err();
    assert_eq!(unknown.label(), "unknown");
    let status = give(plane.handle.clone(), Command::Abort { reason: String::new() }).await.unwrap();
    assert_eq!(status.weight, Weight::ZERO);
    plane
        .until(|status| status.phase == "Paused" && status.weights_acked_at_ms.is_some() || status.acked_proxies == 0)
        .await;
}

#[tokio::test]
async fn two_peers_share_and_never_exceed_the_whole() {
    let (_folder, mut plane) = plane(&["c", "b"]).await;
    while ["b", "c"].iter().any(|name| plane.status(name).phase != "Converged") {
        plane.report(0, 0).await;
        let split = plane.state.view.borrow().splits[&service()].0.clone();
        let sum =
            split.remote().iter().map(|(_, w)| u32::from(w.value())).sum::<u32>() + u32::from(split.local().value());
        assert_eq!(sum, 10_000);
    }
    let split = plane.state.view.borrow().splits[&service()].0.clone();
    assert_eq!(split.remote(), [(peer("c"), Weight::new(3_333).unwrap()), (peer("b"), Weight::new(3_333).unwrap())]);
    plane.change(imported("c", 0)).await;
    plane.until(|status| status.peer == peer("c") && status.weight == Weight::ZERO).await;
    plane.settle().await;
    // What c gave up is not b's until b has ramped it.
    assert_eq!(plane.status("b").step, 0);
    assert!(plane.status("b").weight.value() < 3_700);
}

#[tokio::test]
async fn a_pair_that_is_federated_no_more_is_forgotten() {
    let (_folder, mut plane) = plane(&["b"]).await;
    plane.report(0, 0).await;
    plane.change(Change::Definitions { services: vec![], federated: vec![] }).await;
    let mut statuses = plane.handle.watch();
    statuses.wait_for(|all| all.is_empty()).await.unwrap();
    let (stored, _) = plane.store.range(keys::rollouts()).await.unwrap();
    assert_eq!(stored, []);
}

/// A store whose disk is full when told so.
#[derive(Debug)]
struct Full(SharedStore, AtomicBool);

impl Store for Full {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Stored>, store::Error>> {
        self.0.get(key)
    }
    fn range(&self, prefix: Prefix) -> BoxFuture<'_, Result<(Vec<Stored>, u64), store::Error>> {
        self.0.range(prefix)
    }
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, store::Error>> {
        if self.1.load(Ordering::Relaxed) {
            return Box::pin(async { Err(store::Error::Io { doing: "commit", why: "the disk is full".into() }) });
        }
        self.0.commit(txn)
    }
    fn watch(&self, prefix: Prefix, revision: u64) -> BoxStream<'static, Result<Event, store::Error>> {
        self.0.watch(prefix, revision)
    }
    fn grant_lease(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, store::Error>> {
        self.0.grant_lease(ttl)
    }
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), store::Error>> {
        self.0.keep_alive(lease)
    }
}

#[tokio::test]
async fn what_cannot_be_kept_has_not_happened() {
    let (_folder, inner) = open();
    let full = Arc::new(Full(inner, AtomicBool::new(false)));
    let mut plane = Plane::start(full.clone(), Clock::manual(start_of_time()), &["b"]).await;
    for _ in 0..12 {
        plane.report(0, 0).await; // the first has no predecessor: when it began is not known
    }
    let before = plane.status("b");
    full.1.store(true, Ordering::Relaxed);
    let sample = plane.sample(0, 0);
    let refused = plane.handle.load(sample.clone()).await.unwrap_err();
    assert_eq!(refused.label(), "store");
    assert_eq!(*plane.status("b"), *before, "the step was not taken");
    full.1.store(false, Ordering::Relaxed);
    assert_eq!(plane.handle.load(sample).await.unwrap(), Outcome::Counted);
    plane.settle().await;
    assert_eq!(plane.status("b").weight.value(), 1_250);
}

#[tokio::test]
async fn another_replicas_decision_is_read_and_not_overwritten() {
    let (_folder, mut plane) = plane(&["b"]).await;
    plane.report(0, 0).await;
    let key = keys::rollout(&service(), &peer("b"));
    let stored = plane.store.get(&key).await.unwrap().unwrap();
    let mut theirs: State = codec::decode(KIND, &stored.value).unwrap();
    theirs.decisions = 77;
    let put = Txn::new().put(key.clone(), codec::encode(KIND, VERSION, &theirs).unwrap());
    plane.store.commit(put).await.unwrap();
    let sample = plane.sample(0, 0);
    assert_eq!(plane.handle.load(sample.clone()).await.unwrap_err().label(), "conflict");
    assert_eq!(plane.handle.load(sample).await.unwrap(), Outcome::Counted);
    assert_eq!(plane.status("b").decisions, 77);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// Killed and restarted between any two reports, the control plane takes exactly the steps it would have taken, at the same
    /// times and for the same reasons; a fault that begins meanwhile is caught by the first report.
    #[test]
    fn restarts_change_nothing(kills in prop::collection::vec(prop::bool::weighted(0.2), 45), fault_at in 5_usize..44) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let run = |kills: Vec<bool>| runtime.block_on(async move {
            let (_folder, mut plane) = plane(&["b"]).await;
            for (at, kill) in kills.into_iter().enumerate() {
                if kill {
                    plane = plane.restart().await;
                }
                plane.report(if at == fault_at { 60 } else { 0 }, 0).await;
            }
            let status = plane.status("b");
            (decisions(&status), status.evidence, status.evidence_ms, status.weight, status.failures)
        });
        let steady = run(vec![false; kills.len()]);
        prop_assert_eq!(steady.4, 1);
        prop_assert_eq!(run(kills), steady);
    }
}
