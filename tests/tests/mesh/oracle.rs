//! Our parsers beside the `spiffe` crate's, which we did not write: what one takes, the other takes, and reads alike.

use proptest::prelude::*;
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::svid::spiffe_id;
use symbolon_kit::spiffe::testing::cases::cases;
use symbolon_proto::ids::{MAX_ID_BYTES, SpiffeId, TrustDomain};

/// The crate compares the scheme and the trust domain as they are written, where SPIFFE-ID.md §2.4 says that case does not matter, and
/// has no bound on an ID's length (§2.3).
fn alike(text: &str) -> Result<(), String> {
    let ours = text.parse::<SpiffeId>();
    let theirs = text.parse::<spiffe::SpiffeId>();
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) if ours.as_str() == theirs.to_string() => Ok(()),
        (Ok(ours), Err(_)) if ours.as_str() != text && ours.as_str().parse::<spiffe::SpiffeId>().is_ok() => Ok(()),
        (Err(_), Ok(_)) if text.len() > MAX_ID_BYTES => Ok(()),
        (Err(_), Err(_)) => Ok(()),
        _ => Err(format!("{text:?}: we say {ours:?}, the crate says {theirs:?}")),
    }
}

proptest! {
    #[test]
    fn id_1_to_8_ids_are_read_as_the_crate_reads_them(
        text in prop_oneof![
            "spiffe://[a-z0-9._-]{0,12}(/[a-zA-Z0-9._-]{0,6}){0,4}",
            "(?i:spiffe)://[A-Za-z0-9._%@:-]{0,12}(/[A-Za-z0-9._%~?#-]{0,6}){0,4}",
            "[a-z:/]{0,12}.{0,20}",
        ]
    ) {
        prop_assert_eq!(alike(&text), Ok(()));
    }

    #[test]
    fn id_3_trust_domains_are_read_as_the_crate_reads_them(name in "[a-zA-Z0-9._%@:/-]{0,16}") {
        let (ours, theirs) = (name.parse::<TrustDomain>(), spiffe::TrustDomain::new(&name));
        if let (Ok(ours), Ok(theirs)) = (&ours, &theirs) {
            prop_assert_eq!(ours.as_str(), theirs.to_string());
        }
        if let Ok(ours) = &ours {
            prop_assert!(spiffe::TrustDomain::new(ours.as_str()).is_ok(), "{}", ours);
        }
        // The crate takes a whole ID for a name too; we do not.
        if theirs.is_ok() && !name.contains('/') {
            prop_assert!(ours.is_ok(), "{:?}", name);
        }
    }
}

#[test]
fn id_7_lengths_are_bounded_where_the_crate_has_no_bound() {
    let longest = format!("spiffe://a/{}", "x".repeat(MAX_ID_BYTES - 11));
    assert_eq!(alike(&longest), Ok(()));
    assert_eq!(alike(&format!("{longest}x")), Ok(()));
    assert!(longest.parse::<SpiffeId>().is_ok() && format!("{longest}x").parse::<SpiffeId>().is_err());
}

/// What the crate takes and we refuse: it does not look at these lines of the profile, or leaves them to whoever verifies the chain.
const LAXER: [&str; 14] = [
    "x_1_second_uri_unreadable",
    "x_3_names_not_critical",
    "x_8_key_usage_not_critical",
    "x_11_server_only",
    "x_11_client_only",
    "x_11_any",
    "bad_093_p192",
    "bad_094_serial_zero",
    "bad_094_serial_too_long",
    "bad_094_serial_negative",
    "bad_095_unknown_critical",
    "bad_095_twice",
    "bad_097_version_2",
    "bad_097_long_length",
];

/// The crate reads the whole chain, we the leaf: so what it refuses beyond us is in a chain that our verifier refuses.
#[test]
fn x_13_leaves_are_read_as_the_crate_reads_them() {
    let mut laxer = Vec::new();
    for case in cases(Clock::system().now()) {
        let ours = spiffe_id(&case.chain[0]);
        let chain: Vec<u8> = case.chain.iter().flat_map(|der| der.iter().copied()).collect();
        let theirs = spiffe::X509Svid::parse_from_der(&chain, case.key.pkcs8());
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours.as_str(), theirs.spiffe_id().to_string(), "{}", case.name),
            (Ok(_), Err(why)) => assert!(!case.accepted, "{}: the crate refuses it: {why}", case.name),
            (Err(_), Ok(_)) => laxer.push(case.name),
            (Err(_), Err(_)) => {}
        }
    }
    assert_eq!(laxer, LAXER);
}
