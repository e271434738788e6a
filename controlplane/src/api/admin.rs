//! The operator's door: the Admin service on a Unix socket ([`socket`]), for the same user or root. [`view`] makes answers of what
//! is known.

mod audit;
mod authority;
mod identities;
mod nodes;
mod relationships;
pub mod socket;
mod view;

use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_proto::admin as wire;
use symbolon_proto::admin::admin_server::{Admin as AdminService, AdminServer};
use symbolon_proto::ids::TrustDomain;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;
use wire::command_rollout_request::Command as Word;

use crate::api::node::Conversations;
use crate::identity::Identity;
use crate::identity::audit::{Kind, Record};
use crate::model::{MeshView, PeerName, ServiceName};
use crate::{federation, rollout, trust, xds};

/// The longest that a token can be redeemed, and an SVID live.
const MAX_TTL: Duration = Duration::from_hours(24 * 30);
const DEFAULT_TTL: Duration = Duration::from_mins(10);
/// A file of 10,000 registrations fits several times.
const MAX_MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// Changes that wait for a watcher to read them.
const OUTBOX: usize = 4;
/// Whoever may open the socket, as the audit log names them.
const OPERATOR: &str = "operator";

/// What the service works with.
#[derive(Clone, Debug)]
pub struct Parts {
    pub identity: Identity,
    pub federation: federation::Handle,
    pub relationships: trust::Handle,
    pub rollouts: rollout::Handle,
    pub proxies: xds::Handle,
    pub view: watch::Receiver<Arc<MeshView>>,
    pub conversations: Conversations,
    pub clock: Clock,
    pub tasks: Tasks,
    pub drain: Drain,
}

/// The service.
#[derive(Debug)]
pub struct Admin(Parts);

