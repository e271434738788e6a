use proptest::prelude::*;

use super::*;

fn check(text: &str, want: Result<&str, IdError>) {
    let have = text.parse::<SpiffeId>();
    assert_eq!(have.as_ref().map(SpiffeId::as_str).map_err(|e| *e), want, "{text:?}");
}

#[test]
fn id_1_scheme_trust_domain_no_query_no_fragment() {
    check("spiffe://a.example/x", Ok("spiffe://a.example/x"));
    check("https://a.example/x", Err(IdError::Scheme));
    check("spiffe:/a.example/x", Err(IdError::Scheme));
    check("", Err(IdError::Scheme));
    check("spiffe://", Err(IdError::EmptyTrustDomain));
    check("spiffe:///x", Err(IdError::EmptyTrustDomain));
    check("spiffe://a.example/x?q=1", Err(IdError::PathCharacter));
    check("spiffe://a.example/x#f", Err(IdError::PathCharacter));
    check("spiffe://a.example?q", Err(IdError::TrustDomainCharacter));
}

#[test]
fn id_2_no_userinfo_no_port() {
    check("spiffe://user@a.example/x", Err(IdError::TrustDomainCharacter));
    check("spiffe://a.example:8081/x", Err(IdError::TrustDomainCharacter));
}

#[test]
fn id_3_trust_domain_characters() {
    check("spiffe://a-b_c.9/x", Ok("spiffe://a-b_c.9/x"));
    check("spiffe://a%2eexample/x", Err(IdError::TrustDomainCharacter));
    check("spiffe://\u{430}.example/x", Err(IdError::TrustDomainCharacter));
}

#[test]
fn id_4_nothing_special_about_dns_or_ipv4_names() {
    check("spiffe://127.0.0.1/x", Ok("spiffe://127.0.0.1/x"));
    check("spiffe://-..-/x", Ok("spiffe://-..-/x"));
    check("spiffe://[::1]/x", Err(IdError::TrustDomainCharacter));
}

#[test]
fn id_5_path_has_no_percent_no_empty_or_dot_segment_no_trailing_slash() {
    check("spiffe://a/%2e%2e", Err(IdError::PathCharacter));
    check("spiffe://a/x//y", Err(IdError::EmptySegment));
    check("spiffe://a/x/", Err(IdError::EmptySegment));
    check("spiffe://a/", Err(IdError::EmptySegment));
    check("spiffe://a/./x", Err(IdError::DotSegment));
    check("spiffe://a/x/..", Err(IdError::DotSegment));
    check("spiffe://a/...", Ok("spiffe://a/..."));
}

#[test]
fn id_6_path_characters() {
    check("spiffe://a/aZ09.-_", Ok("spiffe://a/aZ09.-_"));
    for bad in
        ["spiffe://a/x y", "spiffe://a/x\0", "spiffe://a/x\\y", "spiffe://a/x\r\n", "spiffe://a/\u{e9}", "spiffe://a/*"]
    {
        check(bad, Err(IdError::PathCharacter));
    }
}

#[test]
fn id_7_lengths() {
    let exact = format!("spiffe://a/{}", "x".repeat(MAX_ID_BYTES - 11));
    assert_eq!(exact.len(), MAX_ID_BYTES);
    check(&exact, Ok(&exact));
    check(&format!("{exact}x"), Err(IdError::TooLong));
    let longest = "t".repeat(MAX_TRUST_DOMAIN_BYTES);
    assert!(longest.parse::<TrustDomain>().is_ok());
    assert_eq!(format!("{longest}t").parse::<TrustDomain>(), Err(IdError::TrustDomainTooLong));
}

#[test]
fn id_8_scheme_and_trust_domain_ignore_case_the_path_does_not() {
    check("SPIFFE://A.Example/X", Ok("spiffe://a.example/X"));
    let (upper, lower): (SpiffeId, SpiffeId) = ("spiffe://a/X".parse().unwrap(), "spiffe://a/x".parse().unwrap());
    assert_ne!(upper, lower);
}

#[test]
fn bad_031_a_workload_needs_a_path() {
    assert_eq!(SpiffeId::workload("spiffe://a.example"), Err(IdError::NoPath));
    assert!(SpiffeId::workload("spiffe://a.example/x").is_ok());
}

#[test]
fn bad_033_patterns_are_literal_but_for_whole_segment_wildcards() {
    let id: SpiffeId = "spiffe://b.example/ns/shop/sa/pay".parse().unwrap();
    for (pattern, want) in [
        ("spiffe://b.example/ns/shop/sa/pay", true),
        ("spiffe://b.example/ns/*/sa/*", true),
        ("spiffe://b.example/ns/shop/**", true),
        ("spiffe://b.example/**", true),
        ("spiffe://b.example/ns/shop/sa/p*", false),
        ("spiffe://b.example/ns/shop/sa/pa.", false),
        ("spiffe://b.example/ns/shop", false),
        ("spiffe://b.example/ns/shop/sa/pay/**", false),
        ("spiffe://*/ns/shop/sa/pay", false),
        ("spiffe://c.example/**", false),
        ("**", false),
    ] {
        assert_eq!(id.matches(pattern), want, "{pattern}");
    }
}

#[test]
fn reserved_paths_are_known() {
    for (text, want) in [
        ("spiffe://a/symbolon/node/n1", true),
        ("spiffe://a/symbolon", true),
        ("spiffe://a/symbolonx", false),
        ("spiffe://a/ns/symbolon", false),
    ] {
        assert_eq!(text.parse::<SpiffeId>().unwrap().is_reserved(), want, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused_and_the_canonical_form_is_stable(text in ".{0,80}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), id);
        }
    }

    #[test]
    fn well_formed_ids_round_trip(domain in "[a-z0-9_-][a-z0-9._-]{0,20}", path in "(/[a-zA-Z0-9_-]{1,8}){0,5}") {
        let text = format!("spiffe://{domain}{path}");
        let id: SpiffeId = text.parse().unwrap();
        prop_assert_eq!(id.as_str(), text.as_str());
        prop_assert_eq!(id.trust_domain().as_str(), domain.as_str());
        prop_assert_eq!(id.path(), path.as_str());
    }
}
