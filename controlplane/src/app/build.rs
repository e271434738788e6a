//! Builds the control plane bottom-up. Nothing is served before what was stored is in force again.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::tls;
use symbolon_proto::federation::federation_server::FederationServer;
use symbolon_proto::ids::SpiffeId;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tonic::service::Routes;

use super::adapters::{Book, ByEntries, Tenures, ToRollouts, Trusted};
use super::addresses::Addresses;
use super::config::{BundleEndpoint, Proof};
use super::lifetimes::Lifetimes;
use super::own_svid::{OwnSvid, follow_bundles};
use super::publish::Publisher;
use super::running::Life;
use super::{Config, Seams, bans};
use crate::api::{admin, node};
use crate::identity::{self, Identity};
use crate::model::{Change, MeshView};
use crate::snapshot::SnapshotSet;
use crate::sources::nodes;
use crate::store::{self, SharedStore};
use crate::{federation, rollout, snapshot, state, trust, xds};

/// The name of this replica; its ID is `/symbolon/controlplane/<replica>`.
const REPLICA: &str = "0";
/// How long the tasks of a start that failed may take to end.
const FAILED_START: Duration = Duration::from_secs(5);

/// A control plane whose ports are bound and whose parts are ready; it serves after [`App::spawn`].
#[derive(Debug)]
pub struct App {
    pub(super) addresses: Addresses,
    pub(super) ports: Ports,
    pub(super) tls: tls::Identity,
    pub(super) standing: Arc<Tenures>,
    pub(super) services: Services,
    pub(super) life: Life,
}

#[derive(Debug)]
pub(super) struct Ports {
    pub(super) node: TcpListener,
    pub(super) federation: TcpListener,
    pub(super) http: TcpListener,
    pub(super) bundle_endpoint: Option<TcpListener>,
    pub(super) admin: UnixListener,
}

#[derive(Debug)]
pub(super) struct Services {
    pub(super) node: Routes,
    pub(super) federation: Routes,
    pub(super) admin: Routes,
    pub(super) bundle_endpoint: Option<trust::endpoint::Endpoint>,
}

/// Builds and binds. What it returns serves nothing yet.
///
/// # Errors
/// In words, with what to do: a port in use, a store that another process holds, a key file that others can read.
pub async fn build(config: Config, seams: Seams) -> anyhow::Result<App> {
    let life = Life::default();
    let built = assemble(&config, &seams, &life).await;
    if built.is_err() {
        life.stop(FAILED_START).await; // whatever was started already holds the store's file
    }
    built
}

/// Who we are, and what is stored: everything that works without a peer, a node or an operator.
struct Core {
    store: SharedStore,
    identity: Identity,
    own_id: SpiffeId,
    tls: tls::Identity,
    entitlements: Arc<ByEntries>,
}

