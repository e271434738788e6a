//! What one proxy needs: the inbound and outbound sides of its workloads, read off once per change of its node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use symbolon_proto::ids::TrustDomain;

use crate::model::{MeshView, NodeName, PeerState, ProxyKey, ServiceName, ServiceRef, Workload};

/// What one proxy needs.
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) key: ProxyKey,
    /// The workloads that serve.
    pub(super) inbound: Vec<Inbound>,
    /// The upstreams that may be addressed at each outbound address.
    pub(super) outbound: BTreeMap<SocketAddr, BTreeSet<ServiceRef>>,
    /// Every service named by an upstream.
    pub(super) services: BTreeSet<ServiceName>,
}

/// One workload that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inbound {
    pub(super) workload: Arc<str>,
    pub(super) service: Option<ServiceName>,
    pub(super) address: SocketAddr,
    pub(super) inbound: SocketAddr,
}

/// The proxies of one node.
pub(super) fn needs_of(node: &NodeName, workloads: &[Workload]) -> Vec<Arc<Need>> {
    let mut needs: BTreeMap<ProxyKey, Need> = BTreeMap::new();
    for workload in workloads {
        let key = ProxyKey { node: node.clone(), identity: workload.identity.clone() };
        let need = needs.entry(key).or_insert_with_key(|key| Need {
            key: key.clone(),
            inbound: Vec::new(),
            outbound: BTreeMap::new(),
            services: BTreeSet::new(),
        });
        need.add(workload);
    }
    needs.into_values().map(Arc::new).collect()
}

/// The trust domains whose members may call a workload of `service`: our own, and those of the peers it is exported to. Not of one
/// with whom no trust was exchanged, or with whom it was ended: live connections of theirs are refused with their next request.
pub(super) fn callers(view: &MeshView, service: Option<&ServiceName>) -> BTreeSet<TrustDomain> {
    let exported = service.and_then(|name| view.services.get(name)).map(|service| &service.export_to);
    let peers = exported.into_iter().flatten().filter_map(|peer| view.peers.get(peer));
    let peers = peers.filter(|peer| peer.state != PeerState::Pending);
    peers.map(|peer| peer.trust_domain.clone()).chain([view.trust_domain.clone()]).collect()
}

/// The clusters that requests for `of` may use, in the frozen order: a federated service's arms, or the one cluster it has.
pub(super) fn arms(view: &MeshView, of: &ServiceRef) -> Vec<ServiceRef> {
    let peers = view.federated.get(&of.service).filter(|_| of.peer.is_none());
    let remote = peers.into_iter().flatten().map(|peer| of.service.of(peer));
    [of.clone()].into_iter().chain(remote).collect()
}

impl Need {
    fn add(&mut self, workload: &Workload) {
        if let (Some(address), Some(inbound)) = (workload.address, workload.inbound) {
            let (workload, service) = (workload.name.clone(), workload.service.clone());
            self.inbound.push(Inbound { workload, service, address, inbound });
        }
        let Some(outbound) = workload.outbound else { return };
        self.outbound.entry(outbound).or_default().extend(workload.upstreams.iter().cloned());
        self.services.extend(workload.upstreams.iter().map(|upstream| upstream.service.clone()));
    }
}