/// The service as a tonic server, with its limits.
pub fn server(parts: Parts) -> AdminServer<Admin> {
    AdminServer::new(Admin(parts)).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

type AuditStream = ReceiverStream<Result<wire::AuditRecord, Status>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_token(&self, request: Request<wire::CreateTokenRequest>) -> Answer<wire::CreateTokenResponse> {
        let asked = request.into_inner();
        let node = parse("node", &asked.node)?;
        let ttl = ttl(asked.ttl_seconds)?;
        let made = self.0.identity.tokens.create(&node, ttl).await.map_err(unavailable)?;
        info!(%node, expires_at = made.expires_at, "join token made");
        let record = Record::new(Kind::TokenCreated).with("node", node.as_str()).with("expires", made.expires_at);
        self.record(vec![record]).await?;
        let spiffe_id = self.0.identity.node_id(&node).to_string();
        Ok(Response::new(wire::CreateTokenResponse { token: made.token, spiffe_id, expires_at: made.expires_at }))
    }

    async fn invite_peer(&self, request: Request<wire::InvitePeerRequest>) -> Answer<wire::InvitePeerResponse> {
        let asked = request.into_inner();
        let peer = parse("peer", &asked.peer)?;
        let made = self.0.federation.invite(&peer, ttl(asked.ttl_seconds)?).await.map_err(refused_by_link)?;
        info!(%peer, expires_at = made.expires_at, "peer invited");
        Ok(Response::new(wire::InvitePeerResponse { token: made.token, expires_at: made.expires_at }))
    }

    async fn accept_peer(&self, request: Request<wire::AcceptPeerRequest>) -> Answer<wire::Peer> {
        let asked = request.into_inner();
        let peer = parse("peer", &asked.peer)?;
        let status = self.0.federation.accept(&peer, &asked.token).await.map_err(refused_by_link)?;
        info!(%peer, "trust exchanged");
        Ok(Response::new(view::peer(status, &self.0.identity.bundles)))
    }

    async fn list_peers(&self, _: Request<wire::ListPeersRequest>) -> Answer<wire::ListPeersResponse> {
        let bundles = &self.0.identity.bundles;
        let peers = self.0.federation.list().into_iter().map(|status| view::peer(status, bundles)).collect();
        Ok(Response::new(wire::ListPeersResponse { peers }))
    }

    async fn show_bundle(&self, request: Request<wire::ShowBundleRequest>) -> Answer<wire::ShowBundleResponse> {
        let asked = request.into_inner().trust_domain;
        let trust_domain =
            if asked.is_empty() { self.0.identity.trust_domain.clone() } else { parse("trust domain", &asked)? };
        Ok(Response::new(self.bundle(&trust_domain)?))
    }

    async fn set_bundle(&self, request: Request<wire::SetBundleRequest>) -> Answer<wire::ShowBundleResponse> {
        let asked = request.into_inner();
        let trust_domain: TrustDomain = parse("trust domain", &asked.trust_domain)?;
        if self.0.relationships.get(&trust_domain).is_err() {
            let why =
                format!("there is no relationship with {trust_domain}; make one with `symbolon federation create`");
            return Err(Status::invalid_argument(why));
        }
        let set = self.0.identity.set_bundle(&trust_domain, &asked.jwks, asked.force).await;
        set.map_err(|refused| match refused {
            refused if refused.is_ours() => unavailable(refused),
            other => Status::invalid_argument(other.to_string()),
        })?;
        Ok(Response::new(self.bundle(&trust_domain)?))
    }

    async fn create_identity(&self, request: Request<wire::CreateIdentityRequest>) -> Answer<wire::Identity> {
        Self::create_identity(self, request).await
    }

    async fn list_identities(&self, _: Request<wire::ListIdentitiesRequest>) -> Answer<wire::ListIdentitiesResponse> {
        Ok(Response::new(self.identities()))
    }

    async fn list_services(&self, request: Request<wire::ListServicesRequest>) -> Answer<wire::ListServicesResponse> {
        let asked = request.into_inner().service;
        let only: Option<ServiceName> = if asked.is_empty() { None } else { Some(parse("service", &asked)?) };
        let services = view::services(&self.0.view.borrow().clone(), only.as_ref());
        Ok(Response::new(wire::ListServicesResponse { services }))
    }

    async fn list_proxies(&self, _: Request<wire::ListProxiesRequest>) -> Answer<wire::ListProxiesResponse> {
        let proxies = self.0.proxies.proxies().into_iter().map(view::proxy).collect();
        Ok(Response::new(wire::ListProxiesResponse { proxies }))
    }

    async fn list_rollouts(&self, _: Request<wire::ListRolloutsRequest>) -> Answer<wire::ListRolloutsResponse> {
        let rollouts = self.0.rollouts.list().iter().map(|status| view::rollout(status)).collect();
        Ok(Response::new(wire::ListRolloutsResponse { rollouts }))
    }

    type WatchRolloutStream = ReceiverStream<Result<wire::Rollout, Status>>;

    async fn watch_rollout(&self, request: Request<wire::WatchRolloutRequest>) -> Answer<Self::WatchRolloutStream> {
        let asked = request.into_inner();
        let key = self.rollout(&asked.service, &asked.peer)?;
        let (outbox, changes) = mpsc::channel(OUTBOX);
        let (statuses, drain) = (self.0.rollouts.watch(), self.0.drain.clone());
        self.0.tasks.spawn("rollout watch", OnExit::Log, async move {
            tokio::select! {
                () = tell_rollout(statuses, key, outbox, asked.once) => {}
                () = drain.cancelled() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(changes)))
    }

    async fn command_rollout(&self, request: Request<wire::CommandRolloutRequest>) -> Answer<wire::Rollout> {
        let asked = request.into_inner();
        let (service, peer) = self.rollout(&asked.service, &asked.peer)?;
        let reason = asked.reason.chars().take(256).collect();
        let command = match Word::try_from(asked.command) {
            Ok(Word::Pause) => rollout::Command::Pause { reason },
            Ok(Word::Resume) => rollout::Command::Resume,
            Ok(Word::Promote) => rollout::Command::Promote { full: asked.full },
            Ok(Word::Abort) => rollout::Command::Abort { reason },
            Err(_) => return Err(Status::invalid_argument("an unknown command")),
        };
        info!(%service, %peer, ?command, "rollout command");
        let done = self.0.rollouts.command(service, peer, command).await.map_err(|error| match error {
            rollout::Error::Unknown(..) => Status::not_found(error.to_string()),
            rollout::Error::Refused(_) | rollout::Error::Policy(_) => Status::failed_precondition(error.to_string()),
            rollout::Error::Conflict => Status::aborted(error.to_string()),
            rollout::Error::Store(_) | rollout::Error::Stopping => Status::internal(error.to_string()),
        })?;
        Ok(Response::new(view::rollout(&done)))
    }

    async fn list_authorities(
        &self,
        request: Request<wire::ListAuthoritiesRequest>,
    ) -> Answer<wire::ListAuthoritiesResponse> {
        Self::list_authorities(self, request).await
    }

    async fn change_authority(
        &self,
        request: Request<wire::ChangeAuthorityRequest>,
    ) -> Answer<wire::ListAuthoritiesResponse> {
        Self::change_authority(self, request).await
    }

    async fn delete_identity(&self, request: Request<wire::DeleteIdentityRequest>) -> Answer<wire::Identity> {
        Self::delete_identity(self, request).await
    }

    async fn apply_identities(
        &self,
        request: Request<wire::ApplyIdentitiesRequest>,
    ) -> Answer<wire::ApplyIdentitiesResponse> {
        Self::apply_identities(self, request).await
    }

    async fn explain_identity(
        &self,
        request: Request<wire::ExplainIdentityRequest>,
    ) -> Answer<wire::ExplainIdentityResponse> {
        Self::explain_identity(self, request).await
    }

    async fn list_nodes(&self, request: Request<wire::ListNodesRequest>) -> Answer<wire::ListNodesResponse> {
        Self::list_nodes(self, request).await
    }

    async fn change_node(&self, request: Request<wire::ChangeNodeRequest>) -> Answer<wire::Node> {
        Self::change_node(self, request).await
    }

    async fn list_relationships(
        &self,
        request: Request<wire::ListRelationshipsRequest>,
    ) -> Answer<wire::ListRelationshipsResponse> {
        Self::list_relationships(self, request).await
    }

    async fn set_relationship(&self, request: Request<wire::SetRelationshipRequest>) -> Answer<wire::Relationship> {
        Self::set_relationship(self, request).await
    }

    async fn refresh_relationship(
        &self,
        request: Request<wire::RefreshRelationshipRequest>,
    ) -> Answer<wire::Relationship> {
        Self::refresh_relationship(self, request).await
    }

    async fn delete_relationship(
        &self,
        request: Request<wire::DeleteRelationshipRequest>,
    ) -> Answer<wire::Relationship> {
        Self::delete_relationship(self, request).await
    }

    async fn verify_audit(&self, request: Request<wire::VerifyAuditRequest>) -> Answer<wire::VerifyAuditResponse> {
        Self::verify_audit(self, request).await
    }

    type TailAuditStream = AuditStream;

    async fn tail_audit(&self, request: Request<wire::TailAuditRequest>) -> Answer<Self::TailAuditStream> {
        Self::tail_audit(self, request).await
    }
}

impl Admin {
    /// Writes down what an operator has done. It is answered only then.
    async fn record(&self, records: Vec<Record>) -> Result<(), Status> {
        let records = records.into_iter().map(|record| record.with("by", OPERATOR)).collect();
        self.0
            .identity
            .audit
            .append_all(records)
            .await
            .map_err(|error| unavailable(format!("it is done, but not in the audit log: {error}")))
    }

    fn bundle(&self, trust_domain: &TrustDomain) -> Result<wire::ShowBundleResponse, Status> {
        let table = self.0.identity.bundles.all();
        let known: Vec<_> = table.keys().map(TrustDomain::as_str).collect();
        let missing = || Status::not_found(format!("no bundle of {trust_domain}; there are: {}", known.join(", ")));
        Ok(view::bundle(table.get(trust_domain).ok_or_else(missing)?))
    }

    /// The rollout that is meant; the peer may be left out when there is only one.
    fn rollout(&self, service: &str, peer: &str) -> Result<(ServiceName, PeerName), Status> {
        let service: ServiceName = parse("service", service)?;
        let all = self.0.rollouts.list();
        let peers: Vec<_> = all.iter().filter(|one| one.service == service).map(|one| one.peer.clone()).collect();
        let names = || peers.iter().map(PeerName::as_str).collect::<Vec<_>>().join(", ");
        if !peer.is_empty() {
            let peer = parse("peer", peer)?;
            let missing = || Status::not_found(format!("{service} is not federated with {peer}; with: {}", names()));
            return peers.contains(&peer).then(|| (service.clone(), peer.clone())).ok_or_else(missing);
        }
        match peers.as_slice() {
            [only] => Ok((service, only.clone())),
            [] => Err(Status::not_found(format!("{service} has no rollout: it is not federated with any peer"))),
            _ => Err(Status::invalid_argument(format!("{service} has several rollouts; name the peer: {}", names()))),
        }
    }
}

async fn tell_rollout(
    mut statuses: watch::Receiver<Arc<rollout::Statuses>>,
    key: (ServiceName, PeerName),
    outbox: mpsc::Sender<Result<wire::Rollout, Status>>,
    once: bool,
) {
    let mut told: Option<Arc<rollout::Status>> = None;
    loop {
        let now = statuses.borrow_and_update().get(&key).cloned();
        if now != told {
            let Some(status) = &now else { return };
            if outbox.send(Ok(view::rollout(status))).await.is_err() || once {
                return;
            }
            told = now;
        }
        tokio::select! {
            changed = statuses.changed() => if changed.is_err() { return },
            () = outbox.closed() => return,
        }
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, Status> {
    text.parse().map_err(|error: T::Err| Status::invalid_argument(format!("{what}: {error}")))
}

fn ttl(seconds: u32) -> Result<Duration, Status> {
    match Duration::from_secs(seconds.into()) {
        Duration::ZERO => Ok(DEFAULT_TTL),
        ttl if ttl > MAX_TTL => Err(Status::invalid_argument("a lifetime of more than 30 days")),
        ttl => Ok(ttl),
    }
}

/// Not `Unavailable`: the control plane was reached.
fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn refused_by_link(refusal: federation::Refusal) -> Status {
    use federation::Refusal;
    let text = refusal.to_string();
    match refusal {
        Refusal::UnknownPeer(_) | Refusal::Malformed | Refusal::WrongTrustDomain { .. } | Refusal::WrongId(_) => {
            Status::invalid_argument(text)
        }
        Refusal::Store(_) => Status::internal(text),
        _ => Status::failed_precondition(text),
    }
}
