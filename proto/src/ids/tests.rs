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

fn refused(texts: &[&str], want: IdError) {
    for text in texts {
        check(text, Err(want));
        assert!(SpiffeId::workload(text).is_err(), "{text:?}");
    }
}

/// The same text as the name of a trust domain alone, which is how configuration and the wire carry it.
fn no_trust_domain(names: &[&str], want: IdError) {
    for name in names {
        assert_eq!(name.parse::<TrustDomain>(), Err(want), "{name:?}");
    }
}

#[test]
fn bad_021_no_trust_domain() {
    refused(&["spiffe://", "spiffe:///", "spiffe:///shop", "SPIFFE:///shop"], IdError::EmptyTrustDomain);
    refused(&["spiffe:", "spiffe:/", "spiffe", "//a.example/shop", "a.example/shop", ""], IdError::Scheme);
    no_trust_domain(&[""], IdError::EmptyTrustDomain);
}

#[test]
fn bad_022_mixed_case_becomes_one_form_and_only_that_is_compared() {
    use std::collections::{BTreeSet, HashSet};
    let texts = ["spiffe://td.example/x", "SPIFFE://TD.EXAMPLE/x", "Spiffe://Td.Example/x"];
    let ids: Vec<SpiffeId> = texts.iter().map(|text| text.parse().unwrap()).collect();
    assert!(
        ids.iter().all(|id| id.as_str() == texts[0] && id.to_string() == texts[0] && format!("{id:?}") == texts[0])
    );
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 1);
    assert!(ids.iter().all(|id| id.trust_domain().as_str() == "td.example"));
    assert!(ids[0].matches("spiffe://TD.example/*"), "a pattern's trust domain too");
    assert_eq!("TD.example".parse::<TrustDomain>().unwrap(), *ids[0].trust_domain());
}

#[test]
fn bad_023_port_and_userinfo() {
    refused(
        &["spiffe://a.example:443/x", "spiffe://a.example:/x", "spiffe://u@a.example/x", "spiffe://u:p@a.example/x"],
        IdError::TrustDomainCharacter,
    );
    no_trust_domain(
        &["a.example:443", "u@a.example", "spiffe://a.example", "a.example/x"],
        IdError::TrustDomainCharacter,
    );
}

#[test]
fn bad_024_too_long() {
    let name = "t".repeat(256);
    refused(&[&format!("spiffe://{name}/x")], IdError::TrustDomainTooLong);
    no_trust_domain(&[&name, &"t".repeat(1 << 20)], IdError::TrustDomainTooLong);
    refused(
        &[&format!("spiffe://a/{}", "x".repeat(2038)), &format!("spiffe://a/{}", "x/".repeat(1 << 20))],
        IdError::TooLong,
    );
}

#[test]
fn bad_025_query_and_fragment() {
    refused(&["spiffe://a/x?q", "spiffe://a/x?", "spiffe://a/x#f", "spiffe://a/x#"], IdError::PathCharacter);
    refused(&["spiffe://a?q", "spiffe://a#f", "spiffe://a?/x"], IdError::TrustDomainCharacter);
}

#[test]
fn bad_026_percent_encoding() {
    refused(
        &["spiffe://a/%2e%2e", "spiffe://a/%2E%2E/x", "spiffe://a/x%2fy", "spiffe://a/%41"],
        IdError::PathCharacter,
    );
    refused(&["spiffe://%61.example/x"], IdError::TrustDomainCharacter);
    no_trust_domain(&["%61.example"], IdError::TrustDomainCharacter);
}

#[test]
fn bad_027_dot_segments() {
    refused(
        &["spiffe://a/../x", "spiffe://a/./x", "spiffe://a/x/..", "spiffe://a/x/.", "spiffe://a/.", "spiffe://a/.."],
        IdError::DotSegment,
    );
}

#[test]
fn bad_028_empty_segments() {
    refused(
        &["spiffe://a//x", "spiffe://a/x//y", "spiffe://a/x/", "spiffe://a/", "spiffe://a//"],
        IdError::EmptySegment,
    );
}

