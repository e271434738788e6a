//! The mesh as one immutable value. The state task makes a new one per change; everybody else reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use symbolon_proto::ids::{SpiffeId, TrustDomain};

use super::{Endpoint, NodeName, PeerName, ProxyKey, ServiceName, Split, Workload};

/// Everything known of the mesh at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshView {
    /// Rises by one with each change, from 1 at the start of the process.
    pub generation: u64,
    pub trust_domain: TrustDomain,
    /// Services of this mesh: those defined, and those only registered by a workload.
    pub services: BTreeMap<ServiceName, Arc<LocalService>>,
    /// Local names joined with peers, each with its peers in the frozen order.
    pub federated: BTreeMap<ServiceName, Vec<PeerName>>,
    /// The weights of each federated service, with the generation in which they were set.
    pub splits: BTreeMap<ServiceName, (Split, u64)>,
    pub peers: BTreeMap<PeerName, Arc<PeerView>>,
    pub workloads: BTreeMap<NodeName, Arc<[Workload]>>,
    /// How long SVIDs of an identity live, where its registration says so.
    pub lifetimes: BTreeMap<SpiffeId, Duration>,
}

/// A service of this mesh.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalService {
    pub export_to: BTreeSet<PeerName>,
    /// In the order of their ids.
    pub endpoints: Arc<[Endpoint]>,
}

/// A peer and what is imported from it.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerView {
    pub trust_domain: TrustDomain,
    pub state: PeerState,
    pub services: BTreeMap<ServiceName, Arc<ImportedService>>,
}

/// A service that a peer exports to us, as admitted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportedService {
    /// In the order of their ids.
    pub endpoints: Arc<[Endpoint]>,
    /// Identities that the peer says may serve it, all granted.
    pub identities: BTreeSet<SpiffeId>,
    /// What the peer says it can bear, clamped; `None` if it did not say.
    pub capacity: Option<u64>,
    /// The generation in which the endpoints last changed; written by the state task.
    pub since: u64,
}

/// How much a peer's word is worth now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerState {
    /// Configured, no trust exchanged yet.
    #[default]
    Pending,
    /// Never heard since this process started; what is imported is what was stored.
    Connecting,
    Live,
    /// Three beats missed: ramps freeze.
    Suspect,
    /// 30 s: demoted below local endpoints.
    Stale,
    /// 15 min: its endpoints count as unhealthy; names still resolve.
    Expired,
}

// === impl PeerState ===

impl PeerState {
    /// The word for it, to operators and in answers.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Connecting => "CONNECTING",
            Self::Live => "LIVE",
            Self::Suspect => "SUSPECT",
            Self::Stale => "STALE",
            Self::Expired => "EXPIRED",
        }
    }
}

// === impl MeshView ===

impl MeshView {
    /// A mesh of which nothing is known.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            generation: 1,
            trust_domain,
            services: BTreeMap::new(),
            federated: BTreeMap::new(),
            splits: BTreeMap::new(),
            peers: BTreeMap::new(),
            workloads: BTreeMap::new(),
            lifetimes: BTreeMap::new(),
        }
    }

    /// The proxies that should exist: one per (node, identity) with a workload.
    pub fn proxies(&self) -> BTreeMap<ProxyKey, Vec<&Workload>> {
        let mut proxies: BTreeMap<ProxyKey, Vec<&Workload>> = BTreeMap::new();
        for (node, workloads) in &self.workloads {
            for workload in workloads.iter() {
                let key = ProxyKey { node: node.clone(), identity: workload.identity.clone() };
                proxies.entry(key).or_default().push(workload);
            }
        }
        proxies
    }

    /// What is imported from `peer` for `service`.
    pub fn imported(&self, peer: &PeerName, service: &ServiceName) -> Option<&Arc<ImportedService>> {
        self.peers.get(peer)?.services.get(service)
    }

    /// Sum of the weights of the usable local endpoints.
    pub fn local_capacity(&self, service: &ServiceName) -> u64 {
        self.services.get(service).map_or(0, |service| capacity(&service.endpoints))
    }

    /// What `peer` can bear for `service`: the usable endpoints' weights, never more than `cap` each, and never more than the
    /// peer itself claims. 0 from [`PeerState::Expired`] on.
    pub fn remote_capacity(&self, peer: &PeerName, service: &ServiceName, cap: u32) -> u64 {
        let Some(view) = self.peers.get(peer) else { return 0 };
        let Some(imported) = view.services.get(service) else { return 0 };
        if view.state == PeerState::Expired {
            return 0;
        }
        let usable = imported.endpoints.iter().filter(|endpoint| endpoint.health.is_usable());
        let counted: u64 = usable.map(|endpoint| u64::from(endpoint.weight.get().min(cap))).sum();
        imported.capacity.map_or(counted, |claim| counted.min(claim))
    }

    /// The proxies whose workloads call `service` by its local name.
    pub fn callers(&self, service: &ServiceName) -> BTreeSet<ProxyKey> {
        let calls = |workload: &&Workload| {
            workload.upstreams.iter().any(|upstream| upstream.peer.is_none() && upstream.service == *service)
        };
        self.proxies().into_iter().filter(|(_, workloads)| workloads.iter().any(calls)).map(|(key, _)| key).collect()
    }
}

fn capacity(endpoints: &[Endpoint]) -> u64 {
    endpoints.iter().filter(|e| e.health.is_usable()).map(|e| u64::from(e.weight.get())).sum()
}
