use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use prost::Message;
use symbolon_proto::ads_raw::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient as Raw;
use tonic::{Code, Request};

use super::bed::{Bed, NODE, PROXY, from, node, proxy};
use super::script::{ack, delta, nack, sotw, sotw_ack, upserts};
use super::{cluster, small, snapshot};
use crate::model::ResourceType::{Cluster, Endpoint, Listener, Runtime};
use crate::xds::{MAX_STREAMS_PER_PROXY, TypeState};

#[tokio::test]
async fn xds_1_both_variants_are_served() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    let mut stream = bed.delta(Some(NODE)).await;
    assert_eq!(upserts(&stream.ask(from(PROXY, delta(Cluster, &[], &[]))).await), ["pay"]);
    let mut stream = bed.sotw(Some(NODE)).await;
    let response = stream.ask(DiscoveryRequest { node: node(PROXY), ..sotw(Cluster, &[]) }).await;
    assert_eq!(response.resources.len(), 1);
    assert!(!response.version_info.is_empty() && !response.nonce.is_empty());
}

#[tokio::test]
async fn xds_2_the_node_comes_once_and_is_remembered() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    let mut stream = bed.delta(Some(NODE)).await;
    let node = Node {
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion("1.40".into())),
        ..node(PROXY).unwrap()
    };
    stream.ask(DeltaDiscoveryRequest { node: Some(node), ..delta(Cluster, &[], &[]) }).await;
    assert_eq!(upserts(&stream.ask(delta(Endpoint, &["pay"], &[])).await), ["pay"]);
    // Envoy repeats it; the same node is no change.
    stream.ask(from(PROXY, delta(Listener, &[], &[]))).await;
    let proxies = bed.handle.proxies();
    assert_eq!((proxies.len(), proxies[0].version.as_str()), (1, "envoy 1.40"));
}

#[tokio::test]
async fn xds_3_a_request_without_a_type_is_invalid() {
    let bed = Bed::new().await;
    let mut stream = bed.delta(Some(NODE)).await;
    stream.send(from(PROXY, DeltaDiscoveryRequest::default())).await;
    assert_eq!(stream.refusal().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn xds_42_a_drain_ends_streams_cleanly() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    let (mut open, mut opening) = (bed.delta(Some(NODE)).await, bed.sotw(Some(NODE)).await);
    open.ask(from(PROXY, delta(Cluster, &[], &[]))).await;
    bed.drain.start();
    assert_eq!(open.receive().await.unwrap(), None);
    assert_eq!(opening.receive().await.unwrap(), None);
    bed.acks(|table| table.0.is_empty()).await;
}

#[tokio::test]
async fn xds_44_a_stream_waits_until_its_proxy_is_known() {
    let bed = Bed::new().await;
    bed.publish(1, &[]);
    let mut stream = bed.delta(Some(NODE)).await;
    stream.send(from(PROXY, delta(Cluster, &[], &[]))).await;
    // Runtime is answered at once: without, Envoy opens no listener for 15 s.
    assert_eq!(stream.ask(delta(Runtime, &["rtds"], &[])).await.removed_resources, ["rtds"]);
    assert!(bed.handle.proxies()[0].types.iter().all(|row| row.state == TypeState::NotSent));
    bed.publish(2, &[(PROXY, small(2))]);
    assert_eq!(upserts(&stream.receive().await.unwrap().unwrap()), ["pay"]);
    // And keeps what it has when it is no longer expected.
    bed.publish(3, &[]);
    assert_eq!(upserts(&stream.ask(delta(Endpoint, &["pay"], &[])).await), ["pay"]);
}

#[tokio::test]
async fn acknowledgements_follow_the_generation_without_resending() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    let acked = |of, generation| {
        move |table: &crate::model::AckTable| {
            table.0.get(&proxy(PROXY)).and_then(|row| row.generations.get(&of).copied()) == generation
        }
    };
    let mut stream = bed.delta(Some(NODE)).await;
    let first = stream.ask(from(PROXY, delta(Cluster, &[], &[]))).await;
    bed.acks(|table| table.0.len() == 1).await;
    bed.acks(acked(Cluster, None)).await;
    stream.send(ack(&first)).await;
    bed.acks(acked(Cluster, Some(1))).await;
    for generation in 2..50 {
        bed.publish(generation, &[(PROXY, small(generation))]);
    }
    bed.acks(acked(Cluster, Some(49))).await;
    let pushes = bed.metrics.counter("symbolon_xds_pushes", "");
    assert_eq!(pushes.value(&[("type", "CDS")]), 1);
    // A rejection holds back, and is seen.
    bed.publish(50, &[(PROXY, snapshot(50, [cluster("pay", "2")]))]);
    let push = stream.receive().await.unwrap().unwrap();
    stream.send(nack(&push, "pay: \u{7} no")).await;
    stream.ask(delta(Runtime, &["fence"], &[])).await;
    bed.acks(acked(Cluster, Some(49))).await;
    let row = bed.handle.proxies()[0].types[0].clone();
    assert_eq!((row.state, row.label(), row.error.as_deref()), (TypeState::Rejected, "CDS", Some("pay: \\u{7} no")));
    assert_eq!(bed.metrics.counter("symbolon_xds_nacks", "").value(&[("type", "CDS")]), 1);
    // The row goes with the stream; the proxy is still expected.
    drop(stream);
    bed.acks(|table| table.0.is_empty()).await;
    let proxies = bed.handle.proxies();
    assert_eq!((proxies.len(), proxies[0].connected_for), (1, None));
}

