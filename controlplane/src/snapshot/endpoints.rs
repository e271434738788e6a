//! EDS: one assignment per cluster, its own arm at priority 0 and the others behind it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

use core::HealthStatus;
use eds::cluster_load_assignment::Policy;
use eds::lb_endpoint::HostIdentifier;

use super::arm::{Arm, Standing};
use super::wire::{address, uint};
use crate::model::{Endpoint, Health};

/// Where `transport_socket_matches` looks.
const MATCH_NAMESPACE: &str = "envoy.transport_socket_match";
const MATCH_KEY: &str = "arm";

/// The assignment of the cluster `name`. Every arm is listed, even without endpoints: priorities must not skip.
pub(super) fn assignment(name: &str, arms: &[(u32, Arm)]) -> eds::ClusterLoadAssignment {
    // One address belongs to one arm, the first that has it: Envoy knows a host by its address alone, so a peer that claims one
    // of ours would otherwise have our endpoint verified against its identities.
    let mut taken = BTreeSet::new();
    let localities = arms.iter().map(|(priority, arm)| locality(*priority, arm, &mut taken));
    eds::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: localities.collect(),
        policy: Some(Policy {
            // A priority keeps its whole share as long as one endpoint is left: with Envoy's 140, one of two hosts unhealthy
            // would move 30 % to the other arm, and the shares would no longer be the wanted ones.
            overprovisioning_factor: uint(100_000),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `{arm: <name>}`, both as an endpoint's metadata and as what a transport socket asks for.
pub(super) fn arm_label(name: &str) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(name.into())) };
    Struct { fields: [(MATCH_KEY.to_owned(), value)].into() }
}

fn locality(priority: u32, arm: &Arm, taken: &mut BTreeSet<SocketAddr>) -> eds::LocalityLbEndpoints {
    let name = arm.of.to_string();
    let fresh = arm.endpoints().iter().filter(|endpoint| taken.insert(endpoint.address));
    eds::LocalityLbEndpoints {
        // Distinct per arm: within one priority Envoy refuses a locality twice, and load reports tell the peers apart by it.
        locality: Some(core::Locality {
            region: arm.trust_domain.as_ref().map(ToString::to_string).unwrap_or_default(),
            zone: name.clone(),
            ..Default::default()
        }),
        lb_endpoints: fresh.map(|endpoint| lb_endpoint(&name, endpoint, arm.standing())).collect(),
        priority,
        ..Default::default()
    }
}

fn lb_endpoint(arm: &str, endpoint: &Endpoint, standing: Standing) -> eds::LbEndpoint {
    eds::LbEndpoint {
        health_status: health_status(endpoint.health, standing).into(),
        metadata: Some(core::Metadata {
            filter_metadata: [(MATCH_NAMESPACE.to_owned(), arm_label(arm))].into(),
            ..Default::default()
        }),
        load_balancing_weight: uint(endpoint.weight.get()),
        host_identifier: Some(HostIdentifier::Endpoint(eds::Endpoint {
            address: Some(address(endpoint.address)),
            ..Default::default()
        })),
    }
}

/// DEGRADED is Envoy's word for the last resort: such a host is chosen only when no priority has a healthy one.
fn health_status(health: Health, standing: Standing) -> HealthStatus {
    match (health, standing.of(health)) {
        (Health::Draining, _) => HealthStatus::Draining,
        (_, Standing::Unusable) => HealthStatus::Unhealthy,
        (_, Standing::LastResort) => HealthStatus::Degraded,
        (Health::Unknown, Standing::Full) => HealthStatus::Unknown,
        (_, Standing::Full) => HealthStatus::Healthy,
    }
}
