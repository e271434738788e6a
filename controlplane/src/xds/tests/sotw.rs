use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::runtime::v3 as rtds;
use prost::Message;

use super::script::{Script, contents, error, sotw, sotw_ack, sotw_nack};
use super::{cluster, endpoints, listener, route, small, snapshot};
use crate::model::ResourceType::{Cluster, Endpoint, Listener, Route, Runtime};
use crate::xds::WAIT;
use crate::xds::kind::Kind;
use crate::xds::status::TypeState;
use envoy_types::pb::envoy::config::{cluster::v3 as cds, endpoint::v3 as eds};

type Client = Script<DiscoveryRequest>;

fn clusters(response: &DiscoveryResponse) -> Vec<String> {
    assert_eq!(response.type_url, Kind::Cluster.type_url());
    contents(response).iter().map(|bytes| cds::Cluster::decode(bytes.as_slice()).unwrap().name).collect()
}

fn assignments(response: &DiscoveryResponse) -> Vec<String> {
    assert_eq!(response.type_url, Kind::Endpoint.type_url());
    let name = |bytes: &Vec<u8>| eds::ClusterLoadAssignment::decode(bytes.as_slice()).unwrap().cluster_name;
    contents(response).iter().map(name).collect()
}

/// Subscribes to everything of [`small`] in Envoy's order and acknowledges it. Also the ACKs of clusters and endpoints.
fn converged() -> (Client, DiscoveryRequest, DiscoveryRequest) {
    let mut client = Client::new(&small(1));
    let cds = client.ask(sotw(Cluster, &[]));
    let cds = sotw_ack(&cds, &[]);
    let eds = client.ask(sotw(Endpoint, &["pay"]));
    let eds = sotw_ack(&eds, &["pay"]);
    assert!(client.send(cds.clone()).is_empty());
    assert!(client.send(eds.clone()).is_empty());
    let lds = client.ask(sotw(Listener, &[]));
    let rds = client.ask(sotw(Route, &["out"]));
    assert!(client.send(sotw_ack(&lds, &[])).is_empty());
    assert!(client.send(sotw_ack(&rds, &["out"])).is_empty());
    assert_eq!([Cluster, Endpoint, Listener, Route].map(|of| client.acked(of)), [Some(1); 4]);
    (client, cds, eds)
}

#[test]
fn xds_6_a_nonce_is_of_one_stream() {
    let mut one = Client::new(&small(1));
    let response = one.ask(sotw(Cluster, &[]));
    let mut two = Client::new(&small(1));
    // The first request of the new stream carries the old one's nonce.
    let other = two.ask(DiscoveryRequest { response_nonce: response.nonce.clone(), ..sotw(Cluster, &[]) });
    assert_ne!(response.nonce, other.nonce);
    assert!(two.send(sotw_ack(&response, &[])).is_empty());
    assert_eq!(two.acked(Cluster), None);
}

#[test]
fn xds_7_a_nack_is_an_error_detail_and_nothing_else() {
    let mut client = Client::new(&small(1));
    let response = client.ask(sotw(Cluster, &[]));
    // Neither an old version nor none makes a NACK.
    client.send(DiscoveryRequest { version_info: "before".into(), ..sotw_ack(&response, &[]) });
    assert_eq!((client.acked(Cluster), client.status(Cluster).state), (Some(1), TypeState::Synced));
    // Nor does the current version make an ACK.
    let mut client = Client::new(&small(1));
    let response = client.ask(sotw(Cluster, &[]));
    client.send(DiscoveryRequest { error_detail: error("pay"), ..sotw_ack(&response, &[]) });
    assert_eq!((client.acked(Cluster), client.status(Cluster).state), (None, TypeState::Rejected));
}

