//! A control plane that is scripted but for the wire: real TLS, real gRPC.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use symbolon_kit::clock::Clock;
use symbolon_kit::net::{Limits, PeerIdentity};
use symbolon_kit::spiffe::verify::BundleTable;
use symbolon_proto::node::node_report::Report;
use symbolon_proto::node::node_server::{Node, NodeServer};
use symbolon_proto::node::node_update::Update;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tonic::service::Routes;
use tonic::{Request, Response, Streaming};

mod attest;

use super::*;
use crate::testing::{Ca, HOUR, eventually, now, soon, until};

const NODE: &str = "spiffe://a.example/symbolon/node/n1";
const WEB: &str = "spiffe://a.example/ns/shop/sa/web";

/// What the control plane knows and has heard.
pub(crate) struct Script {
    pub(crate) ca: Ca,
    pub(crate) tokens: Mutex<BTreeSet<String>>,
    /// SPIFFE ID by entry id.
    pub(crate) grants: Mutex<BTreeMap<String, String>>,
    pub(crate) ttl: Mutex<Duration>,
    /// Said to every stream at its beginning, then at each change.
    pub(crate) says: watch::Sender<Vec<wire::NodeUpdate>>,
    /// Said to the streams that are open.
    pub(crate) once: broadcast::Sender<wire::NodeUpdate>,
    /// Streams opened so far.
    pub(crate) streams: watch::Sender<u32>,
    pub(crate) heard: mpsc::UnboundedSender<Report>,
    pub(crate) attempts: Mutex<u32>,
    /// The key that each token was spent for.
    pub(crate) spent: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Answers to attestations that get lost on their way.
    pub(crate) lost: Mutex<u32>,
    /// Why this node is refused whatever it asks.
    pub(crate) refuses: watch::Sender<Option<&'static str>>,
    /// Since when the control plane's own SVID is valid.
    pub(crate) since: Mutex<std::time::SystemTime>,
    pub(crate) renewals: watch::Sender<u32>,
}

