//! RDS: where a request goes, by Host; how traffic is split; what is tried again; and who may pass at the other end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as rbac_filter;
use envoy_types::pb::envoy::extensions::rbac::principals::mtls_authenticated::v3 as mtls_authenticated;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::util::pack_any;
use symbolon_proto::ids::TrustDomain;

use rds::header_matcher::HeaderMatchSpecifier;
use rds::retry_policy::{RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority};
use rds::route::Action;
use rds::route_action::{ClusterSpecifier, MaxStreamDuration};
use rds::route_match::{GrpcRouteMatchOptions, PathSpecifier};
use rds::weighted_cluster::ClusterWeight;

use super::tls;
use super::wire::{duration, exact, overwrite, regex, uint};
use crate::model::ServiceRef;

/// On a reply that the Envoy beside a workload made itself because the workload did not: `undelivered` or `interrupted`.
/// Never reaches an application, and is never taken from one.
pub const MARKER: &str = "x-symbolon-unserved";
/// Marker: the request did not reach the workload, so every method may be tried elsewhere.
pub(super) const UNDELIVERED: &str = "undelivered";
/// Marker: the workload broke off, having perhaps acted; only idempotent methods may be tried elsewhere.
pub(super) const INTERRUPTED: &str = "interrupted";
/// On every reply to an application: the SPIFFE ID of the endpoint that served it.
pub const UPSTREAM_ID: &str = "x-symbolon-upstream-id";
pub(super) const RBAC_FILTER: &str = "envoy.filters.http.rbac";

/// RFC 9110 §9.2.2.
const IDEMPOTENT: &str = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE";
const TIMEOUT: Duration = Duration::from_secs(15);
/// How many upstreams the reply to an unknown Host names; Envoy allows its body 4 KiB.
const NAMED: usize = 24;

/// Where the requests for one Host go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// All to one cluster.
    Whole(Arc<str>),
    /// By weight, in the frozen order: local, then the peers.
    Split(Vec<(Arc<str>, u32)>),
}

impl Target {
    /// The clusters it needs.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &str> {
        let (whole, split) = match self {
            Self::Whole(cluster) => (Some(&**cluster), [].as_slice()),
            Self::Split(arms) => (None, arms.as_slice()),
        };
        whole.into_iter().chain(split.iter().map(|(cluster, _)| &**cluster))
    }
}

// === outbound ===

/// The routes of one outbound listener: a virtual host per upstream, and an answer that says what is missing for all others.
pub(super) fn outbound(name: &str, upstreams: &[(ServiceRef, Target)]) -> rds::RouteConfiguration {
    let hosts = upstreams.iter().map(|(of, target)| upstream(of, target));
    rds::RouteConfiguration {
        name: name.into(),
        virtual_hosts: hosts.chain([unknown_host(upstreams)]).collect(),
        ..Default::default()
    }
}

fn upstream(of: &ServiceRef, target: &Target) -> rds::VirtualHost {
    let any = || rds::RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    let idempotent = rds::RouteMatch { headers: vec![header(":method", regex(IDEMPOTENT))], ..any() };
    let grpc = rds::RouteMatch { grpc: Some(GrpcRouteMatchOptions::default()), ..any() };
    // gRPC calls are POSTs, and may be streams without end: they carry their own deadline in `grpc-timeout`.
    let unbounded = rds::RouteAction {
        timeout: duration(Duration::ZERO),
        max_stream_duration: Some(MaxStreamDuration {
            grpc_timeout_header_max: duration(Duration::ZERO),
            ..Default::default()
        }),
        ..action(target, &unsafe_retries())
    };
    let routes = [
        ("idempotent", idempotent, action(target, &idempotent_retries())),
        ("grpc", grpc, unbounded),
        ("other", any(), action(target, &unsafe_retries())),
    ];
    let route = |(name, matches, action): (&str, _, _)| rds::Route {
        name: name.into(),
        r#match: Some(matches),
        action: Some(Action::Route(action)),
        ..Default::default()
    };
    rds::VirtualHost {
        name: of.to_string(),
        domains: vec![of.to_string(), format!("{of}:*")],
        routes: routes.map(route).into(),
        // Overwritten, or an application could claim to be another.
        response_headers_to_add: vec![overwrite(UPSTREAM_ID, "%UPSTREAM_PEER_URI_SAN%")],
        response_headers_to_remove: vec![MARKER.into()],
        ..Default::default()
    }
}

fn action(target: &Target, retries: &rds::RetryPolicy) -> rds::RouteAction {
    let cluster = match target {
        Target::Whole(cluster) => ClusterSpecifier::Cluster(cluster.to_string()),
        Target::Split(arms) => ClusterSpecifier::WeightedClusters(rds::WeightedCluster {
            clusters: arms.iter().map(|(name, weight)| cluster_weight(name, *weight)).collect(),
            ..Default::default()
        }),
    };
    rds::RouteAction {
        cluster_specifier: Some(cluster),
        timeout: duration(TIMEOUT),
        retry_policy: Some(retries.clone()),
        ..Default::default()
    }
}

