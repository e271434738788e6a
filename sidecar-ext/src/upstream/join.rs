//! The node's first SVID: evidence of who it is, for a certificate. The connection is anonymous on our side and verified on the
//! other by the bundle that the operator laid beside the configuration.
//!
//! The key is written down before the evidence is shown ([`Keeper`](super::node)): a join token is bound to the first key that it
//! certifies, so an answer that was lost, or a sidecar that was killed in between, may ask again with that key and no other.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use symbolon_kit::files::open_to_others;
use symbolon_kit::net;
use symbolon_kit::octets;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, SvidError, csr_of};
use symbolon_kit::tls::{Expect, Identity};
use symbolon_proto::attest::{pop_message, reason};
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use wire::{attest_request, attest_response};
use zeroize::Zeroizing;

use crate::config::{Evidence, X509PopFile};

/// For one attempt, connection included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest token that is read.
const MAX_TOKEN_BYTES: usize = 4096;
/// Rounds of one attestation.
const MAX_CHALLENGES: usize = 4;
/// How the control plane's keys sign; the first that ours can is taken. As `controlplane`'s attestor verifies them.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];
/// How the kit names a certificate whose time is not now.
const NOT_NOW: &str = "expired or not yet valid";

/// Why the node has no SVID yet.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "this node has no valid SVID and the configuration names no evidence. On the control plane run \
         `symbolon token create`, and put its token into the file that joinTokenFile names"
    )]
    NoToken,
    #[error("joinTokenFile {path}: {why}")]
    TokenFile { path: String, why: String },
    #[error("attest.x509pop: {path}: {why}")]
    Certificate { path: String, why: String },
    #[error(
        "the control plane refuses the join token: {why}. A token is good for one key, which may ask again for some minutes if the \
         answer was lost. Make another: `symbolon token create`"
    )]
    Refused { why: String },
    #[error("the control plane refuses this node's certificate: {why}. Compare it with identity.x509pop there")]
    RefusedCertificate { why: String },
    #[error("the control plane does not let this node in: {why}. See `symbolon node list` there")]
    NotAllowed { why: String },
    #[error("the control plane did not answer: {why}. The same key asks again")]
    Unanswered { why: String },
    #[error(
        "the control plane's certificate is not valid at this machine's time, {at}: {why}. Compare the clocks of both machines; if \
         they agree, compare bootstrapBundle with the control plane's"
    )]
    Clock { at: String, why: String },
    #[error("the control plane's answer is not usable: {0}")]
    BadAnswer(String),
    #[error("no key for this node: {0}")]
    Key(#[from] SvidError),
}

/// Evidence as it is now.
pub enum Offer {
    Token(Zeroizing<String>),
    Certificate { chain: Vec<Bytes>, key: Arc<dyn SigningKey> },
}

/// What joining yields.
#[derive(Debug)]
pub struct Joined {
    pub svid: Svid,
    /// The trust domain's bundle at that time, SPIFFE JWKS.
    pub bundle: Vec<u8>,
}

/// Where and as whom to ask.
#[derive(Debug)]
pub struct Door<'a> {
    pub addresses: &'a [String],
    pub anonymous: &'a Identity,
    pub trust_domain: &'a TrustDomain,
    /// By this machine's clock, for the message if it is wrong.
    pub now: SystemTime,
}

impl JoinError {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::TokenFile { .. } => "token_file",
            Self::Certificate { .. } => "certificate_file",
            Self::Refused { .. } => "refused",
            Self::RefusedCertificate { .. } => "refused_certificate",
            Self::NotAllowed { .. } => "not_allowed",
            Self::Unanswered { .. } => "unanswered",
            Self::Clock { .. } => "clock",
            Self::BadAnswer(_) => "bad_answer",
            Self::Key(_) => "key",
        }
    }

    /// Whether the same evidence may do at another attempt. A token that was refused never will; whether a certificate does, an
    /// operator can change at the other end.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl Offer {
    /// Reads the evidence: files at each attempt, so that a new token or certificate can be laid there while the sidecar runs.
    ///
    /// # Errors
    /// If there is none.
    pub fn read(evidence: &Evidence) -> Result<Self, JoinError> {
        match evidence {
            Evidence::None => Err(JoinError::NoToken),
            Evidence::JoinToken(token) => Ok(Self::Token(token.clone())),
            Evidence::JoinTokenFile(path) => read_token(path).map(Self::Token),
            Evidence::X509Pop(file) => read_certificate(file),
        }
    }

    /// To know it again.
    pub fn digest(&self) -> [u8; 32] {
        match self {
            Self::Token(token) => octets::sha256(token.as_bytes()),
            Self::Certificate { chain, .. } => octets::sha256(&chain.concat()),
        }
    }

    fn request(&self, csr: &[u8]) -> wire::AttestRequest {
        let csr = Bytes::copy_from_slice(csr);
        match self {
            Self::Token(token) => wire::AttestRequest::join_token(token.as_str(), csr),
            Self::Certificate { chain, .. } => wire::AttestRequest::x509pop(chain.clone(), csr),
        }
    }

    fn answer(&self, challenge: &[u8], csr: &[u8]) -> Result<Vec<u8>, Status> {
        let Self::Certificate { key, .. } = self else {
            return Err(Status::failed_precondition("a join token was challenged"));
        };
        let signer = key.choose_scheme(&SCHEMES);
        let signer = signer.ok_or_else(|| Status::failed_precondition("attest.x509pop.key is of an unknown kind"))?;
        signer.sign(&pop_message(challenge, csr)).map_err(|why| Status::internal(why.to_string()))
    }
}