pub(crate) struct ControlPlane {
    pub(crate) script: Arc<Script>,
    pub(crate) address: SocketAddr,
    pub(crate) heard: mpsc::UnboundedReceiver<Report>,
    drain: Drain,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let (says, _) = watch::channel(Vec::new());
        let (heard_tx, heard) = mpsc::unbounded_channel();
        let script = Arc::new(Script {
            ca: Ca::new("a.example"),
            tokens: Mutex::new(BTreeSet::from(["good".to_owned()])),
            grants: Mutex::new(BTreeMap::from([("web".to_owned(), WEB.to_owned())])),
            ttl: Mutex::new(HOUR),
            says,
            once: broadcast::channel(64).0,
            streams: watch::channel(0).0,
            heard: heard_tx,
            attempts: Mutex::new(0),
            spent: Mutex::default(),
            lost: Mutex::new(0),
            refuses: watch::channel(None).0,
            since: Mutex::new(now() - HOUR),
            renewals: watch::channel(0).0,
        });
        let bundle = script.ca.bundle();
        let control_plane = Self { script, address: ([127, 0, 0, 1], 0).into(), heard, drain: Drain::new() };
        control_plane.says_bundles([&bundle]);
        control_plane.says_entries(&[("web", WEB, &crate::testing::my_uid())]);
        control_plane.listen().await
    }

    async fn listen(mut self) -> Self {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        self.drain = Drain::new();
        let identity = Identity::new(Clock::system());
        let own =
            self.script.ca.svid_from("spiffe://a.example/symbolon/controlplane/0", *lock(&self.script.since), 3 * HOUR);
        identity.set_svid(&own);
        identity.set_bundles(&BundleTable::from([(
            self.script.ca.trust_domain.clone(),
            Arc::new(self.script.ca.bundle()),
        )]));
        let routes = Routes::new(NodeServer::new(Served(self.script.clone(), self.drain.clone())));
        let refused = Metrics::new().counter("refused", "test");
        let serving = net::serve(listener, identity, routes, Limits::default(), refused, self.drain.clone());
        tokio::spawn(serving);
        self
    }

    pub(crate) fn says_bundles<'a>(&self, bundles: impl IntoIterator<Item = &'a Bundle>) {
        let bundles =
            bundles.into_iter().map(|bundle| (bundle.trust_domain.to_string(), bundle.to_jwks().into())).collect();
        self.says(Update::Bundles(wire::Bundles {
            trust_domain: "a.example".into(),
            bundles,
            ..wire::Bundles::default()
        }));
    }

    pub(crate) fn says_entries(&self, entries: &[(&str, &str, &str)]) {
        let entries = entries.iter().map(|(id, spiffe_id, selector)| wire::Entry {
            entry_id: (*id).into(),
            spiffe_id: (*spiffe_id).into(),
            selectors: vec![(*selector).into()],
            ..Default::default()
        });
        self.says(Update::Entries(wire::Entries {
            entries: entries.collect(),
            full: true,
            ..wire::Entries::default()
        }));
    }

    pub(crate) fn says(&self, update: Update) {
        self.script.says.send_modify(|says| {
            says.retain(|said| {
                said.update.as_ref().is_none_or(|said| std::mem::discriminant(said) != std::mem::discriminant(&update))
            });
            says.push(wire::NodeUpdate { update: Some(update) });
        });
    }

    /// Says a change of entries, once, to whoever listens, after what is said to every stream.
    pub(crate) fn says_change(&self, entries: &[(&str, &str, &str)], removed: &[&str]) {
        let entries = entries.iter().map(|(id, spiffe_id, selector)| wire::Entry {
            entry_id: (*id).into(),
            spiffe_id: (*spiffe_id).into(),
            selectors: vec![(*selector).into()],
            ..Default::default()
        });
        let change = wire::Entries {
            entries: entries.collect(),
            removed: removed.iter().map(ToString::to_string).collect(),
            full: false,
        };
        let _ = self.script.once.send(wire::NodeUpdate { update: Some(Update::Entries(change)) });
    }

    pub(crate) fn asks(&self, id: u64, pid: i32) {
        let _ = self.script.once.send(wire::NodeUpdate { update: Some(Update::Explain(wire::Explain { id, pid })) });
    }

    /// Listens again, after its connections were cut.
    async fn again(self) -> Self {
        self.stop().await;
        let (script, address) = (self.script.clone(), self.address);
        let (heard, nobody) = mpsc::unbounded_channel();
        drop(heard);
        Self { script, address, heard: nobody, drain: Drain::new() }.listen().await
    }

    /// Cuts all connections and listens no more.
    async fn stop(&self) {
        self.drain.start();
        soon(async {
            while tokio::net::TcpStream::connect(self.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.drain.start();
    }
}

struct Served(Arc<Script>, Drain);

/// The public key of a CSR.
fn csr_key(csr: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::FromDer as _;
    let (_, csr) = x509_parser::certification_request::X509CertificationRequest::from_der(csr).unwrap();
    csr.certification_request_info.subject_pki.raw.to_vec()
}

impl Served {
    fn sign(&self, csr: &[u8], id: &str) -> wire::Svid {
        let ttl = *lock(&self.0.ttl);
        let backdated = if ttl < HOUR { now() } else { now() - Duration::from_secs(10) };
        let leaf = self.0.ca.sign(csr, id, backdated, ttl);
        wire::Svid { spiffe_id: id.into(), chain: vec![leaf.to_vec().into()], expires_at: 0 }
    }

    fn refused(&self) -> Result<(), Status> {
        let Some(word) = *self.0.refuses.borrow() else { return Ok(()) };
        let mut status = Status::permission_denied(word);
        status.metadata_mut().insert(symbolon_proto::attest::REASON_HEADER, word.parse().unwrap());
        Err(status)
    }

    fn node<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.refused()?;
        let peer = request.extensions().get::<PeerIdentity>().and_then(|peer| peer.id.clone());
        if peer.is_some_and(|id| id.as_str() == NODE) { Ok(()) } else { Err(Status::unauthenticated("not a node")) }
    }
}

#[tonic::async_trait]
impl Node for Served {
    type AttestStream = BoxStream<'static, Result<wire::AttestResponse, Status>>;
    type SyncStream = BoxStream<'static, Result<wire::NodeUpdate, Status>>;
    type ReportLoadStream = BoxStream<'static, Result<wire::LoadAck, Status>>;

    async fn attest(
        &self,
        request: Request<Streaming<wire::AttestRequest>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        *lock(&self.0.attempts) += 1;
        let first = request.into_inner().message().await?.and_then(|first| first.step);
        let Some(wire::attest_request::Step::Evidence(evidence)) = first else {
            return Err(Status::invalid_argument("no evidence"));
        };
        let Some(wire::evidence::Kind::JoinToken(token)) = evidence.kind else {
            return Err(Status::invalid_argument("no token"));
        };
        if *self.0.refuses.borrow() == Some("node_banned") {
            self.refused()?;
        }
        let key = csr_key(&evidence.csr);
        if lock(&self.0.tokens).remove(&token) {
            lock(&self.0.spent).insert(token.clone(), key.clone());
        }
        if lock(&self.0.spent).get(&token) != Some(&key) {
            return Err(Status::permission_denied("the token is unknown or spent"));
        }
        let mut lost = lock(&self.0.lost);
        if *lost > 0 {
            *lost -= 1;
            return Err(Status::unavailable("the answer is lost"));
        }
        self.0.refuses.send_replace(None);
        let svid = self.sign(&evidence.csr, NODE);
        let bundle = self.0.ca.bundle().to_jwks().into();
        let attested =
            wire::Attested { spiffe_id: svid.spiffe_id, chain: svid.chain, bundle, ..wire::Attested::default() };
        let answer = wire::AttestResponse { step: Some(wire::attest_response::Step::Attested(attested)) };
        Ok(Response::new(futures::stream::iter([Ok(answer)]).boxed()))
    }

    async fn mint(&self, request: Request<wire::MintRequest>) -> Result<Response<wire::MintResponse>, Status> {
        self.node(&request)?;
        let grants = lock(&self.0.grants).clone();
        let mint = |csr: wire::Csr| {
            let id = if csr.entry_id.is_empty() {
                self.0.renewals.send_modify(|renewals| *renewals += 1);
                Some(NODE.to_owned())
            } else {
                grants.get(&csr.entry_id).cloned()
            };
            let outcome = id.map_or_else(
                || {
                    wire::minted::Outcome::Refusal(wire::Refusal {
                        reason: "unknown_entry".into(),
                        detail: csr.entry_id.clone(),
                    })
                },
                |id| wire::minted::Outcome::Svid(self.sign(&csr.csr, &id)),
            );
            wire::Minted { outcome: Some(outcome) }
        };
        Ok(Response::new(wire::MintResponse { results: request.into_inner().csrs.into_iter().map(mint).collect() }))
    }

    async fn mint_jwt(&self, _: Request<wire::MintJwtRequest>) -> Result<Response<wire::MintJwtResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn mint_wit(&self, _: Request<wire::MintWitRequest>) -> Result<Response<wire::MintJwtResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn sync(&self, request: Request<Streaming<wire::NodeReport>>) -> Result<Response<Self::SyncStream>, Status> {
        self.node(&request)?;
        let (mut reports, heard) = (request.into_inner(), self.0.heard.clone());
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                let _ = heard.send(report.report.unwrap());
            }
        });
        let once = tokio_stream::wrappers::BroadcastStream::new(self.0.once.subscribe());
        let once = once.filter_map(|said| futures::future::ready(said.ok())).map(Ok);
        let says = tokio_stream::wrappers::WatchStream::new(self.0.says.subscribe());
        let says = says.flat_map(|says| futures::stream::iter(says.into_iter().map(Ok)));
        // What is said once comes after the full states: in their order, as one conversation.
        let says = futures::stream::select_with_strategy(says, once, |(): &mut ()| futures::stream::PollNext::Left);
        self.0.streams.send_modify(|streams| *streams += 1);
        let drain = self.1.clone();
        Ok(Response::new(says.take_until(async move { drain.cancelled().await }).boxed()))
    }

    async fn report_load(
        &self,
        _: Request<Streaming<wire::LoadBatch>>,
    ) -> Result<Response<Self::ReportLoadStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Knows one process.
