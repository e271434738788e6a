use super::*;
use crate::spiffe::bundle::map::MapError;

fn read(map: &Value) -> Result<BundleMap, MapError> {
    BundleMap::parse(&serde_json::to_vec(map).unwrap(), noon())
}

fn refused(map: &Value) -> MapError {
    read(map).unwrap_err()
}

#[test]
fn b_7_the_map_is_keyed_by_domain_and_has_no_hints() {
    let b = Ca::new("b.example");
    let tokens = vec![JwtAuthority { kid: "1".into(), key: TokenKey::from_jwk(B_KEY.as_object().unwrap()).unwrap() }];
    let a = A.bundle().with_tokens(tokens.clone(), tokens);
    let written = bundle_map([&b.bundle(), &a]);
    let map: Value = serde_json::from_slice(&written).unwrap();
    let mut want = json!({"trust_domains": {"a.example": good(), "b.example": {}}});
    want["trust_domains"]["b.example"] = serde_json::from_slice(&b.bundle().to_jwks()).unwrap();
    for domain in ["a.example", "b.example"] {
        want["trust_domains"][domain].as_object_mut().unwrap().remove("spiffe_refresh_hint");
    }
    assert_eq!(map, want, "and for Envoy no keys but X.509 authorities");
    assert_eq!(bundle_map([]), br#"{"trust_domains":{}}"#);
    let read = BundleMap::parse(&written, noon()).unwrap();
    let read: Vec<_> = read.0.into_iter().map(|(domain, parsed)| (domain, parsed.bundle, parsed.warnings)).collect();
    let want = [(domain(), A.bundle(), vec![]), (b.trust_domain.clone(), b.bundle(), Vec::<String>::new())];
    assert_eq!(read, want);
}

#[test]
fn b_7_a_hint_inside_a_map_changes_nothing() {
    let mut hinted = good();
    hinted["spiffe_refresh_hint"] = json!(30);
    let read = read(&json!({"trust_domains": {"a.example": hinted}})).unwrap();
    assert_eq!(read.0[&domain()].bundle.refresh_hint, DEFAULT_REFRESH);
}

#[test]
fn b_7_trust_domains_must_be_there() {
    for map in [json!({}), json!({"trust_domains": null}), json!({"trust_domains": []}), json!([]), good()] {
        assert_eq!(refused(&map), MapError::NoTrustDomains, "{map}");
    }
    assert_eq!(read(&json!({"trust_domains": {}, "future": 1})).unwrap().0.len(), 0);
}

/// Written the same way or not.
#[test]
fn b_7_a_domain_twice_is_refused() {
    let twice = format!(r#"{{"trust_domains":{{"a.example":{0},"a.example":{0}}}}}"#, good());
    let error = BundleMap::parse(twice.as_bytes(), noon()).unwrap_err();
    assert!(matches!(&error, MapError::Malformed(why) if why.contains("appears twice")), "{error}");
    assert_eq!(
        refused(&json!({"trust_domains": {"a.example": good(), "A.Example": good()}})),
        MapError::Twice(domain())
    );
    for name in ["", "spiffe://a.example", "a.example/x", "a example"] {
        assert_eq!(refused(&json!({"trust_domains": {name: good()}})), MapError::Name(name.into()));
    }
}

/// All of it, or nothing (App. B.1).
#[test]
fn b_7_one_bad_bundle_refuses_the_map() {
    let with = |bundle: Value| json!({"trust_domains": {"a.example": good(), "b.example": bundle}});
    let b = || "b.example".parse::<TrustDomain>().unwrap();
    assert_eq!(refused(&with(json!({}))), MapError::Bundle(b(), BundleError::NoKeys));
    let foreign = BundleError::OtherTrustDomain { index: 0, owner: "a.example".into() };
    assert_eq!(refused(&with(good())), MapError::Bundle(b(), foreign), "a's authority under b's name");
    let read = read(&with(json!({"keys": []}))).unwrap();
    assert_eq!(read.0[&b()].content, Content::Empty, "a statement, to be confirmed");
}

#[test]
fn b_7_a_map_is_bounded() {
    let names = |count: usize| {
        let domains = (0..count).map(|n| (format!("d{n}.example"), json!({"keys": []})));
        json!({"trust_domains": domains.collect::<serde_json::Map<_, _>>()})
    };
    assert_eq!(read(&names(1024)).unwrap().0.len(), 1024);
    assert_eq!(refused(&names(1025)), MapError::TooManyDomains);
    let blank = |bytes: usize| BundleMap::parse(&vec![b' '; bytes], noon()).unwrap_err();
    assert_eq!(blank(16 * 1024 * 1024 + 1), MapError::TooLarge);
    assert!(matches!(blank(16 * 1024 * 1024), MapError::Malformed(_)));
}