#[test]
fn xds_9_in_place_of_a_rejected_version_the_one_before_is_sent() {
    let (mut client, ..) = converged();
    let mut world = |generation, pay: &str, other: &str| {
        let all = [cluster("pay", pay), cluster("other", other), endpoints("pay", 1), listener("out", "1")];
        client.snapshot(&snapshot(generation, all.into_iter().chain([route("out", "1", &["pay"])])))
    };
    let push = world(2, "bad", "1");
    assert_eq!(clusters(&push[0]), ["other", "pay"]);
    assert!(client.send(sotw_nack(&push[0], &[], "Error adding/updating cluster(s) pay: no")).is_empty());
    // The full state must name both, or the client would delete one.
    let mut world = |generation, pay: &str, other: &str| {
        let all = [cluster("pay", pay), cluster("other", other), endpoints("pay", 1), listener("out", "1")];
        client.snapshot(&snapshot(generation, all.into_iter().chain([route("out", "1", &["pay"])])))
    };
    assert!(world(3, "bad", "1").is_empty());
    let push = world(4, "bad", "2");
    let revisions: Vec<_> = contents(&push[0])
        .iter()
        .map(|bytes| cds::Cluster::decode(bytes.as_slice()).unwrap())
        .map(|cluster| (cluster.name, cluster.alt_stat_name))
        .collect();
    assert_eq!(revisions, [("other".into(), "2".into()), ("pay".into(), "1".into())]);
}

#[test]
fn xds_13_versions_are_of_the_content_and_alike_on_every_replica() {
    let version = |snapshot: &std::sync::Arc<_>| Client::new(snapshot).ask(sotw(Cluster, &[])).version_info;
    assert_eq!(version(&small(1)), version(&small(99)));
    assert_ne!(version(&small(1)), version(&snapshot(1, [cluster("pay", "2")])));
    // So a reconnecting client that has it all is sent nothing.
    let (client, cds, eds) = converged();
    drop(client);
    let mut again = Client::new(&small(5));
    let first = |request: &DiscoveryRequest| DiscoveryRequest { response_nonce: String::new(), ..request.clone() };
    assert!(again.send(first(&cds)).is_empty());
    assert!(again.send(first(&eds)).is_empty());
    assert_eq!((again.acked(Cluster), again.acked(Endpoint)), (Some(5), Some(5)));
    assert_eq!(again.status(Cluster).resources, 1);
}

#[test]
fn xds_14_roots_carry_the_full_state_and_others_what_changed() {
    let world = |generation, rev: &str, load: u32| {
        snapshot(generation, [cluster("a", rev), cluster("b", "1"), endpoints("a", load), endpoints("b", 1)])
    };
    let mut client = Client::new(&world(1, "1", 1));
    let cds = client.ask(sotw(Cluster, &[]));
    client.send(sotw_ack(&cds, &[]));
    let eds = client.ask(sotw(Endpoint, &["a", "b"]));
    client.send(sotw_ack(&eds, &["a", "b"]));
    let push = client.snapshot(&world(2, "1", 2));
    assert_eq!(push.len(), 1);
    assert_eq!(assignments(&push[0]), ["a"]);
    client.send(sotw_ack(&push[0], &["a", "b"]));
    let push = client.snapshot(&world(3, "2", 2));
    assert_eq!(clusters(&push[0]), ["a", "b"]);
    assert_eq!(assignments(&push[1]), ["a"], "the child of the one that changed (35)");
}

#[test]
fn xds_15_a_cluster_is_deleted_by_absence_and_endpoints_are_not() {
    let world = |generation, names: &[&str]| {
        snapshot(generation, names.iter().flat_map(|name| [cluster(name, "1"), endpoints(name, 1)]))
    };
    let mut client = Client::new(&world(1, &["a", "b"]));
    let cds = client.ask(sotw(Cluster, &[]));
    client.send(sotw_ack(&cds, &[]));
    let eds = client.ask(sotw(Endpoint, &["a", "b"]));
    client.send(sotw_ack(&eds, &["a", "b"]));
    let push = client.snapshot(&world(2, &["a"]));
    assert_eq!(push.len(), 1, "no empty endpoints");
    assert_eq!(clusters(&push[0]), ["a"]);
    client.send(sotw_ack(&push[0], &[]));
    // The last one too: an empty list of clusters is a statement.
    let push = client.snapshot(&world(3, &[]));
    assert_eq!((push.len(), clusters(&push[0]).len()), (1, 0));
}

