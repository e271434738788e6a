//! Chain verification against the leaf's own trust domain's authorities only (X-12 to X-14; invariant I2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use symbolon_proto::ids::{SpiffeId, TrustDomain};

use super::bundle::Bundle;

/// Bundles by trust domain; never merged.
pub type BundleTable = BTreeMap<TrustDomain, Arc<Bundle>>;

/// Which side of TLS the leaf's owner is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
}

/// Why a chain is refused; `bad input` rows 80 to 97.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("the chain is empty, or longer than 16 certificates or 64 KiB")]
    Size,
    #[error("the leaf: {0}")]
    Leaf(#[from] super::svid::SvidError),
    #[error("we hold no bundle of trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    #[error("not signed by an authority of {0}")]
    UnknownIssuer(TrustDomain),
    #[error("expired or not yet valid")]
    Validity,
    #[error("{0}")]
    Chain(String),
}

/// Trust anchors, parsed once per change of the bundles and not per handshake.
#[derive(Clone, Debug, Default)]
pub struct Anchors;

impl Anchors {
    /// Expired authorities are left out at each verification, not only here.
    pub fn new(_bundles: &BundleTable) -> Self {
        todo!()
    }

    /// The SPIFFE ID that the chain (leaf first) proves at `now`.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn verify(
        &self,
        _chain: &[CertificateDer<'_>],
        _usage: Usage,
        _now: SystemTime,
    ) -> Result<SpiffeId, VerifyError> {
        todo!()
    }
}
