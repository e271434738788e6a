//! The workloads of this node: the list in the sidecar's file, watched (`file`), the health of each ([`health`], `probe`),
//! and the report to the control plane that joins the two (`board`).
//!
//! ```text
//!  file ──► file watch ──► lists ──┬──► board ──► reports ──► upstream
//!                                  │      ▲
//!                                  │      └── answers ── checks
//!                                  └──► attestation, relay
//! ```
//!
//! Every report is the whole list with a rising revision. The receiver of [`Handle::reports`] sends the latest again after each
//! reconnect; nothing is queued here.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Gauge, Metrics};
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_proto::node;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use crate::config::Workload;

use board::{Begin, Board};
use file::FileWatch;
use probe::Ill;

pub use file::Load;

mod board;
mod file;
pub mod health;
mod probe;
#[cfg(test)]
mod tests;

/// Shortest interval between two checks of a workload.
pub const MIN_HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// How to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The sidecar's file, whose folder is watched.
    pub file: PathBuf,
    /// Between two checks of one workload.
    pub health_interval: Duration,
    pub policy: health::Policy,
}

/// What others read of the workloads; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    reports: watch::Receiver<Arc<node::Workloads>>,
    lists: watch::Receiver<Arc<[Workload]>>,
}

/// Begins to watch the file and to check the workloads. Returns when each workload of `first` has been checked once, so that the
/// first report after a restart makes nobody unhealthy who is well; that takes two seconds at most.
pub async fn start(
    config: Config,
    first: Arc<[Workload]>,
    load: Load,
    tasks: &Tasks,
    drain: Drain,
    metrics: &Metrics,
) -> Handle {
    let reads = metrics.counter("symbolon_sidecar_workload_file_reads", "Reads of the sidecar's file, by result");
    let (lists_tx, lists) = watch::channel(first);
    let file = FileWatch::new(&config.file, load, lists_tx, reads);
    tasks.spawn("workloads file", OnExit::Shutdown, file.run(drain.clone()));

    let mut service = Service::new(&config, metrics);
    let now = lists.borrow().clone();
    service.listed(now);
    while service.board.is_waiting() {
        service.check().await;
    }
    let (reports_tx, reports) = watch::channel(service.board.report().unwrap_or_default());
    service.publish(&reports_tx);
    let mut seen = lists.clone();
    seen.mark_changed(); // it may have changed while the first checks ran
    tasks.spawn("workloads", OnExit::Shutdown, service.run(seen, reports_tx, drain));
    Handle { reports, lists }
}

/// One check, and the run it belongs to.
type Check = Pin<Box<dyn Future<Output = (Begin, Result<(), Ill>)> + Send>>;

struct Service {
    board: Board,
    checks: FuturesUnordered<Check>,
    interval: Duration,
    failed: Counter,
    workloads: Gauge,
}

// === impl Handle ===

impl Handle {
    /// What to tell the control plane; the latest is sent again after each reconnect.
    pub fn reports(&self) -> watch::Receiver<Arc<node::Workloads>> {
        self.reports.clone()
    }

    /// The list as the file gives it.
    pub fn lists(&self) -> watch::Receiver<Arc<[Workload]>> {
        self.lists.clone()
    }
}

// === impl Service ===

impl Service {
    fn new(config: &Config, metrics: &Metrics) -> Self {
        Self {
            board: Board::new(config.policy),
            checks: FuturesUnordered::new(),
            interval: config.health_interval.max(MIN_HEALTH_INTERVAL),
            failed: metrics
                .counter("symbolon_sidecar_workload_checks_failed", "Health checks that did not answer well, by part"),
            workloads: metrics.gauge("symbolon_sidecar_workloads", "Workloads of this node, by health as reported"),
        }
    }

    async fn run(
        mut self,
        mut lists: watch::Receiver<Arc<[Workload]>>,
        reports: watch::Sender<Arc<node::Workloads>>,
        drain: Drain,
    ) {
        loop {
            tokio::select! {
                biased;
                () = drain.cancelled() => return,
                changed = lists.changed() => {
                    if changed.is_err() {
                        return; // the file's task is gone, which stops the process
                    }
                    let list = lists.borrow_and_update().clone();
                    self.listed(list);
                }
                () = self.check(), if !self.checks.is_empty() => {}
            }
            self.publish(&reports);
        }
    }

    fn listed(&mut self, list: Arc<[Workload]>) {
        for begin in self.board.listed(list) {
            self.checks.push(check(begin, Duration::ZERO, self.interval));
        }
    }

    /// Waits for one answer and asks again later. Cancelled between answers, it loses nothing.
    async fn check(&mut self) {
        let Some((run, answer)) = self.checks.next().await else { return };
        let Some(next) = self.board.answered(&run, answer.is_ok()) else { return };
        let ill = answer.err().map(Ill::label);
        if let Some(part) = ill {
            self.failed.inc(&[("part", part)]);
        }
        if next.turned {
            info!(workload = run.name, healthy = next.state.is_healthy(), ill, "health changed");
        }
        self.checks.push(check(run, next.state.wait(self.interval), self.interval));
    }

    fn publish(&mut self, reports: &watch::Sender<Arc<node::Workloads>>) {
        if let Some(report) = self.board.report() {
            info!(revision = report.revision, workloads = report.workloads.len(), "workloads to report");
            reports.send_replace(report);
        }
        for (health, count) in self.board.counts() {
            self.workloads.set(&[("health", health)], count);
        }
    }
}

fn check(run: Begin, wait: Duration, interval: Duration) -> Check {
    Box::pin(async move {
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let answer = run.target.check(interval).await;
        (run, answer)
    })
}
