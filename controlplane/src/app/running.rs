//! A control plane that serves, and how it stops: readiness off; no new connections, and streams ended; then the core, when nobody
//! can ask it any more; the operations port last.

use std::future::Future;
use std::time::Duration;

use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::net::{self, Limits};
use symbolon_kit::ops;
use symbolon_kit::readiness::Readiness;
use symbolon_kit::supervise::{OnExit, Tasks};
use tokio::time::Instant;

use super::addresses::Addresses;
use super::build::App;
use crate::api::admin::socket;

/// How long what is asking `/readyz` has to notice, before connections are refused.
const NOTICE: Duration = Duration::from_millis(100);
/// What the later stages get of the grace at least, when an earlier one has used it up.
const LEAST: Duration = Duration::from_secs(1);

/// Tasks that end together, on one word.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub(super) tasks: Tasks,
    pub(super) drain: Drain,
}

/// What every part shares of the program's life: three stages, which end in this order.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    /// Ports and streams: the node API, xDS, the link, the admin socket.
    pub(super) edges: Stage,
    /// Identity, state, snapshots, rollouts: what the streams ask.
    pub(super) core: Stage,
    /// The operations port answers to the last: `/readyz` says that we are stopping.
    pub(super) last: Stage,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
}

/// A control plane that serves.
#[derive(Debug)]
pub struct Running {
    addresses: Addresses,
    life: Life,
}

impl App {
    /// Where it is reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves on every port.
    pub fn spawn(self) -> Running {
        let Self { addresses, ports, tls, standing, services, life } = self;
        let (edges, metrics) = (&life.edges, &life.metrics);
        let refused = metrics.counter("symbolon_handshakes_refused", "TLS handshakes refused, by reason");
        let limits = Limits::default();
        let calls = metrics.counter("symbolon_calls_refused", "Calls whose message cannot be read, by reason");
        let node = net::count_malformed(services.node, "node", calls.clone());
        let federation = net::count_malformed(services.federation, "federation", calls.clone());
        let admin = net::count_malformed(services.admin, "admin", calls);
        let (drain, of_nodes) = (|| edges.drain.clone(), refused.clone());
        let serve_nodes = net::serve_with_standing(ports.node, tls.clone(), node, limits, of_nodes, standing, drain());
        edges.spawn("node port", serve_nodes);
        edges.spawn("federation port", net::serve(ports.federation, tls, federation, limits, refused, drain()));
        if let (Some(listener), Some(endpoint)) = (ports.bundle_endpoint, services.bundle_endpoint) {
            edges.spawn("bundle endpoint", endpoint.serve(listener, edges.tasks.clone(), edges.drain.clone()));
        }
        let strangers =
            metrics.counter("symbolon_admin_refusals", "Callers turned away from the admin socket, by reason");
        edges.spawn("admin socket", socket::serve(ports.admin, admin, strangers, edges.drain.clone()));
        let (readiness, drain) = (life.readiness.clone(), life.last.drain.clone());
        life.last.spawn("operations port", ops::serve(ports.http, readiness, metrics.clone(), drain));
        Running { addresses, life }
    }
}

impl Running {
    /// Where it is reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What is awaited before it is ready.
    pub fn readiness(&self) -> &Readiness {
        &self.life.readiness
    }

    /// Its counters.
    pub fn metrics(&self) -> &Metrics {
        &self.life.metrics
    }

    /// Returns the name of a core task once one has ended by itself.
    pub async fn fatal(&self) -> &'static str {
        let Life { edges, core, last, .. } = &self.life;
        tokio::select! {
            task = edges.tasks.fatal() => task,
            task = core.tasks.fatal() => task,
            task = last.tasks.fatal() => task,
        }
    }

    /// Stops, within about `grace`. Whether everything ended by itself.
    pub async fn drain(self, grace: Duration) -> bool {
        let _stopping = self.life.readiness.guard("stopping");
        tokio::time::sleep(NOTICE).await;
        let ended = self.life.stop(grace).await;
        let _ = std::fs::remove_file(&self.addresses.admin); // a killed one leaves it, and `bind` replaces it
        ended
    }
}

impl Life {
    /// Ends one stage after the other; a rollout's state is durable since its last decision, so the core has nothing to write.
    pub(super) async fn stop(&self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        let mut ended = true;
        let stages = [&self.edges, &self.core, &self.last];
        stages.iter().for_each(|stage| stage.tasks.stopping());
        for stage in stages {
            stage.drain.start();
            let left = deadline.saturating_duration_since(Instant::now()).max(LEAST);
            ended &= stage.tasks.join(left).await;
        }
        ended
    }
}

impl Stage {
    /// Runs a task without which the program is not whole.
    pub(super) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(name, OnExit::Shutdown, task);
    }
}

impl Default for Stage {
    fn default() -> Self {
        let drain = Drain::new();
        Self { tasks: Tasks::new(drain.clone()), drain }
    }
}
