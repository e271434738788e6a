//! One side of a federation, with everything that `app` would hand it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use futures::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use symbolon_kit::octets::random;
use symbolon_kit::spiffe::bundle::BundleError;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid};
use symbolon_kit::spiffe::verify::BundleTable;
use symbolon_proto::federation as wire;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};

use super::super::persist::{self, Established};
use super::super::streams::{self, Ended, OUTBOUND};
use super::super::testing::{grants, model_endpoint, service};
use super::super::*;
use crate::model::{ImportedService, LocalService, PeerView};
use crate::store::{Committed, Condition, Event, Key, LeaseId, Operation, Prefix, Store, Stored, keys};

/// The longest that anything here may take; in paused time this costs nothing.
pub(super) const SOON: Duration = Duration::from_secs(20);

pub(super) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

pub(super) fn name(text: &str) -> PeerName {
    text.parse().expect("a name")
}

/// Values with the revision of their last write.
type Values = BTreeMap<Key, (Vec<u8>, u64)>;

/// A store in memory that can be told to fail.
#[derive(Debug, Default)]
pub(super) struct Memory {
    data: Mutex<(u64, Values)>,
    pub(super) broken: AtomicBool,
    pub(super) commits: AtomicUsize,
}

impl Store for Memory {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Stored>, store::Error>> {
        let data = self.data.lock().expect("not poisoned");
        let found = data.1.get(key).map(|(value, modified)| Stored {
            key: key.clone(),
            value: value.clone(),
            modified: *modified,
        });
        async move { Ok(found) }.boxed()
    }

    fn range(&self, prefix: Prefix) -> BoxFuture<'_, Result<(Vec<Stored>, u64), store::Error>> {
        let data = self.data.lock().expect("not poisoned");
        let found = data.1.iter().filter(|(key, _)| key.0.starts_with(&*prefix.0));
        let found = found.map(|(key, (value, modified))| Stored {
            key: key.clone(),
            value: value.clone(),
            modified: *modified,
        });
        let answer = (found.collect(), data.0);
        async move { Ok(answer) }.boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, store::Error>> {
        if self.broken.load(Ordering::Relaxed) {
            return async { Err(store::Error::Io { doing: "write", why: "the disk is full".into() }) }.boxed();
        }
        let (revision, data) = &mut *self.data.lock().expect("not poisoned");
        for condition in txn.conditions {
            let (key, holds) = match condition {
                Condition::Absent(key) => (key.clone(), !data.contains_key(&key)),
                Condition::ModifiedAt(key, at) => {
                    (key.clone(), data.get(&key).is_some_and(|(_, modified)| *modified == at))
                }
            };
            if !holds {
                return async { Ok(Committed::Conflict { key }) }.boxed();
            }
        }
        *revision += 1;
        for operation in txn.operations {
            match operation {
                Operation::Put { key, value, .. } => data.insert(key, (value, *revision)),
                Operation::Delete(key) => data.remove(&key),
            };
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        let revision = *revision;
        async move { Ok(Committed::Applied(revision)) }.boxed()
    }

    fn watch(&self, _: Prefix, _: u64) -> BoxStream<'static, Result<Event, store::Error>> {
        futures::stream::pending().boxed()
    }

    fn grant_lease(&self, _: Duration) -> BoxFuture<'_, Result<LeaseId, store::Error>> {
        async { Err(store::Error::LeaseExpired) }.boxed()
    }

    fn keep_alive(&self, _: LeaseId) -> BoxFuture<'_, Result<(), store::Error>> {
        async { Err(store::Error::LeaseExpired) }.boxed()
    }
}

/// An authority, and the control plane's SVID.
pub(super) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(super) trust_domain: TrustDomain,
}

impl Ca {
    pub(super) fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, trust_domain);
        let id = format!("spiffe://{trust_domain}");
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().expect("a URI"))];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) =
            ((noon() - Duration::from_hours(1)).into(), (noon() + Duration::from_hours(24)).into());
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
        Self { issuer, trust_domain: trust_domain.parse().expect("a name") }
    }

    pub(super) fn bundle(&self, sequence: u64) -> Bundle {
        let roots = vec![self.issuer.der().clone()];
        Bundle::new(self.trust_domain.clone(), sequence, Duration::from_mins(5), roots)
    }

    pub(super) fn svid(&self, path: &str) -> Svid {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let id = format!("spiffe://{}{path}", self.trust_domain);
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().expect("a URI"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(random::<20>().map(|byte| byte & 0x7f | 1).to_vec().into());
        (params.not_before, params.not_after) =
            ((noon() - Duration::from_secs(10)).into(), (noon() + Duration::from_hours(1)).into());
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate").der().clone();
        Svid::new(vec![leaf], PrivateKey::from_pkcs8(key.serialize_der())).expect("an SVID")
    }
}

/// A bundle book in memory, with the real rules of admission; also feeds the TLS identity, as `app` does.
#[derive(Debug)]
pub(super) struct Book {
    own: TrustDomain,
    pub(super) table: watch::Sender<BundleTable>,
    identity: tls::Identity,
}

