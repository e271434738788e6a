//! The SPIFFE Workload API (SPIFFE_Workload_API.md): a caller gets what its attested process is entitled to, as a stream of full
//! states: the first at once, then one per change and no other.

mod answer;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use symbolon_kit::drain::Drain;
use symbolon_proto::workload as wire;
use symbolon_proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::attest::Caller;
use crate::guard::{Guard, Share};
use crate::identity::View;
use answer::Selected;

/// An answer, for as long as the caller listens.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service; cheap to clone.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    view: watch::Receiver<Arc<View>>,
    guard: Guard,
    drain: Drain,
}

impl WorkloadApi {
    pub fn server(view: watch::Receiver<Arc<View>>, guard: Guard, drain: Drain) -> SpiffeWorkloadApiServer<Self> {
        SpiffeWorkloadApiServer::new(Self { view, guard, drain }).max_decoding_message_size(64 * 1024)
    }

    /// A stream of what is selected from the view, each message different from the one before it.
    fn stream<T, R>(&self, request: &Request<R>, answer: Answer<T>) -> Result<Response<Answers<T>>, Status>
    where
        T: PartialEq + Clone + Send + 'static,
    {
        let caller = self.guard.caller(request)?;
        let share = self.guard.stream(&caller)?;
        let mut view = self.view.clone();
        let first = (answer.select)(&view.borrow_and_update(), &caller)
            .inspect_err(|_| self.guard.refused("no_identity", &caller))?;
        let next = Some((answer.say)(&first));
        let drain = self.drain.clone();
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
            let selected = (state.answer.select)(&state.view.borrow_and_update(), &state.caller);
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

fn no_jwt() -> Status {
    Status::unimplemented("this sidecar serves X.509-SVIDs only: JWT-SVIDs are not issued by this version")
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
        self.guard.caller(&request)?;
        if request.get_ref().audience.iter().all(String::is_empty) {
            return Err(Status::invalid_argument("audience must name who the token is for"));
        }
        Err(no_jwt())
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<wire::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.guard.caller(&request)?;
        Err(no_jwt())
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<wire::ValidateJwtsvidRequest>,
    ) -> Result<Response<wire::ValidateJwtsvidResponse>, Status> {
        self.guard.caller(&request)?;
        if request.get_ref().audience.is_empty() || request.get_ref().svid.is_empty() {
            return Err(Status::invalid_argument("audience and svid must be given"));
        }
        Err(no_jwt())
    }

    async fn fetch_witsvid(
        &self,
        request: Request<wire::WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        self.guard.caller(&request)?;
        Err(no_jwt())
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<wire::WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        self.guard.caller(&request)?;
        Err(no_jwt())
    }
}

#[cfg(test)]
mod tests;
