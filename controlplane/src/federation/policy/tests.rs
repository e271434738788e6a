use symbolon_proto::federation::resource::R;

use super::super::testing::{a_bundle, a_capacity, a_service, a_shard, endpoint, policy, put};
use super::*;

fn admit(key: &str, resource: &wire::Resource) -> Result<Admitted, Reason> {
    policy().admit(key, resource, Usage::default()).map_err(|refused| refused.reason)
}

/// A shard of one endpoint that differs from a good one by `change`.
fn with(change: impl FnOnce(&mut wire::Endpoint)) -> Result<Admitted, Reason> {
    let mut one = endpoint(1);
    change(&mut one);
    let shard = wire::EndpointShard { service: "payments.shop".into(), shard: 0, endpoints: vec![one] };
    admit("shard/payments.shop/0", &put(R::Shard(shard)))
}

fn endpoints(admitted: Result<Admitted, Reason>) -> (Vec<Endpoint>, usize) {
    match admitted {
        Ok(Admitted::Shard { endpoints, ignored, .. }) => (endpoints, ignored),
        other => panic!("not a shard: {other:?}"),
    }
}

#[test]
fn what_is_granted_is_admitted() {
    assert!(admit("service/payments.shop", &a_service("payments.shop")).is_ok());
    assert!(admit("bundle", &a_bundle("b.example")).is_ok());
    assert!(admit("capacity/payments.shop", &a_capacity("payments.shop", 7)).is_ok());
    assert_eq!(endpoints(admit("shard/payments.shop/3", &a_shard("payments.shop", 3, 0..100))).0.len(), 100);
    assert!(with(|e| e.address = "127.0.2.9".into()).is_ok(), "a range within loopback names it");
}

#[test]
fn bad_115_another_trust_domain_than_the_pinned_one() {
    assert_eq!(admit("bundle", &a_bundle("c.example")), Err(Reason::ForeignTrustDomain));
    assert_eq!(admit("bundle", &a_bundle("a.example")), Err(Reason::ForeignTrustDomain));
}

#[test]
fn bad_120_an_endpoint_outside_the_granted_ranges() {
    for outside in ["127.0.0.1", "169.254.169.254", "11.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1"] {
        assert_eq!(with(|e| e.address = outside.into()), Err(Reason::AddressNotGranted), "{outside}");
    }
    for nonsense in ["", "localhost", "10.2.0.1:80", "10.2.0", "127.1"] {
        assert_eq!(with(|e| e.address = nonsense.into()), Err(Reason::Malformed), "{nonsense}");
    }
}

#[test]
fn bad_121_a_service_outside_the_granted_names() {
    for name in ["payments.bank", "payments.shop.b", "shop", "", "kube-dns.kube-system"] {
        let refused = admit(&format!("service/{name}"), &a_service(name)).expect_err(name);
        assert!(matches!(refused, Reason::NameNotGranted | Reason::Malformed), "{name}: {refused:?}");
    }
    assert_eq!(admit("shard/payments.bank/0", &a_shard("payments.bank", 0, 0..1)), Err(Reason::NameNotGranted));
    assert_eq!(admit("capacity/payments.bank", &a_capacity("payments.bank", 1)), Err(Reason::NameNotGranted));
}

#[test]
fn bad_122_an_identity_that_is_not_the_peers_to_assert() {
    let identity = |id: &str| with(|e| e.identity = id.into());
    assert_eq!(identity("spiffe://a.example/ns/shop/sa/pay"), Err(Reason::ForeignTrustDomain));
    assert_eq!(identity("spiffe://b.example/ns/bank/sa/pay"), Err(Reason::IdentityNotGranted));
    assert_eq!(identity("spiffe://b.example/ns/shop/sa/pay/deeper"), Err(Reason::IdentityNotGranted));
    assert_eq!(identity("spiffe://b.example"), Err(Reason::Malformed));
    assert_eq!(identity("https://b.example/x"), Err(Reason::Malformed));
    let mut wide = policy();
    wide.grants.identities = vec!["spiffe://b.example/**".into()];
    let mut one = endpoint(1);
    one.identity = "spiffe://b.example/symbolon/controlplane/0".into();
    let shard = wire::EndpointShard { service: "a.shop".into(), shard: 0, endpoints: vec![one] };
    let refused = wide.admit("shard/a.shop/0", &put(R::Shard(shard)), Usage::default()).map_err(|r| r.reason);
    assert_eq!(refused, Err(Reason::IdentityNotGranted), "a workload is never a control plane");
}