impl Book {
    pub(super) fn set(&self, bundle: Bundle) {
        self.table.send_modify(|table| {
            table.insert(bundle.trust_domain.clone(), Arc::new(bundle));
        });
        self.identity.set_bundles(&self.table.borrow());
    }
}

impl BundleBook for Book {
    fn own(&self) -> Option<Arc<Bundle>> {
        self.of(&self.own)
    }

    fn of(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.table.borrow().get(trust_domain).cloned()
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        WatchStream::new(self.table.subscribe()).map(|_| ()).boxed()
    }

    fn offer<'a>(&'a self, trust_domain: &'a TrustDomain, jwks: &'a [u8]) -> BoxFuture<'a, Result<(), BundleRefused>> {
        let judged = Bundle::parse_jwks(trust_domain, jwks, noon()).and_then(|parsed| {
            Bundle::admit(self.of(trust_domain).as_deref(), &parsed.bundle, noon()).map(|_| parsed.bundle)
        });
        let judged = judged.map(|bundle| self.set(bundle)).map_err(|error| match error {
            BundleError::Older { .. } | BundleError::SameSequence(_) => BundleRefused::Sequence(error.to_string()),
            _ => BundleRefused::Content(error.to_string()),
        });
        async move { judged }.boxed()
    }
}

/// One side.
pub(super) struct Side {
    pub(super) handle: Handle,
    pub(super) server: FederationServer<Service>,
    pub(super) view: watch::Sender<Arc<MeshView>>,
    pub(super) acks: watch::Sender<Arc<AckTable>>,
    pub(super) store: Arc<Memory>,
    pub(super) book: Arc<Book>,
    pub(super) identity: tls::Identity,
    pub(super) clock: Clock,
    pub(super) drain: Drain,
    pub(super) synced: watch::Sender<bool>,
    pub(super) metrics: Metrics,
    /// Every change that the link made, in order.
    pub(super) changes: Arc<Mutex<Vec<Change>>>,
}

/// `a` or `b`, federated with the other; both export from and import into `10.2.0.0/16`, under the name of b.example.
pub(super) async fn side(own: &str, peer: &str, ca: &Ca, store: Arc<Memory>) -> Side {
    side_at(own, peer, ca, store, Vec::new()).await
}

pub(super) async fn side_at(own: &str, peer: &str, ca: &Ca, store: Arc<Memory>, advertise: Vec<String>) -> Side {
    side_again(own, peer, ca, store, advertise, &[]).await
}

/// As after a restart: it holds these bundles already.
pub(super) async fn side_again(
    own: &str,
    peer: &str,
    ca: &Ca,
    store: Arc<Memory>,
    advertise: Vec<String>,
    held: &[Bundle],
) -> Side {
    let clock = Clock::manual(noon());
    let identity = tls::Identity::new(clock.clone());
    identity.set_svid(&ca.svid("/symbolon/controlplane/0"));
    let book =
        Arc::new(Book { own: ca.trust_domain.clone(), table: watch::Sender::default(), identity: identity.clone() });
    book.set(ca.bundle(5));
    held.iter().for_each(|bundle| book.set(bundle.clone()));
    let (synced, is_synced) = watch::channel(true);
    let config = Config {
        trust_domain: ca.trust_domain.clone(),
        own_id: ca.trust_domain.with_path("/symbolon/controlplane/0").expect("an ID"),
        advertise,
        timing: Timing::default(),
        max_endpoint_weight: 100,
        synced: is_synced,
        peers: vec![PeerConfig {
            name: name(peer),
            trust_domain: format!("{peer}.example").parse().expect("a name"),
            address: None,
            grants: grants(),
            quotas: Quotas::default(),
        }],
    };
    let view = watch::Sender::new(Arc::new(MeshView::empty(format!("{own}.example").parse().expect("a name"))));
    let acks = watch::Sender::new(Arc::new(AckTable::default()));
    let (send, inbox) = mpsc::channel(64);
    let (drain, metrics) = (Drain::new(), Metrics::new());
    let tasks = Tasks::new(drain.clone());
    let (server, handle, restored) = start(
        config,
        store.clone(),
        clock.clone(),
        book.clone(),
        identity.clone(),
        view.subscribe(),
        acks.subscribe(),
        send,
        &tasks,
        drain.clone(),
        &metrics,
    )
    .await
    .expect("starts");
    let changes = Arc::new(Mutex::new(Vec::new()));
    restored.into_iter().for_each(|change| fold(&view, &changes, change));
    tokio::spawn(fold_all(inbox, view.clone(), changes.clone()));
    Side { handle, server, view, acks, store, book, identity, clock, drain, synced, metrics, changes }
}

async fn fold_all(
    mut inbox: mpsc::Receiver<Change>,
    view: watch::Sender<Arc<MeshView>>,
    seen: Arc<Mutex<Vec<Change>>>,
) {
    while let Some(change) = inbox.recv().await {
        fold(&view, &seen, change);
    }
}