fn cluster_weight(name: &str, weight: u32) -> ClusterWeight {
    ClusterWeight { name: name.into(), weight: uint(weight), ..Default::default() }
}

fn idempotent_retries() -> rds::RetryPolicy {
    let marked = header_present(MARKER);
    retries("connect-failure,refused-stream,reset,retriable-headers", marked)
}

/// Only what was provably not delivered: a payment must not be made twice.
fn unsafe_retries() -> rds::RetryPolicy {
    retries("connect-failure,refused-stream,retriable-headers", header(MARKER, exact(UNDELIVERED)))
}

/// Each retry leaves the priorities tried before, so it leaves the dead arm; where there is only one, it leaves the host.
fn retries(on: &str, marked: rds::HeaderMatcher) -> rds::RetryPolicy {
    let other_priority = PreviousPrioritiesConfig { update_frequency: 1 };
    rds::RetryPolicy {
        retry_on: on.into(),
        num_retries: uint(2),
        retry_priority: Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".into(),
            config_type: Some(retry_priority::ConfigType::TypedConfig(pack_any(other_priority))),
        }),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".into(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack_any(PreviousHostsPredicate {}))),
        }],
        host_selection_retry_max_attempts: 5,
        retriable_headers: vec![marked],
        retry_back_off: Some(RetryBackOff {
            base_interval: duration(Duration::from_millis(5)), // the next try is elsewhere: nobody there needs sparing
            max_interval: duration(Duration::from_millis(50)),
        }),
        ..Default::default()
    }
}

fn unknown_host(upstreams: &[(ServiceRef, Target)]) -> rds::VirtualHost {
    let mut known: Vec<String> = upstreams.iter().take(NAMED).map(|(of, _)| of.to_string()).collect();
    if upstreams.len() > NAMED {
        known.push(format!("and {} more", upstreams.len() - NAMED));
    }
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let body = format!(
        "symbolon: no upstream of this proxy has this Host. Add the service to the workload's `upstreams`. Known here: {known}.\n"
    );
    let answer = rds::DirectResponseAction {
        status: 404,
        body: Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(body)),
            ..Default::default()
        }),
        ..Default::default()
    };
    everything(Action::DirectResponse(answer))
}

// === inbound ===

/// The routes of one inbound listener: all to the application, for members of the `allowed` trust domains. That they are in the
/// route lets a withdrawn export bite on live connections within milliseconds.
pub(super) fn inbound(name: &str, http: &str, grpc: &str, allowed: &BTreeSet<TrustDomain>) -> rds::RouteConfiguration {
    let to = |cluster: &str| {
        Action::Route(rds::RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
            timeout: duration(Duration::ZERO), // the caller's proxy has one, and this one could only undercut it
            ..Default::default()
        })
    };
    let mut host = everything(to(http));
    let calls = rds::RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".into())),
        grpc: Some(GrpcRouteMatchOptions::default()),
        ..Default::default()
    };
    host.routes.insert(0, rds::Route { r#match: Some(calls), action: Some(to(grpc)), ..Default::default() });
    host.typed_per_filter_config = only(allowed);
    // What the application sends must not look like this Envoy's own reply. Envoy marks those after this
    // removal, in HTTP and gRPC alike (1.40).
    host.response_headers_to_remove = vec![MARKER.into()];
    rds::RouteConfiguration { name: name.into(), virtual_hosts: vec![host], ..Default::default() }
}

fn only(allowed: &BTreeSet<TrustDomain>) -> HashMap<String, envoy_types::pb::google::protobuf::Any> {
    let principal = |domain: &TrustDomain| {
        let member = mtls_authenticated::Config {
            san_matcher: Some(tls::members(domain)),
            any_validated_client_certificate: false,
        };
        rbac::Principal {
            identifier: Some(rbac::principal::Identifier::Custom(core::TypedExtensionConfig {
                name: "envoy.rbac.principals.mtls_authenticated".into(),
                typed_config: Some(pack_any(member)),
            })),
        }
    };
    let members = rbac::Policy {
        permissions: vec![rbac::Permission { rule: Some(rbac::permission::Rule::Any(true)) }],
        principals: allowed.iter().map(principal).collect(),
        ..Default::default()
    };
    let rules = rbac::Rbac {
        action: rbac::rbac::Action::Allow.into(),
        policies: [("members".to_owned(), members)].into(),
        ..Default::default()
    };
    let per_route =
        rbac_filter::RbacPerRoute { rbac: Some(rbac_filter::Rbac { rules: Some(rules), ..Default::default() }) };
    [(RBAC_FILTER.to_owned(), pack_any(per_route))].into()
}

fn everything(action: Action) -> rds::VirtualHost {
    rds::VirtualHost {
        name: "*".into(),
        domains: vec!["*".into()],
        routes: vec![rds::Route {
            r#match: Some(rds::RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix("/".into())),
                ..Default::default()
            }),
            action: Some(action),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn header(name: &str, value: envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher) -> rds::HeaderMatcher {
    rds::HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        ..Default::default()
    }
}

fn header_present(name: &str) -> rds::HeaderMatcher {
    rds::HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..Default::default()
    }
}
