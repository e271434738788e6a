//! A trust domain's bundle in SPIFFE's JWKS form (SPIFFE_Trust_Domain_and_Bundle.md §4), parsed at the edge, admitted by sequence.
//! How the document is read and written is in `jwks`.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use symbolon_proto::ids::TrustDomain;

pub use map::{BundleMap, MapError, bundle_map};

pub use super::token_key::{JwtAuthority, TokenKey};
use super::{jwks, svid};

mod map;

/// The largest document read.
pub const MAX_BYTES: usize = 1024 * 1024;
/// The most keys in one document.
pub const MAX_KEYS: usize = 256;
/// How often to ask again when a bundle does not say (SPIFFE_Trust_Domain_and_Bundle.md §6.1).
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(300);

/// The authorities of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub trust_domain: TrustDomain,
    pub sequence: u64,
    pub refresh_hint: Duration,
    /// X.509 authorities, in the order of the document.
    pub x509: Vec<CertificateDer<'static>>,
    /// Keys of JWT-SVIDs, each under a `kid` that no other key of the bundle has.
    pub jwt: Vec<JwtAuthority>,
    /// Keys of WIT-SVIDs, likewise (incubating: empty unless the trust domain has switched them on).
    pub wit: Vec<JwtAuthority>,
}

/// A bundle, and what was ignored in it.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub bundle: Bundle,
    pub content: Content,
    pub warnings: Vec<String>,
}

/// What a document states. One without X.509 authorities withdraws all that were there, so whoever fetched it asks a second time
/// before that is honoured (bad input 40).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It lists X.509 authorities, expired ones perhaps.
    Authorities,
    /// Keys for tokens only: the trust domain has no X.509-SVIDs.
    TokensOnly,
    /// `keys` is an empty list: the trust domain has no SVIDs at all (B-3).
    Empty,
}

/// A kind of SVID, as the `use` of a JWK names it (SPIFFE_Trust_Domain_and_Bundle.md §4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    X509,
    Jwt,
    Wit,
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
    #[error("larger than 1 MiB")]
    TooLarge,
    #[error("not a JWKS document: {0}")]
    Malformed(String),
    #[error("`keys` is missing, or is not a list")]
    NoKeys,
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
    #[error("`spiffe_sequence` is not a whole number from 0 to 2^64-1")]
    Sequence,
    #[error("key {0} is private or symmetric key material, which must never be published")]
    SecretKey(usize),
    #[error("two keys have the kid {0:?}")]
    DuplicateKid(String),
    #[error("key {index} belongs to trust domain {owner}")]
    OtherTrustDomain { index: usize, owner: String },
    #[error("none of its keys can be used ({0})")]
    Unusable(String),
    #[error("sequence {offered} is older than {stored}, which we hold")]
    Older { offered: u64, stored: u64 },
    #[error("sequence {0} was seen with other content")]
    SameSequence(u64),
}

impl Bundle {
    /// A bundle without keys for tokens.
    pub fn new(
        trust_domain: TrustDomain,
        sequence: u64,
        refresh_hint: Duration,
        x509: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self { trust_domain, sequence, refresh_hint, x509, jwt: Vec::new(), wit: Vec::new() }
    }

    /// The same bundle with these keys for tokens.
    #[must_use]
    pub fn with_tokens(self, jwt: Vec<JwtAuthority>, wit: Vec<JwtAuthority>) -> Self {
        Self { jwt, wit, ..self }
    }

    /// Parses a JWKS document of `trust_domain`. Elements that a consumer must ignore are ignored, with a warning each; so are
    /// authorities that have expired. A document with no X.509 key at all is an explicit statement, see [`Parsed::content`].
    ///
    /// # Errors
    /// If the document must be refused whole.
    pub fn parse_jwks(trust_domain: &TrustDomain, json: &[u8], now: SystemTime) -> Result<Parsed, BundleError> {
        jwks::parse(trust_domain, json, now)
    }

    /// The JWKS document; deterministic, and strict enough for SPIRE's decoder. It holds every key of the bundle: one without keys
    /// for WIT-SVIDs is for whoever does not know that use.
    pub fn to_jwks(&self) -> Vec<u8> {
        serde_json::to_vec(&jwks::Document::of(self)).expect("strings and numbers serialise")
    }

    /// The keys of one use as a plain JWKS, as the Workload API hands them out (W-10, W-12).
    pub fn to_jwks_of(&self, only: Use) -> Vec<u8> {
        serde_json::to_vec(&jwks::Document::plain(self, only)).expect("strings and numbers serialise")
    }

    /// Whether a key of `other` is also one of ours: what one of them signs, the other would vouch for (bad input 47).
    pub fn shares_a_key_with(&self, other: &Self) -> bool {
        let spki = |root: &CertificateDer<'static>| Some(svid::parse(root).ok()?.subject_pki.raw.to_vec());
        let keys = |bundle: &Self| -> BTreeSet<Vec<u8>> {
            let tokens = bundle.jwt.iter().chain(&bundle.wit).map(|authority| authority.key.spki().to_vec());
            bundle.x509.iter().filter_map(spki).chain(tokens).collect()
        };
        !keys(self).is_disjoint(&keys(other))
    }

    /// Whether `offered` may replace `stored` (invariant I4). Authorities that have expired at `now` make no difference: parsing
    /// leaves them out, so the same document reads shorter later.
    ///
    /// # Errors
    /// If it is older, or other content under the same sequence.
    pub fn admit(stored: Option<&Self>, offered: &Self, now: SystemTime) -> Result<Admission, BundleError> {
        let Some(stored) = stored else { return Ok(Admission::Newer) };
        if offered.sequence > stored.sequence {
            return Ok(Admission::Newer);
        }
        if offered.sequence < stored.sequence {
            return Err(BundleError::Older { offered: offered.sequence, stored: stored.sequence });
        }
        let same = stored.refresh_hint == offered.refresh_hint
            && stored.living(now).eq(offered.living(now))
            && (&stored.jwt, &stored.wit) == (&offered.jwt, &offered.wit);
        if same { Ok(Admission::Unchanged) } else { Err(BundleError::SameSequence(offered.sequence)) }
    }

    /// SHA-256 of [`Self::to_jwks`]; a token pins a bundle by it.
    pub fn sha256(&self) -> [u8; 32] {
        crate::octets::sha256(&self.to_jwks())
    }

    fn living(&self, now: SystemTime) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.x509.iter().filter(move |root| svid::validity(root).is_ok_and(|(_, end)| now < end))
    }
}

impl Content {
    pub fn withdraws_x509(self) -> bool {
        self != Self::Authorities
    }
}

impl Use {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::X509 => "x509-svid",
            Self::Jwt => "jwt-svid",
            Self::Wit => "wit-svid",
        }
    }
}

impl BundleError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed(_) => "malformed",
            Self::NoKeys => "no_keys",
            Self::TooManyKeys => "too_many_keys",
            Self::Sequence => "sequence",
            Self::SecretKey(_) => "secret_key",
            Self::DuplicateKid(_) => "duplicate_kid",
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::Unusable(_) => "unusable",
            Self::Older { .. } => "older",
            Self::SameSequence(_) => "same_sequence",
        }
    }
}

#[cfg(test)]
mod tests;