/// As the state task does, for what the link says.
fn fold(view: &watch::Sender<Arc<MeshView>>, seen: &Mutex<Vec<Change>>, change: Change) {
    seen.lock().expect("not poisoned").push(change.clone());
    view.send_modify(|view| {
        let view = Arc::make_mut(view);
        view.generation += 1;
        match change {
            Change::Peer { peer, trust_domain, state } => {
                let known = view.peers.get(&peer).map(|known| known.services.clone()).unwrap_or_default();
                view.peers.insert(peer, Arc::new(PeerView { trust_domain, state, services: known }));
            }
            Change::Import { peer, service, imported } => {
                let known = Arc::make_mut(view.peers.get_mut(&peer).expect("announced first"));
                match imported {
                    Some(imported) => known.services.insert(service, Arc::new(imported)),
                    None => known.services.remove(&service),
                };
            }
            other => panic!("not the link's to say: {other:?}"),
        }
    });
}

impl Side {
    pub(super) fn context(&self) -> Arc<Context> {
        self.handle.0.context.clone()
    }

    pub(super) fn peer(&self) -> Arc<Peer> {
        self.handle.0.peers.values().next().expect("one peer").clone()
    }

    pub(super) fn status(&self) -> Status {
        self.handle.list().remove(0)
    }

    /// As if tokens had been exchanged, with the bundle of the other side.
    pub(super) async fn trusts(&self, other: &Ca, role: Role) {
        let peer = self.peer();
        let with = Established {
            trust_domain: other.trust_domain.clone(),
            control_plane: other.trust_domain.with_path("/symbolon/controlplane/0").expect("an ID"),
            addresses: Vec::new(),
            role,
        };
        let record = persist::encode_peer(&with).expect("encodes");
        self.store.commit(Txn::new().put(keys::peer(&peer.config.name), record)).await.expect("stored");
        self.book.set(other.bundle(5));
        peer.establish(with, self.context().now());
    }

    /// Exports `service_name` with these endpoints.
    pub(super) fn serves(&self, service_name: &str, endpoints: impl IntoIterator<Item = u32>) {
        let peer = self.peer().config.name.clone();
        let endpoints = endpoints.into_iter().map(model_endpoint).collect();
        self.view.send_modify(|view| {
            let view = Arc::make_mut(view);
            view.generation += 1;
            let local = LocalService { export_to: [peer].into(), endpoints };
            view.services.insert(service(service_name), Arc::new(local));
        });
    }

    pub(super) fn imported(&self, service_name: &str) -> Option<Arc<ImportedService>> {
        imported(&self.view.borrow(), service_name)
    }

    /// Waits until the mesh has `endpoints` of the peer's service.
    pub(super) async fn imports(&self, service_name: &str, endpoints: usize) {
        let has =
            |view: &Arc<MeshView>| imported(view, service_name).is_some_and(|one| one.endpoints.len() == endpoints);
        let mut view = self.view.subscribe();
        let waited = tokio::time::timeout(SOON, view.wait_for(has)).await;
        assert!(
            waited.is_ok(),
            "{endpoints} endpoints of {service_name} expected, there are {:?}",
            self.imported(service_name)
        );
    }

    pub(super) async fn is(&self, state: PeerState) {
        let has = |view: &Arc<MeshView>| view.peers.values().any(|peer| peer.state == state);
        let mut view = self.view.subscribe();
        let waited = tokio::time::timeout(Duration::from_hours(1), view.wait_for(has)).await;
        assert!(waited.is_ok(), "{state:?} expected, it is {:?}", self.status().state);
    }
}

fn imported(view: &MeshView, service_name: &str) -> Option<Arc<ImportedService>> {
    view.peers.values().find_map(|peer| peer.services.get(&service(service_name)).cloned())
}

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, holds).await.is_ok(), "in vain waited for: {what}");
}

/// A link in memory; ends when dropped.
pub(super) struct Wire {
    tasks: Vec<tokio::task::JoinHandle<Ended>>,
    /// Messages and bytes of changes that `to` was sent.
    pub(super) changes: Arc<AtomicUsize>,
    pub(super) bytes: Arc<AtomicUsize>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// `to` subscribes to `from`.
pub(super) fn wire(from: &Side, to: &Side) -> Wire {
    let (to_publisher, at_publisher) = mpsc::channel(OUTBOUND);
    let (to_subscriber, at_subscriber) = mpsc::channel::<wire::FromPublisher>(OUTBOUND);
    let (changes, bytes) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let counted = (changes.clone(), bytes.clone());
    let frames = ReceiverStream::new(at_subscriber).map(move |frame| {
        if matches!(frame.f, Some(wire::from_publisher::F::Change(_))) {
            counted.0.fetch_add(1, Ordering::Relaxed);
            counted.1.fetch_add(frame.encoded_len(), Ordering::Relaxed);
        }
        Ok(frame)
    });
    let (context, peer) = (to.context(), to.peer());
    let subscribes = tokio::spawn(async move { streams::subscribe(&context, &peer, frames, to_publisher).await });
    let (context, peer) = (from.context(), from.peer());
    let asks = ReceiverStream::new(at_publisher).map(Ok);
    let publishes = tokio::spawn(async move { streams::publish(&context, &peer, asks, to_subscriber).await });
    Wire { tasks: vec![subscribes, publishes], changes, bytes }
}
