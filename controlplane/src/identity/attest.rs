//! Node attestation: evidence of some kind, until an attestor has proved which node offers it. An attestor says who the node is
//! and what is true of it; the CSR beside the evidence gives only the key.
//!
//! ```text
//!   evidence, CSR ──► NodeAttestor::begin ──► Proven ──► may it attest? ──► mint ──► a new tenure in `nodes` ──► answer
//!                            │                   ▲
//!                            └─► Challenge ──► answer        (any number of rounds)
//! ```
//!
//! How Kubernetes fits: its evidence is a projected service-account token, which needs no challenge. Its `begin` asks the API server's
//! TokenReview for the audience that only we use, and names the node by cluster and node UID out of the answer; `can_reattest` is
//! true, since the kubelet renews the token. A new kind is one attestor here, one field of `Evidence` on the wire, and the rows of its
//! selectors in `symbolon_proto::selector`.

mod join_token;
pub mod x509pop;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use symbolon_kit::octets;
use zeroize::Zeroizing;

use super::audit::{Kind, Record};
use super::nodes::{Attested, Nodes};
use super::tokens::Tokens;
use super::{Identity, Minted, Refusal, profile};
pub use x509pop::X509Pop;

/// What a node offers to say who it is.
pub enum Evidence {
    JoinToken(Zeroizing<String>),
    /// DER, leaf first.
    X509Pop(Vec<CertificateDer<'static>>),
}

/// The CSR that goes with evidence, as far as an attestor binds the evidence to it.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The whole request, DER.
    pub csr: Bytes,
    /// SHA-256 of its public key.
    pub key: [u8; 32],
}

/// One kind of evidence.
pub trait NodeAttestor: Send + Sync + fmt::Debug {
    /// A fixed word, as nodes are listed with.
    fn kind(&self) -> &'static str;
    /// Looks at evidence of this kind.
    fn begin<'a>(&'a self, evidence: Evidence, bound: &'a Bound) -> BoxFuture<'a, Result<Step, Refusal>>;
}

/// How far an attestation has come.
pub enum Step {
    Proven(Attested),
    Challenge(Box<dyn Challenge>),
}

/// A question that only the evidence's owner can answer.
pub trait Challenge: Send + Sync {
    /// What the node is sent.
    fn question(&self) -> Bytes;
    /// Looks at what it answered.
    fn answer(self: Box<Self>, answer: &[u8]) -> BoxFuture<'static, Result<Step, Refusal>>;
}

/// All kinds that this control plane takes.
#[derive(Clone, Debug)]
pub(super) struct Attestors(Arc<[Arc<dyn NodeAttestor>]>);

/// An attestation under way.
pub enum Progress {
    /// The node has to answer [`Pending::question`].
    Challenge(Box<Pending>),
    Done(Admitted),
}

/// What a node that has attested gets.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub minted: Minted,
    pub can_reattest: bool,
}

/// An attestation that waits for the node's answer.
pub struct Pending {
    identity: Identity,
    kind: &'static str,
    request: profile::Request,
    challenge: Box<dyn Challenge>,
}

impl Attestors {
    pub(super) fn new(tokens: Tokens, nodes: Nodes, x509pop: Option<X509Pop>) -> Self {
        let tokens: Arc<dyn NodeAttestor> = Arc::new(join_token::JoinTokens { tokens, nodes });
        let x509pop = x509pop.map(|attestor| Arc::new(attestor) as Arc<dyn NodeAttestor>);
        Self([tokens].into_iter().chain(x509pop).collect())
    }

    fn of(&self, kind: &'static str) -> Result<&Arc<dyn NodeAttestor>, Refusal> {
        self.0.iter().find(|attestor| attestor.kind() == kind).ok_or(Refusal::AttestorOff(kind))
    }
}

// === impl Identity ===

impl Identity {
    /// Begins an attestation. A CSR that is no good spends nothing.
    ///
    /// # Errors
    /// A [`Refusal`] that says why.
    pub async fn attest(&self, evidence: Evidence, csr: &[u8]) -> Result<Progress, Refusal> {
        let request = profile::Request::parse(csr)?;
        if request.asks_for_names() {
            return Err(Refusal::BadCsr("it asks for names; the evidence alone says which node this is".into()));
        }
        let bound = Bound { csr: Bytes::copy_from_slice(csr), key: request.key_hash() };
        let attestor = self.attestors.of(evidence.kind())?;
        let step = attestor.begin(evidence, &bound).await?;
        self.proceed(attestor.kind(), request, step).await
    }

    async fn proceed(&self, kind: &'static str, request: profile::Request, step: Step) -> Result<Progress, Refusal> {
        let attested = match step {
            Step::Challenge(challenge) => {
                let pending = Pending { identity: self.clone(), kind, request, challenge };
                return Ok(Progress::Challenge(Box::new(pending)));
            }
            Step::Proven(attested) => attested,
        };
        self.nodes.may_attest(&attested.name)?;
        self.nodes.holds_no_other(kind, &attested.name)?;
        let minted = self.mint_for_node(&attested.name, request, records(kind, &attested)).await?;
        let can_reattest = attested.can_reattest;
        self.nodes.admit(kind, attested, &minted).await?;
        Ok(Progress::Done(Admitted { minted, can_reattest }))
    }
}

// === impl Evidence, Pending ===

impl Evidence {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JoinToken(_) => join_token::KIND,
            Self::X509Pop(_) => x509pop::KIND,
        }
    }
}

impl Pending {
    /// What the node is to be sent.
    pub fn question(&self) -> Bytes {
        self.challenge.question()
    }

    /// Goes on with the node's answer.
    ///
    /// # Errors
    /// A [`Refusal`] that says why.
    pub async fn answer(self, answer: &[u8]) -> Result<Progress, Refusal> {
        let step = self.challenge.answer(answer).await?;
        self.identity.proceed(self.kind, self.request, step).await
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proven(attested) => write!(f, "Proven({attested:?})"),
            Self::Challenge(_) => f.write_str("Challenge"),
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(admitted) => write!(f, "Done({admitted:?})"),
            Self::Challenge(pending) => pending.fmt(f),
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({})", self.kind)
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evidence({})", self.kind())
    }
}

/// What is written down of an attestation.
fn records(kind: &str, attested: &Attested) -> Vec<Record> {
    let node = attested.name.as_str();
    let spent = (kind == join_token::KIND).then(|| Record::new(Kind::TokenUsed).with("node", node));
    let selectors = attested.selectors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let record = Record::new(Kind::NodeAttested).with("node", node).with("attestor", kind).with("selectors", selectors);
    spent.into_iter().chain([record]).collect()
}

/// Bytes of a question: nobody has asked it before.
fn nonce() -> [u8; 32] {
    octets::random()
}
