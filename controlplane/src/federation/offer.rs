//! From the mesh to what one peer may have of it: bundle, services with their identities, capacities, endpoint shards. Compared
//! with the offer before, so that only what changed is said, and what is withdrawn is withdrawn with a reason. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_proto::federation as wire;
use symbolon_proto::federation::resource::R;
use symbolon_proto::federation::tombstone::Why;
use symbolon_proto::ids::SpiffeId;

use super::log::Said;
use super::resource::{BUNDLE, SHARD_ENDPOINTS, capacity_key, service_key, shard_key};
use crate::model::{Endpoint, Health, LocalService, MeshView, PeerName, ServiceName};

/// What was offered last.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    bundle: Option<Arc<Bundle>>,
    services: BTreeMap<ServiceName, Offered>,
}

#[derive(Clone, Debug)]
struct Offered {
    from: Arc<LocalService>,
    identities: BTreeSet<SpiffeId>,
    capacity: u64,
    shards: BTreeMap<u32, Vec<Endpoint>>,
}

impl Offer {
    /// What changed of the offer to `peer`, in the order in which it must be said.
    pub fn update(&mut self, view: &MeshView, peer: &PeerName, bundle: Option<&Arc<Bundle>>) -> Vec<(String, Said)> {
        let mut changes = Vec::new();
        if let Some(bundle) = bundle.filter(|bundle| self.bundle.as_ref() != Some(bundle)) {
            self.bundle = Some(bundle.clone());
            let (trust_domain, jwks) = (bundle.trust_domain.to_string(), Bytes::from(bundle.to_jwks()));
            changes.push((BUNDLE.to_owned(), put(R::Bundle(wire::TrustBundle { trust_domain, jwks }))));
        }
        let exported = |name: &ServiceName| view.services.get(name).is_some_and(|s| s.export_to.contains(peer));
        let withdrawn: Vec<ServiceName> = self.services.keys().filter(|name| !exported(name)).cloned().collect();
        for name in withdrawn {
            if let Some(before) = self.services.remove(&name) {
                changes.extend(before.shards.keys().map(|n| (shard_key(&name, *n), Said::Gone(Why::Unexported))));
                changes.push((capacity_key(&name), Said::Gone(Why::Unexported)));
                changes.push((service_key(&name), Said::Gone(Why::Unexported)));
            }
        }
        for (name, service) in view.services.iter().filter(|(_, service)| service.export_to.contains(peer)) {
            match self.services.get_mut(name) {
                Some(before) if Arc::ptr_eq(&before.from, service) => {}
                Some(before) => before.update(name, service, &mut changes),
                None => {
                    self.services.insert(name.clone(), Offered::new(name, service, &mut changes));
                }
            }
        }
        changes
    }

    /// How many services are offered.
    pub fn services(&self) -> usize {
        self.services.len()
    }
}

impl Offered {
    fn new(name: &ServiceName, service: &Arc<LocalService>, changes: &mut Vec<(String, Said)>) -> Self {
        let mut new = Self { from: service.clone(), identities: BTreeSet::new(), capacity: 0, shards: BTreeMap::new() };
        new.identities = identities(&service.endpoints);
        changes.push((service_key(name), new.service(name)));
        changes.push((capacity_key(name), put(R::Capacity(wire::Capacity { service: name.to_string(), capacity: 0 }))));
        new.update(name, service, changes);
        new
    }

    fn update(&mut self, name: &ServiceName, service: &Arc<LocalService>, changes: &mut Vec<(String, Said)>) {
        self.from = service.clone();
        let identities = identities(&service.endpoints);
        // A service scaled to zero keeps the identities it had: they say who may serve it, not who does.
        if !service.endpoints.is_empty() && identities != self.identities {
            self.identities = identities;
            changes.push((service_key(name), self.service(name)));
        }
        let capacity = capacity(&service.endpoints);
        if capacity != self.capacity {
            self.capacity = capacity;
            changes
                .push((capacity_key(name), put(R::Capacity(wire::Capacity { service: name.to_string(), capacity }))));
        }
        self.shards(name, &service.endpoints, changes);
    }

    /// An endpoint stays in its shard as long as it lives, so that one change resends one shard.
    fn shards(&mut self, name: &ServiceName, endpoints: &[Endpoint], changes: &mut Vec<(String, Said)>) {
        let mut left: BTreeMap<&str, &Endpoint> = endpoints.iter().map(|e| (&*e.id, e)).collect();
        let mut next: BTreeMap<u32, Vec<Endpoint>> = BTreeMap::new();
        for (number, before) in &self.shards {
            let staying = before.iter().filter_map(|endpoint| left.remove(&*endpoint.id)).cloned();
            next.insert(*number, staying.collect());
        }
        let mut number = 0;
        for endpoint in left.into_values() {
            while next.get(&number).is_some_and(|shard| shard.len() >= SHARD_ENDPOINTS) {
                number += 1;
            }
            next.entry(number).or_default().push(endpoint.clone());
        }
        next.retain(|_, shard| !shard.is_empty());
        // Additions first: when a service moves from one shard to another, nobody sees it without either.
        for (number, shard) in &mut next {
            shard.sort_by(|a, b| a.id.cmp(&b.id));
            if self.shards.get(number) != Some(shard) {
                changes.push((shard_key(name, *number), shard_of(name, *number, shard)));
            }
        }
        let why = if next.is_empty() { Why::ScaledToZero } else { Why::Deleted };
        let gone = self.shards.keys().filter(|number| !next.contains_key(number));
        changes.extend(gone.map(|number| (shard_key(name, *number), Said::Gone(why))));
        self.shards = next;
    }

    fn service(&self, name: &ServiceName) -> Said {
        let identities = self.identities.iter().map(ToString::to_string).collect();
        put(R::Service(wire::Service { name: name.to_string(), identities }))
    }
}

fn put(resource: R) -> Said {
    Said::Put(Arc::new(wire::Resource { r: Some(resource) }))
}

fn identities(endpoints: &[Endpoint]) -> BTreeSet<SpiffeId> {
    endpoints.iter().map(|endpoint| endpoint.identity.clone()).collect()
}

fn capacity(endpoints: &[Endpoint]) -> u64 {
    endpoints.iter().filter(|e| e.health.is_usable()).map(|e| u64::from(e.weight.get())).sum()
}

fn shard_of(name: &ServiceName, shard: u32, endpoints: &[Endpoint]) -> Said {
    let endpoints = endpoints
        .iter()
        .map(|endpoint| wire::Endpoint {
            id: endpoint.id.to_string(),
            address: endpoint.address.ip().to_string(),
            port: endpoint.address.port().into(),
            identity: endpoint.identity.to_string(),
            health: health(endpoint.health).into(),
            weight: endpoint.weight.get(),
        })
        .collect();
    put(R::Shard(wire::EndpointShard { service: name.to_string(), shard, endpoints }))
}

fn health(health: Health) -> wire::endpoint::Health {
    match health {
        Health::Unknown => wire::endpoint::Health::Unknown,
        Health::Healthy => wire::endpoint::Health::Healthy,
        Health::Unhealthy => wire::endpoint::Health::Unhealthy,
        Health::Draining => wire::endpoint::Health::Draining,
    }
}

#[cfg(test)]
mod tests;
