use super::*;

const FILE: &str = "
trustDomain: a.example
controlPlane: ['127.0.0.1:8081']
bootstrapBundle: bundle.json
joinTokenFile: token
dataDir: data
sockets: {agent: run/agent.sock, xds: run/xds.sock}
http: 127.0.0.1:0
healthInterval: 1s
envoyConcurrency: 1
workloads:
- name: payments-1
  service: payments.shop
  identity: spiffe://a.example/ns/shop/sa/payments
  selectors: ['unix:uid:1000']
  address: 127.0.0.1:9000
  inbound: 127.0.0.1:15006
  health: {http: /healthz}
- name: checkout
  identity: spiffe://a.example/ns/shop/sa/checkout
  outbound: 127.0.0.1:15001
  upstreams: [payments.shop, ledger.shop.b]
";

fn read(text: &str) -> Result<Config, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sidecar.yaml");
    std::fs::write(&path, text).unwrap();
    load(&path, [])
}

#[test]
fn the_whole_file_is_understood() {
    let config = read(FILE).unwrap();
    assert_eq!(config.trust_domain.as_str(), "a.example");
    assert_eq!(config.evidence, Evidence::JoinTokenFile("token".into()));
    assert_eq!(config.health_interval, Duration::from_secs(1));
    let [payments, checkout] = &config.workloads[..] else { panic!() };
    assert_eq!(payments.health, Some(HealthCheck::Http("/healthz".into())));
    assert_eq!(payments.weight, 1);
    assert!(payments.selectors.contains(&"unix:uid:1000".parse().unwrap()));
    assert_eq!(checkout.upstreams, ["payments.shop", "ledger.shop.b"]);
    assert_eq!(checkout.service, None);
}

#[test]
fn what_may_be_left_out_has_a_default() {
    let config = read("{trustDomain: a.example, controlPlane: ['cp:1'], bootstrapBundle: b}").unwrap();
    assert_eq!(config.sockets, Sockets::default());
    assert_eq!((config.evidence, config.workloads.len()), (Evidence::None, 0));
}

#[test]
fn a_field_that_says_what_cannot_be_is_named() {
    for (from, to, says) in [
        ("trustDomain: a.example", "trustDomain: A_!", "trustDomain: "),
        ("['127.0.0.1:8081']", "[]", "controlPlane: "),
        ("['127.0.0.1:8081']", "['127.0.0.1']", "controlPlane[0]: "),
        ("joinTokenFile: token", "{joinTokenFile: token, joinToken: t}", ""),
        ("joinTokenFile: token", "joinTokenFile: token\njoinToken: t", "not both"),
        ("joinTokenFile: token", "joinTokenFile: token\nattest: {x509pop: {certificate: c, key: k}}", "not both"),
        ("joinTokenFile: token", "attest: {}", "x509pop"),
        ("joinTokenFile: token", "workloadAttestors: [unix, docker]", "workloadAttestors[1]: the attestors"),
        ("joinTokenFile: token", "workloadAttestors: []", "workloadAttestors: name at least one"),
        ("xds: run/xds.sock", "xds: run/agent.sock", "sockets: "),
        ("http: 127.0.0.1:0", "http: localhost:0", "http: "),
        ("healthInterval: 1s", "healthInterval: 0s", "healthInterval: "),
        ("envoyConcurrency: 1", "envoyConcurrency: 0", "envoyConcurrency: "),
        ("name: checkout", "name: payments-1", "workloads[1].name: payments-1 is there twice"),
        ("name: checkout", "name: Check_out", "workloads[1].name: "),
        ("service: payments.shop", "service: payments", "workloads[0].service: "),
        ("spiffe://a.example/ns/shop/sa/payments", "spiffe://b.example/w", "is not in trust domain a.example"),
        ("spiffe://a.example/ns/shop/sa/payments", "spiffe://a.example/symbolon/node/x", "workloads[0].identity: "),
        ("spiffe://a.example/ns/shop/sa/payments", "spiffe://a.example", "workloads[0].identity: "),
        ("unix:uid:1000", "unix:user:root", "workloads[0].selectors[0]: "),
        ("address: 127.0.0.1:9000", "address: 127.0.0.1", "workloads[0].address: "),
        ("  address: 127.0.0.1:9000\n", "", "workloads[0].health: "),
        ("address: 127.0.0.1:9000", "address: 127.0.0.1:0", "workloads[0].address: "),
        ("  inbound: 127.0.0.1:15006\n", "", "workloads[0].service: "),
        (
            "  address: 127.0.0.1:9000\n  inbound: 127.0.0.1:15006\n  health: {http: /healthz}\n",
            "",
            "workloads[0].service: ",
        ),
        ("inbound: 127.0.0.1:15006", "inbound: 127.0.0.1:0", "workloads[0].inbound: "),
        (
            "inbound: 127.0.0.1:15006",
            "inbound: 0.0.0.0:15006",
            "workloads[0].inbound: must be one address, not 0.0.0.0",
        ),
        ("inbound: 127.0.0.1:15006", "inbound: '[::]:15006'", "workloads[0].inbound: "),
        ("inbound: 127.0.0.1:15006", "inbound: '[::ffff:0.0.0.0]:15006'", "workloads[0].inbound: "),
        ("outbound: 127.0.0.1:15001", "outbound: 127.0.0.1:0", "workloads[1].outbound: "),
        ("outbound: 127.0.0.1:15001", "outbound: 0.0.0.0:15001", "workloads[1].outbound: "),
        ("outbound: 127.0.0.1:15001", "inbound: 127.0.0.1:15006", "workloads[1].upstreams: "),
        ("  outbound: 127.0.0.1:15001\n", "", "workloads[1].upstreams: "),
        (
            "outbound: 127.0.0.1:15001",
            "outbound: 127.0.0.1:15001\n  inbound: 127.0.0.1:15006",
            "workloads[1].inbound: 127.0.0.1:15006 is another workload's already",
        ),
        ("{http: /healthz}", "{http: healthz}", "workloads[0].health.http: "),
        ("{http: /healthz}", "{http: /, tcp: true}", "workloads[0].health: "),
        ("{http: /healthz}", "{}", "workloads[0].health: "),
        ("ledger.shop.b", "ledger", "workloads[1].upstreams[1]: "),
        ("healthInterval", "healthIntervall", "healthInterval"),
    ] {
        let text = FILE.replacen(from, to, 1);
        assert_ne!(text, FILE, "{from}");
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{to}: {error}");
        assert!(error.contains("sidecar.yaml"), "{error}");
    }
}

#[test]
fn a_node_may_attest_by_a_certificate() {
    let text = FILE.replacen("joinTokenFile: token", "attest: {x509pop: {certificate: c.pem, key: k.pem}}", 1);
    let file = X509PopFile { certificate: "c.pem".into(), key: "k.pem".into() };
    assert_eq!(read(&text).unwrap().evidence, Evidence::X509Pop(file));
}

#[test]
fn only_workloads_change_without_a_restart() {
    let running = read(FILE).unwrap();
    let newer = read(&FILE.replace("name: checkout", "name: cart")).unwrap();
    assert_eq!(running.needs_restart(&newer), Vec::<&str>::new());
    let newer = read(&FILE.replace("1s", "2s").replace("run/xds", "run/ads")).unwrap();
    assert_eq!(running.needs_restart(&newer), ["sockets", "healthInterval"]);
}

#[test]
fn a_token_is_not_shown() {
    let config = read(&FILE.replace("joinTokenFile: token", "joinToken: s3cret")).unwrap();
    assert!(!format!("{config:?}").contains("s3cret"));
}
