//! Whom this node trusts: the bundle of its own trust domain and those of its federated ones, each admitted by sequence and kept when
//! a newer one is refused. Pure. Also the forms in which bundles are handed out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use symbolon_kit::spiffe::bundle::{Admission, Bundle, BundleError};
use symbolon_kit::spiffe::verify::BundleTable;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node as wire;

/// Federated trust domains of one mesh.
const MAX_TRUST_DOMAINS: usize = 1000;

/// The bundles held; the own trust domain's is always among them.
#[derive(Clone, Debug)]
pub struct Book {
    own: TrustDomain,
    table: Arc<BundleTable>,
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
    #[error("more than {MAX_TRUST_DOMAINS} trust domains")]
    TooMany,
}

impl Book {
    /// Starts from the own trust domain's bundle, as the operator gave it.
    pub fn new(own: Bundle) -> Self {
        Self {
            own: own.trust_domain.clone(),
            table: Arc::new(BTreeMap::from([(own.trust_domain.clone(), Arc::new(own))])),
        }
    }

    /// All bundles held.
    pub fn table(&self) -> &Arc<BundleTable> {
        &self.table
    }

    /// Only the own trust domain's: the control plane is verified by nobody else's.
    pub fn own_only(&self) -> BundleTable {
        self.table
            .iter()
            .filter(|(name, _)| **name == self.own)
            .map(|(name, bundle)| (name.clone(), bundle.clone()))
            .collect()
    }

    /// Takes what the control plane says, the full state: a federated trust domain that it leaves out is no longer trusted, the own
    /// one never goes. Returns whether anything changed, and what was not taken.
    pub fn apply(&mut self, said: &wire::Bundles, now: SystemTime) -> (bool, Vec<Rejected>) {
        if said.trust_domain != self.own.as_str() {
            let rejected = Rejected::OtherTrustDomain { said: said.trust_domain.clone(), own: self.own.clone() };
            return (false, vec![rejected]);
        }
        if said.bundles.len() > MAX_TRUST_DOMAINS {
            return (false, vec![Rejected::TooMany]);
        }
        let mut rejected = Vec::new();
        let mut table = BundleTable::new();
        for (name, jwks) in &said.bundles {
            match self.admit(name, jwks, now) {
                Ok(bundle) => drop(table.insert(bundle.trust_domain.clone(), bundle)),
                Err(why) => {
                    if let Rejected::Bundle { trust_domain, .. } = &why
                        && let Some(held) = self.table.get(trust_domain)
                    {
                        table.insert(trust_domain.clone(), held.clone());
                    }
                    rejected.push(why);
                }
            }
        }
        if let Some(own) = self.table.get(&self.own) {
            table.entry(self.own.clone()).or_insert_with(|| own.clone());
        }
        let changed = table != *self.table;
        if changed {
            self.table = Arc::new(table);
        }
        (changed, rejected)
    }

    fn admit(&self, name: &str, jwks: &[u8], now: SystemTime) -> Result<Arc<Bundle>, Rejected> {
        let trust_domain: TrustDomain = name.parse().map_err(|_| Rejected::Name(name.into()))?;
        let refuse = |why| Rejected::Bundle { trust_domain: trust_domain.clone(), why };
        let parsed = Bundle::parse_jwks(&trust_domain, jwks, now).map_err(refuse)?;
        for warning in &parsed.warnings {
            tracing::warn!(%trust_domain, warning, "part of a bundle is ignored");
        }
        let held = self.table.get(&trust_domain);
        match (Bundle::admit(held.map(|held| &**held), &parsed.bundle, now).map_err(refuse)?, held) {
            (Admission::Unchanged, Some(held)) => Ok(held.clone()),
            _ => Ok(Arc::new(parsed.bundle)),
        }
    }

    /// What to keep on disk; [`Self::apply`] reads it back.
    pub fn to_wire(&self) -> wire::Bundles {
        wire::Bundles {
            trust_domain: self.own.to_string(),
            bundles: self.table.iter().map(|(name, bundle)| (name.to_string(), bundle.to_jwks().into())).collect(),
            ..wire::Bundles::default()
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

/// The X.509 authorities as the Workload API carries them: DER, one after the other (W-7).
pub fn der(bundle: &Bundle) -> Bytes {
    let mut der = BytesMut::new();
    for certificate in &bundle.x509 {
        der.extend_from_slice(certificate);
    }
    der.freeze()
}

#[cfg(test)]
mod tests;
