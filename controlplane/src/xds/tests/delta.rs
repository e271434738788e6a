use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::script::{Script, ack, delta, holding, nack, upserts};
use super::{cluster, endpoints, listener, route, small, snapshot};
use crate::model::ResourceType::{Cluster, Endpoint, Listener, Route, Runtime};
use crate::xds::WAIT;
use crate::xds::kind::Kind;
use crate::xds::status::TypeState;
use crate::xds::subscription::mentions;
use crate::xds::wire::Wire;

type Client = Script<DeltaDiscoveryRequest>;

/// Subscribes to everything of [`small`] in Envoy's order and acknowledges it.
fn converged(generation: u64) -> Client {
    let mut client = Client::new(&small(generation));
    for request in [
        delta(Cluster, &[], &[]),
        delta(Endpoint, &["pay"], &[]),
        delta(Listener, &[], &[]),
        delta(Route, &["out"], &[]),
    ] {
        let response = client.ask(request);
        assert!(client.send(ack(&response)).is_empty());
    }
    client
}

#[test]
fn xds_4_every_type_url_is_known_and_others_are_not() {
    let all = Kind::all().map(|kind| kind.type_url()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(all.len(), 10);
    assert!(all.iter().all(|url| Kind::of(url).is_some_and(|kind| kind.type_url() == *url)));
    assert_eq!(Kind::of("type.googleapis.com/envoy.config.cluster.v2.Cluster"), None);
}

#[test]
fn xds_5_state_is_per_type() {
    let mut client = Client::new(&small(1));
    let clusters = client.ask(delta(Cluster, &[], &[]));
    let endpoints = client.ask(delta(Endpoint, &["pay"], &[]));
    // The nonce of another type's response acknowledges nothing.
    let crossed = DeltaDiscoveryRequest { response_nonce: clusters.nonce, ..delta(Endpoint, &[], &[]) };
    assert!(client.send(crossed).is_empty());
    assert_eq!((client.acked(Cluster), client.acked(Endpoint)), (None, None));
    client.send(ack(&endpoints));
    assert_eq!((client.acked(Cluster), client.acked(Endpoint)), (None, Some(1)));
}

#[test]
fn xds_8_a_nack_may_change_subscriptions() {
    let mut client = Client::new(&snapshot(1, [endpoints("a", 1), endpoints("b", 1)]));
    let first = client.ask(delta(Endpoint, &["a"], &[]));
    let request = DeltaDiscoveryRequest { resource_names_subscribe: vec!["b".into()], ..nack(&first, "a is bad") };
    assert_eq!(upserts(&client.ask(request)), ["b"]);
}

#[test]
fn xds_9_a_rejected_version_is_not_sent_again() {
    let mut client = converged(1);
    let changed = |generation| {
        snapshot(
            generation,
            [cluster("pay", "2"), endpoints("pay", 1), listener("out", "1"), route("out", "1", &["pay"])],
        )
    };
    let push = client.snapshot(&changed(2));
    assert_eq!(upserts(&push[0]), ["pay"]);
    assert!(client.send(nack(&push[0], "Error adding/updating cluster(s) pay: no")).is_empty());
    assert!(client.snapshot(&changed(3)).is_empty(), "the same content is not tried again");
    assert_eq!(client.status(Cluster).state, TypeState::Rejected);
    assert_eq!(client.acked(Cluster), Some(1), "a rejection holds the generation back");
    let good =
        snapshot(4, [cluster("pay", "3"), endpoints("pay", 1), listener("out", "1"), route("out", "1", &["pay"])]);
    let push = client.snapshot(&good);
    assert_eq!(upserts(&push[0]), ["pay"], "new content is");
    client.send(ack(&push[0]));
    assert_eq!((client.acked(Cluster), client.status(Cluster).error), (Some(4), None));
}

#[test]
fn xds_9_content_that_returns_to_what_the_client_kept_is_not_sent() {
    let mut client = converged(1);
    let bad =
        snapshot(2, [cluster("pay", "2"), endpoints("pay", 1), listener("out", "1"), route("out", "1", &["pay"])]);
    let push = client.snapshot(&bad);
    client.send(nack(&push[0], "pay"));
    assert!(client.snapshot(&small(3)).iter().all(|response| response.type_url != Kind::Cluster.type_url()));
    assert_eq!((client.acked(Cluster), client.status(Cluster).error), (Some(3), None));
}

#[test]
fn xds_10_the_valid_resources_of_a_rejected_response_count() {
    let mut client = Client::new(&snapshot(1, [cluster("bad", "1"), cluster("good", "1")]));
    let first = client.ask(delta(Cluster, &[], &[]));
    client.send(nack(&first, "Error adding/updating cluster(s) bad: cannot be"));
    let status = client.status(Cluster);
    assert_eq!((status.state, status.resources), (TypeState::Rejected, 1));
    // The good one changes: it alone is sent. The bad one is mended: it too.
    let push = client.snapshot(&snapshot(2, [cluster("bad", "1"), cluster("good", "2")]));
    assert_eq!(upserts(&push[0]), ["good"]);
    client.send(ack(&push[0]));
    assert_eq!(client.acked(Cluster), None, "bad still is not accepted");
    let push = client.snapshot(&snapshot(3, [cluster("bad", "2"), cluster("good", "2")]));
    assert_eq!(upserts(&push[0]), ["bad"]);
    client.send(ack(&push[0]));
    assert_eq!(client.acked(Cluster), Some(3));
}

#[test]
fn xds_10_a_name_is_blamed_only_as_a_word_of_its_own() {
    for (text, name, blamed) in [
        ("cluster(s) payments.shop.b: no", "payments.shop", false),
        ("cluster(s) payments.shop: no", "payments.shop", true),
        ("lost payments.shop.", "payments.shop", true),
        ("x.payments.shop", "payments.shop", false),
        ("listener(s) inbound|w-1: no", "inbound|w", false),
        ("listener(s) 'outbound|127.0.0.1:15001'", "outbound|127.0.0.1:15001", true),
    ] {
        assert_eq!(mentions(text, name), blamed, "{name} in {text}");
    }
}

#[test]
fn xds_12_endpoints_do_not_wait_for_the_delayed_cluster_ack() {
    let mut client = Client::new(&small(1));
    client.ask(delta(Cluster, &[], &[]));
    // No ACK: Envoy warms the cluster, for which it needs the endpoints.
    assert_eq!(upserts(&client.ask(delta(Endpoint, &["pay"], &[]))), ["pay"]);
    // Nor do later endpoints, nor unrelated listeners.
    let later =
        snapshot(2, [cluster("pay", "2"), endpoints("pay", 2), listener("out", "1"), route("out", "1", &["pay"])]);
    assert!(client.snapshot(&later).is_empty(), "one in flight of each");
    assert_eq!(upserts(&client.ask(delta(Listener, &[], &[]))), ["out"]);
}

#[test]
fn xds_23_nothing_is_sent_when_nothing_changed() {
    let mut client = converged(1);
    for generation in 2..10 {
        assert!(client.snapshot(&small(generation)).is_empty());
        let acked = [Cluster, Endpoint, Listener, Route].map(|of| client.acked(of));
        assert_eq!(acked, [Some(generation); 4], "unchanged content counts as acknowledged");
    }
}

#[test]
fn xds_12_endpoints_that_the_client_has_not_asked_for_yet_are_not_acknowledged() {
    let mut client = converged(1);
    let mut more = small(2).as_ref().clone();
    for (of, resource) in [cluster("new", "1"), endpoints("new", 1)] {
        std::sync::Arc::make_mut(&mut more.resources)
            .entry(of)
            .or_default()
            .insert(resource.name.clone(), resource.into());
    }
    let push = client.snapshot(&more.into());
    assert_eq!((client.acked(Endpoint), client.acked(Listener)), (Some(1), Some(2)));
    let eds = client.ask(delta(Endpoint, &["new"], &[]));
    client.send(ack(&eds));
    assert_eq!((client.acked(Endpoint), client.acked(Cluster)), (Some(2), Some(1)));
    client.send(ack(&push[0]));
    assert_eq!(client.acked(Cluster), Some(2));
    // A rejected cluster is not asked about: it holds back its own type alone.
    let mut client = converged(1);
    let mut more = small(2).as_ref().clone();
    for (of, resource) in [cluster("new", "1"), endpoints("new", 1)] {
        std::sync::Arc::make_mut(&mut more.resources)
            .entry(of)
            .or_default()
            .insert(resource.name.clone(), resource.into());
    }
    let push = client.snapshot(&more.into());
    client.send(nack(&push[0], "new"));
    assert_eq!((client.acked(Endpoint), client.acked(Cluster)), (Some(2), Some(1)));
}

#[test]
fn xds_23_the_same_snapshot_in_a_higher_generation_is_acknowledged_at_once() {
    let content = small(1);
    let mut client = converged(1);
    assert!(client.told(&content, 2).is_empty());
    assert!(client.told(&content, 3).is_empty());
    assert_eq!([Cluster, Endpoint, Listener, Route].map(|of| client.acked(of)), [Some(3); 4]);
    let push = client.ask(delta(Endpoint, &["pay"], &[]));
    assert!(client.told(&content, 4).is_empty());
    assert_eq!((client.acked(Endpoint), client.acked(Cluster)), (Some(3), Some(4)), "in flight");
    client.send(ack(&push));
    assert_eq!(client.acked(Endpoint), Some(4));
}

#[test]
fn xds_24_subscribing_to_a_known_resource_sends_it_again() {
    let mut client = converged(1);
    let again = client.ask(delta(Endpoint, &["pay"], &[]));
    assert_eq!(upserts(&again), ["pay"]);
    assert!(client.send(ack(&again)).is_empty());
    // Also while a response with it is in flight, once that is acknowledged.
    let first = client.ask(delta(Endpoint, &["pay"], &[]));
    assert!(client.send(delta(Endpoint, &["pay"], &[])).is_empty());
    let second = client.ask(ack(&first));
    assert_eq!(upserts(&second), ["pay"]);
    assert!(client.send(ack(&second)).is_empty());
}

#[test]
fn xds_25_what_is_missing_is_said_to_be_removed_at_once() {
    let mut client = Client::new(&small(1));
    let response = client.ask(delta(Endpoint, &["none"], &[]));
    assert_eq!((response.removed_resources.as_slice(), response.resources.len()), (&["none".to_owned()][..], 0));
    assert!(client.send(ack(&response)).is_empty(), "once");
    // When it appears, it is sent.
    let mut more = small(2).as_ref().clone();
    let (of, resource) = endpoints("none", 1);
    std::sync::Arc::make_mut(&mut more.resources).entry(of).or_default().insert(resource.name.clone(), resource.into());
    assert_eq!(upserts(&client.snapshot(&more.into())[0]), ["none"]);
}

#[test]
fn xds_25_runtime_and_secrets_are_answered_before_the_proxy_is_known() {
    let mut client = Client::empty();
    assert_eq!(client.ask(delta(Runtime, &["rtds"], &[])).removed_resources, ["rtds"]);
    let secret = DeltaDiscoveryRequest {
        type_url: Kind::Secret.type_url().into(),
        resource_names_subscribe: vec!["default".into()],
        ..Default::default()
    };
    assert_eq!(client.ask(secret).removed_resources, ["default"]);
    // The rest waits for the snapshot.
    assert!(client.send(delta(Cluster, &[], &[])).is_empty());
    assert_eq!(upserts(&client.snapshot(&small(1))[0]), ["pay"]);
}

#[test]
fn xds_26_an_unsubscription_needs_no_answer_and_a_phantom_one_is_ignored() {
    let mut client = converged(1);
    assert!(client.send(delta(Endpoint, &[], &["never"])).is_empty());
    assert!(client.send(delta(Endpoint, &[], &["pay"])).is_empty());
    let changed =
        snapshot(2, [cluster("pay", "1"), endpoints("pay", 2), listener("out", "1"), route("out", "1", &["pay"])]);
    assert!(client.snapshot(&changed).is_empty(), "no longer subscribed");
    assert_eq!(upserts(&client.ask(delta(Endpoint, &["pay"], &[]))), ["pay"]);
    assert!(client.send(delta(Cluster, &[], &["never"])).is_empty(), "not even while * is active");
}

#[test]
fn xds_27_unsubscribing_a_name_under_the_wildcard_is_answered() {
    let mut client = Client::new(&small(1));
    let first = client.ask(delta(Cluster, &["*", "pay", "none"], &[]));
    assert_eq!((upserts(&first), first.removed_resources.as_slice()), (vec!["pay"], &["none".to_owned()][..]));
    client.send(ack(&first));
    let answer = client.ask(delta(Cluster, &[], &["pay"]));
    assert_eq!(upserts(&answer), ["pay"]);
    client.send(ack(&answer));
    let answer = client.ask(delta(Cluster, &[], &["none"]));
    assert_eq!(answer.removed_resources, ["none"]);
    assert!(client.send(ack(&answer)).is_empty());
}

#[test]
fn xds_28_subscriptions_on_a_stale_nonce_count() {
    let mut client = Client::new(&snapshot(1, [endpoints("a", 1), endpoints("b", 1)]));
    let first = client.ask(delta(Endpoint, &["a"], &[]));
    client.send(ack(&first));
    let stale = DeltaDiscoveryRequest { resource_names_subscribe: vec!["b".into()], ..ack(&first) };
    assert_eq!(upserts(&client.ask(stale)), ["b"]);
}

#[test]
fn xds_29_initial_versions_are_compared_also_with_what_is_deleted() {
    let snapshot = snapshot(1, [cluster("same", "1"), cluster("new", "2")]);
    let same = snapshot.of(Cluster)["same"].version.clone();
    let mut client = Client::new(&snapshot);
    let request = holding(delta(Cluster, &["*"], &[]), &[("same", &same), ("new", "old"), ("gone", "1")]);
    let response = client.ask(request);
    assert_eq!(upserts(&response), ["new"]);
    assert!(client.send(ack(&response)).is_empty(), "a route might need what is gone: its type was not heard of yet");
    assert_eq!(client.send(delta(Listener, &["*"], &[])).len(), 1);
    // Listeners and routes were heard, and need nothing: now it goes.
    let heard = client.send(delta(Route, &["*"], &[]));
    assert_eq!(heard[0].removed_resources, ["gone"]);
    // Or when they were not heard in time.
    let mut late = Client::new(&snapshot);
    let response = late.ask(holding(delta(Cluster, &["*"], &[]), &[("same", &same), ("gone", "1")]));
    late.send(ack(&response));
    assert_eq!(late.pass(WAIT)[0].removed_resources, ["gone"]);
}

#[test]
fn xds_29_only_the_first_request_of_a_type_has_initial_versions() {
    let mut client = converged(1);
    let version = small(1).of(Endpoint)["pay"].version.clone();
    let response = client.ask(holding(delta(Endpoint, &["pay"], &[]), &[("pay", &version)]));
    assert_eq!(upserts(&response), ["pay"]);
}

#[test]
fn xds_30_a_reconnect_skips_what_is_equal_but_for_children_of_what_changed() {
    let old = small(1);
    let version = |of, name: &str| old.of(of)[name].version.clone();
    let reconnect = |now: &std::sync::Arc<_>| {
        let mut client = Client::new(now);
        let mut sent = Vec::new();
        for request in [
            holding(delta(Cluster, &[], &[]), &[("pay", &version(Cluster, "pay"))]),
            holding(delta(Endpoint, &["pay"], &[]), &[("pay", &version(Endpoint, "pay"))]),
            holding(delta(Listener, &[], &[]), &[("out", &version(Listener, "out"))]),
            holding(delta(Route, &["out"], &[]), &[("out", &version(Route, "out"))]),
        ] {
            sent.extend(client.send(request));
        }
        (client, sent)
    };
    let (client, sent) = reconnect(&small(7));
    assert!(sent.is_empty(), "nothing changed: not a byte");
    assert_eq!([Cluster, Endpoint, Listener, Route].map(|of| client.acked(of)), [Some(7); 4]);

    let changed =
        snapshot(2, [cluster("pay", "2"), endpoints("pay", 1), listener("out", "1"), route("out", "1", &["pay"])]);
    let (_, sent) = reconnect(&changed);
    let types: Vec<_> = sent.iter().map(|response| (response.type_url.as_str(), upserts(response))).collect();
    assert_eq!(types, [(Kind::Cluster.type_url(), vec!["pay"]), (Kind::Endpoint.type_url(), vec!["pay"])]);
}

#[test]
fn xds_31_types_may_come_in_any_order_after_a_reconnect() {
    let old = small(1);
    let version = |of, name: &str| old.of(of)[name].version.clone();
    let now = snapshot(
        2,
        [
            cluster("pay", "2"),
            cluster("new", "1"),
            endpoints("pay", 1),
            endpoints("new", 1),
            listener("out", "1"),
            route("out", "2", &["pay", "new"]),
        ],
    );
    let mut client = Client::new(&now);
    // The route needs a cluster that the client has not: it waits, although clusters were not asked for yet.
    assert!(client.send(holding(delta(Route, &["out"], &[]), &[("out", &version(Route, "out"))])).is_empty());
    assert!(client.send(holding(delta(Endpoint, &["pay"], &[]), &[("pay", &version(Endpoint, "pay"))])).is_empty());
    assert!(client.send(holding(delta(Listener, &[], &[]), &[("out", &version(Listener, "out"))])).is_empty());
    let sent = client.send(holding(delta(Cluster, &[], &[]), &[("pay", &version(Cluster, "pay"))]));
    assert_eq!(upserts(&sent[0]), ["new", "pay"]);
    assert_eq!(upserts(&sent[1]), ["pay"], "the child of the changed cluster");
    client.send(ack(&sent[1]));
    client.ask(delta(Endpoint, &["new"], &[]));
    let routes = client.ask(ack(&sent[0]));
    assert_eq!((routes.type_url.as_str(), upserts(&routes)), (Kind::Route.type_url(), vec!["out"]));
}

#[test]
fn xds_31_a_client_that_never_asks_for_clusters_again_gets_its_routes() {
    let mut client = Client::new(&small(1));
    assert!(client.send(holding(delta(Route, &["out"], &[]), &[("out", "old")])).is_empty());
    assert_eq!(upserts(&client.pass(WAIT)[0]), ["out"]);
}

#[test]
fn xds_32_the_first_wildcard_is_answered_even_if_there_is_nothing() {
    let mut client = Client::new(&snapshot(1, []));
    let response = client.ask(delta(Cluster, &[], &[]));
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    assert!(client.send(ack(&response)).is_empty());
    assert_eq!(client.acked(Cluster), Some(1));
    assert!(client.ask(delta(Listener, &["*"], &[])).resources.is_empty());
}

#[test]
fn xds_33_resources_carry_their_name_and_version() {
    let mut client = Client::new(&small(1));
    let response = client.ask(delta(Cluster, &[], &[]));
    let resource = &response.resources[0];
    assert_eq!(resource.name, "pay");
    assert_eq!(resource.version, small(1).of(Cluster)["pay"].version.as_ref());
    assert!(response.removed_resource_names.is_empty());
}

#[test]
fn xds_34_upserts_go_down_and_removals_up() {
    let mut client = converged(1);
    let moved =
        snapshot(2, [cluster("new", "1"), endpoints("new", 1), listener("out", "1"), route("out", "2", &["new"])]);
    // First the new cluster; the old one stays, since the route that the client has needs it.
    let push = client.snapshot(&moved);
    assert_eq!(push.len(), 1, "{push:?}");
    assert_eq!((upserts(&push[0]), push[0].removed_resources.len()), (vec!["new"], 0));
    let endpoints = client.ask(delta(Endpoint, &["new"], &[]));
    assert_eq!(upserts(&endpoints), ["new"]);
    assert!(client.send(ack(&endpoints)).is_empty(), "still warming");
    // Accepted: the route moves over.
    let routes = client.ask(ack(&push[0]));
    assert_eq!((routes.type_url.as_str(), upserts(&routes)), (Kind::Route.type_url(), vec!["out"]));
    // The route is acknowledged: the old cluster goes, then its endpoints, unless the client gives them up itself.
    let removal = client.ask(ack(&routes));
    assert_eq!(
        (removal.type_url.as_str(), removal.removed_resources.as_slice()),
        (Kind::Cluster.type_url(), &["pay".to_owned()][..])
    );
    assert_eq!(client.acked(Cluster), Some(1));
    let removal = client.ask(ack(&removal));
    assert_eq!(
        (removal.type_url.as_str(), removal.removed_resources.as_slice()),
        (Kind::Endpoint.type_url(), &["pay".to_owned()][..])
    );
    assert!(client.send(delta(Endpoint, &[], &["pay"])).is_empty());
    assert!(client.send(ack(&removal)).is_empty());
    assert_eq!([Cluster, Endpoint, Listener, Route].map(|of| client.acked(of)), [Some(2); 4]);
}

#[test]
fn xds_34_a_rejected_route_keeps_the_cluster_that_its_predecessor_needs() {
    let mut client = converged(1);
    let moved = snapshot(2, [cluster("new", "1"), listener("out", "1"), route("out", "2", &["new"])]);
    let push = client.snapshot(&moved);
    let routes = client.ask(ack(&push[0]));
    assert!(client.send(nack(&routes, "out")).is_empty());
    assert!(client.pass(WAIT * 10).is_empty(), "not even late");
}

#[test]
fn xds_35_a_changed_cluster_has_its_endpoints_sent_again_and_a_listener_its_routes() {
    let mut client = converged(1);
    let changed =
        snapshot(2, [cluster("pay", "2"), endpoints("pay", 1), listener("out", "2"), route("out", "1", &["pay"])]);
    let push = client.snapshot(&changed);
    let types: Vec<_> =
        push.iter().map(|response| (Kind::of(&response.type_url).unwrap(), upserts(response))).collect();
    assert_eq!(
        types,
        [
            (Kind::Cluster, vec!["pay"]),
            (Kind::Endpoint, vec!["pay"]),
            (Kind::Listener, vec!["out"]),
            (Kind::Route, vec!["out"])
        ]
    );
    // Once: the ACKs bring nothing more.
    assert!(push.iter().all(|response| client.send(ack(response)).is_empty()));
}

#[test]
fn xds_36_a_route_waits_for_its_clusters_but_not_for_ever() {
    let more = || {
        snapshot(
            2,
            [
                cluster("pay", "1"),
                cluster("new", "1"),
                endpoints("pay", 1),
                endpoints("new", 1),
                listener("out", "1"),
                route("out", "2", &["pay", "new"]),
            ],
        )
    };
    let mut client = converged(1);
    let push = client.snapshot(&more());
    assert_eq!(push.len(), 1);
    assert!(client.wave.wake_at().is_some());
    assert!(client.pass(WAIT - Duration::from_millis(1)).is_empty());
    assert_eq!(upserts(&client.pass(Duration::from_millis(1))[0]), ["out"]);
    assert_eq!(client.wave.wake_at(), None);
    // A cluster that changes is there already: no wait.
    let mut client = converged(1);
    let changed =
        snapshot(2, [cluster("pay", "2"), endpoints("pay", 1), listener("out", "1"), route("out", "2", &["pay"])]);
    assert_eq!(client.snapshot(&changed).len(), 3);
}

#[test]
fn xds_38_no_wait_of_ours_reaches_envoys_fetch_timeout() {
    assert!(WAIT <= Duration::from_secs(7), "15 s, and a route may wait twice: for its clusters, then for its turn");
}

#[test]
fn xds_44_a_missing_child_withholds_nothing() {
    let mut client = Client::new(&snapshot(1, [cluster("pay", "1"), cluster("other", "1")]));
    assert_eq!(upserts(&client.ask(delta(Cluster, &[], &[]))), ["other", "pay"]);
    assert_eq!(client.ask(delta(Endpoint, &["pay"], &[])).removed_resources, ["pay"]);
}

#[test]
fn bad_101_an_unknown_type_is_refused_alone() {
    let mut client = converged(1);
    let odd = DeltaDiscoveryRequest { type_url: "type.googleapis.com/x.Y".into(), ..Default::default() };
    assert_eq!(client.try_send(odd).unwrap_err().label(), "unknown_type");
    assert_eq!(upserts(&client.ask(delta(Endpoint, &["pay"], &[]))), ["pay"]);
}

#[test]
fn bad_102_names_are_bounded_in_number_and_length() {
    let many: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
    let request = DeltaDiscoveryRequest { resource_names_subscribe: many.clone(), ..delta(Endpoint, &[], &[]) };
    assert_eq!(request.parse().unwrap_err().label(), "too_many_names");
    assert_eq!(delta(Endpoint, &[&"x".repeat(4097)], &[]).parse().unwrap_err().label(), "name_too_long");
    assert_eq!(
        holding(delta(Endpoint, &[], &[]), &[("a", &"x".repeat(4097))]).parse().unwrap_err().label(),
        "name_too_long"
    );
    // Nor do they add up over requests.
    let mut client = Client::new(&small(1));
    let refused = many.chunks(10_000).find_map(|names| {
        let request = DeltaDiscoveryRequest { resource_names_subscribe: names.to_vec(), ..delta(Endpoint, &[], &[]) };
        client.try_send(request).err()
    });
    assert_eq!(refused.map(|refusal| refusal.label()), Some("too_many_names"));
}

#[test]
fn bad_105_a_forged_nonce_acknowledges_nothing() {
    let mut client = Client::new(&small(1));
    let response = client.ask(delta(Cluster, &[], &[]));
    for nonce in ["1", "x", "", &format!("{}0", response.nonce)] {
        let forged = DeltaDiscoveryRequest { response_nonce: nonce.into(), ..ack(&response) };
        assert!(client.send(forged).is_empty());
        let forged = DeltaDiscoveryRequest { response_nonce: nonce.into(), ..nack(&response, "no") };
        assert!(client.send(forged).is_empty());
    }
    assert_eq!(client.acked(Cluster), None);
    client.send(ack(&response));
    assert_eq!((client.acked(Cluster), client.status(Cluster).state), (Some(1), TypeState::Synced));
}

#[test]
fn bad_106_versions_of_another_server_are_sent_anew() {
    let mut client = Client::new(&small(1));
    let response = client.ask(holding(delta(Cluster, &[], &[]), &[("pay", "istio-7")]));
    assert_eq!(upserts(&response), ["pay"]);
}

#[test]
fn bad_107_a_nack_of_a_mebibyte_is_cut_and_escaped() {
    let mut client = Client::new(&small(1));
    let response = client.ask(delta(Cluster, &[], &[]));
    let text = format!("\u{1b}[2J\u{202e}pay\n{}", "é".repeat(1 << 19));
    client.send(nack(&response, &text));
    let status = client.status(Cluster);
    let error = status.error.unwrap();
    assert_eq!(status.state, TypeState::Rejected);
    assert!(error.chars().count() <= 513, "{}", error.chars().count());
    assert!(error.starts_with("\\u{1b}[2J\\u{202e}pay\\n"), "{error}");
}

#[test]
fn bad_108_flips_are_coalesced() {
    let mut client = Client::new(&small(1));
    let mut responses = Vec::new();
    for _ in 0..1_000 {
        responses.extend(client.send(delta(Endpoint, &["pay"], &[])));
        responses.extend(client.send(delta(Endpoint, &[], &["pay"])));
    }
    assert_eq!(responses.len(), 1, "nothing more before the first is acknowledged");
    assert!(client.send(ack(&responses[0])).is_empty(), "unsubscribed in the end");
}
