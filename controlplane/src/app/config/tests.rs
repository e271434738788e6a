use super::*;

/// What a demo's file looks like, with `from` replaced by `to`.
fn with(from: &str, to: &str) -> String {
    let good = r#"trustDomain: a.example
dataDir: data
listen: {node: "127.0.0.1:0", federation: "127.0.0.1:0", http: "127.0.0.1:0", admin: admin/admin.sock}
identity: {caTtl: 24h, svidTtl: 60s, refreshHint: 60s}
services:
- name: payments.shop
- name: ledger.shop
  exportTo: [b]
federatedServices:
- name: payments.shop
  peers: [b]
rolloutPolicy:
  steps:
  - {weight: 5, minDuration: 12s}
  - {weight: 25, minDuration: 9s}
  - {weight: 100, minDuration: 9s}
  backoff: 5s
peers:
- name: b
  trustDomain: b.example
  grants:
    identities: ["spiffe://b.example/ns/shop/sa/*"]
    names: ["*.shop"]
    addresses: [127.2.0.0/16]
federation: {beat: 1s, suspectAfter: 3s, staleAfter: 30s, expiredAfter: 15m}
loadReportInterval: 1s
"#;
    assert!(good.contains(from), "{from}");
    good.replacen(from, to, 1)
}

fn load_text(text: &str) -> Result<Config, Refused> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    std::fs::write(&path, text).unwrap();
    load(&path, [])
}

fn findings(text: &str) -> Vec<String> {
    match load_text(text).unwrap_err() {
        Refused::Findings { findings, .. } => findings.iter().map(|finding| finding.at(Path::new("f"))).collect(),
        Refused::Unreadable(error) => panic!("{error}"),
    }
}

#[test]
fn a_good_file_becomes_typed_values() {
    let config = load_text(&with("trustDomain: a.example", "trustDomain: a.example")).unwrap();
    assert_eq!(config.trust_domain.as_str(), "a.example");
    assert_eq!(config.peers[0].grants.addresses.len(), 1);
    assert_eq!(config.policy.steps.iter().map(|step| step.weight).collect::<Vec<_>>(), [5, 25, 100]);
    assert_eq!(config.policy.report_every, Duration::from_secs(1));
    assert_eq!(config.services[1].export_to[0].as_str(), "b");
}

#[test]
fn the_defaults_alone_are_a_good_configuration() {
    load_text("trustDomain: a.example\n").unwrap();
}

