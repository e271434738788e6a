//! The fold: one change at a time, purely. A change that says nothing new leaves the generation as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use symbolon_proto::ids::TrustDomain;

use crate::model::{
    Change, Endpoint, FederatedDefinition, ImportedService, LocalService, MeshView, NodeName, PeerName, PeerState,
    PeerView, ServiceDefinition, ServiceName, Split, Workload,
};

/// Folds `change` into `view`; its generation rises by one if anything is different afterwards.
pub fn apply(view: &mut MeshView, change: Change) {
    let next = view.generation + 1;
    let changed = match change {
        Change::Workloads { node, workloads } => workloads_of(view, node, workloads),
        Change::Definitions { services, federated } => definitions(view, services, &federated, next),
        Change::Peer { peer, trust_domain, state } => peer_state(view, peer, trust_domain, state),
        Change::Import { peer, service, imported } => import(view, &peer, service, imported, next),
        Change::Split { service, split } => set_split(view, service, split, next),
        Change::Lifetime { identity, ttl: Some(ttl) } => view.lifetimes.insert(identity, ttl) != Some(ttl),
        Change::Lifetime { identity, ttl: None } => view.lifetimes.remove(&identity).is_some(),
    };
    if changed {
        view.generation = next;
    }
}

fn workloads_of(view: &mut MeshView, node: NodeName, workloads: Vec<Workload>) -> bool {
    let before = view.workloads.get(&node).cloned().unwrap_or_default();
    if *before == *workloads {
        return false;
    }
    let offered = |all: &[Workload]| all.iter().filter_map(|w| w.service.clone()).collect::<BTreeSet<_>>();
    for service in offered(&before).union(&offered(&workloads)) {
        let entry = view.services.entry(service.clone()).or_default();
        let endpoints = endpoints_of(&entry.endpoints, &node, &workloads, service);
        if *entry.endpoints != *endpoints {
            *entry = Arc::new(LocalService { export_to: entry.export_to.clone(), endpoints: endpoints.into() });
        }
    }
    view.workloads.insert(node, workloads.into());
    true
}

/// The endpoints of `service`, with those of `node` replaced by what its workloads say now.
fn endpoints_of(before: &[Endpoint], node: &NodeName, workloads: &[Workload], service: &ServiceName) -> Vec<Endpoint> {
    let of_node = |id: &str| id.strip_prefix(node.as_str()).is_some_and(|rest| rest.starts_with('/'));
    let mut all: Vec<Endpoint> = before.iter().filter(|endpoint| !of_node(&endpoint.id)).cloned().collect();
    let serving = workloads.iter().filter(|w| w.service.as_ref() == Some(service) && w.address.is_some());
    all.extend(serving.filter_map(|workload| {
        Some(Endpoint {
            id: format!("{node}/{}", workload.name).into(),
            address: workload.inbound?,
            identity: workload.identity.clone(),
            health: workload.health,
            weight: workload.weight,
        })
    }));
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

fn definitions(
    view: &mut MeshView,
    services: Vec<ServiceDefinition>,
    federated: &[FederatedDefinition],
    next: u64,
) -> bool {
    let before = (view.services.clone(), view.federated.clone(), view.splits.clone());
    let defined: BTreeMap<_, BTreeSet<PeerName>> =
        services.into_iter().map(|service| (service.name, service.export_to.into_iter().collect())).collect();
    for name in defined.keys() {
        view.services.entry(name.clone()).or_default();
    }
    for (name, service) in &mut view.services {
        let export_to = defined.get(name).cloned().unwrap_or_default();
        if service.export_to != export_to {
            *service = Arc::new(LocalService { export_to, endpoints: service.endpoints.clone() });
        }
    }
    view.federated = federated.iter().map(|one| (one.name.clone(), one.peers.clone())).collect();
    view.splits.retain(|name, _| view.federated.contains_key(name));
    for (name, peers) in &view.federated {
        let same_arms = |split: &Split| split.remote().iter().map(|(peer, _)| peer).eq(peers);
        if !view.splits.get(name).is_some_and(|(split, _)| same_arms(split)) {
            view.splits.insert(name.clone(), (Split::all_local(peers.iter().cloned()), next));
        }
    }
    before != (view.services.clone(), view.federated.clone(), view.splits.clone())
}

fn peer_state(view: &mut MeshView, peer: PeerName, trust_domain: TrustDomain, state: PeerState) -> bool {
    match view.peers.get_mut(&peer) {
        Some(known) if known.state == state && known.trust_domain == trust_domain => false,
        Some(known) => {
            let known = Arc::make_mut(known);
            (known.state, known.trust_domain) = (state, trust_domain);
            true
        }
        None => {
            view.peers.insert(peer, Arc::new(PeerView { trust_domain, state, services: BTreeMap::new() }));
            true
        }
    }
}

/// An import of a peer that was never announced is dropped: the link announces the peer first.
fn import(
    view: &mut MeshView,
    peer: &PeerName,
    service: ServiceName,
    imported: Option<ImportedService>,
    next: u64,
) -> bool {
    let Some(known) = view.peers.get_mut(peer) else { return false };
    let before = known.services.get(&service);
    match imported {
        None => before.is_some() && Arc::make_mut(known).services.remove(&service).is_some(),
        Some(mut imported) => {
            let endpoints_same = before.filter(|before| before.endpoints == imported.endpoints);
            imported.since = endpoints_same.map_or(next, |before| before.since);
            if before.is_some_and(|before| **before == imported) {
                return false;
            }
            Arc::make_mut(known).services.insert(service, Arc::new(imported));
            true
        }
    }
}

/// A split for a service that is not federated, or with other arms than it has, is dropped: it was made for another configuration.
fn set_split(view: &mut MeshView, service: ServiceName, split: Split, next: u64) -> bool {
    let Some(peers) = view.federated.get(&service) else { return false };
    if !split.remote().iter().map(|(peer, _)| peer).eq(peers) {
        return false;
    }
    if view.splits.get(&service).is_some_and(|(before, _)| *before == split) {
        return false;
    }
    view.splits.insert(service, (split, next));
    true
}
