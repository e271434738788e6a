//! What sources tell the state. Each variant is a whole statement about one thing: nothing is ever withdrawn by being absent
//! from another statement (invariant I5).

use std::time::Duration;

use symbolon_proto::ids::{SpiffeId, TrustDomain};

use super::{ImportedService, NodeName, PeerName, PeerState, ServiceName, Split, Workload};

/// One statement about the mesh.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// All workloads of this node.
    Workloads { node: NodeName, workloads: Vec<Workload> },
    /// The configuration's services and federated services, all of them.
    Definitions { services: Vec<ServiceDefinition>, federated: Vec<FederatedDefinition> },
    /// The link to a peer changed its state.
    Peer { peer: PeerName, trust_domain: TrustDomain, state: PeerState },
    /// One imported service as it is now; `None` only on the peer's explicit word.
    Import { peer: PeerName, service: ServiceName, imported: Option<ImportedService> },
    /// The weights of a federated service.
    Split { service: ServiceName, split: Split },
    /// How long SVIDs of this identity live; `None`: as long as all others.
    Lifetime { identity: SpiffeId, ttl: Option<Duration> },
}

/// A service of this mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDefinition {
    pub name: ServiceName,
    /// The peers that may import it.
    pub export_to: Vec<PeerName>,
}

/// A local name joined with the same name at peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedDefinition {
    pub name: ServiceName,
    /// In the frozen order of the arms.
    pub peers: Vec<PeerName>,
}
