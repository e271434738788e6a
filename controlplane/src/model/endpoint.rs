//! Where a service can be reached.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use symbolon_proto::ids::SpiffeId;

/// One place that serves a service: the inbound mTLS listener of the Envoy beside a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Unique within (service, peer), `<node>/<workload>` where we made it; stable over address and health changes.
    pub id: Arc<str>,
    /// Where its Envoy accepts mTLS.
    pub address: SocketAddr,
    /// The only SPIFFE ID a client accepts there.
    pub identity: SpiffeId,
    pub health: Health,
    /// Capacity relative to the service's other endpoints.
    pub weight: NonZeroU32,
}

/// What is known of an endpoint's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Never checked: used as if healthy.
    #[default]
    Unknown,
    Healthy,
    /// Listed, but gets traffic only when nothing better is left.
    Unhealthy,
    /// Finishes what it has, gets nothing new.
    Draining,
}

impl Health {
    /// Whether it counts towards the capacity of its service.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Unknown | Self::Healthy)
    }
}
