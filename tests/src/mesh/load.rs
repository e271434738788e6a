//! Load reports as Envoy makes them, and a driver that turns weights into requests: a ramp without an Envoy.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterStats, UpstreamLocalityStats};
use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_client::LoadReportingServiceClient;
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use envoy_types::pb::google::protobuf::Duration as ProtoDuration;
use symbolon_kit::net::unix_channel;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::proxy::Proxy;
use super::soon;

/// Requests of one report.
const REQUESTS: u64 = 4_000;

/// An open stream of reports.
#[derive(Debug)]
pub struct Load {
    reports: mpsc::Sender<LoadStatsRequest>,
    answers: Streaming<LoadStatsResponse>,
    /// What the sidecar asks for.
    pub every: Duration,
}

/// Completions of one cluster in a report.
#[derive(Clone, Debug, Default)]
pub struct Completed {
    pub cluster: String,
    pub success: u64,
    pub error: u64,
}

impl Load {
    pub(super) async fn open(socket: &Path, id: &str) -> anyhow::Result<Self> {
        let mut client = LoadReportingServiceClient::new(unix_channel(socket));
        let (reports, receiver) = mpsc::channel(64);
        let node = Node { id: id.into(), cluster: "mesh".into(), ..Node::default() };
        reports.send(LoadStatsRequest { node: Some(node), cluster_stats: Vec::new() }).await?;
        let mut answers = client.stream_load_stats(ReceiverStream::new(receiver)).await?.into_inner();
        let first = soon("what to report", answers.message()).await??.context("the stream ended")?;
        anyhow::ensure!(first.send_all_clusters, "all clusters are asked for");
        Ok(Self { reports, answers, every: every(&first) })
    }

    /// Returns when the sidecar asks for another interval.
    ///
    /// # Errors
    /// If the stream ends.
    pub async fn asked(&mut self) -> anyhow::Result<Duration> {
        self.every = every(&self.answers.message().await?.context("the stream ended")?);
        Ok(self.every)
    }

    /// Reports what completed within `interval`.
    ///
    /// # Errors
    /// If the stream has ended.
    pub async fn report(&self, interval: Duration, completed: &[Completed]) -> anyhow::Result<()> {
        let cluster_stats = completed.iter().map(|one| stats(one, interval)).collect();
        let report = LoadStatsRequest { node: None, cluster_stats };
        self.reports.send(report).await.context("the stream of reports has ended")
    }

    /// How the stream ends.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ended(mut self) -> anyhow::Result<Option<Status>> {
        loop {
            match soon("the end of the stream", self.answers.message()).await? {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(status) => return Ok(Some(status)),
            }
        }
    }
}

fn stats(one: &Completed, interval: Duration) -> ClusterStats {
    let locality = UpstreamLocalityStats {
        total_successful_requests: one.success,
        total_error_requests: one.error,
        total_issued_requests: one.success + one.error,
        ..UpstreamLocalityStats::default()
    };
    ClusterStats {
        cluster_name: one.cluster.clone(),
        upstream_locality_stats: vec![locality],
        load_report_interval: Some(ProtoDuration {
            seconds: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(interval.subsec_nanos()).unwrap_or(0),
        }),
        ..ClusterStats::default()
    }
}

fn every(asked: &LoadStatsResponse) -> Duration {
    let wire = asked.load_reporting_interval.unwrap_or_default();
    Duration::new(u64::try_from(wire.seconds).unwrap_or(0), u32::try_from(wire.nanos).unwrap_or(0))
}

/// How the arms answer.
#[derive(Clone, Copy, Debug, Default)]
struct Fault {
    /// Share of failing requests, in percent.
    local: u64,
    remote: u64,
    /// The remote arm completes nothing.
    silent: bool,
}

type Faults = Arc<Mutex<Fault>>;

/// Requests to payments, split as the proxy's routes have it, reported in the rhythm that is asked for.
#[derive(Debug)]
pub struct Traffic {
    faults: Faults,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Traffic {
    /// Begins to report; the proxy is the one whose load it is.
    pub fn start(load: Load, proxy: Arc<Proxy>) -> Self {
        let faults = Faults::default();
        let running = tokio::spawn(drive(load, proxy, faults.clone()));
        Self { faults, running }
    }

    /// From the next report on, so many percent fail.
    pub fn fail(&self, local: u64, remote: u64) {
        self.set(Fault { local, remote, silent: false });
    }

    /// From the next report on, the remote arm completes nothing.
    pub fn silence(&self) {
        self.set(Fault { silent: true, ..Fault::default() });
    }

    fn set(&self, fault: Fault) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Whether the stream of reports is still the first one.
    pub fn is_open(&self) -> bool {
        !self.running.is_finished()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn drive(mut load: Load, proxy: Arc<Proxy>, faults: Faults) -> anyhow::Result<()> {
    let mut beat = tokio::time::interval(load.every);
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            every = load.asked() => {
                beat = tokio::time::interval(every?);
                beat.reset(); // the interval that was begun is not over
                continue;
            }
        }
        let fault = *faults.lock().unwrap_or_else(PoisonError::into_inner);
        let weights = proxy.held().weights("payments.shop").into_iter();
        let completed: Vec<_> = weights.filter_map(|(cluster, weight)| fault.completed(cluster, weight)).collect();
        load.report(load.every, &completed).await?;
    }
}

impl Fault {
    fn completed(self, cluster: String, weight: u32) -> Option<Completed> {
        let is_local = cluster == "payments.shop";
        let all = if self.silent && !is_local { 0 } else { REQUESTS * u64::from(weight) / 10_000 };
        let error = all * if is_local { self.local } else { self.remote } / 100;
        (all > 0).then(|| Completed { cluster, success: all - error, error })
    }
}