#[derive(Debug)]
struct Attested;

impl Explainer for Attested {
    fn explain(&self, pid: i32) -> Result<Vec<String>, String> {
        if pid == 7 { Ok(vec!["unix:uid:1".into()]) } else { Err("no such process".into()) }
    }
}

/// One run of the sidecar's upstream.
struct Run {
    handle: Handle,
    tasks: Tasks,
    drain: Drain,
    metrics: Metrics,
}

impl Run {
    fn start(control_plane: &ControlPlane, dir: &Path, evidence: Evidence) -> Self {
        Self::try_start(control_plane, dir, evidence, Clock::system()).unwrap()
    }

    fn try_start(
        control_plane: &ControlPlane,
        dir: &Path,
        evidence: Evidence,
        clock: Clock,
    ) -> Result<Self, KeepError> {
        let (drain, metrics) = (Drain::new(), Metrics::new());
        let tasks = Tasks::new(drain.clone());
        let config = Config {
            trust_domain: "a.example".parse().unwrap(),
            control_plane: vec![control_plane.address.to_string()],
            bootstrap: control_plane.script.ca.bundle(),
            evidence,
            keep: Keep::open(dir)?,
            clock,
            seed: 1,
            explainer: Arc::new(Attested),
        };
        let handle = start(config, &tasks, &drain, &metrics)?;
        Ok(Self { handle, tasks, drain, metrics })
    }

