//! The gRPC service: who may open a stream at all. What the stream then is, its first message says.

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Counter;
use symbolon_kit::net::PeerIdentity;
use symbolon_proto::ads::aggregated_discovery_service_server::AggregatedDiscoveryService;
use symbolon_proto::encoded::PreEncoded;
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use crate::model::NodeName;
use crate::snapshot::SnapshotSet;

use super::Admission;
use super::ack::Registry;
use super::refusal::Refusal;
use super::stream;
use super::wire::Wire;

/// What every stream needs.
pub(super) struct Shared {
    pub snapshots: watch::Receiver<Arc<SnapshotSet>>,
    pub admission: Arc<dyn Admission>,
    pub registry: Arc<Registry>,
    pub drain: Drain,
    pub pushes: Counter,
    pub nacks: Counter,
    pub refused: Counter,
}

/// The aggregated discovery service.
pub struct Ads(pub(super) Arc<Shared>);

/// Responses of one stream.
pub type Responses = Pin<Box<dyn Stream<Item = Result<PreEncoded, Status>> + Send>>;

// === impl Shared ===

impl Shared {
    /// Counts and logs a refusal, and says it in gRPC's words.
    pub(super) fn refused(&self, refusal: &Refusal) -> Status {
        self.refused.inc(&[("reason", refusal.label())]);
        info!(reason = refusal.label(), %refusal, "refused an xDS stream");
        refusal.into()
    }
}

// === impl Ads ===

impl Ads {
    fn serve<R: Wire>(&self, request: Request<Streaming<R>>) -> Result<Response<Responses>, Status> {
        let node = self.node(request.extensions().get()).map_err(|refusal| self.0.refused(&refusal))?;
        let stream = stream::Stream::new(self.0.clone(), request.into_inner(), node);
        Ok(Response::new(Box::pin(futures::stream::unfold(stream, stream::Stream::next))))
    }

    fn node(&self, peer: Option<&PeerIdentity>) -> Result<NodeName, Refusal> {
        let (id, serial) = peer.and_then(|peer| Some((peer.id.as_ref()?, &*peer.serial))).ok_or(Refusal::Anonymous)?;
        self.0.admission.node_of(id, serial).ok_or_else(|| Refusal::NotANode(id.clone()))
    }
}

impl std::fmt::Debug for Ads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ads")
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses;
    type DeltaAggregatedResourcesStream = Responses;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        self.serve(request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        self.serve(request)
    }
}