fn read_token(path: &Path) -> Result<Zeroizing<String>, JoinError> {
    let failed = |why: &dyn ToString| JoinError::TokenFile { path: path.display().to_string(), why: why.to_string() };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|why| failed(&why))?);
    let token = text.trim();
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err(failed(&"must hold one join token and nothing else"));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

fn read_certificate(file: &X509PopFile) -> Result<Offer, JoinError> {
    let failed = |path: &Path, why: &dyn ToString| JoinError::Certificate {
        path: path.display().to_string(),
        why: why.to_string(),
    };
    let of_chain = |why: &dyn ToString| failed(&file.certificate, why);
    let of_key = |why: &dyn ToString| failed(&file.key, why);
    let metadata = std::fs::metadata(&file.key).map_err(|why| of_key(&why))?;
    if let Some(mode) = open_to_others(&metadata) {
        return Err(of_key(&format!("has mode {mode:04o}: only its owner may have access. Run: chmod 600")));
    }
    let certificates = CertificateDer::pem_file_iter(&file.certificate).map_err(|why| of_chain(&why))?;
    let chain: Result<Vec<_>, _> = certificates.map(|one| one.map(|der| Bytes::copy_from_slice(&der))).collect();
    let chain = chain.map_err(|why| of_chain(&why))?;
    if chain.is_empty() {
        return Err(of_chain(&"holds no certificate in PEM"));
    }
    let key = PrivateKeyDer::from_pem_file(&file.key).map_err(|why| of_key(&why))?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|why| of_key(&why))?;
    Ok(Offer::Certificate { chain, key })
}

/// Shows the evidence, for an SVID of `key`.
///
/// # Errors
/// Why there is no SVID.
pub async fn join(door: Door<'_>, offer: &Offer, key: PrivateKey) -> Result<Joined, JoinError> {
    let csr = csr_of(&key)?;
    // A channel of its own, dropped with this call: connections of the real one must all carry the node's certificate.
    let expect = expect_control_plane(door.trust_domain);
    let channel = net::channel(door.addresses.to_vec(), door.anonymous, expect);
    let answer = tokio::time::timeout(TIMEOUT, attest(channel, offer, &csr))
        .await
        .map_err(|_| JoinError::Unanswered { why: format!("nothing within {TIMEOUT:?}") })?
        .map_err(|status| refusal(&status, offer, door.now))?;
    let bundle = answer.bundle.to_vec();
    let svid = svid_of(answer.chain, key).map_err(|why| JoinError::BadAnswer(why.to_string()))?;
    let pattern = format!("spiffe://{}/symbolon/node/*", door.trust_domain);
    if svid.id.as_str() != answer.spiffe_id || !svid.id.matches(&pattern) {
        return Err(JoinError::BadAnswer(format!("{} is not the ID of a node of {}", svid.id, door.trust_domain)));
    }
    Ok(Joined { svid, bundle })
}

async fn attest(channel: Channel, offer: &Offer, csr: &[u8]) -> Result<wire::Attested, Status> {
    let (up, requests) = mpsc::channel(1);
    let gone = |_| Status::unavailable("the control plane ended the attestation");
    up.send(offer.request(csr)).await.map_err(gone)?;
    let mut answers = NodeClient::new(channel).attest(ReceiverStream::new(requests)).await?.into_inner();
    for _ in 0..MAX_CHALLENGES {
        match answers.message().await?.and_then(|answer| answer.step) {
            Some(attest_response::Step::Attested(attested)) => return Ok(attested),
            Some(attest_response::Step::Challenge(challenge)) => {
                let response = attest_request::Step::ChallengeResponse(offer.answer(&challenge, csr)?.into());
                up.send(wire::AttestRequest { step: Some(response) }).await.map_err(gone)?;
            }
            None => return Err(Status::unavailable("the control plane gave no answer")),
        }
    }
    Err(Status::unavailable("the control plane asks without end"))
}

/// Any replica of this trust domain's control plane.
pub(super) fn expect_control_plane(trust_domain: &TrustDomain) -> Expect {
    Expect::Pattern(format!("spiffe://{trust_domain}/symbolon/controlplane/*").into())
}

/// Joins a chain from the wire with the key it was asked for.
///
/// # Errors
/// If it does not keep the profile, or is for another key.
pub fn svid_of(chain: Vec<Bytes>, key: PrivateKey) -> Result<Svid, SvidError> {
    Svid::new(chain.into_iter().map(|der| der.to_vec().into()).collect(), key)
}

fn refusal(status: &Status, offer: &Offer, now: SystemTime) -> JoinError {
    let why = status.message().to_owned();
    if ["node_banned", "name_taken"].contains(&reason(status)) {
        return JoinError::NotAllowed { why };
    }
    match (status.code(), offer) {
        (
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::Unimplemented,
            Offer::Token(_),
        ) => JoinError::Refused { why },
        (Code::InvalidArgument | Code::PermissionDenied | Code::FailedPrecondition | Code::Unauthenticated, _) => {
            JoinError::RefusedCertificate { why }
        }
        (code, _) => {
            let causes = causes(status);
            match causes.contains(NOT_NOW) {
                true => JoinError::Clock { at: shown(now), why: causes },
                false => JoinError::Unanswered { why: format!("{code:?}: {causes}") },
            }
        }
    }
}

/// What a status says, and what lies behind it.
fn causes(status: &Status) -> String {
    let (mut text, mut cause) = (status.message().to_owned(), std::error::Error::source(status));
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn shown(at: SystemTime) -> String {
    time::OffsetDateTime::from(at).replace_nanosecond(0).map_or_else(|_| "?".to_owned(), |at| at.to_string())
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(redacted)",
            Self::Certificate { .. } => "Certificate",
        })
    }
}