#[tokio::test]
async fn the_newest_stream_of_a_proxy_owns_its_row() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    let row = |table: &crate::model::AckTable| table.0.get(&proxy(PROXY)).cloned().unwrap_or_default().generations;
    let mut parent = bed.delta(Some(NODE)).await;
    let response = parent.ask(from(PROXY, delta(Cluster, &[], &[]))).await;
    parent.send(ack(&response)).await;
    bed.acks(|table| row(table).get(&Cluster) == Some(&1)).await;
    // A hot restart: the child has nothing acknowledged yet.
    let mut child = bed.delta(Some(NODE)).await;
    let response = child.ask(from(PROXY, delta(Cluster, &[], &[]))).await;
    bed.acks(|table| row(table).is_empty()).await;
    // What the parent acknowledges now does not count.
    parent.ask(delta(Endpoint, &["pay"], &[])).await;
    child.send(ack(&response)).await;
    let table = bed.acks(|table| row(table).contains_key(&Cluster)).await;
    assert!(!row(&table).contains_key(&Endpoint));
    // The child dies: the parent is what there is.
    drop(child);
    bed.acks(|table| row(table).get(&Cluster) == Some(&1)).await;
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS_PER_PROXY {
        let mut stream = bed.delta(Some(NODE)).await;
        stream.ask(from(PROXY, delta(Cluster, &[], &[]))).await;
        streams.push(stream);
    }
    // One too many: the oldest is ended, cleanly, and the newest still has the row.
    parent.receive().await.unwrap();
    assert_eq!(parent.receive().await.unwrap(), None);
    let response = streams[0].ask(delta(Endpoint, &["pay"], &[])).await;
    assert_eq!(upserts(&response), ["pay"]);
    bed.acks(|table| table.0.contains_key(&proxy(PROXY)) && row(table).is_empty()).await;
}

