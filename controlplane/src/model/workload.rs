//! What runs on a node, as its sidecar registered it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use symbolon_proto::ids::SpiffeId;

use super::{Health, NodeName, ServiceName, ServiceRef};

/// One workload of a node. Workloads of one node with the same identity share a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Unique on its node.
    pub name: Arc<str>,
    pub identity: SpiffeId,
    /// The service it is an endpoint of; `None` for a pure client.
    pub service: Option<ServiceName>,
    /// Where the application listens.
    pub address: Option<SocketAddr>,
    /// Where its Envoy accepts mTLS for it; with `service` and `address` this makes it an endpoint.
    pub inbound: Option<SocketAddr>,
    /// Where its Envoy accepts the application's own requests (HTTP, by Host).
    pub outbound: Option<SocketAddr>,
    /// The services it calls; only these are programmed into its proxy.
    pub upstreams: Vec<ServiceRef>,
    pub health: Health,
    pub weight: NonZeroU32,
}

/// A proxy as the control plane knows it: the node it runs on and the identity it serves. Its `node.id` is the identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyKey {
    pub node: NodeName,
    pub identity: SpiffeId,
}
