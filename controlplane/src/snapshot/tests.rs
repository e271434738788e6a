//! Shapes and rules, on small meshes; [`props`] has the random ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as rbac_filter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::rbac::principals::mtls_authenticated::v3 as mtls_authenticated;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::{Any, value::Kind};
use prost::Message;
use symbolon_proto::ids::TrustDomain;

use super::*;
use crate::model::{
    Endpoint, Health, ImportedService, LocalService, MeshView, PeerName, PeerState, PeerView, ProxyKey, ResourceType,
    ServiceName, Split, Weight, Workload,
};

mod props;

const CHECKOUT: &str = "spiffe://a.example/ns/shop/sa/checkout";
const PAY_A: &str = "spiffe://a.example/ns/shop/sa/payments";
const PAY_B: &str = "spiffe://b.example/ns/shop/sa/payments";

// === building meshes ===

fn builder() -> Builder {
    Builder::new(Config { trust_domain: "a.example".parse().unwrap(), svid_ttl: Duration::from_secs(60) })
}

fn service(name: &str) -> ServiceName {
    name.parse().unwrap()
}

fn peer(name: &str) -> PeerName {
    name.parse().unwrap()
}

fn key(node: &str, identity: &str) -> ProxyKey {
    ProxyKey { node: node.parse().unwrap(), identity: identity.parse().unwrap() }
}

fn endpoint(id: &str, address: &str, identity: &str) -> Endpoint {
    Endpoint {
        id: id.into(),
        address: address.parse().unwrap(),
        identity: identity.parse().unwrap(),
        health: Health::Healthy,
        weight: 1.try_into().unwrap(),
    }
}

fn client(name: &str, outbound: &str, upstreams: &[&str]) -> Workload {
    Workload {
        name: name.into(),
        identity: CHECKOUT.parse().unwrap(),
        service: None,
        address: None,
        inbound: None,
        outbound: Some(outbound.parse().unwrap()),
        upstreams: upstreams.iter().map(|of| of.parse().unwrap()).collect(),
        health: Health::Healthy,
        weight: 1.try_into().unwrap(),
    }
}

fn server(name: &str, of: Option<&str>, port: u16) -> Workload {
    Workload {
        identity: PAY_A.parse().unwrap(),
        service: of.map(service),
        address: Some(([127, 0, 0, 1], port).into()),
        inbound: Some(([10, 0, 0, 2], port).into()),
        outbound: None,
        upstreams: Vec::new(),
        ..client(name, "127.0.0.1:1", &[])
    }
}

fn import(endpoints: Vec<Endpoint>, identities: &[&str]) -> Arc<ImportedService> {
    let identities = identities.iter().map(|id| id.parse().unwrap()).collect();
    Arc::new(ImportedService { endpoints: endpoints.into(), identities, capacity: None, since: 1 })
}

/// `checkout` on node `n1` calls `payments.shop`, which is served here by one endpoint and federated with `b`, and b's `ledger`.
fn mesh() -> MeshView {
    let mut view = MeshView::empty("a.example".parse().unwrap());
    let upstreams = ["payments.shop", "ledger.shop.b", "later.shop"];
    view.workloads.insert("n1".parse().unwrap(), vec![client("checkout", "127.0.0.1:15001", &upstreams)].into());
    view.workloads.insert("n2".parse().unwrap(), vec![server("pay-1", Some("payments.shop"), 8080)].into());
    let local = LocalService {
        export_to: [peer("b")].into(),
        endpoints: vec![endpoint("n2/pay-1", "10.0.0.2:8080", PAY_A)].into(),
    };
    view.services.insert(service("payments.shop"), Arc::new(local));
    view.federated.insert(service("payments.shop"), vec![peer("b")]);
    view.splits.insert(service("payments.shop"), (Split::all_local([peer("b")]), 1));
    with_peer(&mut view, PeerState::Live);
    view
}

fn with_peer(view: &mut MeshView, state: PeerState) {
    let payments = import(vec![endpoint("m1/pay", "10.1.0.1:15006", PAY_B)], &[PAY_B]);
    let ledger = import(vec![endpoint("m2/led", "10.1.0.2:15006", PAY_B)], &[PAY_B]);
    let services = [(service("payments.shop"), payments), (service("ledger.shop"), ledger)].into();
    let trust_domain = "b.example".parse().unwrap();
    view.peers.insert(peer("b"), Arc::new(PeerView { trust_domain, state, services }));
}

fn set_split(view: &mut MeshView, remote: u32) {
    let split = Split::with_remote(vec![(peer("b"), Weight::new(remote).unwrap())]).unwrap();
    view.splits.insert(service("payments.shop"), (split, 2));
}

