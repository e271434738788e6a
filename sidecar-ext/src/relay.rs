//! What Envoy says to and hears from the control plane, through one Unix socket: ADS is relayed (`ads`: one upstream connection, one
//! stream per client), load reports are terminated here and forwarded once (`lrs`, `accumulate`, `forward`).
//!
//! ```text
//!  Envoy ──ADS──► ads ─────────────────────────────► control plane   stream by stream; held while it is away
//!  Envoy ──LRS──► lrs ──► accumulate ──► forward ──► control plane   numbered batches, kept until acknowledged
//! ```
//!
//! The relay keeps nothing of what the control plane sent: in particular it neither stores nor renews RTDS, since only a living
//! control plane may keep a step under test alive.

use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Gauge, Metrics};
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_proto::ids::{IdError, SpiffeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Extensions, Status};
use tracing::{info, warn};

mod accumulate;
mod ads;
mod forward;
mod lrs;
mod node;
#[cfg(test)]
mod tests;

/// The connection to the control plane.
pub trait Upstream: Send + Sync + 'static {
    /// The one connection; clones share it.
    fn channel(&self) -> Channel;
    /// Whether the control plane can be reached now.
    fn connected(&self) -> watch::Receiver<bool>;
}

/// Who on this node may be whom.
pub trait Entitlements: Send + Sync + 'static {
    /// Whether the caller at the other end of the socket may act as the proxy `id`. `caller` is the request's extensions, where
    /// the server of the socket put what it knows of the peer.
    ///
    /// # Errors
    /// Why not, in words for the operator of that process.
    fn may_claim(&self, caller: &Extensions, id: &SpiffeId) -> Result<(), String>;
}

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Streams of all local clients at once.
    pub streams: usize,
    /// Longest message of a client: a reconnecting Envoy lists the versions of all it has.
    pub from_client: usize,
    /// Longest message of the control plane.
    pub from_upstream: usize,
    /// How long a new stream may take to say who it is.
    pub first_message: Duration,
    /// How often Envoy reports load until the control plane says otherwise.
    pub report_every: Duration,
    /// How long a batch of load may wait for its acknowledgement before the stream is opened anew.
    pub ack_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            streams: 512,
            from_client: 8 << 20,
            from_upstream: 64 << 20,
            first_message: Duration::from_secs(10),
            report_every: Duration::from_secs(1),
            ack_within: Duration::from_secs(15),
        }
    }
}

/// The services of the xDS socket, for its owner to serve. Their tasks end with the drain.
pub fn start(
    config: Config,
    upstream: Arc<dyn Upstream>,
    entitlements: Arc<dyn Entitlements>,
    tasks: &Tasks,
    drain: Drain,
    metrics: &Metrics,
) -> Routes {
    let relay = Arc::new(Relay {
        config,
        upstream,
        entitlements,
        streams: Arc::new(Semaphore::new(config.streams)),
        tasks: tasks.clone(),
        drain: drain.clone(),
        metrics: Counters::new(metrics),
    });
    let (events_tx, events) = mpsc::channel(64);
    let (every_tx, every) = watch::channel(config.report_every);
    let forward = forward::Forward::new(Arc::clone(&relay), every_tx);
    tasks.spawn("load reports", OnExit::Shutdown, forward.run(events, drain));
    Routes::new(ads::service(&relay)).add_service(lrs::Service::new(relay, events_tx, every))
}

/// What all streams share.
struct Relay {
    config: Config,
    upstream: Arc<dyn Upstream>,
    entitlements: Arc<dyn Entitlements>,
    streams: Arc<Semaphore>,
    tasks: Tasks,
    drain: Drain,
    metrics: Counters,
}

#[derive(Clone, Debug)]
struct Counters {
    refused: Counter,
    streams: Gauge,
    /// Streams to the control plane, by protocol and how they ended.
    ended: Counter,
    reports: Counter,
    batches: Counter,
    unacknowledged: Gauge,
}

/// Why a local client is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    First(#[from] node::FirstError),
    #[error("not a load report")]
    Malformed,
    #[error("node.id must be the workload's SPIFFE ID: {0}")]
    BadId(IdError),
    #[error("this process may not act as {id}: {reason}")]
    NotYours { id: SpiffeId, reason: String },
    #[error("too many streams on this socket")]
    TooManyStreams,
    #[error("no first message in time")]
    Late,
    #[error("a message longer than this socket takes: {0}")]
    TooLong(String),
}

