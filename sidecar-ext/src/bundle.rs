//! Whom this node trusts: the bundle of its own trust domain and those of its federated ones, each admitted by sequence and kept when
//! a newer one is refused. Pure. Also the forms in which bundles are handed out ([`Shelf`]), each made once per change.

mod shelf;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use symbolon_kit::spiffe::bundle::{Admission, Bundle, BundleError};
use symbolon_kit::spiffe::verify::BundleTable;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node as wire;

pub use shelf::{Seen, Shelf};

/// Federated trust domains of one mesh.
const MAX_TRUST_DOMAINS: usize = 1000;
/// Authorities of the own trust domain that are tainted at one time.
const MAX_TAINTED: usize = 256;

/// The bundles held; the own trust domain's is always among them.
#[derive(Clone, Debug)]
pub struct Book {
    own: TrustDomain,
    trust: Trust,
}

/// Whom the node trusts, and what of its own trust domain it is to replace; as one value, since one message says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Has the own trust domain's from the start.
    pub bundles: Arc<BundleTable>,
    pub tainted: Arc<Tainted>,
    /// Whether the WIT-SVID profile is switched on.
    pub incubating: bool,
}

/// Authorities of the own trust domain that may be compromised. What they signed is good for as long as they stand in the bundle;
/// this node replaces it at once, so that they can be taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tainted {
    /// Subject key identifiers, lower-case hex.
    pub x509: BTreeSet<String>,
    /// Key ids.
    pub jwt: BTreeSet<String>,
}

/// A bundle that was said and is not taken; the one held stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("the control plane speaks for trust domain {said:?}, this node belongs to {own}")]
    OtherTrustDomain { said: String, own: TrustDomain },
    #[error("{0:?} is not the name of a trust domain")]
    Name(String),
    #[error("bundle of {trust_domain}: {why}")]
    Bundle { trust_domain: TrustDomain, why: BundleError },
    #[error("more than {MAX_TRUST_DOMAINS} trust domains, or {MAX_TAINTED} tainted authorities")]
    TooMany,
}

impl Book {
    /// Starts from the own trust domain's bundle, as the operator gave it.
    pub fn new(own: Bundle) -> Self {
        let bundles = Arc::new(BTreeMap::from([(own.trust_domain.clone(), Arc::new(own.clone()))]));
        Self { own: own.trust_domain, trust: Trust { bundles, ..Trust::default() } }
    }

    /// All that is held.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Only the own trust domain's: the control plane is verified by nobody else's.
    pub fn own_only(&self) -> BundleTable {
        let own = self.trust.bundles.get(&self.own);
        own.map(|bundle| (self.own.clone(), bundle.clone())).into_iter().collect()
    }

    /// Takes what the control plane says, the full state: a federated trust domain that it leaves out is no longer trusted, the own
    /// one never goes. Returns whether anything changed, and what was not taken.
    pub fn apply(&mut self, said: &wire::Bundles, now: SystemTime) -> (bool, Vec<Rejected>) {
        if said.trust_domain != self.own.as_str() {
            let rejected = Rejected::OtherTrustDomain { said: said.trust_domain.clone(), own: self.own.clone() };
            return (false, vec![rejected]);
        }
        if said.bundles.len() > MAX_TRUST_DOMAINS || said.tainted_x509.len() + said.tainted_jwt.len() > MAX_TAINTED {
            return (false, vec![Rejected::TooMany]);
        }
        let mut rejected = Vec::new();
        let mut table = BundleTable::new();
        for (name, jwks) in &said.bundles {
            match self.admit(name, jwks, now) {
                Ok(bundle) => drop(table.insert(bundle.trust_domain.clone(), bundle)),
                Err(why) => {
                    if let Rejected::Bundle { trust_domain, .. } = &why
                        && let Some(held) = self.trust.bundles.get(trust_domain)
                    {
                        table.insert(trust_domain.clone(), held.clone());
                    }
                    rejected.push(why);
                }
            }
        }
        if let Some(own) = self.trust.bundles.get(&self.own) {
            table.entry(self.own.clone()).or_insert_with(|| own.clone());
        }
        let tainted = Tainted {
            x509: said.tainted_x509.iter().map(|id| id.to_ascii_lowercase()).collect(),
            jwt: said.tainted_jwt.iter().cloned().collect(),
        };
        // What has not changed stays the same allocation: others tell by it that there is nothing to do.
        let mut trust = self.trust.clone();
        if *trust.bundles != table {
            trust.bundles = Arc::new(table);
        }
        if *trust.tainted != tainted {
            trust.tainted = Arc::new(tainted);
        }
        trust.incubating = said.incubating;
        let changed = trust != self.trust;
        self.trust = trust;
        (changed, rejected)
    }

    fn admit(&self, name: &str, jwks: &[u8], now: SystemTime) -> Result<Arc<Bundle>, Rejected> {
        let trust_domain: TrustDomain = name.parse().map_err(|_| Rejected::Name(name.into()))?;
        let refuse = |why| Rejected::Bundle { trust_domain: trust_domain.clone(), why };
        let parsed = Bundle::parse_jwks(&trust_domain, jwks, now).map_err(refuse)?;
        for warning in &parsed.warnings {
            tracing::warn!(%trust_domain, warning, "part of a bundle is ignored");
        }
        let held = self.trust.bundles.get(&trust_domain);
        match (Bundle::admit(held.map(|held| &**held), &parsed.bundle, now).map_err(refuse)?, held) {
            (Admission::Unchanged, Some(held)) => Ok(held.clone()),
            _ => Ok(Arc::new(parsed.bundle)),
        }
    }

    /// What to keep on disk; [`Self::apply`] reads it back.
    pub fn to_wire(&self) -> wire::Bundles {
        wire::Bundles {
            trust_domain: self.own.to_string(),
            bundles: self.trust.bundles.iter().map(|(name, held)| (name.to_string(), held.to_jwks().into())).collect(),
            tainted_x509: self.trust.tainted.x509.iter().cloned().collect(),
            tainted_jwt: self.trust.tainted.jwt.iter().cloned().collect(),
            incubating: self.trust.incubating,
        }
    }
}

impl Rejected {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::Name(_) => "bad_name",
            Self::Bundle { why, .. } => why.label(),
            Self::TooMany => "too_many",
        }
    }
}

#[cfg(test)]
mod tests;
