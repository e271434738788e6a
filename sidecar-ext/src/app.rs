//! The sidecar put together: [`build`] reads, checks and binds, and is the last that may refuse; [`App::spawn`] starts the tasks;
//! [`Running::drain`] ends them. Nothing waits for the control plane: what a former run left is served at once.

mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::net::count_malformed;
use symbolon_kit::ops;
use symbolon_kit::readiness::{Guard as ReadinessGuard, Readiness};
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_proto::ids::TrustDomain;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tracing::{info, warn};

use crate::attest::Attestor;
use crate::config::{Config, Workload};
use crate::guard::{Guard, STREAMS_PER_UID};
use crate::identity::{Entitled, Holding, View};
use crate::keep::Keep;
use crate::relay;
use crate::sds::acks::Acks;
use crate::sds::{self, Sds};
use crate::server;
use crate::svid::cache::{self, Cache};
use crate::tokens::{self, Tokens};
use crate::upstream;
use crate::workload_api::{self, WorkloadApi, reflection};

/// What differs between the product and a simulation.
#[derive(Clone, Debug)]
pub struct Seams {
    pub clock: Clock,
    /// Of every jitter.
    pub seed: u64,
}

/// A sidecar that has its ports and files, and runs nothing yet.
#[derive(Debug)]
pub struct App {
    config: Config,
    file: PathBuf,
    seams: Seams,
    keep: Keep,
    bootstrap: Bundle,
    agent: server::Listener,
    xds: server::Listener,
    http: TcpListener,
}

/// A sidecar at work.
#[derive(Debug)]
pub struct Running {
    /// Where `/livez`, `/readyz` and `/metrics` are; port 0 in the file means any.
    pub http: SocketAddr,
    pub readiness: Readiness,
    pub metrics: Metrics,
    pub upstream: upstream::Handle,
    /// All that is served.
    pub view: watch::Receiver<Arc<View>>,
    tasks: Tasks,
    drain: Drain,
}

impl Seams {
    /// The machine's clock and an unforeseeable seed.
    pub fn real() -> Self {
        Self { clock: Clock::system(), seed: rand::random() }
    }
}

/// Reads, checks and binds everything. `file` is where `config` came from: its workloads are watched.
///
/// # Errors
/// If a port, a socket or a file cannot be had.
pub async fn build(config: Config, file: PathBuf, seams: Seams) -> anyhow::Result<App> {
    let keep = Keep::open(&config.data_dir).context("dataDir")?;
    let bootstrap = read_bundle(&config.trust_domain, &config.bootstrap_bundle, &seams.clock)?;
    let http = TcpListener::bind(config.http).await.with_context(|| format!("http: {}", config.http))?;
    let agent = server::bind(&config.sockets.agent).context("sockets.agent")?;
    let xds = server::bind(&config.sockets.xds).context("sockets.xds")?;
    Ok(App { config, file, seams, keep, bootstrap, agent, xds, http })
}

fn read_bundle(trust_domain: &TrustDomain, path: &Path, clock: &Clock) -> anyhow::Result<Bundle> {
    let context = || format!("bootstrapBundle: {}", path.display());
    let json = std::fs::read(path).with_context(context)?;
    let parsed = Bundle::parse_jwks(trust_domain, &json, clock.now()).with_context(context)?;
    for warning in &parsed.warnings {
        warn!(path = %path.display(), warning, "part of the bootstrap bundle is ignored");
    }
    Ok(parsed.bundle)
}

