//! Who is who: the authorities of this trust domain ([`authority`], with its pure [`schedule`], its [`keys`], and perhaps one
//! [`upstream`]), what they sign ([`profile`], [`issue`], [`mint`]), who may have it ([`entries`], [`tokens`], [`attest`], [`nodes`]),
//! whom we trust ([`bundles`]), and what is written down of all that ([`audit`]). [`Identity`] is the whole.

pub mod attest;
pub mod audit;
pub mod authority;
pub mod bundles;
pub mod entries;
pub mod issue;
pub mod keys;
pub mod mint;
pub mod nodes;
mod overrides;
pub mod profile;
mod reuse;
pub mod schedule;
pub mod tokens;
pub mod upstream;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_proto::ids::{SpiffeId, TrustDomain};

use crate::model::NodeName;
use crate::store::{self, SharedStore};

/// What identity needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    /// Where keys are kept, each in a file of mode 0600.
    pub key_dir: PathBuf,
    /// Where the audit log is written.
    pub audit_dir: PathBuf,
    pub ca_ttl: Duration,
    /// Of SVIDs whose entry names no TTL, and of the control plane itself.
    pub svid_ttl: Duration,
    /// Of nodes' own SVIDs.
    pub node_ttl: Duration,
    pub minting: mint::Settings,
    /// Of nodes that prove possession of a certificate; `None`: these are not taken.
    pub x509pop: Option<X509PopConfig>,
    /// A file beside the store that says how many join tokens were spent.
    pub fence: PathBuf,
    pub refresh_hint: Duration,
    pub authority: authority::Settings,
}

/// Whose certificates a node may show to attest, and how it is named then.
#[derive(Clone, Debug)]
pub struct X509PopConfig {
    /// PEM.
    pub ca_bundle: PathBuf,
    pub name: attest::x509pop::NameTemplate,
}

/// The identity side of the control plane; cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity {
    pub trust_domain: TrustDomain,
    pub issuer: issue::Issuer,
    pub authorities: authority::Authorities,
    pub entries: entries::Entries,
    pub tokens: tokens::Tokens,
    pub nodes: nodes::Nodes,
    pub bundles: bundles::Bundles,
    attestors: attest::Attestors,
    pub audit: audit::Audit,
    pool: mint::Pool,
    rate: mint::Rate,
    minting: mint::Settings,
    svid_ttl: Duration,
    node_ttl: Duration,
}

/// Why identity could not start, or could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Audit(#[from] audit::Error),
    #[error(transparent)]
    Key(#[from] keys::KeyError),
    #[error("this store belongs to trust domain {stored}, the configuration says {configured}; use another dataDir")]
    OtherTrustDomain { stored: TrustDomain, configured: TrustDomain },
    #[error(transparent)]
    Upstream(#[from] upstream::UpstreamError),
    #[error("{path}, which says how many join tokens were spent, {why}")]
    Fence { path: String, why: String },
    #[error(transparent)]
    X509Pop(#[from] attest::x509pop::Error),
    #[error("signing failed: {0}")]
    Sign(String),
    #[error(
        "{error}. Without it nothing can be signed by the authority that everybody trusts. Lay it back from a backup; or, if it is \
         lost for good, start once with --replace-lost-keys: a new authority is made, and what the lost one signed stays valid until \
         it ends"
    )]
    LostKey { error: keys::KeyError },
    #[error(
        "the store knows no authority, but its keys are here: {}. Lay the store back from the same backup; or, if it is lost for \
         good, move these keys away: a new authority is made, and everybody must be given its bundle", names.join(", ")
    )]
    LostStore { names: Vec<String> },
}

/// What a caller gets for a CSR.
#[derive(Clone, Debug)]
pub struct Minted {
    pub id: SpiffeId,
    /// DER, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub not_after: SystemTime,
    /// Lower-case hex.
    pub serial: String,
}

