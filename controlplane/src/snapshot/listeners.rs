//! LDS: one mTLS listener per workload that serves, one plain HTTP listener per address on which applications send. Both take
//! their routes from RDS under their own name, so that they themselves hardly ever change.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as rbac_filter;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use symbolon_proto::ids::SpiffeId;

use hcm::http_connection_manager::{
    ForwardClientCertDetails, RouteSpecifier, ServerHeaderTransformation, SetCurrentClientCertDetails,
};

use super::routes::{INTERRUPTED, MARKER, RBAC_FILTER, UNDELIVERED};
use super::tls;
use super::wire::{address, ads, boolean, duration, overwrite};

/// Where the Envoy beside a workload accepts mTLS for it.
pub(super) fn inbound(lifetime: Duration, name: &str, at: SocketAddr, identity: &SpiffeId) -> lds::Listener {
    // Without the route's own rules nobody passes.
    let nobody = rbac_filter::Rbac {
        rules: Some(rbac::Rbac { action: rbac::rbac::Action::Allow.into(), ..Default::default() }),
        ..Default::default()
    };
    let manager = hcm::HttpConnectionManager {
        http_filters: vec![filter(RBAC_FILTER, pack_any(nobody)), router()],
        // The client ends its connections by the same time; this is for clients that are not ours.
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            max_connection_duration: duration(lifetime),
            ..Default::default()
        }),
        use_remote_address: boolean(true), // a client elsewhere has no say in this Envoy's retries and timeouts
        forward_client_cert_details: ForwardClientCertDetails::SanitizeSet.into(),
        set_current_client_cert_details: Some(SetCurrentClientCertDetails { uri: true, ..Default::default() }),
        local_reply_config: Some(hcm::LocalReplyConfig {
            mappers: vec![mark(&["UF", "UH"], UNDELIVERED), mark(&["UC"], INTERRUPTED)],
            ..Default::default()
        }),
        ..manager("inbound", name)
    };
    let chain = lds::FilterChain { transport_socket: Some(tls::downstream(identity)), ..chain(manager) };
    listener(name, at, core::TrafficDirection::Inbound, chain)
}

/// Where the applications of this Envoy send their requests, by Host.
pub(super) fn outbound(name: &str, at: SocketAddr) -> lds::Listener {
    let manager = hcm::HttpConnectionManager { http_filters: vec![router()], ..manager("outbound", name) };
    listener(name, at, core::TrafficDirection::Outbound, chain(manager))
}

/// Marks this Envoy's own replies with these flags; `%RESPONSE_FLAGS%` of Envoy's access log.
fn mark(flags: &[&str], value: &str) -> hcm::ResponseMapper {
    let flags = accesslog::ResponseFlagFilter { flags: flags.iter().map(ToString::to_string).collect() };
    hcm::ResponseMapper {
        filter: Some(accesslog::AccessLogFilter {
            filter_specifier: Some(accesslog::access_log_filter::FilterSpecifier::ResponseFlagFilter(flags)),
        }),
        headers_to_add: vec![overwrite(MARKER, value)],
        ..Default::default()
    }
}

fn manager(stat_prefix: &str, route: &str) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        stat_prefix: stat_prefix.into(),
        route_specifier: Some(RouteSpecifier::Rds(hcm::Rds { config_source: ads(), route_config_name: route.into() })),
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        ..Default::default()
    }
}

fn router() -> hcm::HttpFilter {
    filter("envoy.filters.http.router", pack_any(Router { suppress_envoy_headers: true, ..Default::default() }))
}

fn filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn chain(manager: hcm::HttpConnectionManager) -> lds::FilterChain {
    lds::FilterChain {
        filters: vec![lds::Filter {
            name: "envoy.filters.network.http_connection_manager".into(),
            config_type: Some(lds::filter::ConfigType::TypedConfig(pack_any(manager))),
        }],
        ..Default::default()
    }
}

fn listener(name: &str, at: SocketAddr, direction: core::TrafficDirection, chain: lds::FilterChain) -> lds::Listener {
    lds::Listener {
        name: name.into(),
        address: Some(address(at)),
        filter_chains: vec![chain],
        traffic_direction: direction.into(),
        ..Default::default()
    }
}