impl App {
    /// Starts the tasks.
    ///
    /// # Errors
    /// If what a former run left may not be used.
    pub fn spawn(self) -> anyhow::Result<Running> {
        let (drain, metrics, readiness) = (Drain::new(), Metrics::new(), Readiness::new());
        let tasks = Tasks::new(drain.clone());
        let attestor = Attestor::new(self.config.workload_attestors.clone());
        let upstream = upstream::start(self.upstream_config(&attestor), &tasks, &drain, &metrics)?;
        let (lists_tx, lists) = watch::channel(Arc::<[Workload]>::from(self.config.workloads.clone()));
        let view = self.start_cache(&upstream, lists, &tasks, &drain, &metrics)?;

        let refused =
            metrics.counter("symbolon_sidecar_callers_refused", "Calls on the Unix sockets refused, by reason");
        let heard = upstream.heard();
        let tokens = self.start_tokens(upstream.clone(), heard, &tasks, &drain, &metrics);
        let wits = self.start_tokens(tokens::wit::WitMinter(upstream.clone()), heard, &tasks, &drain, &metrics);
        let guard = Guard::new(STREAMS_PER_UID, refused.clone());
        let api = workload_api::Setup {
            view: view.clone(),
            tokens,
            wits,
            guard: guard.clone(),
            clock: self.seams.clock.clone(),
            validated: WorkloadApi::counter(&metrics),
            drain: drain.clone(),
        };
        let sds = self.sds(&upstream, &view, guard, &drain, &metrics);
        let agent = reflection::add(Routes::new(WorkloadApi::server(api)).add_service(sds))?;
        let xds = relay::start(
            relay::Config::default(),
            Arc::new(upstream.clone()),
            Arc::new(Entitled::new(view.clone())),
            &tasks,
            drain.clone(),
            &metrics,
        );
        let guards = [readiness.guard("joined"), readiness.guard("entries"), readiness.guard("svids")];
        tasks.spawn("readiness", OnExit::Log, until_ready(guards, upstream.clone(), view.clone(), drain.clone()));
        let watching = wire::Workloads {
            config: self.config,
            file: self.file,
            lists: lists_tx,
            upstream: upstream.clone(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
        };
        tasks.spawn("workloads wiring", OnExit::Shutdown, watching.run(drain.clone()));

        for (name, listener, routes) in [("agent socket", self.agent, agent), ("xds socket", self.xds, xds)] {
            info!(path = %listener.path().display(), "{name}");
            let routes = count_malformed(routes, name, refused.clone());
            let serving = server::serve(listener, routes, attestor.clone(), refused.clone(), drain.clone());
            tasks.spawn(name, OnExit::Shutdown, serving);
        }
        let http = self.http.local_addr()?;
        info!(%http, "operations port");
        tasks.spawn(
            "operations",
            OnExit::Shutdown,
            ops::serve(self.http, readiness.clone(), metrics.clone(), drain.clone()),
        );
        Ok(Running { http, readiness, metrics, upstream, view, tasks, drain })
    }

    fn upstream_config(&self, attestor: &Attestor) -> upstream::Config {
        upstream::Config {
            trust_domain: self.config.trust_domain.clone(),
            control_plane: self.config.control_plane.clone(),
            bootstrap: self.bootstrap.clone(),
            evidence: self.config.evidence.clone(),
            keep: self.keep.clone(),
            clock: self.seams.clock.clone(),
            seed: self.seams.seed,
            explainer: Arc::new(attestor.clone()),
        }
    }

    fn start_cache(
        &self,
        upstream: &upstream::Handle,
        workloads: watch::Receiver<Arc<[Workload]>>,
        tasks: &Tasks,
        drain: &Drain,
        metrics: &Metrics,
    ) -> anyhow::Result<watch::Receiver<Arc<View>>> {
        let (view_tx, view) = watch::channel(Arc::new(View::empty(self.config.trust_domain.clone())));
        let heard = upstream.heard();
        let inputs = cache::Inputs { entries: heard.entries.clone(), trust: heard.trust.clone(), workloads };
        let setup = cache::Setup {
            keep: self.keep.below("svids")?,
            clock: self.seams.clock.clone(),
            seed: self.seams.seed.wrapping_add(2),
            counts: cache::Counts::new(metrics),
        };
        let cache = Cache::new(Arc::new(upstream.clone()), setup, inputs, view_tx);
        tasks.spawn("svid cache", OnExit::Shutdown, cache.run(drain.clone()));
        Ok(view)
    }

    /// Keeps tokens of one kind.
    fn start_tokens<M: tokens::Minter>(
        &self,
        minter: M,
        heard: &upstream::Heard,
        tasks: &Tasks,
        drain: &Drain,
        metrics: &Metrics,
    ) -> Tokens {
        let (clock, counts) = (self.seams.clock.clone(), tokens::Counts::new(metrics));
        let (trust, entries) = (heard.trust.clone(), heard.entries.clone());
        let (tokens, keeper) = tokens::Keeper::new(Arc::new(minter), clock, counts, trust, entries);
        tasks.spawn("tokens", OnExit::Shutdown, keeper.run(drain.clone()));
        tokens
    }

    fn sds(
        &self,
        upstream: &upstream::Handle,
        view: &watch::Receiver<Arc<View>>,
        guard: Guard,
        drain: &Drain,
        metrics: &Metrics,
    ) -> SecretDiscoveryServiceServer<Sds> {
        let acks = Acks::new(Arc::new(upstream.clone()));
        let (counts, header) = (sds::Counts::new(metrics), self.config.sds_header);
        Sds::server(view.clone(), guard, acks, counts, header, drain.clone())
    }
}

impl Running {
    /// Returns the name of a core task once one has ended before the drain.
    pub async fn fatal(&self) -> &'static str {
        self.tasks.fatal().await
    }

    /// Ends all streams and tasks, within `grace`. Whether all ended.
    pub async fn drain(self, grace: Duration) -> bool {
        self.drain.start();
        self.tasks.join(grace).await
    }
}

/// Drops the guards as what they wait for comes true: the node has joined, its entries are here, and so are their SVIDs.
async fn until_ready(
    [joined, entries, svids]: [ReadinessGuard; 3],
    upstream: upstream::Handle,
    mut view: watch::Receiver<Arc<View>>,
    drain: Drain,
) {
    let all = async {
        upstream.joined().await;
        drop(joined);
        if view.wait_for(|view| view.ready).await.is_err() {
            return;
        }
        drop(entries);
        let minted = |view: &Arc<View>| view.held.iter().all(|held| matches!(held.holding, Holding::Valid(_)));
        if view.wait_for(minted).await.is_ok() {
            drop(svids);
            info!("ready");
        }
    };
    tokio::select! {
        () = drain.cancelled() => {}
        () = all => {}
    }
}

#[cfg(test)]
mod tests;