// === reading snapshots ===

fn of<T: Message + Default>(snapshot: &Snapshot, kind: ResourceType, name: &str) -> T {
    use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
    let resource = &snapshot.of(kind)[name];
    let response = DiscoveryResponse::decode(resource.sotw.clone()).unwrap();
    T::decode(response.resources[0].value.as_slice()).unwrap()
}

fn unpack<T: Message + Default + prost::Name>(any: &Any) -> T {
    assert_eq!(any.type_url, T::type_url());
    T::decode(any.value.as_slice()).unwrap()
}

fn checkout(set: &SnapshotSet) -> Arc<Snapshot> {
    set.proxies[&key("n1", CHECKOUT)].clone()
}

/// (priority, arm, address, health) of every endpoint.
fn listed(assignment: &eds::ClusterLoadAssignment) -> Vec<(u32, String, String, core::HealthStatus)> {
    let all =
        assignment.endpoints.iter().flat_map(|locality| locality.lb_endpoints.iter().map(|e| (locality.priority, e)));
    all.map(|(priority, e)| {
        let Some(eds::lb_endpoint::HostIdentifier::Endpoint(host)) = &e.host_identifier else { panic!("no address") };
        let Some(core::address::Address::SocketAddress(at)) = &host.address.as_ref().unwrap().address else { panic!() };
        let label = &e.metadata.as_ref().unwrap().filter_metadata["envoy.transport_socket_match"].fields["arm"];
        let Some(Kind::StringValue(arm)) = &label.kind else { panic!("no label") };
        (priority, arm.clone(), at.address.clone(), core::HealthStatus::try_from(e.health_status).unwrap())
    })
    .collect()
}

/// Whom a transport socket accepts.
fn accepted(socket: &core::TransportSocket) -> Vec<String> {
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else { panic!("no context") };
    let context: tls::UpstreamTlsContext = unpack(any);
    assert_eq!(context.max_session_keys.map(|max| max.value), Some(0), "a resumed session is not verified");
    let Some(tls::common_tls_context::ValidationContextType::CombinedValidationContext(validation)) =
        context.common_tls_context.unwrap().validation_context_type
    else {
        panic!("not combined")
    };
    assert_eq!(validation.validation_context_sds_secret_config.unwrap().name, "ALL");
    let names = validation.default_validation_context.unwrap().match_typed_subject_alt_names;
    let exact = |san: tls::SubjectAltNameMatcher| {
        assert_eq!(san.san_type, tls::subject_alt_name_matcher::SanType::Uri as i32);
        match san.matcher.unwrap().match_pattern.unwrap() {
            MatchPattern::Exact(id) => id,
            other => panic!("{other:?}"),
        }
    };
    names.into_iter().map(exact).collect()
}

fn accepted_by_arm(cluster: &cds::Cluster) -> BTreeMap<String, Vec<String>> {
    let arms = cluster.transport_socket_matches.iter();
    arms.map(|one| (one.name.clone(), accepted(one.transport_socket.as_ref().unwrap()))).collect()
}

fn route(route: &rds::Route) -> &rds::RouteAction {
    match route.action.as_ref().unwrap() {
        rds::route::Action::Route(action) => action,
        other => panic!("{other:?}"),
    }
}

fn weights(action: &rds::RouteAction) -> Vec<(String, u32)> {
    match action.cluster_specifier.as_ref().unwrap() {
        rds::route_action::ClusterSpecifier::WeightedClusters(weighted) => {
            weighted.clusters.iter().map(|c| (c.name.clone(), c.weight.unwrap().value)).collect()
        }
        rds::route_action::ClusterSpecifier::Cluster(name) => vec![(name.clone(), 10_000)],
        other => panic!("{other:?}"),
    }
}