async fn assemble(config: &Config, seams: &Seams, life: &Life) -> anyhow::Result<App> {
    let ports = Ports::bind(config).await?;
    let addresses = ports.addresses(config)?;
    let core = core(config, seams, life).await?;

    let (state, unstarted) = state::new(MeshView::empty(config.trust_domain.clone()));
    let changes = state.changes.clone();
    let registrations = nodes::Handle::new(core.store.clone(), changes, core.entitlements.clone());
    unstarted.fold([definitions(config)]);
    unstarted.fold(registrations.restore().await.context("stored registrations")?);
    let (entries, usual) = (core.identity.entries.clone(), config.identity.svid_ttl);
    let (first, lifetimes) = Lifetimes::new(entries, usual, state.changes.clone());
    unstarted.fold(first);

    let (mut publisher, snapshots) = publisher(config, &life.metrics);
    let (ads, proxies) = xds::serve(snapshots, core.entitlements.clone(), &life.metrics, life.edges.drain.clone());
    let (synced, is_synced) = watch::channel(false);
    let advertise = advertised(config, &addresses);
    let (federation_server, federation, imports) =
        link(config, seams, life, &core, &state, &proxies, is_synced, advertise).await?;
    unstarted.fold(imports);
    let relationships = relationships(config, seams, life, &core, federation.clone()).await?;
    let bundle_endpoint = match &config.bundle_endpoint {
        Some(endpoint) => Some(bundle_endpoint(endpoint, seams, life, &core).await?),
        None => None,
    };
    // The engine restores the weights of what the mesh federates: everything else must be in the mesh before.
    let (rollouts, splits) = rollouts(config, seams, life, &core, &state, &proxies).await?;
    unstarted.fold(splits);

    publisher.publish(&state.view.borrow().clone());
    unstarted.spawn(&life.core.tasks, life.core.drain.clone());
    life.core.spawn("lifetimes", lifetimes.run(life.core.drain.clone()));
    life.core.spawn("snapshots", publisher.run(state.view.clone(), life.core.drain.clone()));
    synced.send_replace(true);
    life.core.spawn("synced", hold(synced, life.core.drain.clone())); // the link follows it for as long as it lives

    let edges = &life.edges;
    life.core.spawn("relationships", hold(relationships.clone(), life.core.drain.clone())); // longer than who follows them
    let conversations = node::Conversations::default();
    let standing = Arc::new(Tenures(core.identity.clone()));
    let bans = bans::follow(core.identity.nodes.watch(), registrations.clone(), life.core.drain.clone());
    life.core.spawn("bans", bans);
    let node_parts = node::Parts {
        identity: core.identity.clone(),
        registrations,
        loads: Arc::new(ToRollouts(rollouts.clone())),
        relationships: relationships.known(),
        conversations: conversations.clone(),
        clock: seams.clock.clone(),
        report_every: config.report_every,
        tasks: edges.tasks.clone(),
        drain: edges.drain.clone(),
    };
    let admin_parts = admin::Parts {
        identity: core.identity,
        federation,
        relationships,
        rollouts,
        proxies,
        view: state.view,
        conversations,
        clock: seams.clock.clone(),
        tasks: edges.tasks.clone(),
        drain: edges.drain.clone(),
    };
    let services = Services {
        node: Routes::new(node::server(node_parts, &life.metrics)).add_service(ads),
        federation: Routes::new(federation_server),
        admin: Routes::new(admin::server(admin_parts)),
        bundle_endpoint,
    };
    addresses.write(&config.data_dir).context("addresses.json cannot be written")?;
    Ok(App { addresses, ports, tls: core.tls, standing, services, life: life.clone() })
}

async fn core(config: &Config, seams: &Seams, life: &Life) -> anyhow::Result<Core> {
    let store = open_store(config)?;
    let identity = start_identity(config, store.clone(), seams, life).await?;
    let own_id = config.trust_domain.with_path(&format!("/symbolon/controlplane/{REPLICA}"))?;
    let (clock, tls) = (seams.clock.clone(), tls::Identity::new(seams.clock.clone()));
    let own = OwnSvid::start(identity.clone(), own_id.clone(), tls.clone(), clock, seams.seed, &life.metrics).await?;
    life.core.spawn("own svid", own.run(life.core.drain.clone()));
    let bundles = identity.bundles.watch();
    life.core.spawn("trusted bundles", follow_bundles(bundles, tls.clone(), life.core.drain.clone()));
    let entitlements = Arc::new(ByEntries(identity.clone()));
    Ok(Core { store, identity, own_id, tls, entitlements })
}

fn publisher(config: &Config, metrics: &Metrics) -> (Publisher, watch::Receiver<Arc<SnapshotSet>>) {
    let (trust_domain, svid_ttl) = (config.trust_domain.clone(), config.identity.svid_ttl);
    let builder = snapshot::Builder::new(snapshot::Config { trust_domain, svid_ttl });
    let held_back = metrics.gauge("symbolon_snapshots_held_back", "Proxies whose newest snapshot is inconsistent");
    Publisher::new(builder, held_back)
}

type Link = (FederationServer<federation::Service>, federation::Handle, Vec<Change>);