#[test]
fn xds_16_an_empty_list_is_all_until_a_name_was_sent() {
    let mut client = Client::new(&snapshot(1, [cluster("a", "1"), cluster("b", "1")]));
    let all = client.ask(sotw(Cluster, &[]));
    assert_eq!(clusters(&all), ["a", "b"]);
    assert!(client.send(sotw_ack(&all, &[])).is_empty());
    let push = client.snapshot(&snapshot(2, [cluster("a", "2"), cluster("b", "1")]));
    assert_eq!(clusters(&push[0]), ["a", "b"], "still all");
    let named = client.ask(sotw_ack(&push[0], &["b"]));
    assert_eq!(clusters(&named), ["b"]);
    client.send(sotw_ack(&named, &[]));
    assert!(client.snapshot(&snapshot(3, [cluster("a", "3"), cluster("b", "3")])).is_empty(), "now it is none");
    // Endpoints have no legacy wildcard.
    let mut client = Client::new(&small(1));
    assert!(client.send(sotw(Endpoint, &[])).is_empty());
}

#[test]
fn xds_17_the_four_steps_of_the_protocol_document() {
    let world = |generation: u64| {
        snapshot(generation, [cluster("A", &generation.to_string()), cluster("B", &generation.to_string())])
    };
    let mut client = Client::new(&world(1));
    // 1. names unset: all.
    let mut last = client.ask(sotw(Cluster, &[]));
    assert_eq!(clusters(&last), ["A", "B"]);
    client.send(sotw_ack(&last, &[]));
    // 2. "*" and "A": all, and A.
    last = client.ask(sotw_ack(&last, &["*", "A"]));
    assert_eq!(clusters(&last), ["A", "B"]);
    client.send(sotw_ack(&last, &["*", "A"]));
    // 3. "A": only A.
    assert!(client.send(sotw_ack(&last, &["A"])).is_empty());
    last = client.snapshot(&world(2)).remove(0);
    assert_eq!(clusters(&last), ["A"]);
    client.send(sotw_ack(&last, &["A"]));
    // 4. names unset: nothing, although the request is that of step 1.
    assert!(client.send(sotw_ack(&last, &[])).is_empty());
    assert!(client.snapshot(&world(3)).is_empty());
}

#[test]
fn xds_18_a_newly_named_resource_is_sent_although_it_was_before() {
    let mut client = Client::new(&snapshot(1, [endpoints("a", 1), endpoints("b", 1)]));
    let first = client.ask(sotw(Endpoint, &["a", "b"]));
    client.send(sotw_ack(&first, &["a", "b"]));
    assert!(client.send(sotw_ack(&first, &["b"])).is_empty());
    assert_eq!(assignments(&client.ask(sotw_ack(&first, &["a", "b"]))), ["a"]);
}

#[test]
fn xds_19_a_stale_nonce_is_not_answered_but_its_names_are_kept() {
    let mut client = Client::new(&snapshot(1, [endpoints("a", 1), endpoints("b", 1)]));
    let first = client.ask(sotw(Endpoint, &["a"]));
    client.send(sotw_ack(&first, &["a"]));
    let second = client.snapshot(&snapshot(2, [endpoints("a", 2), endpoints("b", 1)])).remove(0);
    // On its way when the second response was sent.
    for _ in 0..3 {
        assert!(client.send(sotw_ack(&first, &["a", "b"])).is_empty());
    }
    let third = client.ask(sotw_ack(&second, &["a", "b"]));
    assert_eq!(assignments(&third), ["b"], "once");
    assert!(client.send(sotw_ack(&third, &["a", "b"])).is_empty());
}