#[test]
fn bad_029_what_only_looks_like_ascii() {
    refused(
        &[
            "spiffe://\u{430}.example/x",
            "spiffe://a\u{2024}example/x",
            "spiffe://a\u{ff0e}example/x",
            "spiffe://\u{212a}/x",
        ],
        IdError::TrustDomainCharacter,
    );
    refused(&["spiffe://a/sh\u{43e}p", "spiffe://a/\u{202e}x", "spiffe://a/x\u{200d}"], IdError::PathCharacter);
    refused(&["\u{ff53}piffe://a/x", "spiff\u{435}://a/x"], IdError::Scheme);
    // Lower-casing as Unicode does it would make an ASCII letter of these.
    no_trust_domain(&["\u{212a}", "\u{130}"], IdError::TrustDomainCharacter);
}

#[test]
fn bad_030_control_characters_backslash_and_space() {
    refused(
        &[
            "spiffe://a/x\0",
            "spiffe://a/\0/x",
            "spiffe://a/x\r\ny",
            "spiffe://a/x\\y",
            "spiffe://a/x y",
            "spiffe://a/x ",
        ],
        IdError::PathCharacter,
    );
    refused(
        &["spiffe://a\0.example/x", "spiffe://a\\b/x", "spiffe://a /x", "spiffe://\ta/x"],
        IdError::TrustDomainCharacter,
    );
    refused(&[" spiffe://a/x", "\0spiffe://a/x", "\nspiffe://a/x", "spiffe:\\\\a/x"], IdError::Scheme);
}

#[test]
fn bad_034_what_a_template_gives_is_parsed_after_it_was_filled_in() {
    let domain: TrustDomain = "a.example".parse().unwrap();
    let filled = |label: &str| domain.with_path(&format!("/ns/{label}/sa/pay"));
    assert_eq!(filled("shop").unwrap().as_str(), "spiffe://a.example/ns/shop/sa/pay");
    for (label, want) in [
        ("../x", IdError::DotSegment),
        ("..", IdError::DotSegment),
        ("", IdError::EmptySegment),
        ("x/", IdError::EmptySegment),
        ("x?y", IdError::PathCharacter),
        ("%2e%2e", IdError::PathCharacter),
    ] {
        assert_eq!(filled(label), Err(want), "{label:?}");
    }
    // A path that does not begin as one would lengthen the name: another trust domain.
    for path in ["x", ".evil/ns", "@b.example/x", ":1/x"] {
        assert_eq!(domain.with_path(path), Err(IdError::PathStart), "{path:?}");
    }
    assert_eq!(domain.with_path("").unwrap(), domain.id());
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
    /// Whoever reads the canonical form reads what we mean: no other character, and the parts add up to the whole.
    #[test]
    fn id_1_to_8_whatever_parses_is_canonical(text in "(?i:spiffe)://[A-Za-z0-9._%@:-]{0,12}(/[A-Za-z0-9._%~-]{0,6}){0,4}") {
        let Ok(id) = text.parse::<SpiffeId>() else { return Ok(()) };
        prop_assert!(id.as_str().eq_ignore_ascii_case(&text));
        prop_assert_eq!(id.path(), &text[text.len() - id.path().len()..], "the path is as it was given");
        prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), id.as_str());
        prop_assert!(id.trust_domain().as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b)));
        prop_assert!(id.path().split('/').skip(1).all(|segment| !["", ".", ".."].contains(&segment)));
        prop_assert!(id.path().bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)));
        prop_assert_eq!(id.trust_domain().with_path(id.path()), Ok(id.clone()));
        prop_assert_eq!(SpiffeId::workload(&text).is_ok(), !id.path().is_empty());
    }

    /// One wrong byte anywhere in a good ID is seen.
    #[test]
    fn no_byte_slips_in(at in 0..22usize, byte in "[^a-zA-Z0-9._/-]") {
        let mut text = "spiffe://a.example/sho".to_owned();
        text.insert_str(at, &byte);
        prop_assert!(text.parse::<SpiffeId>().is_err(), "{:?}", text);
    }

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
