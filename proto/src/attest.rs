//! Node attestation as its caller sees it, and what both sides of a challenge must agree on.

use tonic::Status;
use tonic::codegen::{Body, Bytes, StdError, tokio_stream};

use crate::node::node_client::NodeClient;
use crate::node::{AttestRequest, Attested, Evidence, X509Pop, attest_request, attest_response, evidence};

/// What keeps a signature made here from meaning anything elsewhere.
const POP_CONTEXT: &[u8] = b"symbolon x509pop attestation v1\0";

/// What a node signs with its certificate's key: the challenge, and the CSR whose key it wants certified.
pub fn pop_message(challenge: &[u8], csr: &[u8]) -> Vec<u8> {
    [POP_CONTEXT, challenge, csr].concat()
}

/// The header of a refusal in which its stable word stands, e.g. `node_banned`.
pub const REASON_HEADER: &str = "symbolon-reason";

/// The stable word of a refusal; empty if it carries none.
pub fn reason(status: &Status) -> &str {
    status.metadata().get(REASON_HEADER).and_then(|word| word.to_str().ok()).unwrap_or_default()
}

impl AttestRequest {
    /// Evidence of the kind that `symbolon token create` prints.
    pub fn join_token(token: impl Into<String>, csr: impl Into<Bytes>) -> Self {
        let evidence = Evidence { csr: csr.into(), kind: Some(evidence::Kind::JoinToken(token.into())) };
        Self { step: Some(attest_request::Step::Evidence(evidence)) }
    }

    /// Evidence by a certificate that the node had before, DER, leaf first.
    pub fn x509pop(chain: Vec<Bytes>, csr: impl Into<Bytes>) -> Self {
        let evidence = Evidence { csr: csr.into(), kind: Some(evidence::Kind::X509pop(X509Pop { chain })) };
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
