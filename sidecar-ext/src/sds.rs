//! Envoy's secret discovery, SotW and Delta: certificates and keys by SPIFFE ID (or `default`), trust bundles as Envoy's SPIFFE
//! validator (`ALL`, `ROOTCA`, `spiffe://<trust domain>`). Each name is authorised on its own: one that the caller may not have gets
//! nothing, and never ends the stream. One secret per response, since a rejection names none (spec/xds.md 11).

pub mod acks;
mod secret;
mod session;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use futures::Stream;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Metrics};
use symbolon_kit::seldom::Seldom;
use symbolon_proto::ids::SpiffeId;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::warn;

use crate::attest::Caller;
use crate::config::Header;
use crate::guard::{Guard, Share};
use crate::identity::View;
use acks::{Acks, Proxy};
use secret::{Found, Offer, Validators};
use session::{Delta, Dialect, Fate, Session, Sotw};

/// The one resource type that is served here.
const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service; cheap to clone.
#[derive(Clone, Debug)]
pub struct Sds {
    view: watch::Receiver<Arc<View>>,
    guard: Guard,
    acks: Acks,
    counts: Counts,
    said: Seldom,
    validators: Validators,
    header: Header,
    drain: Drain,
}

/// What the service counts.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Names asked for and not given, by reason.
    pub denied: Counter,
    /// Secrets acknowledged and rejected by Envoy.
    pub answered: Counter,
}

impl Counts {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            denied: metrics
                .counter("symbolon_sidecar_secrets_denied", "Secrets asked for by SDS and not given, by reason"),
            answered: metrics.counter("symbolon_sidecar_secrets_answered", "Secrets that Envoy answered, by outcome"),
        }
    }
}

impl Sds {
    pub fn server(
        view: watch::Receiver<Arc<View>>,
        guard: Guard,
        acks: Acks,
        counts: Counts,
        header: Header,
        drain: Drain,
    ) -> SecretDiscoveryServiceServer<Self> {
        let (said, validators) = (Seldom::default(), Validators::default());
        let sds = Self { view, guard, acks, counts, said, validators, header, drain };
        SecretDiscoveryServiceServer::new(sds).max_decoding_message_size(1 << 20)
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        match self.header {
            Header::Required => self.guard.caller(request),
            Header::Optional => self.guard.caller_without_header(request),
        }
    }

    fn stream<D: Dialect>(
        &self,
        request: Request<Streaming<D::Request>>,
    ) -> Result<Response<Answers<D::Response>>, Status> {
        let caller = self.caller(&request)?;
        let share = self.guard.stream(&caller)?;
        let stream = Open::<D> {
            requests: request.into_inner(),
            session: Session::default(),
            view: self.view.clone(),
            caller,
            proxy: None,
            sds: self.clone(),
            ready: VecDeque::new(),
            _share: share,
        };
        Ok(Response::new(Box::pin(futures::stream::unfold(Some(stream), Open::next))))
    }
}

/// One open stream of Envoy's.
struct Open<D: Dialect> {
    requests: Streaming<D::Request>,
    session: Session<D>,
    view: watch::Receiver<Arc<View>>,
    caller: Caller,
    /// Who acknowledges; known from the first message that names an identity of the caller's.
    proxy: Option<Proxy>,
    sds: Sds,
    ready: VecDeque<D::Response>,
    _share: Share,
}

impl<D: Dialect> Open<D> {
    /// The next response; after an error, which is the last, nothing.
    async fn next(stream: Option<Self>) -> Option<(Result<D::Response, Status>, Option<Self>)> {
        let mut stream = stream?;
        loop {
            if let Some(response) = stream.ready.pop_front() {
                return Some((Ok(response), Some(stream)));
            }
            let step = tokio::select! {
                () = stream.sds.drain.cancelled() => Err(Status::unavailable("the sidecar is stopping")),
                changed = stream.view.changed() => {
                    changed.map_err(|_| Status::unavailable("the sidecar is stopping"))
                }
                request = stream.requests.message() => match request {
                    Ok(Some(request)) => stream.heard(request),
                    Ok(None) => return None, // Envoy has left
                    Err(broken) => match stream.malformed(&broken) {
                        Some(status) => Err(status),
                        None => return None, // and did not say goodbye
                    },
                },
            };
            if let Err(status) = step.and_then(|()| stream.answer()) {
                return Some((Err(status), None));
            }
        }
    }

