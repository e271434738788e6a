//! What the machines read of the mesh, computed once per mesh and acknowledgement table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Id;
use crate::model::{AckTable, MeshView, PeerName, ProxyKey, ResourceType, ServiceName, Weight};
use crate::rollout::decide::Facts;
use crate::rollout::plan::Capacities;

#[derive(Debug, Default)]
pub(super) struct FactsCache {
    view: Option<Arc<MeshView>>,
    acks: Option<Arc<AckTable>>,
    /// Without the room that the other arms leave.
    facts: BTreeMap<Id, Facts>,
    callers: BTreeMap<ServiceName, BTreeSet<ProxyKey>>,
    /// The callers that have a service's weights: which generation of them, and since when.
    in_force: BTreeMap<ServiceName, BTreeMap<ProxyKey, (u64, u64)>>,
    new_view: bool,
}

impl FactsCache {
    /// Looks at the mesh and the acknowledgements as they are now. The pairs that are federated no more.
    pub(super) fn refresh(&mut self, view: &Arc<MeshView>, acks: &Arc<AckTable>, cap: u32, now: u64) -> Vec<Id> {
        let same = |known: &Option<Arc<MeshView>>| known.as_ref().is_some_and(|known| Arc::ptr_eq(known, view));
        self.new_view = !same(&self.view);
        if !self.new_view && self.acks.as_ref().is_some_and(|known| Arc::ptr_eq(known, acks)) {
            return Vec::new();
        }
        if self.new_view {
            self.callers = view.federated.keys().map(|service| (service.clone(), view.callers(service))).collect();
        }
        let mut facts = BTreeMap::new();
        self.in_force.retain(|service, _| view.federated.contains_key(service));
        for (service, peers) in &view.federated {
            self.note_in_force(view, acks, service, now);
            for peer in peers {
                facts.insert((service.clone(), peer.clone()), self.facts_of(view, acks, cap, service, peers, peer));
            }
        }
        let gone = self.facts.keys().filter(|id| !facts.contains_key(id)).cloned().collect();
        (self.facts, self.view, self.acks) = (facts, Some(view.clone()), Some(acks.clone()));
        gone
    }

    fn note_in_force(&mut self, view: &MeshView, acks: &AckTable, service: &ServiceName, now: u64) {
        let Some((_, generation)) = view.splits.get(service) else { return };
        let before = self.in_force.remove(service).unwrap_or_default();
        let has = |proxy: &&ProxyKey| acks.count([*proxy], ResourceType::Route, *generation) == (1, 1);
        let callers = self.callers.get(service).into_iter().flatten().filter(has);
        let since = |proxy: &ProxyKey| match before.get(proxy) {
            Some((known, at)) if known == generation => (*known, *at),
            _ => (*generation, now),
        };
        self.in_force.insert(service.clone(), callers.map(|proxy| (proxy.clone(), since(proxy))).collect());
    }

    /// Since when this caller has the weights of `service`; `None` if it is not known to have them.
    pub(super) fn in_force_ms(&self, service: &ServiceName, proxy: &ProxyKey) -> Option<u64> {
        self.in_force.get(service)?.get(proxy).map(|(_, at)| *at)
    }

    fn facts_of(
        &self,
        view: &MeshView,
        acks: &AckTable,
        cap: u32,
        service: &ServiceName,
        peers: &[PeerName],
        peer: &PeerName,
    ) -> Facts {
        let others = peers.iter().filter(|other| *other != peer);
        let capacities = Capacities {
            local: view.local_capacity(service),
            remote: view.remote_capacity(peer, service, cap),
            others: others.map(|other| view.remote_capacity(other, service, cap)).sum(),
        };
        let (programmed, since) =
            view.splits.get(service).map_or((Weight::ZERO, 0), |(split, at)| (split.of(peer), *at));
        let endpoints_since = view.imported(peer, service).map_or(0, |imported| imported.since);
        let callers = self.callers.get(service).into_iter().flatten();
        let (acked, total) = acks.count(callers.clone(), ResourceType::Route, since);
        let (endpoints_acked, _) = acks.count(callers, ResourceType::Endpoint, endpoints_since);
        Facts {
            peer: view.peers.get(peer).map(|peer| peer.state).unwrap_or_default(),
            capacities,
            room: Weight::ZERO,
            programmed,
            acked: u32::try_from(acked).unwrap_or(u32::MAX),
            total: u32::try_from(total).unwrap_or(u32::MAX),
            endpoints_acked: endpoints_acked == total,
        }
    }

    /// The facts of one rollout, given what the others of its service have.
    pub(super) fn of(&self, id: &Id, weight_of: impl Fn(&Id) -> Weight) -> Option<Facts> {
        let facts = *self.facts.get(id)?;
        let taken: u32 = self
            .peers(&id.0)
            .iter()
            .filter(|peer| **peer != id.1)
            .map(|peer| u32::from(weight_of(&(id.0.clone(), peer.clone())).value()))
            .sum();
        let room = u32::from(crate::model::TOTAL).saturating_sub(taken);
        Some(Facts { room: Weight::new(room).unwrap_or_default(), ..facts })
    }

    pub(super) fn peers(&self, service: &ServiceName) -> &[PeerName] {
        self.view.as_ref().and_then(|view| view.federated.get(service)).map_or(&[], Vec::as_slice)
    }

    /// The rollouts that the mesh has.
    pub(super) fn ids(&self) -> Vec<Id> {
        self.facts.keys().cloned().collect()
    }

    pub(super) fn knows(&self, id: &Id) -> bool {
        self.facts.contains_key(id)
    }

    /// The rollouts whose service this proxy calls.
    pub(super) fn concerned(&self, proxy: &ProxyKey) -> Vec<Id> {
        let called = |id: &&Id| self.callers.get(&id.0).is_some_and(|callers| callers.contains(proxy));
        self.facts.keys().filter(called).cloned().collect()
    }

    pub(super) fn callers(&self) -> BTreeSet<ProxyKey> {
        self.callers.values().flatten().cloned().collect()
    }

    /// Whether the last refresh found another mesh than the one before.
    pub(super) fn is_new_view(&self) -> bool {
        self.new_view
    }
}