    async fn connected(&self) {
        until(&mut self.handle.connected(), |connected| *connected).await;
    }

    async fn entries(&self) -> EntryList {
        until(&mut self.handle.heard().entries.clone(), Option::is_some).await.unwrap()
    }

    fn failures(&self, reason: &'static str) -> u64 {
        self.metrics.counter("symbolon_sidecar_node_failures", "").value(&[("reason", reason)])
    }

    async fn stop(self) {
        self.drain.start();
        assert!(self.tasks.join(Duration::from_secs(10)).await);
    }
}

fn token(text: &str) -> Evidence {
    Evidence::JoinToken(text.to_owned().into())
}

fn data() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    (dir, data)
}

async fn heard(control_plane: &mut ControlPlane) -> Report {
    soon(control_plane.heard.recv()).await.unwrap()
}

#[tokio::test]
async fn a_node_joins_by_its_token_and_a_restarted_one_by_what_it_kept() {
    let control_plane = ControlPlane::start().await;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    run.connected().await;
    assert_eq!(run.entries().await[0].spiffe_id.as_str(), WEB);
    run.stop().await;
    let run = Run::start(&control_plane, &data, token("good")); // spent, and not looked at again
    run.connected().await;
    assert_eq!(*lock(&control_plane.script.attempts), 1);
    run.stop().await;
}

#[tokio::test]
async fn bad_141_a_spent_token_is_said_to_be_spent_and_a_new_one_is_taken_when_it_comes() {
    let control_plane = ControlPlane::start().await;
    let (dir, data) = data();
    let file = dir.path().join("token");
    std::fs::write(&file, "spent\n").unwrap();
    let run = Run::start(&control_plane, &data, Evidence::JoinTokenFile(file.clone()));
    eventually(|| run.failures("refused") > 0).await;
    std::fs::write(&file, "good\n").unwrap();
    run.connected().await;
    assert_eq!(*lock(&control_plane.script.attempts), 2, "a refused token is not presented again");
    run.stop().await;
}

/// Offers a token with a key of its own.
async fn offer(
    control_plane: &ControlPlane,
    anonymous: &Identity,
    token: &str,
) -> Result<join::Joined, join::JoinError> {
    let (addresses, trust_domain) = ([control_plane.address.to_string()], "a.example".parse().unwrap());
    let door = join::Door { addresses: &addresses, anonymous, trust_domain: &trust_domain, now: now() };
    let (key, _) = symbolon_kit::spiffe::svid::new_key().unwrap();
    join::join(door, &join::Offer::Token(token.to_owned().into()), key).await
}

#[tokio::test]
async fn the_refusal_says_what_to_do() {
    let control_plane = ControlPlane::start().await;
    let anonymous = Identity::new(Clock::system());
    let trusted = control_plane.script.ca.bundle();
    anonymous.set_bundles(&BundleTable::from([(trusted.trust_domain.clone(), Arc::new(trusted))]));
    let refused = offer(&control_plane, &anonymous, "wrong").await.unwrap_err();
    let says = refused.to_string();
    assert!(
        says.contains("unknown or spent")
            && says.contains("good for one key")
            && says.contains("symbolon token create"),
        "{says}"
    );
    assert!(join::Offer::read(&Evidence::None).unwrap_err().to_string().contains("symbolon token create"));
}

