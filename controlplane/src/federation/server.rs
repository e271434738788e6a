//! The listening side: who calls is known from TLS alone, and must be a control plane of a configured peer's trust domain.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use symbolon_kit::net::PeerIdentity;
use symbolon_kit::supervise::OnExit;
use symbolon_proto::federation as wire;
use symbolon_proto::federation::federation_server::Federation;
use symbolon_proto::ids::SpiffeId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::config::control_planes_of;
use super::peer::Peer;
use super::streams::{self, Ended, OUTBOUND};
use super::{Context, Core, invite};

/// The gRPC service.
#[derive(Clone, Debug)]
pub struct Service(pub(super) Arc<Core>);

/// Why a caller gets no stream; each with a stable label, and safe to show to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAPeer {
    #[error("this call needs a client certificate of a peer's control plane")]
    Anonymous,
    #[error("{0} is of no trust domain that is configured as a peer here")]
    UnknownTrustDomain(SpiffeId),
    #[error("{0} is not the ID of a control plane")]
    NotAControlPlane(SpiffeId),
    #[error("no trust was exchanged with {0} yet; run `symbolon peer invite` and `symbolon peer accept`")]
    NotEstablished(SpiffeId),
}

impl Core {
    /// The peer that this ID speaks for.
    pub(super) fn caller(&self, id: Option<&SpiffeId>) -> Result<Arc<Peer>, NotAPeer> {
        let id = id.ok_or(NotAPeer::Anonymous)?;
        let peer = self.peers.values().find(|peer| peer.config.trust_domain == *id.trust_domain());
        let peer = peer.ok_or_else(|| NotAPeer::UnknownTrustDomain(id.clone()))?;
        if !id.matches(&control_planes_of(&peer.config.trust_domain)) {
            return Err(NotAPeer::NotAControlPlane(id.clone()));
        }
        if peer.established.borrow().is_none() {
            return Err(NotAPeer::NotEstablished(id.clone()));
        }
        Ok(peer.clone())
    }

    fn authenticate<T>(&self, request: &Request<T>) -> Result<Arc<Peer>, Status> {
        let identity = request.extensions().get::<PeerIdentity>();
        self.caller(identity.and_then(|identity| identity.id.as_ref())).map_err(|refusal| {
            self.context.counters.refused.inc(&[("peer", ""), ("reason", refusal.label())]);
            warn!(%refusal, from = ?identity.map(|identity| identity.address), "a caller of the link was refused");
            match refusal {
                NotAPeer::Anonymous => Status::unauthenticated(refusal.to_string()),
                _ => Status::permission_denied(refusal.to_string()),
            }
        })
    }
}

#[tonic::async_trait]
impl Federation for Service {
    type PullStream = BoxStream<'static, Result<wire::FromPublisher, Status>>;
    type PushStream = BoxStream<'static, Result<wire::FromSubscriber, Status>>;

    async fn establish(
        &self,
        request: Request<wire::EstablishRequest>,
    ) -> Result<Response<wire::EstablishResponse>, Status> {
        let address = request.extensions().get::<PeerIdentity>().map(|identity| identity.address);
        invite::establish(&self.0, request.into_inner()).await.map(Response::new).map_err(|refusal| {
            self.0.context.counters.refused.inc(&[("peer", ""), ("reason", refusal.label())]);
            warn!(%refusal, from = ?address, "an invitation was not redeemed");
            refusal.into()
        })
    }

    async fn pull(
        &self,
        request: Request<Streaming<wire::FromSubscriber>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let peer = self.0.authenticate(&request)?;
        let (to_peer, outbound) = mpsc::channel(OUTBOUND);
        let (context, from_peer) = (self.0.context.clone(), request.into_inner());
        let task = async move {
            let ended = streams::publish(&context, &peer, from_peer, to_peer).await;
            report(&context, &peer, "publishing", &ended);
        };
        self.0.context.tasks.spawn("federation-publish", OnExit::Log, task);
        Ok(Response::new(ReceiverStream::new(outbound).map(Ok).boxed()))
    }

    async fn push(
        &self,
        request: Request<Streaming<wire::FromPublisher>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let peer = self.0.authenticate(&request)?;
        let (to_peer, outbound) = mpsc::channel(OUTBOUND);
        let (context, from_peer) = (self.0.context.clone(), request.into_inner());
        let task = async move {
            let ended = streams::subscribe(&context, &peer, from_peer, to_peer).await;
            report(&context, &peer, "subscribing", &ended);
        };
        self.0.context.tasks.spawn("federation-subscribe", OnExit::Log, task);
        Ok(Response::new(ReceiverStream::new(outbound).map(Ok).boxed()))
    }
}

fn report(context: &Context, peer: &Peer, doing: &'static str, ended: &Ended) {
    let name = &peer.config.name;
    context.counters.ended.inc(&[("peer", name.as_str()), ("reason", ended.label())]);
    info!(peer = %name, doing, why = %ended, "stream ended");
    if !matches!(ended, Ended::Fenced | Ended::Drained | Ended::Stopped) {
        peer.facts().last_error = format!("{doing}: {ended}");
    }
}

impl NotAPeer {
    /// A stable word for metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::UnknownTrustDomain(_) => "unknown_trust_domain",
            Self::NotAControlPlane(_) => "not_a_control_plane",
            Self::NotEstablished(_) => "not_established",
        }
    }
}
