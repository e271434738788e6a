//! A control plane that serves, and how it stops: readiness off, no new connections, streams ended, everything else, within a
//! grace.

use std::time::Duration;

use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::net::{self, Limits};
use symbolon_kit::ops;
use symbolon_kit::readiness::Readiness;
use symbolon_kit::supervise::{OnExit, Tasks};

use super::addresses::Addresses;
use super::build::{App, Life};
use crate::api::admin::socket;

/// How long what is asking `/readyz` has to notice, before connections are refused.
const NOTICE: Duration = Duration::from_millis(100);

/// A control plane that serves.
#[derive(Debug)]
pub struct Running {
    addresses: Addresses,
    life: Life,
    /// The operations port answers to the last: `/readyz` says that we are stopping.
    last: Drain,
    last_tasks: Tasks,
}

impl App {
    /// Where it is reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves on every port.
    pub fn spawn(self) -> Running {
        let Self { addresses, ports, tls, services, seams, life } = self;
        let Life { tasks, drain, metrics, readiness } = &life;
        let refused = metrics.counter("symbolon_handshakes_refused", "TLS handshakes refused, by reason");
        let serve = |listener, routes| {
            let limits = Limits::default();
            net::serve(listener, tls.clone(), routes, limits, seams.clock.clone(), refused.clone(), drain.clone())
        };
        tasks.spawn("node port", OnExit::Shutdown, serve(ports.node, services.node));
        tasks.spawn("federation port", OnExit::Shutdown, serve(ports.federation, services.federation));
        let strangers =
            metrics.counter("symbolon_admin_refusals", "Callers turned away from the admin socket, by reason");
        let admin = socket::serve(ports.admin, services.admin, strangers, drain.clone());
        tasks.spawn("admin socket", OnExit::Shutdown, admin);
        let last = Drain::new();
        let last_tasks = Tasks::new(last.clone());
        let ops = ops::serve(ports.http, readiness.clone(), metrics.clone(), last.clone());
        last_tasks.spawn("operations port", OnExit::Shutdown, ops);
        Running { addresses, life, last, last_tasks }
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
        tokio::select! {
            task = self.life.tasks.fatal() => task,
            task = self.last_tasks.fatal() => task,
        }
    }

    /// Stops, within `grace`. Whether everything ended by itself.
    pub async fn drain(self, grace: Duration) -> bool {
        let _stopping = self.life.readiness.guard("stopping");
        tokio::time::sleep(NOTICE).await;
        self.life.drain.start();
        let ended = self.life.tasks.join(grace).await;
        self.last.start();
        let last = self.last_tasks.join(Duration::from_secs(1)).await;
        let _ = std::fs::remove_file(&self.addresses.admin); // a killed one leaves it, and `bind` replaces it
        ended && last
    }
}
