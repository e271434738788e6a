use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// Authorities and keys to draw from.
static ROOTS: LazyLock<Vec<CertificateDer<'static>>> =
    LazyLock::new(|| (0..4).map(|_| Ca::new("a.example").certificate()).collect());
static KEYS: LazyLock<Vec<TokenKey>> = LazyLock::new(|| {
    let kinds = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512];
    let key = |kind| TokenKey::from_spki(&KeyPair::generate_for(kind).unwrap().subject_public_key_info()).unwrap();
    kinds.into_iter().map(key).collect()
});

fn whole() -> Bundle {
    let key = |kid: &str, at: usize| JwtAuthority { kid: Arc::from(kid), key: KEYS[at].clone() };
    A.bundle().with_tokens(vec![key("1", 0), key("2", 1)], vec![key("3", 2)])
}

/// Any bundle that there can be: some of the authorities, and keys under names that differ.
fn bundles() -> impl Strategy<Value = Bundle> {
    let kids = prop::collection::btree_set("\\PC{1,20}", 0..6);
    let authorities = prop::sample::subsequence((0..4).collect::<Vec<_>>(), 0..=4);
    (authorities, kids, 0..6usize, 0..3usize, any::<u64>(), 30..86_400u64).prop_map(
        |(roots, kids, split, at, sequence, hint)| {
            let roots = roots.into_iter().map(|at| ROOTS[at].clone()).collect();
            let mut keys: Vec<_> = kids
                .into_iter()
                .enumerate()
                .map(|(n, kid)| JwtAuthority { kid: kid.into(), key: KEYS[(n + at) % 3].clone() })
                .collect();
            let wit = keys.split_off(split.min(keys.len()));
            Bundle::new(domain(), sequence, Duration::from_secs(hint), roots).with_tokens(keys, wit)
        },
    )
}

/// Any JSON, not deep.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("x509-svid")),
        Just(json!("jwt-svid")),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z0-9_]{1,6}", inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}

/// `what` in place of the value that one arrives at by these turns.
fn put(document: &mut Value, turns: &[usize], what: Value) {
    let Some((turn, rest)) = turns.split_first() else { return *document = what };
    let below = match document {
        Value::Array(items) if !items.is_empty() => {
            let at = turn % items.len();
            items.get_mut(at)
        }
        Value::Object(members) if !members.is_empty() => {
            let at = turn % members.len();
            members.values_mut().nth(at)
        }
        _ => None,
    };
    match below {
        Some(below) => put(below, rest, what),
        None => *document = what,
    }
}

proptest! {
    #[test]
    fn any_bundle_reads_back(bundle in bundles()) {
        let parsed = Bundle::parse_jwks(&domain(), &bundle.to_jwks(), noon()).unwrap();
        prop_assert_eq!(parsed.warnings.len(), 0);
        prop_assert_eq!(&parsed.bundle, &bundle);
        prop_assert_eq!(parsed.bundle.to_jwks(), bundle.to_jwks());
        prop_assert_eq!(Bundle::admit(Some(&bundle), &parsed.bundle, noon()), Ok(Admission::Unchanged));
        let tokens = bundle.jwt.len() + bundle.wit.len();
        let content = match (bundle.x509.len(), tokens) {
            (0, 0) => Content::Empty,
            (0, _) => Content::TokensOnly,
            _ => Content::Authorities,
        };
        prop_assert_eq!(parsed.content, content);
    }

    #[test]
    fn any_map_reads_back(a in bundles(), b in bundles()) {
        let b = Bundle { trust_domain: "b.example".parse().unwrap(), x509: Vec::new(), ..b };
        let map = BundleMap::parse(&bundle_map([&a, &b]), noon()).unwrap();
        let read: Vec<_> = map.0.into_values().map(|parsed| (parsed.bundle.sequence, parsed.bundle.x509)).collect();
        prop_assert_eq!(read, vec![(a.sequence, a.x509), (b.sequence, b.x509)]);
    }

    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>) {
        let _ = Bundle::parse_jwks(&domain(), &bytes, noon());
        let _ = BundleMap::parse(&bytes, noon());
    }

    #[test]
    fn any_damage_is_survived(at in 0..8192usize, byte: u8) {
        for mut bytes in [whole().to_jwks(), bundle_map([&whole()])] {
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = Bundle::parse_jwks(&domain(), &bytes, noon());
            let _ = BundleMap::parse(&bytes, noon());
        }
    }

    /// Whatever is taken is taken for what it is: it reads back.
    #[test]
    fn any_other_json_is_survived(turns in prop::collection::vec(0..8usize, 0..5), what in json()) {
        let mut document: Value = serde_json::from_slice(&whole().to_jwks()).unwrap();
        put(&mut document, &turns, what);
        if let Ok(parsed) = parse(&document) {
            let again = Bundle::parse_jwks(&domain(), &parsed.bundle.to_jwks(), noon()).unwrap();
            prop_assert_eq!(again.bundle, parsed.bundle);
        }
        let _ = BundleMap::parse(json!({"trust_domains": {"a.example": document}}).to_string().as_bytes(), noon());
    }

    #[test]
    fn any_damage_to_the_certificate_is_survived(at in 0..4096usize, byte: u8) {
        let mut der = A.certificate().to_vec();
        let at = at % der.len();
        der[at] = byte;
        let _ = parse(&with_key(jwk(&der)));
    }
}
