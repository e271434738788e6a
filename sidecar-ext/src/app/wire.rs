//! What one part of the sidecar needs of another, joined here so that neither knows the other.

use std::path::PathBuf;
use std::sync::Arc;

use symbolon_kit::config::environment;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::supervise::Tasks;
use symbolon_proto::ids::SpiffeId;
use tokio::sync::watch;
use tonic::Extensions;
use tonic::transport::Channel;
use tracing::warn;

use crate::attest::{Attestor, Caller};
use crate::config::{self, Config, Workload};
use crate::identity::Entitled;
use crate::{relay, upstream, workloads};

/// Carries the file's workloads to whom they concern, and the reports about them upstream.
pub(super) struct Workloads {
    pub config: Config,
    pub file: PathBuf,
    pub lists: watch::Sender<Arc<[Workload]>>,
    pub upstream: upstream::Handle,
    pub tasks: Tasks,
    pub metrics: Metrics,
}

impl Workloads {
    pub(super) async fn run(self, drain: Drain) {
        let config = workloads::Config {
            file: self.file.clone(),
            health_interval: self.config.health_interval,
            policy: workloads::health::Policy::default(),
        };
        let first = Arc::from(self.config.workloads.clone());
        // Takes up to two seconds, for the first checks; meanwhile the sockets are served.
        let started = workloads::start(config, first, self.load(), &self.tasks, drain.clone(), &self.metrics);
        let handle = tokio::select! {
            handle = started => handle,
            () = drain.cancelled() => return,
        };
        let (mut lists, mut reports) = (handle.lists(), handle.reports());
        self.lists.send_replace(lists.borrow_and_update().clone());
        self.report(&mut reports);
        loop {
            let more = tokio::select! {
                () = drain.cancelled() => return,
                changed = lists.changed() => changed.map(|()| {
                    self.lists.send_replace(lists.borrow_and_update().clone());
                }),
                changed = reports.changed() => changed.map(|()| self.report(&mut reports)),
            };
            if more.is_err() {
                return;
            }
        }
    }

    fn report(&self, reports: &mut watch::Receiver<Arc<symbolon_proto::node::Workloads>>) {
        let report = reports.borrow_and_update().clone();
        self.upstream.report_workloads((*report).clone());
    }

    /// Reads the file again; whatever else has changed in it waits for a restart, and is said.
    fn load(&self) -> workloads::Load {
        let (file, running) = (self.file.clone(), self.config.clone());
        Arc::new(move || {
            let newer = config::load(&file, environment())?;
            let waiting = running.needs_restart(&newer);
            if !waiting.is_empty() {
                warn!(fields = waiting.join(", "), "the file has changes that take effect at the next start");
            }
            Ok(newer.workloads)
        })
    }
}

impl upstream::Explainer for Attestor {
    fn explain(&self, pid: i32) -> Result<Vec<String>, String> {
        let selectors = self.attest_pid(pid).map_err(|why| format!("process {pid}: {why}"))?;
        Ok(selectors.iter().map(|selector| selector.as_str().to_owned()).collect())
    }
}

impl relay::Upstream for upstream::Handle {
    fn channel(&self) -> Channel {
        self.channel()
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.connected()
    }
}

impl relay::Entitlements for Entitled {
    fn may_claim(&self, caller: &Extensions, id: &SpiffeId) -> Result<(), String> {
        let caller = caller.get::<Caller>().ok_or("the connection has no caller")?;
        caller.selectors().map_err(|why| why.to_string())?;
        if self.entitled(caller).contains(id) {
            Ok(())
        } else {
            Err(format!("no entry of this node gives {id} to the calling process"))
        }
    }
}