#[test]
fn xds_20_an_empty_nonce_is_a_request_like_any() {
    let mut client = Client::new(&snapshot(1, [endpoints("local", 1), endpoints("remote", 1)]));
    let first = client.ask(sotw(Endpoint, &["local"]));
    // gRPC does so while the response is on its way.
    assert!(client.send(sotw(Endpoint, &["local", "remote"])).is_empty());
    let second = client.ask(sotw_ack(&first, &["local", "remote"]));
    assert_eq!(assignments(&second), ["remote"]);
}

#[test]
fn xds_21_asking_again_with_the_same_version_nonce_and_set_is_no_ack() {
    let world = |generation, rev: &str| {
        snapshot(generation, [cluster("a", rev), cluster("b", "1"), endpoints("a", 1), endpoints("b", 1)])
    };
    let mut client = Client::new(&world(1, "1"));
    let cds = client.ask(sotw(Cluster, &[]));
    client.send(sotw_ack(&cds, &[]));
    let eds = client.ask(sotw(Endpoint, &["a", "b"]));
    client.send(sotw_ack(&eds, &["a", "b"]));
    // The cluster changes: its endpoints go out behind it. Envoy asked before it saw them: not answered again.
    let push = client.snapshot(&world(2, "2"));
    assert_eq!((push.len(), assignments(&push[1])), (2, vec!["a".to_owned()]));
    assert!(client.send(sotw_ack(&eds, &["b", "a"])).is_empty());
    assert!(client.send(sotw_ack(&push[0], &[])).is_empty());
    assert!(client.send(sotw_ack(&push[1], &["b", "a"])).is_empty());
    // It asks afterwards, with nothing in flight: same version, nonce and set, another order.
    let again = client.ask(sotw_ack(&push[1], &["a", "b"]));
    assert_eq!(assignments(&again), ["a", "b"]);
    assert!(client.send(sotw_ack(&again, &["a", "b"])).is_empty(), "and that one's ACK is an ACK");
}

#[test]
fn xds_22_no_response_names_a_resource_twice() {
    let mut client = Client::new(&small(1));
    let response = client.ask(sotw(Endpoint, &["pay", "pay"]));
    assert_eq!(assignments(&response), ["pay"]);
    client.send(sotw_ack(&response, &["pay", "pay"]));
    let responses = client.send(sotw(Cluster, &["*", "pay", "pay"]));
    assert_eq!(clusters(&responses[0]), ["pay"]);
}

#[test]
fn xds_23_nothing_is_sent_when_nothing_changed() {
    let (mut client, ..) = converged();
    for generation in 2..6 {
        assert!(client.snapshot(&small(generation)).is_empty());
        assert_eq!([Cluster, Endpoint, Listener, Route].map(|of| client.acked(of)), [Some(generation); 4]);
    }
}

#[test]
fn xds_25_a_runtime_layer_that_is_missing_is_empty() {
    let mut client = Client::empty();
    let response = client.ask(sotw(Runtime, &["rtds"]));
    let layer = rtds::Runtime::decode(contents(&response)[0].as_slice()).unwrap();
    assert_eq!((layer.name.as_str(), layer.layer.unwrap().fields.len()), ("rtds", 0));
    assert!(client.send(sotw_ack(&response, &["rtds"])).is_empty());
    assert!(client.snapshot(&small(1)).is_empty());
    assert_eq!((client.acked(Runtime), client.status(Runtime).resources), (Some(1), 0));
}

