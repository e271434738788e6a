//! A trust domain's bundle in SPIFFE's JWKS form (SPIFFE_Trust_Domain_and_Bundle.md §4), parsed at the edge, admitted by sequence.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use symbolon_proto::ids::TrustDomain;

/// The authorities of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub trust_domain: TrustDomain,
    pub sequence: u64,
    pub refresh_hint: Duration,
    /// X.509 authorities, in the order of the document.
    pub x509: Vec<CertificateDer<'static>>,
}

/// A bundle, and what was ignored in it.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub bundle: Bundle,
    pub warnings: Vec<String>,
}

/// What admitting a bundle changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Newer,
    /// The same sequence and content.
    Unchanged,
}

/// Why a bundle is refused whole; the last good one is kept. One variant per reason of `bad input` rows 35 to 58 that refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("not a JWKS document: {0}")]
    Malformed(String),
    #[error("sequence {offered} is older than {stored}, which we hold")]
    Older { offered: u64, stored: u64 },
    #[error("sequence {0} was seen with other content")]
    SameSequence(u64),
}

impl Bundle {
    pub fn new(
        trust_domain: TrustDomain,
        sequence: u64,
        refresh_hint: Duration,
        x509: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self { trust_domain, sequence, refresh_hint, x509 }
    }

    /// Parses a JWKS document of `trust_domain`. Elements that a consumer must ignore are ignored, with a warning each.
    ///
    /// # Errors
    /// If the document must be refused whole.
    pub fn parse_jwks(_trust_domain: &TrustDomain, _json: &[u8], _now: SystemTime) -> Result<Parsed, BundleError> {
        todo!()
    }

    /// The JWKS document; deterministic, and strict enough for SPIRE's decoder.
    pub fn to_jwks(&self) -> Vec<u8> {
        todo!()
    }

    /// Whether `offered` may replace `stored` (invariant I4).
    ///
    /// # Errors
    /// If it is older, or other content under the same sequence.
    pub fn admit(_stored: Option<&Self>, _offered: &Self) -> Result<Admission, BundleError> {
        todo!()
    }

    /// SHA-256 of [`Self::to_jwks`]; a token pins a bundle by it.
    pub fn sha256(&self) -> [u8; 32] {
        todo!()
    }
}

/// The SPIFFE bundle map of several trust domains (§5.1), as Envoy's SPIFFE validator reads it: `{"trust_domains":{..}}`.
pub fn bundle_map<'a>(_bundles: impl IntoIterator<Item = &'a Bundle>) -> Vec<u8> {
    todo!()
}
