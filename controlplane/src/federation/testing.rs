//! Builders for the tests of this module.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use symbolon_proto::federation as wire;
use symbolon_proto::federation::resource::R;

use super::policy::{Grants, Policy, Quotas};
use crate::model::{Endpoint, Health, ServiceName};

pub(super) fn service(name: &str) -> ServiceName {
    name.parse().expect("a name")
}

/// What a.example lets b.example say.
pub(super) fn grants() -> Grants {
    let owned = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    let identities = owned(&["spiffe://b.example/ns/shop/sa/*"]);
    let addresses = owned(&["127.0.2.0/24", "10.2.0.0/16"]);
    Grants::parse(&"b.example".parse().expect("a name"), &identities, &owned(&["*.shop"]), &addresses).expect("grants")
}

pub(super) fn policy() -> Policy {
    Policy {
        trust_domain: "b.example".parse().expect("a name"),
        grants: grants(),
        quotas: Quotas::default(),
        max_endpoint_weight: NonZeroU32::new(100).expect("not zero"),
    }
}

/// Endpoint number `n` of b.example.
pub(super) fn endpoint(n: u32) -> wire::Endpoint {
    wire::Endpoint {
        id: format!("n{n}/pay"),
        address: format!("10.2.{}.{}", n / 250, n % 250 + 1),
        port: 8443,
        identity: "spiffe://b.example/ns/shop/sa/pay".into(),
        health: wire::endpoint::Health::Healthy.into(),
        weight: 1,
    }
}

pub(super) fn model_endpoint(n: u32) -> Endpoint {
    let wire = endpoint(n);
    Endpoint {
        id: wire.id.as_str().into(),
        address: SocketAddr::new(wire.address.parse().expect("an address"), 8443),
        identity: wire.identity.parse().expect("an ID"),
        health: Health::Healthy,
        weight: NonZeroU32::MIN,
    }
}

pub(super) fn put(resource: R) -> wire::Resource {
    wire::Resource { r: Some(resource) }
}

pub(super) fn a_service(name: &str) -> wire::Resource {
    let identities = vec!["spiffe://b.example/ns/shop/sa/pay".into()];
    put(R::Service(wire::Service { name: name.into(), identities }))
}

pub(super) fn a_shard(name: &str, shard: u32, endpoints: impl IntoIterator<Item = u32>) -> wire::Resource {
    let endpoints = endpoints.into_iter().map(endpoint).collect();
    put(R::Shard(wire::EndpointShard { service: name.into(), shard, endpoints }))
}

pub(super) fn a_capacity(name: &str, capacity: u64) -> wire::Resource {
    put(R::Capacity(wire::Capacity { service: name.into(), capacity }))
}

pub(super) fn a_bundle(trust_domain: &str) -> wire::Resource {
    let jwks = br#"{"keys":[],"spiffe_sequence":1}"#.to_vec().into();
    put(R::Bundle(wire::TrustBundle { trust_domain: trust_domain.into(), jwks }))
}
