//! The checklist, line by line: [`delta`] and [`sotw`] script a client against the machine, message by message; [`grpc`] does so
//! over TCP; [`property`] lets a client do anything in any order.

mod bed;
mod delta;
mod grpc;
mod property;
mod script;
mod sotw;

use crate::model::ResourceType::{self, Cluster, Endpoint, Listener, Route};
use crate::snapshot::{Resource, Snapshot};
use envoy_types::pb::envoy::config::{cluster::v3 as cds, endpoint::v3 as eds, listener::v3 as lds, route::v3 as rds};
use envoy_types::pb::google::protobuf::UInt32Value;
use std::sync::Arc;

/// A cluster with endpoints of its own name.
fn cluster(name: &str, rev: &str) -> (ResourceType, Resource) {
    let message = cds::Cluster { name: name.into(), alt_stat_name: rev.into(), ..Default::default() };
    (Cluster, Resource::encode(name, &message, vec![(Endpoint, name.into())]))
}

fn endpoints(name: &str, rev: u32) -> (ResourceType, Resource) {
    let policy = eds::cluster_load_assignment::Policy {
        overprovisioning_factor: Some(UInt32Value { value: rev }),
        ..Default::default()
    };
    let message = eds::ClusterLoadAssignment { cluster_name: name.into(), policy: Some(policy), ..Default::default() };
    (Endpoint, Resource::encode(name, &message, Vec::new()))
}

/// A listener with the route of its own name.
fn listener(name: &str, rev: &str) -> (ResourceType, Resource) {
    let message = lds::Listener { name: name.into(), stat_prefix: rev.into(), ..Default::default() };
    (Listener, Resource::encode(name, &message, vec![(Route, name.into())]))
}

fn route(name: &str, rev: &str, clusters: &[&str]) -> (ResourceType, Resource) {
    let message =
        rds::RouteConfiguration { name: name.into(), internal_only_headers: vec![rev.into()], ..Default::default() };
    let needs = clusters.iter().map(|name| (Cluster, Arc::from(*name))).collect();
    (Route, Resource::encode(name, &message, needs))
}

fn snapshot(generation: u64, resources: impl IntoIterator<Item = (ResourceType, Resource)>) -> Arc<Snapshot> {
    let mut snapshot = Snapshot { generation, ..Default::default() };
    for (of, resource) in resources {
        Arc::make_mut(&mut snapshot.resources).entry(of).or_default().insert(resource.name.clone(), Arc::new(resource));
    }
    Arc::new(snapshot)
}

/// One of everything: listener and route `out`, cluster and endpoints `pay`.
fn small(generation: u64) -> Arc<Snapshot> {
    snapshot(generation, [cluster("pay", "1"), endpoints("pay", 1), listener("out", "1"), route("out", "1", &["pay"])])
}