#[test]
fn xds_25_a_reconnect_does_not_repeat_an_empty_layer() {
    let mut client = Client::new(&small(1));
    let response = client.ask(sotw(Runtime, &["rtds"]));
    let mut again = Client::new(&small(2));
    let request = DiscoveryRequest { response_nonce: String::new(), ..sotw_ack(&response, &["rtds"]) };
    assert!(again.send(request).is_empty());
    // A stream that was answered before its proxy was known is not answered twice.
    let mut early = Client::empty();
    let request = DiscoveryRequest { response_nonce: String::new(), ..sotw_ack(&response, &["rtds"]) };
    let first = early.ask(request);
    assert!(early.send(sotw_ack(&first, &["rtds"])).is_empty());
    assert!(early.snapshot(&small(2)).is_empty());
}

#[test]
fn xds_34_a_cluster_is_listed_until_no_route_needs_it() {
    let (mut client, ..) = converged();
    let moved =
        snapshot(2, [cluster("new", "1"), endpoints("new", 1), listener("out", "1"), route("out", "2", &["new"])]);
    let push = client.snapshot(&moved);
    assert_eq!(clusters(&push[0]), ["new", "pay"]);
    assert!(client.send(sotw_ack(&push[0], &[])).is_empty(), "its endpoints are not there yet");
    let eds = client.ask(sotw(Endpoint, &["new", "pay"]));
    let routes = client.ask(sotw_ack(&eds, &["new", "pay"]));
    assert_eq!(routes.type_url, Kind::Route.type_url());
    let cds = client.ask(sotw_ack(&routes, &["out"]));
    assert_eq!(clusters(&cds), ["new"]);
    client.send(sotw_ack(&cds, &[]));
    assert_eq!([Cluster, Endpoint, Listener, Route].map(|of| client.acked(of)), [Some(2); 4]);
}

#[test]
fn xds_36_a_route_waits_until_its_cluster_can_be_warm() {
    let (mut client, ..) = converged();
    let more = snapshot(
        2,
        [
            cluster("pay", "1"),
            cluster("new", "1"),
            endpoints("pay", 1),
            endpoints("new", 1),
            listener("out", "1"),
            route("out", "2", &["new", "pay"]),
        ],
    );
    let push = client.snapshot(&more);
    // The SotW ACK comes before warming ends.
    assert!(client.send(sotw_ack(&push[0], &[])).is_empty());
    let routes = client.pass(WAIT);
    assert_eq!(routes[0].type_url, Kind::Route.type_url());
}

#[test]
fn xds_37_a_cluster_that_grpc_still_asks_for_is_never_missing() {
    // gRPC finds clusters by its routes, and asks for them by name.
    let mut client = Client::new(&snapshot(
        1,
        [route("r", "1", &["local", "remote"]), cluster("local", "1"), cluster("remote", "1")],
    ));
    let rds = client.ask(sotw(Route, &["r"]));
    client.send(sotw_ack(&rds, &["r"]));
    let cds = client.ask(sotw(Cluster, &["local", "remote"]));
    client.send(sotw_ack(&cds, &["local", "remote"]));
    let less = |generation, rev: &str| snapshot(generation, [route("r", "2", &["local"]), cluster("local", rev)]);
    let push = client.snapshot(&less(2, "1"));
    assert_eq!((push.len(), push[0].type_url.as_str()), (1, Kind::Route.type_url()));
    assert!(client.send(sotw_ack(&push[0], &["r"])).is_empty());
    // It still asks for both: whatever else changes, both are there.
    let push = client.snapshot(&less(3, "2"));
    assert_eq!(clusters(&push[0]), ["local", "remote"]);
    // It gives the one up: gone.
    assert!(client.send(sotw_ack(&push[0], &["local"])).is_empty());
    assert_eq!(clusters(&client.snapshot(&less(4, "3"))[0]), ["local"]);
}

#[test]
fn bad_106_a_version_of_another_server_is_answered_in_full() {
    let mut client = Client::new(&small(1));
    let request = DiscoveryRequest { version_info: "7".into(), response_nonce: "x".into(), ..sotw(Cluster, &[]) };
    assert_eq!(clusters(&client.ask(request)), ["pay"]);
}