#[expect(clippy::too_many_arguments, reason = "each is a part that was just built")]
async fn link(
    config: &Config,
    seams: &Seams,
    life: &Life,
    core: &Core,
    state: &state::Handle,
    proxies: &xds::Handle,
    synced: watch::Receiver<bool>,
    advertise: Vec<String>,
) -> anyhow::Result<Link> {
    let link = federation::Config {
        trust_domain: config.trust_domain.clone(),
        own_id: core.own_id.clone(),
        advertise,
        timing: config.timing,
        max_endpoint_weight: config.policy.max_endpoint_weight,
        synced,
        peers: config.peers.clone(),
    };
    let started = federation::start(
        link,
        core.store.clone(),
        seams.clock.clone(),
        Arc::new(Book(core.identity.bundles.clone())),
        core.tls.clone(),
        state.view.clone(),
        proxies.acks(),
        state.changes.clone(),
        &life.edges.tasks,
        life.edges.drain.clone(),
        &life.metrics,
    );
    started.await.context("the federation link")
}

/// The largest bootstrap bundle that is read; no bundle is larger.
const MAX_BOOTSTRAP: u64 = 1024 * 1024;

async fn relationships(
    config: &Config,
    seams: &Seams,
    life: &Life,
    core: &Core,
    link: federation::Handle,
) -> anyhow::Result<trust::Handle> {
    let mut bootstrap = BTreeMap::new();
    for (trust_domain, path) in &config.bootstrap {
        let shown = path.display();
        let size = std::fs::metadata(path).with_context(|| format!("bootstrapBundle {shown} cannot be read"))?.len();
        anyhow::ensure!(size <= MAX_BOOTSTRAP, "bootstrapBundle {shown} is larger than 1 MiB: no bundle is");
        let jwks = std::fs::read(path).with_context(|| format!("bootstrapBundle {shown} cannot be read"))?;
        bootstrap.insert(trust_domain.clone(), jwks);
    }
    let trust = trust::Config {
        trust_domain: config.trust_domain.clone(),
        relationships: config.relationships.clone(),
        bootstrap,
        timing: config.polling,
    };
    let fetcher = trust::Fetcher::new(config.roots_file.as_deref(), seams.clock.clone(), config.fetching)
        .context("federation.rootsFile")?;
    let book = Trusted { identity: core.identity.clone(), link };
    let (store, clock, edges) = (core.store.clone(), seams.clock.clone(), &life.edges);
    let started =
        trust::start(trust, fetcher, Arc::new(book), store, clock, &edges.tasks, edges.drain.clone(), &life.metrics);
    Ok(started.await?)
}

async fn bundle_endpoint(
    endpoint: &BundleEndpoint,
    seams: &Seams,
    life: &Life,
    core: &Core,
) -> anyhow::Result<trust::endpoint::Endpoint> {
    let presented = match &endpoint.proof {
        Proof::Web(files) => trust::endpoint::Presented::Web(files.clone()),
        Proof::Spiffe(None) => trust::endpoint::Presented::Spiffe(core.tls.clone()),
        Proof::Spiffe(Some(id)) => {
            let tls = tls::Identity::new(seams.clock.clone());
            let (identity, clock) = (core.identity.clone(), seams.clock.clone());
            let own = OwnSvid::start(identity, id.clone(), tls.clone(), clock, seams.seed, &life.metrics);
            let own = own.await?;
            life.core.spawn("endpoint svid", own.run(life.core.drain.clone()));
            trust::endpoint::Presented::Spiffe(tls)
        }
    };
    let own = own_bundle(core.identity.clone(), life);
    let (limits, edges) = (trust::endpoint::Limits::default(), &life.edges);
    let clock = seams.clock.clone();
    let made = trust::endpoint::Endpoint::new(presented, own, limits, clock, &edges.tasks, &edges.drain, &life.metrics);
    made.context("bundleEndpoint")
}