/// How a client's stream ends.
#[derive(Debug)]
enum End {
    /// The client went away: nobody is left to tell.
    Gone,
    Refused(Refusal),
    /// What the client is told.
    Told(Status),
}

// === impl Relay ===

impl Relay {
    /// Room for one more stream.
    fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        self.count_streams();
        permit.map_err(|_| self.refuse(&Refusal::TooManyStreams))
    }

    /// Checks that the caller may be the proxy that it claims to be.
    fn admit(&self, caller: &Extensions, id: &str) -> Result<SpiffeId, Refusal> {
        let id = SpiffeId::workload(id).map_err(Refusal::BadId)?;
        match self.entitlements.may_claim(caller, &id) {
            Ok(()) => Ok(id),
            Err(reason) => Err(Refusal::NotYours { id, reason }),
        }
    }

    /// Counts and logs a refusal; the status for the client.
    fn refuse(&self, refusal: &Refusal) -> Status {
        self.metrics.refused.inc(&[("reason", refusal.label())]);
        warn!(reason = refusal.label(), %refusal, "refused a stream on the xDS socket");
        refusal.status()
    }

    /// Tells the client how its stream ends, if it still listens.
    async fn end<T>(&self, protocol: &'static str, end: End, to: &mpsc::Sender<Result<T, Status>>) {
        let status = match end {
            End::Gone => return,
            End::Refused(refusal) => self.refuse(&refusal),
            End::Told(status) => {
                info!(protocol, %status, "ending a stream");
                status
            }
        };
        // A client that reads nothing must not hold the task.
        let _ = tokio::time::timeout(Duration::from_secs(5), to.send(Err(status))).await;
    }

    fn count_streams(&self) {
        let open = self.config.streams.saturating_sub(self.streams.available_permits());
        self.metrics.streams.set(&[], i64::try_from(open).unwrap_or(i64::MAX));
    }
}

// === impl Counters ===

impl Counters {
    fn new(metrics: &Metrics) -> Self {
        Self {
            refused: metrics.counter("symbolon_sidecar_relay_refused", "Streams of the xDS socket refused, by reason"),
            streams: metrics.gauge("symbolon_sidecar_relay_streams", "Open streams on the xDS socket"),
            ended: metrics
                .counter("symbolon_sidecar_relay_upstream_ended", "Streams to the control plane that ended, by status"),
            reports: metrics
                .counter("symbolon_sidecar_load_reports", "Load reports of local proxies, by what became of them"),
            batches: metrics.counter(
                "symbolon_sidecar_load_batches",
                "Batches of load to the control plane, by what became of them",
            ),
            unacknowledged: metrics
                .gauge("symbolon_sidecar_load_unacknowledged", "Load reports the control plane has not counted yet"),
        }
    }
}

// === impl Refusal ===

impl Refusal {
    /// A stable word for metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::First(node::FirstError::Malformed) | Self::Malformed => "malformed",
            Self::First(node::FirstError::NoNode) => "no_node",
            Self::BadId(_) => "bad_id",
            Self::NotYours { .. } => "not_yours",
            Self::TooManyStreams => "too_many_streams",
            Self::Late => "late",
            Self::TooLong(_) => "too_long",
        }
    }

    fn status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::First(_) | Self::Malformed | Self::BadId(_) => Status::invalid_argument(text),
            Self::NotYours { .. } => Status::permission_denied(text),
            Self::TooManyStreams | Self::TooLong(_) => Status::resource_exhausted(text),
            Self::Late => Status::deadline_exceeded(text),
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What an error while reading from a client means: too long a message is refused, anything else is a client that left.
fn read_error(status: Status) -> End {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => {
            End::Refused(Refusal::TooLong(status.message().to_owned()))
        }
        _ => End::Gone,
    }
}

/// Told to clients while the control plane or this sidecar goes away; Envoy reconnects and says what it has.
fn unavailable(why: impl Into<String>) -> End {
    End::Told(Status::unavailable(why))
}
