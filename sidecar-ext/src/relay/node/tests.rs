use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

use super::*;

/// A node as Envoy 1.40 sends it: hundreds of extensions, a build version with metadata.
fn node() -> core::Node {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let metadata = Struct { fields: [("role".to_owned(), text("demo"))].into() };
    core::Node {
        id: "spiffe://a.example/ns/shop/sa/payments".into(),
        cluster: "node-1".into(),
        metadata: Some(metadata.clone()),
        locality: Some(core::Locality { region: "eu".into(), ..Default::default() }),
        user_agent_name: "envoy".into(),
        user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentBuildVersion(core::BuildVersion {
            version: Some(envoy_types::pb::envoy::r#type::v3::SemanticVersion {
                major_number: 1,
                minor_number: 40,
                patch: 0,
            }),
            metadata: Some(metadata),
        })),
        extensions: (0..516)
            .map(|at| core::Extension { name: format!("envoy.filters.{at:090}"), ..Default::default() })
            .collect(),
        client_features: vec!["envoy.lrs.supports_send_all_clusters".into()],
        ..Default::default()
    }
}

/// What the control plane should get.
fn slim() -> core::Node {
    let mut slim = node();
    slim.extensions.clear();
    if let Some(core::node::UserAgentVersionType::UserAgentBuildVersion(build)) = &mut slim.user_agent_version_type {
        build.metadata = None;
    }
    slim
}

#[test]
fn xds_2_the_bulk_of_the_node_stays_here_and_the_rest_passes_unread() {
    let delta = DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        resource_names_subscribe: vec!["*".into()],
        initial_resource_versions: [("a".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    let message = delta.encode_to_vec();
    assert!(message.len() > 50_000);
    let first = first(message.into(), Variant::Delta).unwrap();
    assert_eq!(first.node.id, "spiffe://a.example/ns/shop/sa/payments");
    assert!(first.forward.len() < 400, "{} bytes", first.forward.len());
    assert_eq!(
        DeltaDiscoveryRequest::decode(first.forward).unwrap(),
        DeltaDiscoveryRequest { node: Some(slim()), ..delta }
    );
}

#[test]
fn state_of_the_world_keeps_its_node_under_another_number() {
    let sotw = DiscoveryRequest {
        version_info: "7".into(),
        node: Some(node()),
        resource_names: vec!["one".into()],
        type_url: "t".into(),
        ..Default::default()
    };
    let first = first(sotw.encode_to_vec().into(), Variant::Sotw).unwrap();
    assert_eq!(DiscoveryRequest::decode(first.forward).unwrap(), DiscoveryRequest { node: Some(slim()), ..sotw });
}

#[test]
fn a_node_in_two_pieces_is_one_node() {
    let piece = |id: &str, cluster: &str| {
        let node = core::Node { id: id.into(), cluster: cluster.into(), ..Default::default() };
        DeltaDiscoveryRequest { node: Some(node), ..Default::default() }.encode_to_vec()
    };
    let message = [piece("spiffe://a.example/first", "c"), piece("spiffe://a.example/last", "")].concat();
    let first = first(message.into(), Variant::Delta).unwrap();
    // Were the pieces taken apart differently here and there, a client could be checked as one and served as another.
    let there = DeltaDiscoveryRequest::decode(first.forward).unwrap().node.unwrap();
    assert_eq!((there.id.as_str(), there.cluster.as_str()), ("spiffe://a.example/last", "c"));
    assert_eq!(first.node.id, there.id);
}

#[test]
fn what_is_no_request_is_refused() {
    let nameless = DeltaDiscoveryRequest { node: Some(core::Node::default()), ..Default::default() }.encode_to_vec();
    for (message, why) in [
        (vec![], FirstError::NoNode),
        (nameless, FirstError::NoNode),
        (vec![0xff; 40], FirstError::Malformed),
        (vec![0x08, 0x01], FirstError::Malformed),       // the node as a number
        (vec![0x0a, 0x7f, 0x00], FirstError::Malformed), // a node longer than the message
        (vec![0x0a, 0x03, 0x0a, 0x01, 0xff], FirstError::Malformed), // an ID that is no UTF-8
        (vec![0x12, 0x7f], FirstError::Malformed),       // another field longer than the message
    ] {
        assert_eq!(first(message.clone().into(), Variant::Delta).unwrap_err(), why, "{message:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = first(bytes.clone().into(), Variant::Delta);
        let _ = first(bytes.into(), Variant::Sotw);
    }
}
