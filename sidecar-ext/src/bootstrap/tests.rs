use super::*;

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn inputs() -> Inputs {
    Inputs {
        identity: id("spiffe://a.example/ns/shop/sa/payments"),
        node: "node-1".into(),
        agent_socket: "agent.sock".into(),
        xds_socket: "xds.sock".into(),
        admin: Some("127.0.0.1:9901".parse().unwrap()),
    }
}

#[test]
fn yaml_and_json_say_the_same() {
    let value = bootstrap(&inputs()).unwrap();
    let yaml: Value = serde_saphyr::from_str(&render(&inputs(), Format::Yaml).unwrap()).unwrap();
    let json: Value = serde_json::from_str(&render(&inputs(), Format::Json).unwrap()).unwrap();
    assert_eq!(yaml, value);
    assert_eq!(json, value);
}

#[test]
fn carries_the_contract_with_the_control_plane() {
    let value = bootstrap(&inputs()).unwrap();
    assert_eq!(value["node"], json!({ "id": "spiffe://a.example/ns/shop/sa/payments", "cluster": "node-1" }));
    let ads = &value["dynamic_resources"]["ads_config"];
    assert_eq!(ads["api_type"], "DELTA_GRPC");
    assert_eq!(ads["grpc_services"][0]["envoy_grpc"]["cluster_name"], XDS_CLUSTER);
    assert_eq!(ads["grpc_services"][0]["envoy_grpc"]["retry_policy"]["retry_back_off"]["max_interval"], "1s");
    let layers = value["layered_runtime"]["layers"].as_array().unwrap();
    assert_eq!(layers[0]["rtds_layer"]["name"], RUNTIME_LAYER);
    assert!(layers.last().unwrap().get("admin_layer").is_some());
    let pipe = |at: usize| {
        let cluster = &value["static_resources"]["clusters"][at];
        let address = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
        (cluster["name"].clone(), address["pipe"]["path"].clone())
    };
    assert_eq!(pipe(0), (AGENT_CLUSTER.into(), "agent.sock".into()), "relative paths stay relative");
    assert_eq!(pipe(1), (XDS_CLUSTER.into(), "xds.sock".into()));
    assert_eq!(value["admin"]["address"]["socket_address"]["port_value"], 9901);
    assert!(bootstrap(&Inputs { admin: None, ..inputs() }).unwrap().get("admin").is_none());
}

#[test]
fn an_identity_is_chosen_or_listed() {
    let (one, two) = (id("spiffe://a.example/one"), id("spiffe://a.example/two"));
    assert_eq!(choose([&one, &one], None), Ok(one.clone()), "two workloads of one identity share an Envoy");
    assert_eq!(choose([&one, &two], Some(&two)), Ok(two.clone()));
    assert_eq!(choose([], None), Err(Error::NoWorkloads));
    let several = choose([&two, &one], None).unwrap_err();
    assert_eq!(several, Error::Several(vec![one.clone(), two.clone()]));
    assert!(several.to_string().contains("spiffe://a.example/two"), "the error lists them: {several}");
    assert_eq!(choose([&one], Some(&two)), Err(Error::Unknown { wanted: two, listed: vec![one] }));
}

#[test]
fn a_socket_that_envoy_could_not_open_is_refused() {
    let long = Inputs { xds_socket: format!("/{}", "x".repeat(107)).into(), ..inputs() };
    assert!(matches!(render(&long, Format::Yaml), Err(Error::LongPath(_))));
    let fits = Inputs { xds_socket: format!("/{}", "x".repeat(106)).into(), ..inputs() };
    assert!(render(&fits, Format::Yaml).is_ok());
}