#[test]
fn bad_123_a_weight_that_is_none() {
    for weight in [0, MAX_CLAIMED_WEIGHT + 1, u32::MAX] {
        assert_eq!(with(|e| e.weight = weight), Err(Reason::Malformed), "{weight}");
    }
    assert_eq!(endpoints(with(|e| e.weight = 5_000)).0[0].weight.get(), 100, "clamped");
}

#[test]
fn bad_124_more_than_the_quota() {
    let mut narrow = policy();
    narrow.quotas = Quotas { services: 2, endpoints: 10, resource_bytes: 2_000, bundle_keys: 1 };
    let try_at = |key: &str, resource: &wire::Resource, services, endpoints| {
        narrow.admit(key, resource, Usage { services, endpoints }).map_err(|refused| refused.reason)
    };
    let service = a_service("payments.shop");
    assert!(try_at("service/payments.shop", &service, 1, 0).is_ok());
    assert_eq!(try_at("service/payments.shop", &service, 2, 0), Err(Reason::Quota));
    let shard = a_shard("payments.shop", 0, 0..2);
    assert!(try_at("shard/payments.shop/0", &shard, 0, 8).is_ok());
    assert_eq!(try_at("shard/payments.shop/0", &shard, 0, 9), Err(Reason::Quota));
    let big = a_shard("payments.shop", 0, 0..90);
    assert_eq!(try_at("shard/payments.shop/0", &big, 0, 0), Err(Reason::TooLarge));
    assert_eq!(admit("shard/payments.shop/0", &a_shard("payments.shop", 0, 0..101)), Err(Reason::TooLarge));
    let keys = wire::TrustBundle { trust_domain: "b.example".into(), jwks: br#"{"keys":[{},{}]}"#.to_vec().into() };
    assert_eq!(try_at("bundle", &put(R::Bundle(keys)), 0, 0), Err(Reason::Quota));
}

#[test]
fn bad_125_useless_endpoints_are_ignored_and_counted() {
    for port in [0, 65_536, u32::MAX] {
        assert_eq!(endpoints(with(|e| e.port = port)), (Vec::new(), 1), "{port}");
    }
    let mut twice = vec![endpoint(1), endpoint(2), endpoint(1)];
    twice[2].port = 9;
    let shard = wire::EndpointShard { service: "a.shop".into(), shard: 0, endpoints: twice };
    let (kept, ignored) = endpoints(admit("shard/a.shop/0", &put(R::Shard(shard))));
    assert_eq!((kept.len(), ignored, kept[0].address.port()), (2, 1, 8443), "the first of two counts");
}

#[test]
fn bad_126_words_of_a_later_version_are_tolerated() {
    assert_eq!(endpoints(with(|e| e.health = 99)).0[0].health, Health::Unknown);
    assert_eq!(admit("later/1", &wire::Resource { r: None }), Err(Reason::UnknownType));
}

#[test]
fn a_resource_travels_under_its_own_key() {
    assert_eq!(admit("service/other.shop", &a_service("payments.shop")), Err(Reason::Malformed));
    assert_eq!(admit("shard/payments.shop/1", &a_shard("payments.shop", 0, 0..1)), Err(Reason::Malformed));
}

#[test]
fn grants_are_parsed_strictly() {
    let b = "b.example".parse().expect("a name");
    let parse = |identities: &[&str], names: &[&str], addresses: &[&str]| {
        let owned = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        Grants::parse(&b, &owned(identities), &owned(names), &owned(addresses))
    };
    assert!(parse(&["spiffe://b.example/ns/*/sa/*"], &["*.shop", "a.b"], &["10.0.0.0/8"]).is_ok());
    assert!(matches!(parse(&["spiffe://c.example/x"], &[], &[]), Err(GrantError::Identity(..))));
    assert!(parse(&["spiffe://b.example/**", "spiffe://b.example/*/**", "spiffe://b.example/a"], &[], &[]).is_ok());
    for path in ["", "a/", "a//b", "../x", "**/x", "a*", "a/**/b", "a b", "x?"] {
        let bad = parse(&[&format!("spiffe://b.example/{path}")], &[], &[]);
        assert!(matches!(bad, Err(GrantError::Identity(..))), "{path}");
    }
    assert!(matches!(parse(&["spiffe://b.example.evil/x"], &[], &[]), Err(GrantError::Identity(..))));
    for name in ["*", "*.*", "shop", "*.a.b", "Pay.shop"] {
        assert!(matches!(parse(&[], &[name], &[]), Err(GrantError::Name(_))), "{name}");
    }
    assert!(matches!(parse(&[], &[], &["10.0.0.1/8"]), Err(GrantError::Address(_))));
}
