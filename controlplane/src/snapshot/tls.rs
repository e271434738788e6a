//! mTLS on both sides. Keys, certificates and bundles come from the sidecar by SDS, outside of ADS, so that a rotation never
//! touches a cluster or listener; which SPIFFE IDs are accepted is part of the cluster.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::util::pack_any;
use symbolon_proto::ids::{SpiffeId, TrustDomain};

use core::config_source::ConfigSourceSpecifier;
use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use tls::downstream_tls_context::SessionTicketKeysType;
use tls::subject_alt_name_matcher::SanType;
use tls::tls_parameters::TlsProtocol;

use super::arm::Accept;
use super::wire::{boolean, exact, prefix, uint};

/// The static cluster of the bootstrap that answers SDS.
const AGENT: &str = "symbolon_agent";
/// The secret with the SPIFFE validator of every known trust domain, one root set each.
const BUNDLES: &str = "ALL";

/// Speaks to one arm: shows `identity`, accepts only the arm's identities.
pub(super) fn upstream(identity: &SpiffeId, accept: &Accept, own: &TrustDomain) -> core::TransportSocket {
    let alternatives = if accept.identities.is_empty() {
        vec![uri(exact(nobody(own)))] // no matcher at all would accept everyone
    } else {
        accept.identities.iter().map(|id| uri(exact(id.as_str()))).collect()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: alternatives,
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(sds(BUNDLES)),
        ..Default::default()
    };
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common(
            identity,
            ValidationContextType::CombinedValidationContext(validation),
            &["h2"],
        )),
        sni: accept.sni.to_string(),
        max_session_keys: uint(0), // a resumed session skips the verification of the peer
        ..Default::default()
    };
    socket(pack_any(context))
}

/// Accepts clients of every known trust domain; who of them may pass is decided per request, in the route.
pub(super) fn downstream(identity: &SpiffeId) -> core::TransportSocket {
    let validation = ValidationContextType::ValidationContextSdsSecretConfig(sds(BUNDLES));
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common(identity, validation, &["h2", "http/1.1"])),
        require_client_certificate: boolean(true),
        // A resumed session skips the verification of the client: a distrusted one could stay.
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)),
        ..Default::default()
    };
    socket(pack_any(context))
}

/// Every identity of a trust domain.
pub(super) fn members(domain: &TrustDomain) -> tls::SubjectAltNameMatcher {
    uri(prefix(format!("spiffe://{domain}/")))
}

/// An identity that is never issued: below the reserved path, and no node's or control plane's.
fn nobody(own: &TrustDomain) -> String {
    format!("spiffe://{own}/{}/nobody", symbolon_proto::ids::RESERVED_SEGMENT)
}

fn uri(matcher: envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher { san_type: SanType::Uri.into(), matcher: Some(matcher), ..Default::default() }
}

fn common(identity: &SpiffeId, validation: ValidationContextType, alpn: &[&str]) -> tls::CommonTlsContext {
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![sds(identity.as_str())],
        alpn_protocols: alpn.iter().map(ToString::to_string).collect(),
        validation_context_type: Some(validation),
        ..Default::default()
    }
}

/// State of the world, as the SPIFFE Workload API's neighbours speak it; the header is what the sidecar asks of every caller.
fn sds(name: &str) -> tls::SdsSecretConfig {
    let agent = core::GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: AGENT.into(),
            ..Default::default()
        })),
        initial_metadata: vec![core::HeaderValue {
            key: "workload.spiffe.io".into(),
            value: "true".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let source = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_services: vec![agent],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    let config = core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
        ..Default::default()
    };
    tls::SdsSecretConfig { name: name.into(), sds_config: Some(config) }
}

fn socket(context: envoy_types::pb::google::protobuf::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(context)),
    }
}
