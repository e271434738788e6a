//! The xDS server: gives every proxy its [`Snapshot`](crate::snapshot::Snapshot) over aggregated discovery streams, state of the
//! world and delta, and knows what each has acknowledged.
//!
//! ```text
//!  snapshots ──watch──► stream ──► wave ──► subscription × type ──► plan ──► wire ──► Envoy
//!                         ▲         │ order among types                        │
//!                         └─────────┼───────────── requests, ACKs, NACKs ◄─────┘
//!                                   └──► ack: AckTable, ProxyStatus
//! ```
//!
//! `wave`, `subscription` and `plan` are pure; `stream` is the only loop. Resources are encoded once and shared; a stream
//! holds pointers. The numbers in comments are lines of the xDS checklist.

mod kind;
mod refusal;
mod wire;
mod subscription;
mod plan;
mod wave;
mod status;
mod ack;
mod stream;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_proto::ads::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use symbolon_proto::ids::SpiffeId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::{AckTable, NodeName};
use crate::snapshot::SnapshotSet;

use ack::Registry;
use server::Shared;

pub use server::{Ads, Responses};
pub use status::{ProxyStatus, TypeState, TypeStatus};

/// Names of one type that a stream may subscribe to, and versions that it may say it holds.
pub const MAX_NAMES: usize = 16_384;
/// Longest resource name, version or nonce.
pub const MAX_NAME_BYTES: usize = 2_048;
/// Longest request. The largest is the first after a reconnect: Envoy's node (61 KB) and the version of each resource (about 100
/// bytes each), so [`MAX_NAMES`] of them fit twice.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Envoy's hot restart needs two; a proxy that reconnects before we notice needs one more.
pub const MAX_STREAMS_PER_PROXY: usize = 4;
/// How long a stream may stay without a first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// How long a route waits for its clusters: well below the 15 s after which Envoy opens a listener without its routes.
const WAIT: Duration = Duration::from_secs(5);
/// Events that one stream handles before it lets others run.
const MAX_STREAM_TURNS: u32 = 64;

/// Who may open a stream for whom.
pub trait Admission: Send + Sync + 'static {
    /// The node that calls; `None` if it is not a node of this mesh, or not one any more.
    fn node_of(&self, id: &SpiffeId, serial: &str) -> Option<NodeName>;
    /// Whether a workload of this identity may run on the node.
    fn may_run(&self, node: &NodeName, identity: &SpiffeId) -> bool;
}

/// What others may know of the server; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    registry: Arc<Registry>,
    snapshots: watch::Receiver<Arc<SnapshotSet>>,
}

/// The service for a gRPC router whose connections carry a `PeerIdentity`, and its handle. Streams end when `drain` starts.
pub fn serve(
    snapshots: watch::Receiver<Arc<SnapshotSet>>,
    admission: Arc<dyn Admission>,
    metrics: &Metrics,
    drain: Drain,
) -> (AggregatedDiscoveryServiceServer<Ads>, Handle) {
    let registry = Arc::new(Registry::new(metrics.gauge("symbolon_xds_streams", "Open xDS streams")));
    let handle = Handle { registry: registry.clone(), snapshots: snapshots.clone() };
    let shared = Shared {
        snapshots,
        admission,
        registry,
        drain,
        pushes: metrics.counter("symbolon_xds_pushes", "xDS responses sent, by type"),
        nacks: metrics.counter("symbolon_xds_nacks", "xDS responses that a proxy rejected, by type"),
        refused: metrics.counter("symbolon_xds_refusals", "xDS streams and requests refused, by reason"),
    };
    let service = AggregatedDiscoveryServiceServer::new(Ads(Arc::new(shared)));
    (service.max_decoding_message_size(MAX_REQUEST_BYTES), handle)
}

// === impl Handle ===

impl Handle {
    /// What the connected proxies have acknowledged. A row appears with the stream and vanishes with it.
    pub fn acks(&self) -> watch::Receiver<Arc<AckTable>> {
        self.registry.acks()
    }

    /// The proxies that are connected, and those that should be, in the order of their keys.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        self.registry.proxies(&self.snapshots.borrow().clone(), Instant::now())
    }
}
