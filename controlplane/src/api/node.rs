//! The Node service: what sidecars say to their control plane, and hear from it. [`caller`] says who calls, [`sync`] is the
//! standing conversation ([`conversations`] are those that are open), [`load`] takes load reports.

mod attest;
mod caller;
mod conversations;
mod load;
mod mint;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Metrics};
use symbolon_kit::net::PeerIdentity;
use symbolon_kit::supervise::Tasks;
use symbolon_proto::attest::REASON_HEADER;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_server::{Node as NodeService, NodeServer};
use tokio::sync::{Semaphore, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::info;

use caller::Caller;

use crate::identity::{Identity, Minted, Refusal};
use crate::model::Relationships;
use crate::sources::nodes;

pub use conversations::{Conversations, Unanswered};
pub use load::{LoadRefused, LoadSink};

/// The most CSRs in one Mint (bad input 20).
pub const MAX_BATCH: usize = 500;
/// The largest message from a node: 1,000 workloads with their upstreams, or a batch of CSRs, fit.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Updates that wait for a node to read them.
const OUTBOX: usize = 16;

/// What the service works with.
#[derive(Clone, Debug)]
pub struct Parts {
    pub identity: Identity,
    pub registrations: nodes::Handle,
    pub loads: Arc<dyn LoadSink>,
    /// Whom the mesh federates with, for the entries that do not name it.
    pub relationships: watch::Receiver<Arc<Relationships>>,
    pub conversations: Conversations,
    pub clock: Clock,
    /// How often nodes are asked to forward load reports.
    pub report_every: Duration,
    pub tasks: Tasks,
    pub drain: Drain,
}

/// The service; one value serves all nodes, and is cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    parts: Parts,
    refusals: Counter,
    attempts: attest::limit::Attempts,
    /// Attestations that may be under way.
    attestations: Arc<Semaphore>,
}