#[tokio::test]
async fn a_slow_client_gets_the_latest_and_nothing_between() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    let mut stream = bed.delta(Some(NODE)).await;
    let first = stream.ask(from(PROXY, delta(Cluster, &[], &[]))).await;
    for generation in 2..500 {
        bed.publish(generation, &[(PROXY, snapshot(generation, [cluster("pay", &generation.to_string())]))]);
    }
    let next = stream.ask(ack(&first)).await;
    let latest = snapshot(499, [cluster("pay", "499")]).of(Cluster)["pay"].version.clone();
    assert_eq!(next.resources[0].version, latest.as_ref());
    stream.send(ack(&next)).await;
    bed.acks(|table| table.0[&proxy(PROXY)].generations.get(&Cluster) == Some(&499)).await;
    assert_eq!(bed.metrics.counter("symbolon_xds_pushes", "").value(&[("type", "CDS")]), 2);
}

#[tokio::test]
async fn bad_098_a_first_message_without_a_node_is_refused() {
    let bed = Bed::new().await;
    let mut stream = bed.delta(Some(NODE)).await;
    stream.send(delta(Cluster, &[], &[])).await;
    let status = stream.refusal().await;
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "the first message carries no node"));
    assert_eq!(bed.metrics.counter("symbolon_xds_refusals", "").value(&[("reason", "no_node")]), 1);
}

#[tokio::test]
async fn bad_099_a_proxy_must_be_one_that_the_node_may_run() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    for (peer, id, code) in [
        (None, PROXY, Code::Unauthenticated),
        (Some("no id"), PROXY, Code::Unauthenticated),
        (Some("spiffe://b.example/symbolon/node/n1"), PROXY, Code::PermissionDenied),
        (Some(PROXY), PROXY, Code::PermissionDenied),
        (Some("spiffe://a.example/symbolon/node/n2"), PROXY, Code::PermissionDenied),
        (Some(NODE), "spiffe://a.example/ns/bank/sa/vault", Code::PermissionDenied),
        (Some(NODE), "spiffe://b.example/ns/shop/sa/checkout", Code::PermissionDenied),
        (Some(NODE), NODE, Code::PermissionDenied),
        (Some(NODE), "spiffe://a.example", Code::InvalidArgument),
        (Some(NODE), "checkout", Code::InvalidArgument),
        (Some(NODE), "", Code::InvalidArgument),
    ] {
        let mut stream = bed.delta(peer).await;
        stream.send(from(id, delta(Cluster, &[], &[]))).await;
        assert_eq!(stream.refusal().await.code(), code, "{peer:?} {id}");
        let mut stream = bed.sotw(peer).await;
        stream.send(DiscoveryRequest { node: node(id), ..sotw(Cluster, &[]) }).await;
        assert_eq!(stream.refusal().await.code(), code, "{peer:?} {id}");
    }
    assert!(bed.handle.acks().borrow().0.is_empty());
}

#[tokio::test]
async fn bad_100_a_stream_serves_one_proxy() {
    let bed = Bed::new().await;
    let other = "spiffe://a.example/ns/shop/sa/payments";
    bed.publish(1, &[(PROXY, small(1)), (other, small(1))]);
    let mut stream = bed.delta(Some(NODE)).await;
    stream.ask(from(PROXY, delta(Cluster, &[], &[]))).await;
    stream.send(from(other, delta(Endpoint, &["pay"], &[]))).await;
    assert_eq!(stream.refusal().await.code(), Code::InvalidArgument);
    bed.acks(|table| table.0.is_empty()).await;
}

#[tokio::test]
async fn bad_101_an_unknown_type_leaves_the_stream_alone() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    let mut stream = bed.delta(Some(NODE)).await;
    stream.send(from(PROXY, DeltaDiscoveryRequest { type_url: "x/Y".into(), ..Default::default() })).await;
    assert_eq!(upserts(&stream.ask(delta(Cluster, &[], &[])).await), ["pay"]);
    assert_eq!(bed.metrics.counter("symbolon_xds_refusals", "").value(&[("reason", "unknown_type")]), 1);
}