/// Our own bundle out of the table of all.
fn own_bundle(identity: Identity, life: &Life) -> watch::Receiver<Option<Arc<Bundle>>> {
    let (tell, told) = watch::channel(identity.bundles.own());
    let (mut table, drain) = (identity.bundles.watch(), life.core.drain.clone());
    life.core.spawn("own bundle", async move {
        loop {
            tokio::select! {
                changed = table.changed() => if changed.is_err() { return },
                () = drain.cancelled() => return,
            }
            let own = table.borrow_and_update().get(&identity.trust_domain).cloned();
            tell.send_if_modified(|told| {
                let changed = *told != own;
                *told = own;
                changed
            });
        }
    });
    told
}

async fn rollouts(
    config: &Config,
    seams: &Seams,
    life: &Life,
    core: &Core,
    state: &state::Handle,
    proxies: &xds::Handle,
) -> anyhow::Result<(rollout::Handle, Vec<Change>)> {
    let parts = rollout::engine::Parts {
        policy: config.policy.clone(),
        store: core.store.clone(),
        clock: seams.clock.clone(),
        view: state.view.clone(),
        acks: proxies.acks(),
        changes: state.changes.clone(),
        metrics: life.metrics.clone(),
    };
    rollout::Engine::start(parts, &life.core.tasks, life.core.drain.clone()).await.context("the rollouts")
}

/// Keeps what nobody changes any more, for those who watch it.
async fn hold(kept: impl Send, drain: Drain) {
    drain.cancelled().await;
    drop(kept);
}

fn open_store(config: &Config) -> anyhow::Result<SharedStore> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir);
    made.with_context(|| format!("dataDir {} cannot be made", config.data_dir.display()))?;
    Ok(store::redb::open(&config.data_dir.join("store.redb"))?)
}

async fn start_identity(config: &Config, store: SharedStore, seams: &Seams, life: &Life) -> anyhow::Result<Identity> {
    let authority = identity::Config {
        trust_domain: config.trust_domain.clone(),
        key_dir: config.data_dir.join("keys"),
        audit_dir: config.data_dir.join("audit"),
        minting: config.minting,
        ca_ttl: config.identity.ca_ttl,
        svid_ttl: config.identity.svid_ttl,
        node_ttl: config.identity.node_ttl,
        x509pop: config.x509pop.clone(),
        fence: config.data_dir.join("tokens.fence"),
        refresh_hint: config.identity.refresh_hint,
        authority: config.authority.clone(),
    };
    let (clock, core) = (seams.clock.clone(), &life.core);
    Ok(Identity::start(authority, store, clock, &life.metrics, &core.tasks, core.drain.clone()).await?)
}

fn definitions(config: &Config) -> Change {
    Change::Definitions { services: config.services.clone(), federated: config.federated.clone() }
}

fn advertised(config: &Config, addresses: &Addresses) -> Vec<String> {
    if config.advertise.is_empty() { vec![addresses.federation.to_string()] } else { config.advertise.clone() }
}

// === impl Ports ===

impl Ports {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let tcp = async |name: &str, address: SocketAddr| {
            let bound = TcpListener::bind(address).await;
            bound
                .with_context(|| format!("listen.{name}: {address} cannot be bound; is another control plane running?"))
        };
        Ok(Self {
            node: tcp("node", config.listen.node).await?,
            federation: tcp("federation", config.listen.federation).await?,
            http: tcp("http", config.listen.http).await?,
            bundle_endpoint: match &config.bundle_endpoint {
                Some(endpoint) => Some(tcp("bundleEndpoint", endpoint.listen).await?),
                None => None,
            },
            admin: admin::socket::bind(&config.listen.admin)?,
        })
    }

    fn addresses(&self, config: &Config) -> anyhow::Result<Addresses> {
        Ok(Addresses {
            node: self.node.local_addr()?,
            federation: self.federation.local_addr()?,
            http: self.http.local_addr()?,
            bundle_endpoint: self.bundle_endpoint.as_ref().map(TcpListener::local_addr).transpose()?,
            admin: config.listen.admin.clone(),
        })
    }
}