/// The service as a tonic server, with its limits.
pub fn server(parts: Parts, metrics: &Metrics) -> NodeServer<Node> {
    let refusals = metrics.counter("symbolon_node_api_refusals", "Requests of nodes that were refused, by reason");
    let attestations = Arc::new(Semaphore::new(attest::MAX_UNDER_WAY));
    let attempts = attest::limit::Attempts::default();
    let node = Node { parts, refusals, attempts, attestations };
    NodeServer::new(node).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

// === impl Node ===

impl Node {
    /// Counts and logs a refusal, once, and makes it the caller's answer.
    fn refuse(&self, caller: &str, refused: &Refused) -> Status {
        self.refusals.inc(&[("reason", refused.label())]);
        info!(caller, reason = refused.label(), %refused, "a node's request was refused");
        if !refused.is_passing() {
            self.parts
                .identity
                .audit
                .refused(caller, refused.label(), |record| record.with("detail", refused.to_string()));
        }
        refused.status()
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let peer = request.extensions().get::<PeerIdentity>();
        caller::node(&self.parts.identity, peer).map_err(|refused| self.refuse(&caller::shown(peer), &refused))
    }
}

#[tonic::async_trait]
impl NodeService for Node {
    type AttestStream = attest::Answers;

    async fn attest(
        &self,
        request: Request<Streaming<wire::AttestRequest>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        attest::run(self, request).await
    }

    async fn mint_jwt(
        &self,
        request: Request<wire::MintJwtRequest>,
    ) -> Result<Response<wire::MintJwtResponse>, Status> {
        self.mint_jwts(request).await
    }

    async fn mint_wit(
        &self,
        request: Request<wire::MintWitRequest>,
    ) -> Result<Response<wire::MintJwtResponse>, Status> {
        self.mint_wits(request).await
    }

    async fn mint(&self, request: Request<wire::MintRequest>) -> Result<Response<wire::MintResponse>, Status> {
        self.mint_x509(request).await
    }

    type SyncStream = ReceiverStream<Result<wire::NodeUpdate, Status>>;

    async fn sync(&self, request: Request<Streaming<wire::NodeReport>>) -> Result<Response<Self::SyncStream>, Status> {
        let node = self.caller(&request)?.name;
        let outbox = sync::start(&self.parts, &self.refusals, node, request.into_inner());
        Ok(Response::new(outbox))
    }

    type ReportLoadStream = ReceiverStream<Result<wire::LoadAck, Status>>;

    async fn report_load(
        &self,
        request: Request<Streaming<wire::LoadBatch>>,
    ) -> Result<Response<Self::ReportLoadStream>, Status> {
        let node = self.caller(&request)?.name;
        Ok(Response::new(load::start(&self.parts, &self.refusals, node, request.into_inner())))
    }
}

/// A node that goes away in the middle of a stream is no refusal; one that does not speak the protocol is.
fn malformed(broken: &Status) -> Option<Refused> {
    let spoke = matches!(broken.code(), Code::Internal | Code::OutOfRange | Code::InvalidArgument);
    spoke.then(|| Refused::Malformed(broken.message().chars().take(200).flat_map(char::escape_debug).collect()))
}

fn chain(minted: Minted) -> Vec<bytes::Bytes> {
    minted.chain.into_iter().map(|certificate| certificate.to_vec().into()).collect()
}

/// Why a node's request was refused; each with a stable label, and safe to show to the node.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("this call needs the node's SVID; attest first")]
    Anonymous,
    #[error("{0} is not a node of this trust domain")]
    NotANode(symbolon_proto::ids::SpiffeId),
    #[error("{0} orders in one request; at most {MAX_BATCH}")]
    BatchTooLarge(usize),
    #[error(transparent)]
    Identity(Refusal),
    #[error("the registration could not be kept: {0}")]
    Registration(#[from] nodes::Error),
    #[error("the message is malformed: {0}")]
    Malformed(String),
    #[error("{0} does not run on this node")]
    NotYourProxy(symbolon_proto::ids::SpiffeId),
    #[error("the load report could not be kept: {0}")]
    Load(#[from] LoadRefused),
    #[error("too many attempts to attest from this address; try again in {} s", .0.as_secs_f64().ceil())]
    TooManyAttempts(Duration),
    #[error("too many nodes attest at once; try again")]
    Busy,
    #[error("the attestation took too long")]
    TooSlow,
    #[error("this node opened another stream; this one is closed")]
    Replaced,
    #[error("the control plane is stopping; connect again")]
    Draining,
}

impl Refused {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::NotANode(_) => "not_a_node",
            Self::BatchTooLarge(_) => "batch_too_large",
            Self::Identity(refusal) => refusal.label(),
            Self::Registration(_) => "registration_not_kept",
            Self::Malformed(_) => "malformed",
            Self::NotYourProxy(_) => "not_your_proxy",
            Self::Load(_) => "load_not_kept",
            Self::TooManyAttempts(_) => "too_many_attempts",
            Self::Busy => "busy",
            Self::TooSlow => "too_slow",
            Self::Replaced => "replaced",
            Self::Draining => "draining",
        }
    }

    /// Whether it says nothing against the caller: the same request may do in a moment.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Registration(_) | Self::Load(_) | Self::Busy | Self::Replaced | Self::Draining)
            || matches!(self, Self::Identity(Refusal::Overloaded | Refusal::NotRecorded | Refusal::Unavailable))
    }

    /// With its word in a header, so that the node need not read the text.
    fn status(&self) -> Status {
        let mut status = self.plain_status();
        status.metadata_mut().insert(REASON_HEADER, MetadataValue::from_static(self.label()));
        if let Self::Identity(Refusal::TooFast(wait)) | Self::TooManyAttempts(wait) = self {
            // As gRPC clients that retry by themselves read it.
            let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
            status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from(wait));
        }
        status
    }

    fn plain_status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::Anonymous => Status::unauthenticated(text),
            Self::NotANode(_) | Self::NotYourProxy(_) => Status::permission_denied(text),
            Self::BatchTooLarge(_) | Self::TooManyAttempts(_) | Self::Busy => Status::resource_exhausted(text),
            Self::TooSlow => Status::deadline_exceeded(text),
            Self::Malformed(_) => Status::invalid_argument(text),
            Self::Registration(_) | Self::Load(_) | Self::Draining => Status::unavailable(text),
            Self::Replaced => Status::aborted(text),
            Self::Identity(refusal) => match refusal {
                Refusal::BadCsr(_) | Refusal::WeakKey(_) | Refusal::KeyInUse | Refusal::BadAudience(_) => {
                    Status::invalid_argument(text)
                }
                Refusal::Incubating => Status::unimplemented(text),
                Refusal::UnknownEntry => Status::not_found(text),
                Refusal::NotYourEntry
                | Refusal::NotGranted(_)
                | Refusal::NodeBanned(_)
                | Refusal::NodeGone(_)
                | Refusal::NodeSuperseded
                | Refusal::NameTaken { .. } => Status::permission_denied(text),
                Refusal::UnknownToken | Refusal::ExpiredToken | Refusal::BadEvidence(_) => {
                    Status::unauthenticated(text)
                }
                Refusal::AttestorOff(_) => Status::failed_precondition(text),
                Refusal::TooFast(_) | Refusal::Overloaded => Status::resource_exhausted(text),
                Refusal::Unavailable | Refusal::NotRecorded => Status::unavailable(text),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_is_told_how_long_to_wait_by_its_client_too() {
        let wait = Duration::from_millis(1_500);
        for refused in [Refused::Identity(Refusal::TooFast(wait)), Refused::TooManyAttempts(wait)] {
            let status = refused.status();
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "1500");
        }
        let status = Refused::Identity(Refusal::NotRecorded).status();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.metadata().get("grpc-retry-pushback-ms").is_none());
    }
}
