//! Builds the control plane bottom-up. Nothing is served before what was stored is in force again.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use anyhow::Context as _;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::readiness::Readiness;
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_kit::tls;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tonic::service::Routes;

use super::adapters::{Book, ByEntries, ToRollouts};
use super::addresses::Addresses;
use super::own_svid::OwnSvid;
use super::publish::Publisher;
use super::{Config, Seams};
use crate::api::{admin, node};
use crate::identity::{self, Identity};
use crate::model::{Change, MeshView};
use crate::sources::nodes;
use crate::store::{self, SharedStore};
use crate::{federation, rollout, snapshot, state, xds};

/// The name of this replica; its ID is `/symbolon/controlplane/<replica>`.
const REPLICA: &str = "0";

/// A control plane whose ports are bound and whose parts are ready; it serves after [`App::spawn`].
#[derive(Debug)]
pub struct App {
    pub(super) addresses: Addresses,
    pub(super) ports: Ports,
    pub(super) tls: tls::Identity,
    pub(super) services: Services,
    pub(super) seams: Seams,
    pub(super) life: Life,
}

#[derive(Debug)]
pub(super) struct Ports {
    pub(super) node: TcpListener,
    pub(super) federation: TcpListener,
    pub(super) http: TcpListener,
    pub(super) admin: UnixListener,
}

#[derive(Debug)]
pub(super) struct Services {
    pub(super) node: Routes,
    pub(super) federation: Routes,
    pub(super) admin: Routes,
}

/// What every part shares of the program's life.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) tasks: Tasks,
    /// Everything stops when this does; `ports` and then `streams` before it.
    pub(super) drain: Drain,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
}

/// Builds and binds. What it returns serves nothing yet.
///
/// # Errors
/// In words, with what to do: a port in use, a store that another process holds, a key file that others can read.
pub async fn build(config: Config, seams: Seams) -> anyhow::Result<App> {
    let drain = Drain::new();
    let life = Life { tasks: Tasks::new(drain.clone()), drain, metrics: Metrics::new(), readiness: Readiness::new() };
    let built = assemble(&config, &seams, &life).await;
    if built.is_err() {
        life.drain.start(); // whatever was started already holds the store's file
        life.tasks.join(std::time::Duration::from_secs(5)).await;
    }
    built
}

async fn assemble(config: &Config, seams: &Seams, life: &Life) -> anyhow::Result<App> {
    let (clock, metrics, tasks, drain) = (&seams.clock, &life.metrics, &life.tasks, &life.drain);
    let ports = Ports::bind(config).await?;
    let addresses = ports.addresses(config)?;

    let store = open_store(config)?;
    let identity = start_identity(config, store.clone(), seams, life).await?;
    let own_id = config.trust_domain.with_path(&format!("/symbolon/controlplane/{REPLICA}"))?;
    let tls = tls::Identity::new(clock.clone());
    let own = OwnSvid::start(identity.clone(), own_id.clone(), tls.clone(), clock.clone(), seams.seed, metrics)?;
    tasks.spawn("own svid", OnExit::Shutdown, own.run(drain.clone()));

    let (state, unstarted) = state::new(MeshView::empty(config.trust_domain.clone()));
    let entitlements = Arc::new(ByEntries(identity.clone()));
    let registrations = nodes::Handle::new(store.clone(), state.changes.clone(), entitlements.clone());
    unstarted.fold([definitions(config)]);
    unstarted.fold(registrations.restore().await.context("stored registrations")?);

    let builder = snapshot::Builder::new(snapshot::Config {
        trust_domain: config.trust_domain.clone(),
        svid_ttl: config.identity.svid_ttl,
    });
    let held_back = metrics.gauge("symbolon_snapshots_held_back", "Proxies whose newest snapshot is inconsistent");
    let (mut publisher, snapshots) = Publisher::new(builder, held_back);
    let (ads, proxies) = xds::serve(snapshots, entitlements, metrics, drain.clone());

    let (synced, is_synced) = watch::channel(false);
    let link = federation::Config {
        trust_domain: config.trust_domain.clone(),
        own_id,
        advertise: advertised(config, &addresses),
        timing: config.timing,
        max_endpoint_weight: config.policy.max_endpoint_weight,
        synced: is_synced,
        peers: config.peers.clone(),
    };
    let book = Arc::new(Book(identity.bundles.clone()));
    let (federation_server, federation, imports) = federation::start(
        link,
        store.clone(),
        clock.clone(),
        book,
        tls.clone(),
        state.view.clone(),
        proxies.acks(),
        state.changes.clone(),
        tasks,
        drain.clone(),
        metrics,
    )
    .await
    .context("the federation link")?;
    unstarted.fold(imports);

    // The engine restores weights of what the mesh federates: everything else must be in the mesh before.
    let engine = rollout::engine::Parts {
        policy: config.policy.clone(),
        store: store.clone(),
        clock: clock.clone(),
        view: state.view.clone(),
        acks: proxies.acks(),
        changes: state.changes.clone(),
        metrics: metrics.clone(),
    };
    let (rollouts, splits) = rollout::Engine::start(engine, tasks, drain.clone()).await.context("the rollouts")?;
    unstarted.fold(splits);

    publisher.publish(&state.view.borrow().clone());
    unstarted.spawn(tasks, drain.clone());
    tasks.spawn("snapshots", OnExit::Shutdown, publisher.run(state.view.clone(), drain.clone()));
    synced.send_replace(true);
    // The link follows this for as long as it lives.
    tasks.spawn("synced", OnExit::Log, hold(synced, drain.clone()));

    let node_parts = node::Parts {
        identity: identity.clone(),
        registrations,
        loads: Arc::new(ToRollouts(rollouts.clone())),
        clock: clock.clone(),
        report_every: config.report_every,
        tasks: tasks.clone(),
        drain: drain.clone(),
    };
    let admin_parts = admin::Parts {
        identity,
        federation,
        rollouts,
        proxies,
        view: state.view,
        clock: clock.clone(),
        tasks: tasks.clone(),
        drain: drain.clone(),
    };
    let services = Services {
        node: Routes::new(node::server(node_parts, metrics)).add_service(ads),
        federation: Routes::new(federation_server),
        admin: Routes::new(admin::server(admin_parts)),
    };
    addresses.write(&config.data_dir).context("addresses.json cannot be written")?;
    Ok(App { addresses, ports, tls, services, seams: seams.clone(), life: life.clone() })
}

async fn hold(synced: watch::Sender<bool>, drain: Drain) {
    drain.cancelled().await;
    drop(synced);
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
        ca_ttl: config.identity.ca_ttl,
        svid_ttl: config.identity.svid_ttl,
        refresh_hint: config.identity.refresh_hint,
    };
    Ok(Identity::start(authority, store, seams.clock.clone(), &life.tasks, life.drain.clone()).await?)
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
            admin: admin::socket::bind(&config.listen.admin)?,
        })
    }

    fn addresses(&self, config: &Config) -> anyhow::Result<Addresses> {
        Ok(Addresses {
            node: self.node.local_addr()?,
            federation: self.federation.local_addr()?,
            http: self.http.local_addr()?,
            admin: config.listen.admin.clone(),
        })
    }
}
