//! The SPIFFE Workload API (SPIFFE_Workload_API.md): a caller gets what its attested process is entitled to, as a stream of full
//! states: the first at once, then one per change and no other.

mod answer;
pub mod claims;
pub mod reflection;
mod wit;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Metrics};
use symbolon_kit::spiffe::jwt;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::workload as wire;
use symbolon_proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::attest::Caller;
use crate::guard::{Guard, Share};
use crate::identity::View;
use crate::tokens::{Audience, Tokens};
use answer::Selected;

/// The largest request: a token to validate, or audiences.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// An answer, for as long as the caller listens.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service; cheap to clone.
#[derive(Clone, Debug)]
pub struct WorkloadApi(Setup);

/// What the service works with.
#[derive(Clone, Debug)]
pub struct Setup {
    pub view: watch::Receiver<Arc<View>>,
    /// JWT-SVIDs.
    pub tokens: Tokens,
    /// WIT-SVIDs.
    pub wits: Tokens,
    pub guard: Guard,
    pub clock: Clock,
    /// Tokens that were validated, by outcome.
    pub validated: Counter,
    pub drain: Drain,
}

impl WorkloadApi {
    pub fn server(setup: Setup) -> SpiffeWorkloadApiServer<Self> {
        SpiffeWorkloadApiServer::new(Self(setup)).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// The counter that [`Setup::validated`] wants.
    pub fn counter(metrics: &Metrics) -> Counter {
        metrics.counter("symbolon_sidecar_tokens_validated", "JWT-SVIDs that workloads had validated here, by outcome")
    }

    /// A stream of what is selected from the view, each message different from the one before it.
    fn stream<T, R>(&self, request: &Request<R>, answer: Answer<T>) -> Result<Response<Answers<T>>, Status>
    where
        T: PartialEq + Clone + Send + 'static,
    {
        let caller = self.0.guard.caller(request)?;
        let share = self.0.guard.stream(&caller)?;
        let mut view = self.0.view.clone();
        let first = (answer.select)(&view.borrow_and_update(), &caller)
            .inspect_err(|_| self.0.guard.refused("no_identity", &caller))?;
        let next = Some((answer.say)(&first));
        let drain = self.0.drain.clone();
        let state = Streaming { view, caller, answer, told: first, sent: None, next, drain, _share: share };
        Ok(Response::new(Box::pin(futures::stream::unfold(Some(state), Streaming::next))))
    }
}

/// How a stream is answered: what of, and in which words.
struct Answer<T> {
    select: fn(&View, &Caller) -> Result<Selected, Status>,
    say: fn(&Selected) -> T,
}

/// One open stream.
struct Streaming<T> {
    view: watch::Receiver<Arc<View>>,
    caller: Caller,
    answer: Answer<T>,
    told: Selected,
    sent: Option<T>,
    next: Option<T>,
    drain: Drain,
    _share: Share,
}

impl<T: Clone + PartialEq + Send + 'static> Streaming<T> {
    /// The next answer; after an error, which is the last, nothing.
    async fn next(state: Option<Self>) -> Option<(Result<T, Status>, Option<Self>)> {
        let mut state = state?;
        loop {
            if let Some(next) = state.next.take() {
                state.sent = Some(next.clone());
                return Some((Ok(next), Some(state)));
            }
            tokio::select! {
                () = state.drain.cancelled() => return Some((Err(Status::unavailable("the sidecar is stopping")), None)),
                changed = state.view.changed() => {
                    if changed.is_err() {
                        return Some((Err(Status::unavailable("the sidecar is stopping")), None));
                    }
                }
            }
            let selected = {
                let view = state.view.borrow_and_update();
                if answer::may_wait(&view, &state.caller, &state.told) {
                    continue;
                }
                (state.answer.select)(&view, &state.caller)
            };
            match selected {
                Ok(selected) if selected == state.told => {} // somebody else's change
                Ok(selected) => {
                    let message = (state.answer.say)(&selected);
                    state.told = selected;
                    state.next = Some(message).filter(|message| state.sent.as_ref() != Some(message));
                }
                Err(why) => return Some((Err(why), None)),
            }
        }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<wire::X509svidResponse>;
    type FetchX509BundlesStream = Answers<wire::X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<wire::JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<wire::WitsvidResponse>;
    type FetchWITBundlesStream = Answers<wire::WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<wire::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.stream(&request, Answer { select: answer::svids, say: answer::x509_svids })
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<wire::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.stream(&request, Answer { select: answer::bundles, say: answer::x509_bundles })
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<wire::JwtsvidRequest>,
    ) -> Result<Response<wire::JwtsvidResponse>, Status> {
        let caller = self.0.guard.caller(&request)?;
        let _share = self.0.guard.stream(&caller)?;
        let asked = request.into_inner();
        let audience = Audience::parse(asked.audience).map_err(|why| Status::invalid_argument(why.to_string()))?;
        let entries = answer::entries(&self.0.view.borrow(), &caller, &asked.spiffe_id)
            .inspect_err(|_| self.0.guard.refused("no_identity", &caller))?;
        let tokens = self.0.tokens.fetch(&entries, &audience).await;
        answer::jwt_svids(&entries, tokens).map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<wire::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.stream(&request, Answer { select: answer::bundles, say: answer::jwt_bundles })
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<wire::ValidateJwtsvidRequest>,
    ) -> Result<Response<wire::ValidateJwtsvidResponse>, Status> {
        let caller = self.0.guard.caller(&request)?;
        let _share = self.0.guard.stream(&caller)?;
        let asked = request.into_inner();
        if asked.audience.is_empty() || asked.svid.is_empty() {
            return Err(Status::invalid_argument("audience and svid must be given"));
        }
        let seen = answer::bundles(&self.0.view.borrow(), &caller)
            .inspect_err(|_| self.0.guard.refused("no_identity", &caller))?
            .seen;
        // By the bundle of the subject's own trust domain, if the caller sees it, and no other (W-14).
        let bundle = |name: &TrustDomain| seen.table.get(name).cloned();
        match jwt::verify(&asked.svid, &asked.audience, bundle, self.0.clock.now()) {
            Ok(claims) => {
                self.0.validated.inc(&[("outcome", "valid")]);
                let spiffe_id = claims.sub.to_string();
                let claims = Some(claims::to_wire(claims.all()));
                Ok(Response::new(wire::ValidateJwtsvidResponse { spiffe_id, claims }))
            }
            Err(why) => {
                self.0.validated.inc(&[("outcome", why.label())]);
                Err(Status::invalid_argument(why.to_string()))
            }
        }
    }

    async fn fetch_witsvid(
        &self,
        request: Request<wire::WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        let caller = self.0.guard.caller(&request)?;
        let share = self.0.guard.stream(&caller)?;
        let (of, view, due) = (self.0.clone(), self.0.view.clone(), self.0.clock.now());
        let spiffe_id = request.into_inner().spiffe_id;
        {
            // Whatever is wrong from the start is said before there is a stream.
            let view = view.borrow();
            answer::check_incubating(&view)?;
            answer::entries(&view, &caller, &spiffe_id)
                .inspect_err(|_| self.0.guard.refused("no_identity", &caller))?;
        }
        let state = wit::Streaming { of, view, caller, spiffe_id, sent: None, due, share };
        Ok(Response::new(Box::pin(futures::stream::unfold(Some(state), wit::Streaming::next))))
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<wire::WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        self.stream(&request, Answer { select: answer::wit_bundles, say: answer::wit_jwks })
    }
}

#[cfg(test)]
mod tests;
