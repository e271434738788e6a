//! The Bundle Map: several trust domains' bundles in one document (SPIFFE_Trust_Domain_and_Bundle.md §5.1).

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;
use symbolon_proto::ids::TrustDomain;

use super::{Bundle, BundleError, DEFAULT_REFRESH, Parsed};
use crate::spiffe::{json, jwks};

/// The largest document read.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The most trust domains in one document.
const MAX_DOMAINS: usize = 1024;

/// Bundles by trust domain; each validates its own domain's SVIDs only.
#[derive(Clone, Debug, Default)]
pub struct BundleMap(pub BTreeMap<TrustDomain, Parsed>);

/// Why a map is refused; nothing of it is taken then (§5.1, App. B.1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error("larger than 16 MiB")]
    TooLarge,
    #[error("not a bundle map: {0}")]
    Malformed(String),
    #[error("`trust_domains` is missing, or is not an object")]
    NoTrustDomains,
    #[error("more than {MAX_DOMAINS} trust domains")]
    TooManyDomains,
    #[error("{0:?} is not the name of a trust domain")]
    Name(String),
    #[error("trust domain {0} appears twice")]
    Twice(TrustDomain),
    #[error("trust domain {0}: {1}")]
    Bundle(TrustDomain, BundleError),
}

#[derive(Serialize)]
struct Document {
    trust_domains: BTreeMap<String, jwks::Document>,
}

impl BundleMap {
    /// Reads all of a map or nothing. Refresh hints inside it are dropped: they would be one domain's say over how often the whole
    /// map is fetched (§5.1.1).
    ///
    /// # Errors
    /// Why it is refused.
    pub fn parse(bytes: &[u8], now: SystemTime) -> Result<Self, MapError> {
        if bytes.len() > MAX_BYTES {
            return Err(MapError::TooLarge);
        }
        let document = json::parse(bytes).map_err(|e| MapError::Malformed(e.to_string()))?;
        let domains = document.get("trust_domains").and_then(Value::as_object).ok_or(MapError::NoTrustDomains)?;
        if domains.len() > MAX_DOMAINS {
            return Err(MapError::TooManyDomains);
        }
        let mut map = BTreeMap::new();
        for (name, bundle) in domains {
            let name: TrustDomain = name.parse().map_err(|_| MapError::Name(name.chars().take(80).collect()))?;
            let mut parsed = jwks::read(&name, bundle, now).map_err(|error| MapError::Bundle(name.clone(), error))?;
            parsed.bundle.refresh_hint = DEFAULT_REFRESH;
            // The parser of JSON has refused the same name twice; this is the same name in another case.
            if map.insert(name.clone(), parsed).is_some() {
                return Err(MapError::Twice(name));
            }
        }
        Ok(Self(map))
    }
}

/// The map of these bundles' X.509 authorities, as Envoy's SPIFFE validator reads it; deterministic.
pub fn bundle_map<'a>(bundles: impl IntoIterator<Item = &'a Bundle>) -> Vec<u8> {
    let domain = |bundle: &Bundle| (bundle.trust_domain.to_string(), jwks::Document::in_map(bundle));
    let map = Document { trust_domains: bundles.into_iter().map(domain).collect() };
    serde_json::to_vec(&map).expect("strings and numbers serialise")
}
