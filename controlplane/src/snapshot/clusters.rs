//! CDS: one cluster per arm over EDS and mTLS, and one per local application, static and plain.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use symbolon_proto::ids::{SpiffeId, TrustDomain};

use cds::circuit_breakers::Thresholds;
use cds::cluster::{ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, TransportSocketMatch};
use eds::lb_endpoint::HostIdentifier;
use http::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig};

use super::arm::Accept;
use super::endpoints::arm_label;
use super::tls;
use super::wire::{address, ads, duration, uint};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Covers TCP and TLS; a blackholed host must leave time for a retry within a client's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Notices a peer that died without closing its connections.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Applications close idle connections, often after 5 s, and a request that meets the close is lost: be first.
const APP_IDLE: Duration = Duration::from_secs(2);
/// No limit in practice: shedding load is not this proxy's decision, and a limit met is a failed request.
const UNLIMITED: u32 = 1_000_000;
/// Envoy's default of 3 fails requests as soon as hosts die under load (626 of them with two hosts dead).
const MAX_RETRIES: u32 = 1_000;

/// The cluster of one arm as `identity` sees it. The first of `accepts` is the arm's own, at priority 0; the others are those
/// that it falls back to. Each endpoint is verified against exactly its own arm's identities.
///
/// So a change of identities is a change of the cluster: no request is lost by it, but the counts of the running load report
/// are (135 of 2,000 at a report per second, Envoy 1.40), for both arms alike.
pub(super) fn arm(
    trust_domain: &TrustDomain,
    lifetime: Duration,
    identity: &SpiffeId,
    accepts: &[Accept],
) -> cds::Cluster {
    let name = accepts.first().map(|own| own.arm.to_string()).unwrap_or_default();
    let socket = |accept: &Accept| tls::upstream(identity, accept, trust_domain);
    let matches = accepts.iter().map(|accept| TransportSocketMatch {
        name: accept.arm.to_string(),
        r#match: Some(arm_label(&accept.arm)),
        transport_socket: Some(socket(accept)),
    });
    // Envoy would speak plain text to an endpoint that matches none. Ours always match; if one did not, nobody is accepted there.
    let unmatched = Accept { arm: "".into(), sni: "".into(), identities: Vec::new() };
    cds::Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: ads(), service_name: name.clone() }),
        transport_socket_matches: matches.collect(),
        transport_socket: Some(socket(&unmatched)),
        typed_extension_protocol_options: protocol(mesh_options(lifetime)),
        outlier_detection: Some(outlier_detection()),
        ..common(name)
    }
}

/// What an application speaks. The mesh is HTTP/2 throughout, so this cannot be told from the connection; gRPC is always HTTP/2,
/// and everything else understands HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Speaks {
    Http1,
    Grpc,
}

/// The application of a workload, on its own address.
pub(super) fn app(name: &str, at: SocketAddr, speaks: Speaks) -> cds::Cluster {
    let protocol_config = match speaks {
        Speaks::Http1 => ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default()),
        Speaks::Grpc => ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default()),
    };
    let endpoint = eds::LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(eds::Endpoint {
            address: Some(address(at)),
            ..Default::default()
        })),
        ..Default::default()
    };
    let options = http::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: duration(APP_IDLE),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol_config),
        })),
        ..Default::default()
    };
    cds::Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(eds::ClusterLoadAssignment {
            cluster_name: name.into(),
            endpoints: vec![eds::LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
            ..Default::default()
        }),
        typed_extension_protocol_options: protocol(options),
        ..common(name.into())
    }
}

fn common(name: String) -> cds::Cluster {
    cds::Cluster {
        name,
        connect_timeout: duration(CONNECT_TIMEOUT),
        circuit_breakers: Some(cds::CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: uint(UNLIMITED),
                max_pending_requests: uint(UNLIMITED),
                max_requests: uint(UNLIMITED),
                max_retries: uint(MAX_RETRIES),
                ..Default::default()
            }],
            ..Default::default()
        }),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }), // or Envoy would use hosts known to be dead
            update_merge_window: duration(Duration::ZERO), // or the second change of health within a second waits for its end
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Ejects hosts that cannot be reached, never those that answer badly: what a workload answers is the judge's to judge, and an
/// arm ejected for its errors would vanish from the load reports.
fn outlier_detection() -> cds::OutlierDetection {
    cds::OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: uint(3),
        enforcing_consecutive_local_origin_failure: uint(100),
        enforcing_consecutive_5xx: uint(0),
        enforcing_consecutive_gateway_failure: uint(0),
        enforcing_success_rate: uint(0),
        enforcing_local_origin_success_rate: uint(0),
        enforcing_failure_percentage: uint(0),
        enforcing_failure_percentage_local_origin: uint(0),
        max_ejection_percent: uint(100),
        interval: duration(Duration::from_secs(1)),
        base_ejection_time: duration(Duration::from_secs(1)), // times the number of ejections: back soon, if well
        max_ejection_time: duration(Duration::from_secs(30)),
        ..Default::default()
    }
}

fn mesh_options(lifetime: Duration) -> http::HttpProtocolOptions {
    let h2 = core::Http2ProtocolOptions {
        connection_keepalive: Some(core::KeepaliveSettings {
            interval: duration(KEEPALIVE),
            timeout: duration(KEEPALIVE),
            ..Default::default()
        }),
        ..Default::default()
    };
    http::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            max_connection_duration: duration(lifetime),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(h2)),
        })),
        ..Default::default()
    }
}

/// One entry only: a map of several would not encode the same every time.
fn protocol(options: http::HttpProtocolOptions) -> HashMap<String, Any> {
    [(HTTP_OPTIONS.to_owned(), pack_any(options))].into()
}
