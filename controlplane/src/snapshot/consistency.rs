//! What is never published. A snapshot with a hole would make Envoy wait or answer 503, one with a wrong split would move
//! traffic: such a one is held back for its proxy alone, which keeps what it has.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::resource::{Resource, Resources};
use crate::model::{ResourceType, ServiceName, TOTAL};

/// Why a proxy's snapshot is held back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    #[error("{by} needs {kind:?} {name}, which is not there")]
    Missing { kind: ResourceType, name: Arc<str>, by: Arc<str> },
    #[error("two different resources of type {kind:?} are named {name}: are two workloads of this node?")]
    Twice { kind: ResourceType, name: Arc<str> },
    #[error("listeners {one} and {other} both want {address}")]
    Address { address: SocketAddr, one: Arc<str>, other: Arc<str> },
    #[error("the weights of {service} sum to {sum}, not 10,000")]
    Weights { service: ServiceName, sum: u32 },
    #[error("the arms of {service} changed their order, which would swap who is served by which")]
    Reordered { service: ServiceName },
}

/// The arms and weights of each federated service, as the routes of one proxy have them.
pub(super) type Splits = BTreeMap<ServiceName, Vec<(Arc<str>, u32)>>;

/// One proxy's resources before they are published.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) resources: Resources,
    pub(super) splits: Splits,
    addresses: BTreeMap<SocketAddr, Arc<str>>,
    clash: Option<Inconsistency>,
}

impl Inconsistency {
    /// A fixed word for a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Twice { .. } => "twice",
            Self::Address { .. } => "address",
            Self::Weights { .. } => "weights",
            Self::Reordered { .. } => "reordered",
        }
    }
}

impl Draft {
    pub(super) fn add(&mut self, kind: ResourceType, resource: Arc<Resource>) {
        let all = self.resources.entry(kind).or_default();
        match all.get(&resource.name) {
            Some(before) if !Arc::ptr_eq(before, &resource) => {
                let name = resource.name.clone();
                self.clash.get_or_insert(Inconsistency::Twice { kind, name });
            }
            Some(_) => {}
            None => {
                all.insert(resource.name.clone(), resource);
            }
        }
    }

    /// Adds a listener with the address it binds.
    pub(super) fn add_listener(&mut self, at: SocketAddr, listener: Arc<Resource>) {
        let name = listener.name.clone();
        if let Some(one) = self.addresses.insert(at, name.clone()) {
            self.clash.get_or_insert(Inconsistency::Address { address: at, one, other: name });
        }
        self.add(ResourceType::Listener, listener);
    }

    /// Whether this may replace a snapshot that had the splits `before`.
    pub(super) fn check(&self, before: &Splits) -> Result<(), Inconsistency> {
        if let Some(clash) = &self.clash {
            return Err(clash.clone());
        }
        for resource in self.resources.values().flat_map(BTreeMap::values) {
            for (kind, name) in resource.needs.iter() {
                if !self.resources.get(kind).is_some_and(|all| all.contains_key(name)) {
                    let (kind, name, by) = (*kind, name.clone(), resource.name.clone());
                    return Err(Inconsistency::Missing { kind, name, by });
                }
            }
        }
        for (service, arms) in &self.splits {
            let sum = arms.iter().fold(0u32, |sum, (_, weight)| sum.saturating_add(*weight));
            if sum != u32::from(TOTAL) {
                return Err(Inconsistency::Weights { service: service.clone(), sum });
            }
            if before.get(service).is_some_and(|before| !same_order(before, arms)) {
                return Err(Inconsistency::Reordered { service: service.clone() });
            }
        }
        Ok(())
    }
}

/// Whether the arms that both have come in the same order.
fn same_order(before: &[(Arc<str>, u32)], after: &[(Arc<str>, u32)]) -> bool {
    let has = |all: &[(Arc<str>, u32)], name: &str| all.iter().any(|(other, _)| **other == *name);
    let kept = before.iter().map(|(name, _)| name).filter(|name| has(after, name));
    kept.eq(after.iter().map(|(name, _)| name).filter(|name| has(before, name)))
}