/// Why a caller gets nothing; each with a stable label, and safe to show to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the CSR is not acceptable: {0}")]
    BadCsr(String),
    #[error("the CSR's key is not acceptable: {0}")]
    WeakKey(String),
    #[error("the CSR's key is certified for another identity already; make a new key")]
    KeyInUse,
    #[error("the CSR asks for {0}, which is not granted")]
    NotGranted(String),
    #[error("the audience is not acceptable: {0}")]
    BadAudience(String),
    #[error("WIT-SVIDs are not switched on here; the profile is incubating")]
    Incubating,
    #[error("there is no such entry")]
    UnknownEntry,
    #[error("this entry belongs to another node")]
    NotYourEntry,
    #[error("the join token is unknown or was used before; make a new one with `symbolon token create`")]
    UnknownToken,
    #[error("the join token has expired; make a new one with `symbolon token create`")]
    ExpiredToken,
    #[error("the evidence is not acceptable: {0}")]
    BadEvidence(String),
    #[error("nodes cannot attest by {0} here")]
    AttestorOff(&'static str),
    #[error("this node is banned{}", reason_of(.0))]
    NodeBanned(Arc<str>),
    #[error("this node must attest again: {0}")]
    NodeGone(&'static str),
    #[error("this certificate does not count any more: its node has attested anew since, here or elsewhere")]
    NodeSuperseded,
    #[error("a node {node} has attested by {attestor}; evict it first if another is to take its name")]
    NameTaken { node: NodeName, attestor: Arc<str> },
    #[error("more signatures than one node may have in this time; try again in {} ms", .0.as_millis())]
    TooFast(Duration),
    #[error("too many requests wait for a signature; try again")]
    Overloaded,
    #[error("what is issued must be recorded first, and the audit log cannot be written now; try again")]
    NotRecorded,
    #[error("the authority cannot sign now; try again")]
    Unavailable,
}

// === impl Identity ===

impl Identity {
    /// Loads or creates the authority, loads entries and bundles, and starts the authority's schedule.
    ///
    /// # Errors
    /// If the store or the keys cannot be used as they are; nothing is changed then.
    pub async fn start(
        config: Config,
        store: SharedStore,
        clock: Clock,
        metrics: &Metrics,
        tasks: &Tasks,
        drain: Drain,
    ) -> Result<Self, Error> {
        let folder = config.audit_dir.clone();
        let audit = audit::Audit::start(folder, store.clone(), clock.clone(), metrics, tasks, drain.clone()).await?;
        let bundles = bundles::Bundles::load(&config, store.clone(), clock.clone()).await?;
        let (authority, authorities, issuer) = authority::Authority::load_or_create(
            &config,
            store.clone(),
            clock.clone(),
            bundles.clone(),
            audit.clone(),
            metrics,
        )
        .await?;
        tasks.spawn("authority", OnExit::Shutdown, authority.run(drain.clone()));
        let tokens = tokens::Tokens::load(store.clone(), clock.clone(), &config.fence).await?;
        tasks.spawn("token time", OnExit::Shutdown, tokens.clone().keep_time(drain.clone()));
        let nodes = nodes::Nodes::load(store.clone(), clock.clone()).await?;
        let entries = entries::Entries::load(&config, store, clock.clone(), nodes.watch(), audit.clone()).await?;
        tasks.spawn("entry expiry", OnExit::Shutdown, entries.clone().run(drain));
        let x509pop = config.x509pop.map(|of| attest::X509Pop::load(&of.ca_bundle, of.name, clock)).transpose()?;
        Ok(Self {
            trust_domain: config.trust_domain.clone(),
            issuer,
            authorities,
            entries,
            attestors: attest::Attestors::new(tokens.clone(), nodes.clone(), x509pop),
            nodes,
            tokens,
            bundles,
            audit,
            pool: mint::Pool::new(),
            rate: mint::Rate::new(config.minting.signatures_per_second),
            minting: config.minting,
            svid_ttl: config.svid_ttl,
            node_ttl: config.node_ttl,
        })
    }

    /// `spiffe://<td>/symbolon/node/<name>`.
    pub fn node_id(&self, node: &NodeName) -> SpiffeId {
        self.trust_domain.with_path(&format!("/symbolon/node/{node}")).expect("a node name is a path segment")
    }

    /// The node whose ID this is, if it is one of this trust domain's.
    pub fn node_of(&self, id: &SpiffeId) -> Option<NodeName> {
        if *id.trust_domain() != self.trust_domain {
            return None;
        }
        id.path().strip_prefix("/symbolon/node/")?.parse().ok()
    }
}

fn reason_of(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

impl Error {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Store(_) => "store",
            Self::Audit(error) => error.label(),
            Self::Key(error) | Self::LostKey { error } => error.label(),
            Self::Upstream(error) => error.label(),
            Self::Fence { .. } => "fence",
            Self::X509Pop(_) => "x509pop",
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::Sign(_) => "sign",
            Self::LostStore { .. } => "lost_store",
        }
    }
}

impl Refusal {
    /// A stable word for metrics and answers.
    pub fn label(&self) -> &'static str {
        match self {
            Self::BadCsr(_) => "bad_csr",
            Self::WeakKey(_) => "weak_key",
            Self::KeyInUse => "key_in_use",
            Self::NotGranted(_) => "not_granted",
            Self::BadAudience(_) => "bad_audience",
            Self::Incubating => "incubating",
            Self::UnknownEntry => "unknown_entry",
            Self::NotYourEntry => "not_your_entry",
            Self::UnknownToken => "unknown_token",
            Self::ExpiredToken => "expired_token",
            Self::BadEvidence(_) => "bad_evidence",
            Self::AttestorOff(_) => "attestor_off",
            Self::NodeBanned(_) => "node_banned",
            Self::NodeGone(_) => "node_gone",
            Self::NodeSuperseded => "node_superseded",
            Self::NameTaken { .. } => "name_taken",
            Self::TooFast(_) => "too_fast",
            Self::Overloaded => "overloaded",
            Self::NotRecorded => "not_recorded",
            Self::Unavailable => "unavailable",
        }
    }
}

#[cfg(test)]
mod tests;