    /// A client that goes away is no refusal; one that does not speak the protocol is.
    fn malformed(&self, broken: &Status) -> Option<Status> {
        let status = match broken.code() {
            Code::OutOfRange => Status::resource_exhausted(broken.message()),
            Code::Internal | Code::InvalidArgument => Status::invalid_argument(broken.message()),
            _ => return None,
        };
        self.sds.guard.refused("malformed", &self.caller);
        Some(status)
    }

    fn heard(&mut self, request: D::Request) -> Result<(), Status> {
        self.recognise(D::node_id(&request));
        match self.session.heard(request)? {
            Some(Fate::Acked(detail)) => {
                self.sds.counts.answered.inc(&[("outcome", "acked")]);
                if let Some(proxy) = &self.proxy {
                    self.sds.acks.record(proxy, &detail);
                }
            }
            Some(Fate::Rejected { name, why }) => {
                self.sds.counts.answered.inc(&[("outcome", "rejected")]);
                warn!(name, why, pid = self.caller.pid(), "Envoy rejects a secret; it keeps the one it has");
            }
            None => {}
        }
        Ok(())
    }

    /// Only an identity that the caller is entitled to may acknowledge in its name.
    fn recognise(&mut self, node_id: Option<&str>) {
        let Some(id) = node_id.filter(|_| self.proxy.is_none()).and_then(|id| id.parse::<SpiffeId>().ok()) else {
            return;
        };
        let Ok(selectors) = self.caller.selectors() else { return };
        if self.view.borrow().held_for(selectors).any(|held| held.entry.spiffe_id == id) {
            self.proxy = Some(self.sds.acks.proxy(&id));
        }
    }

    /// Puts together what this stream is owed.
    fn answer(&mut self) -> Result<(), Status> {
        let view = self.view.borrow_and_update().clone();
        let selectors = self.caller.selectors().map_err(|why| Status::permission_denied(why.to_string()))?;
        let (denied, said, pid) = (&self.sds.counts.denied, &self.sds.said, self.caller.pid());
        let offer = Offer::to(&view, selectors);
        let owed = self.session.owed(
            |name| offer.find(name),
            |name, source| self.sds.validators.render(name, source),
            |name, why| {
                denied.inc(&[("reason", why)]);
                if let Some(left_out) = said.ask(why) {
                    warn!(name, why, pid, left_out, "a secret is not given");
                }
            },
        );
        self.ready.extend(owed);
        Ok(())
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        self.stream::<Delta>(request)
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        self.stream::<Sotw>(request)
    }

    /// One answer with all of the names that the caller may have and that are here.
    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let caller = self.caller(&request)?;
        let selectors = caller.selectors().map_err(|why| Status::permission_denied(why.to_string()))?;
        let names = session::sotw_names(&request.into_inner())?;
        let view = self.view.borrow().clone();
        if !view.ready {
            return Err(Status::unavailable("the registration entries of this node are not here yet"));
        }
        let mut response = DiscoveryResponse { type_url: TYPE_URL.into(), ..Default::default() };
        let offer = Offer::to(&view, selectors);
        for name in names {
            match offer.find(&name) {
                Found::Secret(source) => response.resources.push(self.validators.render(&name, &source).resource),
                Found::Pending => {}
                Found::Denied(why) => self.counts.denied.inc(&[("reason", why)]),
            }
        }
        response.version_info = session::version(response.resources.iter().map(|any| any.value.as_slice()));
        Ok(Response::new(response))
    }
}

#[cfg(test)]
mod tests;