#[test]
fn each_problem_has_its_code_field_and_line() {
    for (from, to, wanted) in [
        ("trustDomain: a.example", "trustDomain: \"a example\"", "f: SYM0002: trustDomain: "),
        ("node: \"127.0.0.1:0\"", "node: localhost", "f:3: SYM0003: listen.node: "),
        ("name: ledger.shop", "name: ledger", "f:7: SYM0005: services[1].name: "),
        ("name: ledger.shop", "name: payments.shop", "f: SYM0006: services[1].name: "),
        ("exportTo: [b]", "exportTo: [c]", "f:8: SYM0007: services[1].exportTo: \"c\" is not one of the peers (b)"),
        ("peers: [b]", "peers: [b, b]", "f: SYM0006: federatedServices[0].peers: "),
        ("peers: [b]", "peers: []", "f: SYM0010: federatedServices[0].peers: "),
        ("trustDomain: b.example", "trustDomain: a.example", "f: SYM0002: peers[0].trustDomain: is our own"),
        ("[127.2.0.0/16]", "[127.2.0.1/16]", "f:24: SYM0009: peers[0].grants.addresses: "),
        ("\"*.shop\"", "\"*\"", "f:23: SYM0009: peers[0].grants.names: "),
        ("spiffe://b.example/ns", "spiffe://c.example/ns", "f:22: SYM0009: peers[0].grants.identities: "),
        ("refreshHint: 60s", "refreshHint: 59s", "f: SYM0004: identity.refreshHint: "),
        ("refreshHint: 60s", "refreshHint: 301s", "f: SYM0004: identity.refreshHint: "),
        ("refreshHint: 60s", "refreshHint: 60s, nodeTtl: 5s", "f: SYM0004: identity.nodeTtl: "),
        (
            "refreshHint: 60s",
            "refreshHint: 60s, x509pop: {caBundle: c, name: n1}",
            "f:4: SYM0005: identity.x509pop.name: ",
        ),
        ("suspectAfter: 3s", "suspectAfter: 30s", "f: SYM0010: federation: "),
        ("trustDomain: b.example", "trustDomain: b.example\n  address: https://b", "f:21: SYM0011: peers[0].address: "),
    ] {
        let found = findings(&with(from, to));
        assert!(found.iter().any(|finding| finding.starts_with(wanted)), "{to}: {found:?} lacks {wanted}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let text = with("name: ledger.shop", "name: ledger").replace("svidTtl: 60s", "svidTtl: 1s");
    assert_eq!(findings(&text).len(), 2);
}

#[test]
fn bad_133_steps_must_rise_within_bounds() {
    for (from, to) in [("weight: 25", "weight: 5"), ("weight: 100", "weight: 101"), ("weight: 5,", "weight: 0,")] {
        let found = findings(&with(from, to));
        assert!(found[0].starts_with("f: SYM0008: rolloutPolicy.steps: "), "{found:?}");
    }
}

#[test]
fn bad_135_an_svid_must_not_outlive_its_authority() {
    for (from, to) in [("caTtl: 24h", "caTtl: 1m"), ("svidTtl: 60s", "svidTtl: 25h"), ("svidTtl: 60s", "svidTtl: 1s")] {
        let found = findings(&with(from, to));
        assert!(found.iter().any(|finding| finding.starts_with("f: SYM0004: identity.svidTtl: ")), "{found:?}");
    }
}

#[test]
fn the_schedule_of_authorities_must_fit_into_their_life() {
    let text = |rest: &str| with("identity: {caTtl: 24h,", &format!("identity: {{{rest}, caTtl: 24h,"));
    let fine = "authority: {prepareBefore: 18h, activateBefore: 2h, propagation: 15h, jwtTtl: 12h}";
    assert!(load_text(&text(fine)).is_ok());
    for (rest, field) in [
        ("authority: {prepareBefore: 23h}", "authority.prepareBefore"),
        ("authority: {activateBefore: 13h}", "authority.activateBefore"),
        ("authority: {propagation: 9h}", "authority.propagation"),
        ("authority: {prepareBefore: 2h}", "authority.propagation"),
        ("authority: {activateBefore: 30s}", "svidTtl"),
        ("authority: {jwtTtl: 59s}", "authority.jwtTtl"),
    ] {
        let found = findings(&text(rest));
        assert!(
            found.iter().any(|one| one.starts_with(&format!("f: SYM0004: identity.{field}: "))),
            "{rest}: {found:?}"
        );
    }
}

#[test]
fn a_key_manager_is_named_whole() {
    let manager = |rest: &str| {
        load_text(&with("identity: {caTtl: 24h,", &format!("identity: {{keyManager: {{{rest}}}, caTtl: 24h,")))
    };
    for fine in ["kind: memory", "kind: disk", "kind: pkcs11, module: /m.so, token: t, pinFile: /p, deadline: 2s"] {
        assert!(manager(fine).is_ok(), "{fine}");
    }
    for wrong in ["kind: vault", "kind: pkcs11, module: /m.so", "token: t", "deadline: 5m"] {
        assert!(manager(wrong).unwrap_err().to_string().contains("SYM0014: identity.keyManager"), "{wrong}");
    }
}

#[test]
fn bad_130_an_unknown_field_is_a_finding_with_its_line() {
    let found = findings(&with("exportTo: [b]", "exportsTo: [b]"));
    assert_eq!(found, ["f:8: SYM0001: unknown field \"exportsTo\"; did you mean \"exportTo\"?"]);
}

#[test]
fn what_cannot_be_read_is_no_finding() {
    assert!(matches!(load(Path::new("/does/not/exist"), []), Err(Refused::Unreadable(_))));
}

#[test]
fn bad_137_relationships_and_the_endpoint_are_checked_before_anything_is_bound() {
    let file = |lines: &str| findings(&with("loadReportInterval: 1s", &format!("loadReportInterval: 1s\n{lines}")));
    let good = "https_web, url: \"https://c.example/\"";
    let one = |rest: &str| file(&format!("relationships: [{{trustDomain: c.example, profile: {rest}}}]"));
    let loads = |lines: &str| load_text(&with("loadReportInterval: 1s", &format!("loadReportInterval: 1s\n{lines}")));
    let config = loads(&format!("relationships: [{{trustDomain: c.example, profile: {good}}}]")).unwrap();
    let profiles: Vec<_> = config.relationships.iter().map(|one| one.profile.label()).collect();
    assert_eq!(profiles, ["https_web", "link"], "the peer has one, too");
    for (lines, code) in [
        ("https_web, url: \"http://c.example/\"", "SYM0012"),
        ("https_web, url: \"https://user:word@c.example/\"", "SYM0012"),
        ("https_web", "SYM0012"),
        ("link", "SYM0012"),
        ("carrier_pigeon", "SYM0012"),
        ("https_spiffe, url: \"https://c.example/\", endpointSpiffeId: \"spiffe://c.example/x\"", "SYM0012"),
        ("https_spiffe, url: \"https://c.example/\", endpointSpiffeId: \"spiffe://d.example/x\"", "SYM0012"),
    ] {
        let found = one(lines);
        assert!(found.iter().any(|finding| finding.contains(code)), "{lines}: {found:?}");
    }
    let twice = format!("{{trustDomain: c.example, profile: {good}}}");
    assert!(file(&format!("relationships: [{twice}, {twice}]"))[0].contains("SYM0006"));
    for (endpoint, code) in [
        ("listen: nowhere, profile: https_spiffe", "SYM0003"),
        ("profile: https_web", "SYM0013"),
        ("profile: https_web, certificate: a, key: b, spiffeId: \"spiffe://a.example/x\"", "SYM0013"),
        ("profile: https_spiffe, certificate: a, key: b", "SYM0013"),
        ("profile: https_spiffe, spiffeId: \"spiffe://b.example/x\"", "SYM0013"),
        ("profile: https_spiffe, spiffeId: \"spiffe://a.example/symbolon/node/x\"", "SYM0013"),
        ("profile: http", "SYM0013"),
    ] {
        let found = file(&format!("bundleEndpoint: {{{endpoint}}}"));
        assert!(found.iter().any(|finding| finding.contains(code)), "{endpoint}: {found:?}");
    }
    assert!(loads("bundleEndpoint: {profile: https_spiffe, spiffeId: \"spiffe://a.example/spire/server\"}").is_ok());
    // A peer with an endpoint beside its link: one relationship, and both feed it.
    let both = loads("relationships: [{trustDomain: b.example, profile: https_web, url: \"https://b.example/\"}]");
    assert_eq!(both.unwrap().relationships.len(), 1);
}
