//! The node's first SVID: a one-time join token for a certificate. The connection is anonymous on our side and verified on the
//! other by the bundle that the operator laid beside the configuration. The token is spent by its first use, even if the answer is
//! lost on the way.

use std::time::Duration;

use symbolon_kit::net;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, SvidError, new_key};
use symbolon_kit::tls::{Expect, Identity};
use symbolon_proto::attest::attest_once;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::config::JoinToken;

/// For one attempt, connection included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest token that is read.
const MAX_TOKEN_BYTES: usize = 4096;

/// Why the node has no SVID yet.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "this node has no valid SVID and the configuration names no join token. On the control plane run \
         `symbolon token create`, and put its token into the file that joinTokenFile names"
    )]
    NoToken,
    #[error("joinTokenFile {path}: {why}")]
    TokenFile { path: String, why: String },
    #[error(
        "the control plane refuses the join token: {why}. A token is spent by its first use, even if the answer was lost. \
         Make another: `symbolon token create`"
    )]
    Refused { why: String },
    #[error("the control plane did not answer: {why}. If it took the token, the next attempt will be refused")]
    Unanswered { why: String },
    #[error("the control plane's answer is not usable: {0}. The token is spent; make another: `symbolon token create`")]
    BadAnswer(String),
    #[error("no key for this node: {0}")]
    Key(#[from] SvidError),
}

/// What joining yields.
#[derive(Debug)]
pub struct Joined {
    pub svid: Svid,
    /// The trust domain's bundle at that time, SPIFFE JWKS.
    pub bundle: Vec<u8>,
}

impl JoinError {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::TokenFile { .. } => "token_file",
            Self::Refused { .. } => "refused",
            Self::Unanswered { .. } => "unanswered",
            Self::BadAnswer(_) => "bad_answer",
            Self::Key(_) => "key",
        }
    }
}

/// The token as it is now: a file is read at each attempt, so that a new token can be laid there while the sidecar runs.
///
/// # Errors
/// If there is none.
pub fn read_token(from: &JoinToken) -> Result<Zeroizing<String>, JoinError> {
    match from {
        JoinToken::None => Err(JoinError::NoToken),
        JoinToken::Inline(token) => Ok(token.clone()),
        JoinToken::File(path) => {
            let failed =
                |why: &dyn ToString| JoinError::TokenFile { path: path.display().to_string(), why: why.to_string() };
            let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|why| failed(&why))?);
            let token = text.trim();
            if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
                return Err(failed(&"must hold one join token and nothing else"));
            }
            Ok(Zeroizing::new(token.to_owned()))
        }
    }
}

/// Spends `token`.
///
/// # Errors
/// Why there is no SVID; only [`JoinError::Unanswered`] is worth another attempt with the same token.
pub async fn join(
    addresses: Vec<String>,
    anonymous: &Identity,
    trust_domain: &TrustDomain,
    token: &str,
) -> Result<Joined, JoinError> {
    let (key, csr) = new_key()?;
    // A channel of its own, dropped with this call: connections of the real one must all carry the node's certificate.
    let channel = net::channel(addresses, anonymous, expect_control_plane(trust_domain));
    let request = wire::AttestRequest::join_token(token, csr);
    let answer = tokio::time::timeout(TIMEOUT, attest_once(&mut NodeClient::new(channel), request))
        .await
        .map_err(|_| JoinError::Unanswered { why: format!("nothing within {TIMEOUT:?}") })?
        .map_err(|status| refusal(&status))?;
    let bundle = answer.bundle.to_vec();
    let svid = svid_of(answer.chain, key).map_err(|why| JoinError::BadAnswer(why.to_string()))?;
    let pattern = format!("spiffe://{trust_domain}/symbolon/node/*");
    if svid.id.as_str() != answer.spiffe_id || !svid.id.matches(&pattern) {
        return Err(JoinError::BadAnswer(format!("{} is not the ID of a node of {trust_domain}", svid.id)));
    }
    Ok(Joined { svid, bundle })
}

/// Any replica of this trust domain's control plane.
pub(super) fn expect_control_plane(trust_domain: &TrustDomain) -> Expect {
    Expect::Pattern(format!("spiffe://{trust_domain}/symbolon/controlplane/*").into())
}

/// Joins a chain from the wire with the key it was asked for.
///
/// # Errors
/// If it does not keep the profile, or is for another key.
pub fn svid_of(chain: Vec<bytes::Bytes>, key: PrivateKey) -> Result<Svid, SvidError> {
    Svid::new(chain.into_iter().map(|der| der.to_vec().into()).collect(), key)
}

fn refusal(status: &Status) -> JoinError {
    let why = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unauthenticated
        | Code::Unimplemented => JoinError::Refused { why },
        code => JoinError::Unanswered { why: format!("{code:?}: {why}") },
    }
}