fn manager(listener: &lds::Listener) -> hcm::HttpConnectionManager {
    let Some(lds::filter::ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type else {
        panic!("no manager")
    };
    unpack(any)
}

// === the two arms ===

#[test]
fn each_arm_carries_the_other_behind_it_and_verifies_each_by_its_own_identities() {
    let snapshot = checkout(&builder().build(&mesh()));
    use core::HealthStatus::Healthy;
    let local = |priority| (priority, "payments.shop".to_owned(), "10.0.0.2".to_owned(), Healthy);
    let remote = |priority| (priority, "payments.shop.b".to_owned(), "10.1.0.1".to_owned(), Healthy);
    for (name, expected) in [("payments.shop", [local(0), remote(1)]), ("payments.shop.b", [remote(0), local(1)])] {
        let assignment: eds::ClusterLoadAssignment = of(&snapshot, ResourceType::Endpoint, name);
        assert_eq!(listed(&assignment), expected);
        assert_eq!(assignment.policy.unwrap().overprovisioning_factor.unwrap().value, 100_000);
        let cluster: cds::Cluster = of(&snapshot, ResourceType::Cluster, name);
        let accepted = accepted_by_arm(&cluster);
        assert_eq!(accepted["payments.shop"], [PAY_A]);
        assert_eq!(accepted["payments.shop.b"], [PAY_B]);
        assert_eq!(cluster.eds_cluster_config.unwrap().service_name, name);
    }
}

#[test]
fn both_arms_exist_at_weight_zero_in_the_frozen_order() {
    let mut builder = builder();
    let mut view = mesh();
    for remote in [0, 250, 10_000] {
        set_split(&mut view, remote);
        view.generation += 1;
        let routes: rds::RouteConfiguration =
            of(&checkout(&builder.build(&view)), ResourceType::Route, "outbound|127.0.0.1:15001");
        let host = routes.virtual_hosts.iter().find(|host| host.name == "payments.shop").unwrap();
        assert_eq!(host.domains, ["payments.shop", "payments.shop:*"]);
        for one in &host.routes {
            let expected = [("payments.shop".to_owned(), 10_000 - remote), ("payments.shop.b".to_owned(), remote)];
            assert_eq!(weights(route(one)), expected);
        }
    }
}

#[test]
fn a_name_that_is_not_federated_keeps_one_cluster_with_one_priority() {
    let snapshot = checkout(&builder().build(&mesh()));
    let assignment: eds::ClusterLoadAssignment = of(&snapshot, ResourceType::Endpoint, "ledger.shop.b");
    assert_eq!(listed(&assignment).iter().map(|e| (e.0, e.2.as_str())).collect::<Vec<_>>(), [(0, "10.1.0.2")]);
    let routes: rds::RouteConfiguration = of(&snapshot, ResourceType::Route, "outbound|127.0.0.1:15001");
    let host = routes.virtual_hosts.iter().find(|host| host.name == "ledger.shop.b").unwrap();
    assert_eq!(weights(route(&host.routes[0])), [("ledger.shop.b".to_owned(), 10_000)]);
}

#[test]
fn an_upstream_of_which_nothing_is_known_resolves_and_accepts_nobody() {
    let snapshot = checkout(&builder().build(&mesh()));
    let assignment: eds::ClusterLoadAssignment = of(&snapshot, ResourceType::Endpoint, "later.shop");
    assert_eq!(listed(&assignment), []);
    let cluster: cds::Cluster = of(&snapshot, ResourceType::Cluster, "later.shop");
    let nobody = ["spiffe://a.example/symbolon/nobody"];
    assert_eq!(accepted_by_arm(&cluster)["later.shop"], nobody);
    assert_eq!(
        accepted(&cluster.transport_socket.unwrap()),
        nobody,
        "an endpoint without a label must not get plain text"
    );
}

#[test]
fn silence_demotes_and_never_withdraws() {
    use core::HealthStatus::{Degraded, Healthy, Unhealthy};
    let mut builder = builder();
    let mut view = mesh();
    let states = [
        (PeerState::Connecting, Healthy),
        (PeerState::Live, Healthy),
        (PeerState::Suspect, Healthy),
        (PeerState::Stale, Degraded),
        (PeerState::Expired, Unhealthy),
        (PeerState::Live, Healthy),
    ];
    for (state, expected) in states {
        with_peer(&mut view, state);
        view.generation += 1;
        let snapshot = checkout(&builder.build(&view));
        for (cluster, priority) in [("payments.shop.b", 0), ("payments.shop", 1), ("ledger.shop.b", 0)] {
            let assignment: eds::ClusterLoadAssignment = of(&snapshot, ResourceType::Endpoint, cluster);
            let found = listed(&assignment).into_iter().filter(|e| e.1.ends_with(".b")).map(|e| (e.0, e.3));
            assert_eq!(found.collect::<Vec<_>>(), [(priority, expected)], "{cluster} {state:?}");
        }
    }
}

#[test]
fn health_is_told_as_it_is() {
    use core::HealthStatus as H;
    for (health, expected) in [
        (Health::Unknown, H::Unknown),
        (Health::Healthy, H::Healthy),
        (Health::Unhealthy, H::Unhealthy),
        (Health::Draining, H::Draining),
    ] {
        let mut view = mesh();
        let local = Endpoint { health, ..endpoint("n2/pay-1", "10.0.0.2:8080", PAY_A) };
        let endpoints = vec![local].into();
        view.services
            .insert(service("payments.shop"), Arc::new(LocalService { export_to: BTreeSet::new(), endpoints }));
        let assignment: eds::ClusterLoadAssignment =
            of(&checkout(&builder().build(&view)), ResourceType::Endpoint, "payments.shop");
        assert_eq!(listed(&assignment)[0].3, expected);
    }
}

#[test]
fn with_several_peers_the_priorities_are_dense_even_when_an_arm_is_empty() {
    let mut view = mesh();
    view.federated.insert(service("payments.shop"), vec![peer("b"), peer("c")]);
    let snapshot = checkout(&builder().build(&view));
    for (name, expected) in
        [("payments.shop", vec![0, 1, 1]), ("payments.shop.b", vec![0, 1, 2]), ("payments.shop.c", vec![0, 1, 2])]
    {
        let assignment: eds::ClusterLoadAssignment = of(&snapshot, ResourceType::Endpoint, name);
        assert_eq!(assignment.endpoints.iter().map(|l| l.priority).collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn a_peer_cannot_claim_our_address_or_our_identities() {
    let mut view = mesh();
    let payments = import(vec![endpoint("m1/pay", "10.0.0.2:8080", PAY_B)], &[PAY_A, PAY_B]);
    let services = [(service("payments.shop"), payments)].into();
    let trust_domain: TrustDomain = "b.example".parse().unwrap();
    view.peers.insert(peer("b"), Arc::new(PeerView { trust_domain, state: PeerState::Live, services }));
    let snapshot = checkout(&builder().build(&view));
    let assignment: eds::ClusterLoadAssignment = of(&snapshot, ResourceType::Endpoint, "payments.shop");
    assert_eq!(listed(&assignment).len(), 1, "ours alone");
    let cluster: cds::Cluster = of(&snapshot, ResourceType::Cluster, "payments.shop.b");
    assert_eq!(accepted_by_arm(&cluster)["payments.shop.b"], [PAY_B]);
}

#[test]
fn clusters_neither_eject_for_errors_nor_limit_retries_nor_outlive_an_svid() {
    let cluster: cds::Cluster = of(&checkout(&builder().build(&mesh())), ResourceType::Cluster, "payments.shop");
    let outliers = cluster.outlier_detection.unwrap();
    let value = |field: Option<envoy_types::pb::google::protobuf::UInt32Value>| field.map(|field| field.value);
    assert!(outliers.split_external_local_origin_errors);
    assert_eq!(value(outliers.consecutive_local_origin_failure), Some(3));
    assert_eq!(value(outliers.max_ejection_percent), Some(100));
    for never in [
        outliers.enforcing_consecutive_5xx,
        outliers.enforcing_consecutive_gateway_failure,
        outliers.enforcing_success_rate,
        outliers.enforcing_local_origin_success_rate,
        outliers.enforcing_failure_percentage,
        outliers.enforcing_failure_percentage_local_origin,
    ] {
        assert_eq!(value(never), Some(0));
    }
    assert_eq!(value(cluster.circuit_breakers.unwrap().thresholds[0].max_retries), Some(1_000));
    assert_eq!(cluster.common_lb_config.unwrap().healthy_panic_threshold.unwrap().value.to_bits(), 0);
    let options: http::HttpProtocolOptions = unpack(cluster.typed_extension_protocol_options.values().next().unwrap());
    let lifetime = options.common_http_protocol_options.unwrap().max_connection_duration.unwrap();
    assert_eq!(lifetime.seconds, 24, "not more than half of the SVID's 60 s");
}

/// Whenever it began: a connection that the last moment of an SVID's service opened ends before that SVID does.
#[test]
fn no_connection_outlives_the_svid_that_it_began_with() {
    use rand::SeedableRng as _;
    use symbolon_kit::spiffe::renewal::renew_at;
    let issued = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    for ttl in [10, 60, 600, 3_600, 86_400].map(Duration::from_secs) {
        let (from, to) = (issued - Duration::from_secs(10), issued + ttl); // dated back for clocks that are behind
        let latest = (0..1_000).map(|_| renew_at(from, to, &mut rng)).max().unwrap();
        // As the default of all, and as one registration's own.
        let config = |svid_ttl| Config { trust_domain: "a.example".parse().unwrap(), svid_ttl };
        let (mut view, identity) = (mesh(), CHECKOUT.parse().unwrap());
        assert!(latest + config(ttl).connection_lifetime(&view, &identity) < to, "{ttl:?}");
        view.lifetimes.insert(identity.clone(), ttl);
        assert!(latest + config(ttl * 2).connection_lifetime(&view, &identity) < to, "{ttl:?}");
    }
}

#[test]
fn the_connections_of_an_identity_end_by_its_own_lifetime() {
    let (mut builder, mut view) = (builder(), mesh());
    let lifetime = |set: &SnapshotSet| {
        let cluster: cds::Cluster = of(&checkout(set), ResourceType::Cluster, "payments.shop");
        let options: http::HttpProtocolOptions =
            unpack(cluster.typed_extension_protocol_options.values().next().unwrap());
        options.common_http_protocol_options.unwrap().max_connection_duration.unwrap().seconds
    };
    let inbound = |set: &SnapshotSet| {
        let listener: lds::Listener = of(&set.proxies[&key("n2", PAY_A)], ResourceType::Listener, "inbound|pay-1");
        let filter = listener.filter_chains[0].filters[0].config_type.clone().unwrap();
        let lds::filter::ConfigType::TypedConfig(config) = filter else { panic!("typed") };
        let manager: hcm::HttpConnectionManager = unpack(&config);
        manager.common_http_protocol_options.unwrap().max_connection_duration.unwrap().seconds
    };
    let set = builder.build(&view);
    assert_eq!((lifetime(&set), inbound(&set)), (24, 24));
    view.lifetimes.insert(CHECKOUT.parse().unwrap(), Duration::from_secs(30));
    view.generation += 1;
    let set = builder.build(&view);
    assert_eq!((lifetime(&set), inbound(&set)), (12, 24), "each by its own");
    view.lifetimes = [(PAY_A.parse().unwrap(), Duration::from_secs(10))].into();
    view.generation += 1;
    let set = builder.build(&view);
    assert_eq!((lifetime(&set), inbound(&set)), (24, 4));
}

// === routes ===

#[test]
fn retries_leave_the_dead_arm_and_never_repeat_a_payment() {
    let routes: rds::RouteConfiguration =
        of(&checkout(&builder().build(&mesh())), ResourceType::Route, "outbound|127.0.0.1:15001");
    let host = routes.virtual_hosts.iter().find(|host| host.name == "payments.shop").unwrap();
    let by_name = |name: &str| route(host.routes.iter().find(|route| route.name == name).unwrap());
    for (name, retry_on, marked) in [
        ("idempotent", "connect-failure,refused-stream,reset,retriable-headers", None),
        ("other", "connect-failure,refused-stream,retriable-headers", Some("undelivered")),
        ("grpc", "connect-failure,refused-stream,retriable-headers", Some("undelivered")),
    ] {
        let policy = by_name(name).retry_policy.as_ref().unwrap();
        assert_eq!(policy.retry_on, retry_on, "{name}");
        assert_eq!(policy.num_retries.unwrap().value, 2);
        let Some(rds::retry_policy::retry_priority::ConfigType::TypedConfig(any)) =
            &policy.retry_priority.as_ref().unwrap().config_type
        else {
            panic!("no priority")
        };
        assert_eq!(unpack::<PreviousPrioritiesConfig>(any).update_frequency, 1);
        assert_eq!(policy.retriable_headers[0].name, MARKER);
        let exact = match policy.retriable_headers[0].header_match_specifier.as_ref().unwrap() {
            rds::header_matcher::HeaderMatchSpecifier::PresentMatch(true) => None,
            rds::header_matcher::HeaderMatchSpecifier::StringMatch(matcher) => match &matcher.match_pattern {
                Some(MatchPattern::Exact(value)) => Some(value.as_str()),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(exact, marked, "{name}");
    }
    assert_eq!(host.routes.last().unwrap().name, "other", "the one that matches everything comes last");
    assert_eq!(host.response_headers_to_remove, [MARKER]);
    assert_eq!(host.response_headers_to_add[0].header.as_ref().unwrap().key, UPSTREAM_ID);
}

#[test]
fn an_unknown_host_is_told_what_is_missing() {
    let many: Vec<String> = (0..500).map(|i| format!("service-with-a-long-name-{i}.shop")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (upstreams, expected) in [(vec!["x.shop"], "Known here: x.shop."), (vec![], "none"), (many, "and 476 more")] {
        let mut view = mesh();
        view.workloads.insert("n1".parse().unwrap(), vec![client("c", "127.0.0.1:15001", &upstreams)].into());
        let routes: rds::RouteConfiguration =
            of(&checkout(&builder().build(&view)), ResourceType::Route, "outbound|127.0.0.1:15001");
        let last = routes.virtual_hosts.last().unwrap();
        assert_eq!(last.domains, ["*"]);
        let Some(rds::route::Action::DirectResponse(answer)) = &last.routes[0].action else { panic!("not an answer") };
        assert_eq!(answer.status, 404);
        let Some(core::data_source::Specifier::InlineString(body)) = &answer.body.as_ref().unwrap().specifier else {
            panic!("no body")
        };
        assert!(body.contains(expected) && body.len() <= 4096, "{body}");
    }
}

#[test]
fn only_a_workloads_own_upstreams_are_programmed() {
    let mut view = mesh();
    let both =
        vec![client("one", "127.0.0.1:15001", &["payments.shop"]), client("two", "127.0.0.2:15001", &["x.shop"])];
    view.workloads.insert("n1".parse().unwrap(), both.into());
    let snapshot = checkout(&builder().build(&view));
    let clusters: Vec<_> = snapshot.of(ResourceType::Cluster).keys().map(|name| &**name).collect();
    assert_eq!(clusters, ["payments.shop", "payments.shop.b", "x.shop"]);
    for (name, expected) in
        [("outbound|127.0.0.1:15001", vec!["payments.shop", "*"]), ("outbound|127.0.0.2:15001", vec!["x.shop", "*"])]
    {
        let routes: rds::RouteConfiguration = of(&snapshot, ResourceType::Route, name);
        assert_eq!(routes.virtual_hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), expected);
    }
}

// === inbound ===

fn callers_of(snapshot: &Snapshot, workload: &str) -> Vec<String> {
    let routes: rds::RouteConfiguration = of(snapshot, ResourceType::Route, &format!("inbound|{workload}"));
    let host = &routes.virtual_hosts[0];
    assert_eq!(host.response_headers_to_remove, [MARKER]);
    let rules: rbac_filter::RbacPerRoute = unpack(&host.typed_per_filter_config["envoy.filters.http.rbac"]);
    let rules = rules.rbac.unwrap().rules.unwrap();
    let principal = |principal: &envoy_types::pb::envoy::config::rbac::v3::Principal| {
        let Some(envoy_types::pb::envoy::config::rbac::v3::principal::Identifier::Custom(custom)) =
            &principal.identifier
        else {
            panic!("not custom")
        };
        let config: mtls_authenticated::Config = unpack(custom.typed_config.as_ref().unwrap());
        match config.san_matcher.unwrap().matcher.unwrap().match_pattern.unwrap() {
            MatchPattern::Prefix(prefix) => prefix,
            other => panic!("{other:?}"),
        }
    };
    rules.policies["members"].principals.iter().map(principal).collect()
}

#[test]
fn a_workload_serves_its_own_domain_and_those_it_is_exported_to() {
    let mut builder = builder();
    let mut view = mesh();
    let workloads = vec![server("pay-1", Some("payments.shop"), 8080), server("lone", None, 8081)];
    view.workloads.insert("n2".parse().unwrap(), workloads.into());
    let snapshot = builder.build(&view).proxies[&key("n2", PAY_A)].clone();
    assert_eq!(callers_of(&snapshot, "pay-1"), ["spiffe://a.example/", "spiffe://b.example/"]);
    assert_eq!(callers_of(&snapshot, "lone"), ["spiffe://a.example/"]);

    let listeners = snapshot.of(ResourceType::Listener).clone();
    let local = Arc::make_mut(view.services.get_mut(&service("payments.shop")).unwrap());
    local.export_to.clear();
    view.generation += 1;
    let after = builder.build(&view).proxies[&key("n2", PAY_A)].clone();
    assert_eq!(callers_of(&after, "pay-1"), ["spiffe://a.example/"]);
    assert_eq!(*after.of(ResourceType::Listener), listeners, "a withdrawn export changes no listener");
}

#[test]
fn an_inbound_listener_verifies_marks_and_resumes_nothing() {
    let snapshot = builder().build(&mesh()).proxies[&key("n2", PAY_A)].clone();
    let listener: lds::Listener = of(&snapshot, ResourceType::Listener, "inbound|pay-1");
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) =
        &listener.filter_chains[0].transport_socket.as_ref().unwrap().config_type
    else {
        panic!("plain text")
    };
    let context: tls::DownstreamTlsContext = unpack(any);
    assert!(context.require_client_certificate.unwrap().value);
    assert!(context.disable_stateful_session_resumption);
    assert_eq!(
        context.session_ticket_keys_type,
        Some(tls::downstream_tls_context::SessionTicketKeysType::DisableStatelessSessionResumption(true))
    );
    assert_eq!(context.common_tls_context.as_ref().unwrap().tls_certificate_sds_secret_configs[0].name, PAY_A);
    let manager = manager(&listener);
    let marks: Vec<_> = manager
        .local_reply_config
        .unwrap()
        .mappers
        .iter()
        .map(|mapper| {
            let Some(
                envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier::ResponseFlagFilter(
                    f,
                ),
            ) = mapper.filter.as_ref().unwrap().filter_specifier.clone()
            else {
                panic!("not by flag")
            };
            let header = mapper.headers_to_add[0].header.as_ref().unwrap();
            (f.flags, header.key.clone(), header.value.clone())
        })
        .collect();
    let marker = MARKER.to_owned();
    assert_eq!(
        marks,
        [
            (vec!["UF".to_owned(), "UH".to_owned()], marker.clone(), "undelivered".to_owned()),
            (vec!["UC".to_owned()], marker, "interrupted".to_owned())
        ]
    );
    let app: cds::Cluster = of(&snapshot, ResourceType::Cluster, "app|pay-1");
    assert!(app.transport_socket.is_none() && app.load_assignment.is_some());
}

// === what is never published ===

#[test]
fn an_inconsistent_snapshot_is_held_back_for_its_proxy_alone() {
    let mut builder = builder();
    let mut view = mesh();
    let good = builder.build(&view);
    let n2 = key("n2", PAY_A);
    let twice = vec![server("pay-1", Some("payments.shop"), 8080), server("pay-2", Some("payments.shop"), 8080)];
    view.workloads.insert("n2".parse().unwrap(), twice.into());
    view.generation += 1;
    let held = builder.build(&view);
    assert_eq!(held.proxies[&n2], good.proxies[&n2], "it keeps what it had");
    assert_eq!(held.proxies[&n2].generation, 1, "and does not count as up to date");
    assert_eq!(builder.held()[&n2].label(), "address");
    assert_eq!(checkout(&held).generation, 2, "the others go on");

    view.workloads.insert("n2".parse().unwrap(), vec![server("pay-1", Some("payments.shop"), 8080)].into());
    view.generation += 1;
    let repaired = builder.build(&view);
    assert!(builder.held().is_empty());
    assert_eq!(repaired.proxies[&n2].generation, 3);
}

#[test]
fn arms_that_change_their_order_are_held_back() {
    let mut builder = builder();
    let mut view = mesh();
    view.federated.insert(service("payments.shop"), vec![peer("b"), peer("c")]);
    builder.build(&view);
    view.federated.insert(service("payments.shop"), vec![peer("c"), peer("b")]);
    builder.build(&view);
    assert_eq!(builder.held()[&key("n1", CHECKOUT)], Inconsistency::Reordered { service: service("payments.shop") });
    view.federated.insert(service("payments.shop"), vec![peer("c")]);
    builder.build(&view);
    assert!(builder.held().is_empty(), "an arm may go");
}

#[test]
fn weights_for_other_arms_than_there_are_are_held_back() {
    let mut builder = builder();
    let mut view = mesh();
    let split = Split::with_remote(vec![(peer("gone"), Weight::new(500).unwrap())]).unwrap();
    view.splits.insert(service("payments.shop"), (split, 1));
    assert!(!builder.build(&view).proxies.contains_key(&key("n1", CHECKOUT)));
    let why = &builder.held()[&key("n1", CHECKOUT)];
    assert_eq!(*why, Inconsistency::Weights { service: service("payments.shop"), sum: 9_500 });
}

// === what stays the same ===

#[test]
fn what_proxies_have_in_common_is_one_resource() {
    let mut view = mesh();
    let same = vec![client("checkout", "127.0.0.1:15001", &["payments.shop"])];
    view.workloads.insert("n3".parse().unwrap(), same.clone().into());
    view.workloads.insert("n4".parse().unwrap(), same.into());
    let set = builder().build(&view);
    let (three, four) = (&set.proxies[&key("n3", CHECKOUT)], &set.proxies[&key("n4", CHECKOUT)]);
    for (kind, resources) in three.resources.iter() {
        for (name, resource) in resources {
            assert!(Arc::ptr_eq(resource, &four.of(*kind)[name]), "{name}");
        }
    }
    let other = checkout(&set).of(ResourceType::Endpoint)["payments.shop"].clone();
    assert!(Arc::ptr_eq(&other, &three.of(ResourceType::Endpoint)["payments.shop"]), "whatever else they need");
}

#[test]
fn a_change_elsewhere_keeps_the_resources_and_moves_the_generation() {
    let mut builder = builder();
    let mut view = mesh();
    let before = checkout(&builder.build(&view));
    let endpoints = vec![endpoint("n9/x", "10.9.0.1:1", PAY_A)].into();
    view.services.insert(service("x.shop"), Arc::new(LocalService { export_to: BTreeSet::new(), endpoints }));
    view.generation += 1;
    let after = checkout(&builder.build(&view));
    assert!(Arc::ptr_eq(&before.resources, &after.resources));
    assert_eq!((before.generation, after.generation), (1, 2));
}

#[test]
fn a_weight_changes_routes_and_an_endpoint_changes_assignments_alone() {
    let mut builder = builder();
    let mut view = mesh();
    let changed = |before: &Snapshot, after: &Snapshot| -> Vec<(ResourceType, String)> {
        let all = after.resources.iter().flat_map(|(kind, all)| all.values().map(move |resource| (*kind, resource)));
        all.filter(|(kind, resource)| !Arc::ptr_eq(resource, &before.of(*kind)[&resource.name]))
            .map(|(kind, resource)| (kind, resource.name.to_string()))
            .collect()
    };
    let first = checkout(&builder.build(&view));
    set_split(&mut view, 250);
    let second = checkout(&builder.build(&view));
    assert_eq!(changed(&first, &second), [(ResourceType::Route, "outbound|127.0.0.1:15001".to_owned())]);

    let two = vec![endpoint("n2/pay-1", "10.0.0.2:8080", PAY_A), endpoint("n3/pay-2", "10.0.0.3:8080", PAY_A)];
    let export_to = [peer("b")].into();
    view.services.insert(service("payments.shop"), Arc::new(LocalService { export_to, endpoints: two.into() }));
    let third = checkout(&builder.build(&view));
    let both = ["payments.shop", "payments.shop.b"].map(|name| (ResourceType::Endpoint, name.to_owned()));
    assert_eq!(changed(&second, &third), both);
}

#[test]
fn xds_34_the_edges_lead_from_listeners_to_endpoints() {
    let snapshot = checkout(&builder().build(&mesh()));
    let needs = |kind, name: &str| -> Vec<String> {
        snapshot.of(kind)[name].needs.iter().map(|(kind, name)| format!("{kind:?} {name}")).collect()
    };
    assert_eq!(needs(ResourceType::Listener, "outbound|127.0.0.1:15001"), ["Route outbound|127.0.0.1:15001"]);
    let clusters = ["later.shop", "ledger.shop.b", "payments.shop", "payments.shop.b"].map(|c| format!("Cluster {c}"));
    assert_eq!(needs(ResourceType::Route, "outbound|127.0.0.1:15001"), clusters);
    assert_eq!(needs(ResourceType::Cluster, "payments.shop.b"), ["Endpoint payments.shop.b"]);
    assert_eq!(needs(ResourceType::Endpoint, "payments.shop.b"), Vec::<String>::new());
}

/// Prints the time; it asserts only that the work is done, since machines differ.
#[test]
fn one_endpoint_among_twenty_thousand() {
    let mut view = mesh();
    let names: Vec<String> = (0..1_000).map(|i| format!("s{i}.shop")).collect();
    let endpoints = |i: usize, n: usize| -> Arc<[Endpoint]> {
        (0..n)
            .map(|e| endpoint(&format!("n/{e:02}"), &format!("10.{}.{}.{e}:15006", i / 250, i % 250), PAY_A))
            .collect()
    };
    for (i, name) in names.iter().enumerate() {
        let local = LocalService { export_to: BTreeSet::new(), endpoints: endpoints(i, 20) };
        view.services.insert(service(name), Arc::new(local));
    }
    let upstreams: Vec<&str> = names.iter().map(String::as_str).collect();
    view.workloads.insert("n1".parse().unwrap(), vec![client("checkout", "127.0.0.1:15001", &upstreams)].into());
    let mut builder = builder();
    let clock = tokio::time::Instant::now;
    let start = clock();
    let before = checkout(&builder.build(&view));
    let cold = start.elapsed();
    let local = LocalService { export_to: BTreeSet::new(), endpoints: endpoints(500, 19) };
    view.services.insert(service("s500.shop"), Arc::new(local));
    view.generation += 1;
    let start = clock();
    let after = checkout(&builder.build(&view));
    let warm = start.elapsed();
    view.generation += 1;
    let start = clock();
    builder.build(&view);
    let idle = start.elapsed();
    eprintln!(
        "1,000 services x 20 endpoints, this build profile: cold {cold:?}, one endpoint {warm:?}, nothing {idle:?}"
    );
    let all = after.of(ResourceType::Endpoint).values().zip(before.of(ResourceType::Endpoint).values());
    assert_eq!(all.filter(|(after, before)| !Arc::ptr_eq(after, before)).count(), 1);
}
