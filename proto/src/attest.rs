//! Node attestation by evidence that needs no challenge, as one question with one answer.

use tonic::Status;
use tonic::codegen::{Body, Bytes, StdError, tokio_stream};

use crate::node::node_client::NodeClient;
use crate::node::{AttestRequest, Attested, Evidence, attest_request, attest_response, evidence};

impl AttestRequest {
    /// Evidence of the kind that `symbolon token create` prints.
    pub fn join_token(token: impl Into<String>, csr: impl Into<Bytes>) -> Self {
        let evidence = Evidence { csr: csr.into(), kind: Some(evidence::Kind::JoinToken(token.into())) };
        Self { step: Some(attest_request::Step::Evidence(evidence)) }
    }
}

/// Offers evidence that is complete by itself.
///
/// # Errors
/// The control plane's refusal; or that it wants to be answered a challenge.
pub async fn attest_once<T>(client: &mut NodeClient<T>, request: AttestRequest) -> Result<Attested, Status>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    let mut answers = client.attest(tokio_stream::once(request)).await?.into_inner();
    match answers.message().await?.and_then(|answer| answer.step) {
        Some(attest_response::Step::Attested(attested)) => Ok(attested),
        Some(attest_response::Step::Challenge(_)) => Err(Status::failed_precondition("a challenge was not expected")),
        None => Err(Status::internal("the control plane gave no answer")),
    }
}