#[tokio::test]
async fn bad_103_names_of_another_proxy_are_not_found() {
    let bed = Bed::new().await;
    let other = "spiffe://a.example/ns/shop/sa/payments";
    bed.publish(1, &[(PROXY, small(1)), (other, snapshot(1, [cluster("secret", "1")]))]);
    let mut stream = bed.delta(Some(NODE)).await;
    let response = stream.ask(from(PROXY, delta(Cluster, &["secret", "never-was"], &[]))).await;
    assert_eq!((response.removed_resources.len(), response.resources.len()), (2, 0), "no difference to be seen");
    stream.send(ack(&response)).await;
    assert_eq!(upserts(&stream.ask(delta(Cluster, &["*"], &[])).await), ["pay"]);
}

#[tokio::test]
async fn bad_104_a_wildcard_on_secrets_gives_none() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    let mut stream = bed.delta(Some(NODE)).await;
    let type_url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned();
    let resource_names_subscribe = vec!["*".to_owned()];
    let request = DeltaDiscoveryRequest { type_url, resource_names_subscribe, ..Default::default() };
    let response = stream.ask(from(PROXY, request)).await;
    assert!(response.resources.is_empty());
}

/// Bytes on a stream, as whatever method they are sent to.
async fn raw(bed: &Bed, delta: bool, bytes: Vec<u8>) -> tonic::Status {
    let mut request = Request::new(futures::stream::iter([Bytes::from(bytes)]));
    request.metadata_mut().insert("x-test-peer", NODE.parse().unwrap());
    let mut client = Raw::new(bed.channel.clone());
    let opened = match delta {
        true => client.delta_aggregated_resources(request).await,
        false => client.stream_aggregated_resources(request).await,
    };
    match opened {
        Ok(response) => response.into_inner().message().await.expect_err("refused"),
        Err(status) => status,
    }
}

#[tokio::test]
async fn bad_109_the_variants_do_not_mix() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    let delta = from(PROXY, delta(Cluster, &[], &[])).encode_to_vec();
    let sotw = DiscoveryRequest { node: node(PROXY), ..sotw(Cluster, &[]) }.encode_to_vec();
    for (to_delta, bytes) in [(false, delta), (true, sotw)] {
        assert_eq!(raw(&bed, to_delta, bytes).await.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn bad_110_a_request_over_4_mib_ends_the_stream() {
    let bed = Bed::new().await;
    let names: Vec<String> = (0..2_048).map(|n| format!("{n:02047}")).collect();
    let request = DeltaDiscoveryRequest { resource_names_subscribe: names, ..delta(Endpoint, &[], &[]) };
    let status = raw(&bed, true, from(PROXY, request).encode_to_vec()).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(bed.metrics.counter("symbolon_xds_refusals", "").value(&[("reason", "malformed")]), 1);
}

#[tokio::test]
async fn bad_111_what_is_no_request_ends_the_stream() {
    let bed = Bed::new().await;
    let nested = (0..200).fold(Vec::new(), |inner: Vec<u8>, _| {
        // Field 1 of Node's metadata and values all the way down.
        let mut outer = vec![0x0a];
        prost::encoding::encode_varint(inner.len() as u64, &mut outer);
        outer.extend(inner);
        outer
    });
    for bytes in [vec![0xff; 32], vec![0x12, 0x02, 0xc3, 0x28], nested] {
        assert_eq!(raw(&bed, true, bytes).await.code(), Code::InvalidArgument);
    }
    assert!(bed.handle.acks().borrow().0.is_empty());
}

#[tokio::test]
async fn sotw_acknowledges_over_the_wire() {
    let bed = Bed::new().await;
    bed.publish(1, &[(PROXY, small(1))]);
    let mut stream = bed.sotw(Some(NODE)).await;
    let response = stream.ask(DiscoveryRequest { node: node(PROXY), ..sotw(Endpoint, &["pay"]) }).await;
    stream.send(sotw_ack(&response, &["pay"])).await;
    bed.acks(|table| table.0[&proxy(PROXY)].generations.get(&Endpoint) == Some(&1)).await;
}