#[tokio::test]
async fn a_control_plane_that_another_authority_vouches_for_is_not_joined() {
    let control_plane = ControlPlane::start().await;
    let anonymous = Identity::new(Clock::system());
    let impostor = Ca::new("a.example").bundle();
    anonymous.set_bundles(&BundleTable::from([(impostor.trust_domain.clone(), Arc::new(impostor))]));
    let refused = soon(offer(&control_plane, &anonymous, "good")).await.unwrap_err();
    assert_eq!(refused.label(), "unanswered");
    assert!(lock(&control_plane.script.tokens).contains("good"), "the token was not shown to it");
}

#[tokio::test]
async fn last_known_good_is_served_before_the_control_plane_is_there() {
    let mut control_plane = ControlPlane::start().await;
    let (_dir, data) = data();
    let b = Ca::new("b.example");
    control_plane.says_bundles([&control_plane.script.ca.bundle(), &b.bundle()]);
    let run = Run::start(&control_plane, &data, token("good"));
    run.entries().await;
    until(&mut run.handle.heard().trust.clone(), |trust| trust.bundles.len() == 2).await;
    run.stop().await;
    control_plane.stop().await;

    let run = Run::start(&control_plane, &data, Evidence::None);
    assert_eq!(run.handle.heard().entries.borrow().as_ref().unwrap()[0].spiffe_id.as_str(), WEB, "at once");
    assert_eq!(run.handle.heard().trust.borrow().bundles.len(), 2);
    assert!(!*run.handle.connected().borrow());
    control_plane.says_entries(&[]);
    control_plane = control_plane.listen().await;
    until(&mut run.handle.heard().entries.clone(), |entries| {
        entries.as_ref().is_some_and(|entries| entries.is_empty())
    })
    .await;
    run.stop().await;
    drop(control_plane);
}

#[tokio::test]
async fn i_5_a_lost_connection_withdraws_nothing_and_reports_are_made_again() {
    let mut control_plane = ControlPlane::start().await;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    run.handle.report_workloads(wire::Workloads { revision: 7, ..Default::default() });
    run.connected().await;
    let Report::Workloads(first) = heard(&mut control_plane).await else { panic!() };
    assert_eq!(first.revision, 7);
    run.handle.secret_ack(wire::SecretAck { proxy: WEB.into(), svid_serial: "1".into(), ..Default::default() });
    assert!(matches!(heard(&mut control_plane).await, Report::SecretAck(_)));

    control_plane.stop().await;
    until(&mut run.handle.connected(), |connected| !*connected).await;
    assert_eq!(run.entries().await.len(), 1);
    assert_eq!(run.handle.heard().trust.borrow().bundles.len(), 1);

    control_plane = control_plane.listen().await;
    run.connected().await;
    assert!(matches!(heard(&mut control_plane).await, Report::Workloads(workloads) if workloads.revision == 7));
    assert!(matches!(heard(&mut control_plane).await, Report::SecretAck(_)));
    control_plane.says(Update::WorkloadsAck(wire::WorkloadsAck { revision: 7, refusals: Vec::new() }));
    until(&mut run.handle.workloads_ack(), |ack| ack.as_ref().is_some_and(|ack| ack.revision == 7)).await;
    run.stop().await;
}

#[tokio::test]
async fn the_nodes_own_svid_is_renewed_ahead_of_its_end() {
    let control_plane = ControlPlane::start().await;
    *lock(&control_plane.script.ttl) = Duration::from_secs(4);
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    run.connected().await;
    let kept = || std::fs::read(data.join(NODE_FILE)).unwrap();
    let before = kept();
    until(&mut control_plane.script.renewals.subscribe(), |renewals| *renewals >= 2).await;
    assert_ne!(kept(), before, "and written down");
    run.stop().await;
}

#[tokio::test]
async fn a_key_file_that_others_may_read_refuses_the_start() {
    use std::os::unix::fs::PermissionsExt as _;
    let control_plane = ControlPlane::start().await;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    run.connected().await;
    run.stop().await;
    std::fs::set_permissions(data.join(NODE_FILE), std::fs::Permissions::from_mode(0o640)).unwrap();
    let Err(refused) = Run::try_start(&control_plane, &data, Evidence::None, Clock::system()) else {
        panic!("started")
    };
    assert!(refused.to_string().contains("chmod 600"), "{refused}");
}

#[tokio::test]
async fn a_batch_is_answered_in_its_order() {
    let control_plane = ControlPlane::start().await;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    let (_, csr) = symbolon_kit::spiffe::svid::new_key().unwrap();
    let csr = |entry_id: &str| wire::Csr { entry_id: entry_id.into(), csr: csr.clone().into() };
    let minted = soon(run.handle.mint(vec![csr("nobody"), csr("web")])).await.unwrap();
    assert!(
        matches!(&minted[0].outcome, Some(wire::minted::Outcome::Refusal(refusal)) if refusal.reason == "unknown_entry")
    );
    assert!(matches!(&minted[1].outcome, Some(wire::minted::Outcome::Svid(svid)) if svid.spiffe_id == WEB));
    run.stop().await;
}

async fn has(run: &Run, ids: &[&str]) -> EntryList {
    let is = |entries: &EntryList| entries.iter().map(|entry| &*entry.id).eq(ids.iter().copied());
    until(&mut run.handle.heard().entries.clone(), |entries| entries.as_ref().is_some_and(is)).await.unwrap()
}

#[tokio::test]
async fn changes_of_entries_are_applied_and_outlive_a_restart() {
    let control_plane = ControlPlane::start().await;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    let before = has(&run, &["web"]).await;
    control_plane.says_change(&[("job", "spiffe://a.example/job", "unix:uid:1")], &[]);
    let after = has(&run, &["job", "web"]).await;
    assert!(Arc::ptr_eq(&before[0], &after[1]), "the other entry is not touched");
    control_plane.says_change(&[], &["web"]);
    has(&run, &["job"]).await;
    run.stop().await;
    control_plane.stop().await;
    let run = Run::start(&control_plane, &data, Evidence::None);
    assert_eq!(run.handle.heard().entries.borrow().as_ref().unwrap()[0].id.as_ref(), "job", "at once");
    run.stop().await;
}

#[tokio::test]
async fn i_5_a_change_before_all_entries_is_not_taken_and_another_stream_is_opened() {
    let control_plane = ControlPlane::start().await;
    control_plane.script.says.send_modify(Vec::clear);
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    until(&mut control_plane.script.streams.subscribe(), |streams| *streams == 1).await;
    control_plane.says_change(&[("job", "spiffe://a.example/job", "unix:uid:1")], &[]);
    until(&mut control_plane.script.streams.subscribe(), |streams| *streams == 2).await;
    assert!(run.handle.heard().entries.borrow().is_none());
    let rejected = run.metrics.counter("symbolon_sidecar_upstream_rejected", "");
    assert_eq!(rejected.value(&[("reason", "no_full_entries")]), 1);
    control_plane.says_entries(&[("web", WEB, "unix:uid:0")]);
    has(&run, &["web"]).await;
    run.stop().await;
}

#[tokio::test]
async fn the_control_plane_is_told_who_a_process_is() {
    let mut control_plane = ControlPlane::start().await;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    run.entries().await;
    control_plane.asks(1, 7);
    let Report::Explained(answer) = heard(&mut control_plane).await else { panic!() };
    assert_eq!((answer.id, answer.selectors, answer.error.as_str()), (1, vec!["unix:uid:1".to_owned()], ""));
    control_plane.asks(2, 8);
    let Report::Explained(answer) = heard(&mut control_plane).await else { panic!() };
    assert_eq!((answer.id, answer.error.as_str()), (2, "no such process"));
    run.stop().await;
}

#[tokio::test]
async fn fault_021_the_nodes_own_svid_is_replaced_when_its_authority_is_tainted() {
    let control_plane = ControlPlane::start().await;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    run.entries().await;
    assert_eq!(*control_plane.script.renewals.borrow(), 0);
    let bundle = control_plane.script.ca.bundle();
    let tainted = wire::Bundles {
        trust_domain: "a.example".into(),
        bundles: [("a.example".to_owned(), bundle.to_jwks().into())].into(),
        tainted_x509: vec![control_plane.script.ca.key_id()],
        ..wire::Bundles::default()
    };
    control_plane.says(Update::Bundles(tainted));
    // The scripted control plane knows no other authority: it is asked again, and not at once.
    until(&mut control_plane.script.renewals.subscribe(), |renewals| *renewals >= 2).await;
    assert!(*control_plane.script.renewals.borrow() < 20);
    run.stop().await;
}
