//! SPIRE 1.15.3 beside us: a decoder as strict as its own reads what we write, and each answer that its client was fed meets the
//! better outcome here (spec/identity.md, "SPIRE, run and measured"; what concerns the transport is tested at the bundle endpoint).

use std::sync::Arc;

use super::*;

/// What SPIRE keeps of a bundle, or why it refuses all of it. `wit`: from 1.15.3 on.
fn strict(document: &[u8], wit: bool) -> Result<(usize, Vec<String>), String> {
    let document: Value = serde_json::from_slice(document).map_err(|e| e.to_string())?;
    let hint = document["spiffe_refresh_hint"].as_u64().ok_or("no hint: it would poll by the life of the authority")?;
    if !(60..=300).contains(&hint) {
        return Err(format!("a hint of {hint} s"));
    }
    document["spiffe_sequence"].as_u64().ok_or("no sequence")?;
    let (mut roots, mut kids) = (0, Vec::new());
    for (index, key) in document["keys"].as_array().ok_or("no keys")?.iter().enumerate() {
        let public = public(key).ok_or_else(|| format!("key {index} is not a JWK"))?;
        match (key["use"].as_str(), key["kid"].as_str()) {
            (Some("x509-svid"), None) => {
                let [certificate] = &key["x5c"].as_array().ok_or("no x5c")?[..] else {
                    return Err(format!("expected a single certificate in entry {index}"));
                };
                let der = STANDARD.decode(certificate.as_str().ok_or("x5c is no text")?).map_err(|e| e.to_string())?;
                let (rest, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| e.to_string())?;
                // go-jose refuses a key that is not its certificate's.
                if !rest.is_empty() || !parsed.subject_pki.subject_public_key.data.ends_with(&public) {
                    return Err(format!("key {index} and its x5c disagree"));
                }
                roots += 1;
            }
            (Some("jwt-svid"), Some(kid)) if !kid.is_empty() => kids.push(kid.to_owned()),
            (Some("wit-svid"), Some(kid)) if !kid.is_empty() && wit => kids.push(kid.to_owned()),
            (usage, kid) => return Err(format!("key {index}: use {usage:?}, kid {kid:?}")),
        }
    }
    Ok((roots, kids))
}

/// The last bytes of the key, of a JWK that has no member too few and the right sizes.
fn public(key: &Value) -> Option<Vec<u8>> {
    let bytes = |member: &str| URL_SAFE_NO_PAD.decode(key[member].as_str()?).ok();
    match (key["kty"].as_str()?, key["crv"].as_str()) {
        ("EC", Some(curve)) => {
            let size = [("P-256", 32), ("P-384", 48), ("P-521", 66)].into_iter().find(|(name, _)| *name == curve)?.1;
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == size && y.len() == size).then(|| [x, y].concat())
        }
        ("OKP", Some("Ed25519")) => bytes("x").filter(|x| x.len() == 32),
        ("RSA", None) => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            // Of SEQUENCE { n INTEGER, e INTEGER }.
            Some([n, vec![2, u8::try_from(e.len()).ok()?], e].concat())
        }
        _ => None,
    }
}

fn tokens(prefix: &str) -> Vec<JwtAuthority> {
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let ec = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512];
    let keys = ec.into_iter().map(|algorithm| KeyPair::generate_for(algorithm).unwrap()).chain([rsa]);
    let authority = |(n, key): (usize, KeyPair)| JwtAuthority {
        kid: Arc::from(format!("{prefix}{n}")),
        key: TokenKey::from_spki(&key.subject_public_key_info()).unwrap(),
    };
    keys.enumerate().map(authority).collect()
}

#[test]
fn spire_reads_what_we_write() {
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let root = |key| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca::keyed("a.example", params, key).certificate()
    };
    let roots = vec![A.certificate(), root(rsa), root(ed25519)];
    let bundle = Bundle::new(domain(), 7, DEFAULT_REFRESH, roots);
    assert_eq!(strict(&bundle.to_jwks(), false), Ok((3, Vec::new())));
    let bundle = bundle.with_tokens(tokens("jwt"), Vec::new());
    let kids = ["jwt0", "jwt1", "jwt2", "jwt3"].map(str::to_owned).to_vec();
    assert_eq!(strict(&bundle.to_jwks(), false), Ok((3, kids)));
    assert_eq!(strict(&Bundle::new(domain(), 0, DEFAULT_REFRESH, Vec::new()).to_jwks(), false), Ok((0, Vec::new())));
    // Which is why the use stays away unless it is switched on.
    let incubating = bundle.with_tokens(Vec::new(), tokens("wit"));
    assert!(strict(&incubating.to_jwks(), false).unwrap_err().contains("wit-svid"));
    assert_eq!(strict(&incubating.to_jwks(), true).unwrap().1.len(), 4);
}

/// Its decoder drops a bundle for one element; ours does not.
#[test]
fn spire_refuses_a_bundle_for_one_element() {
    let mut two = jwk(&A.certificate());
    two["x5c"] = json!([two["x5c"][0], two["x5c"][0]]);
    let elements = [
        json!({"kty": "EC", "use": "ssh-svid"}),
        json!({"kty": "EC"}),
        json!({"kty": "LWE", "use": "x509-svid"}),
        jwk(b"garbage"),
        json!({"kty": "EC", "use": "x509-svid"}),
        json!({"kty": "EC", "use": "jwt-svid"}),
        two,
    ];
    for element in elements {
        let document = with_key(element);
        assert!(strict(&serde_json::to_vec(&document).unwrap(), true).is_err(), "{document}");
        assert_eq!(parse(&document).unwrap().bundle, A.bundle(), "{document}");
    }
}

/// What becomes of an answer: what it states, or why it is refused and the last good one kept.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// X.509 authorities taken, and how many elements were ignored.
    Taken(usize, usize),
    /// Honoured only when a second fetch says the same.
    ToConfirm(Content),
    Kept(&'static str),
}

fn outcome(text: &str) -> Outcome {
    match Bundle::parse_jwks(&domain(), text.as_bytes(), noon()) {
        Err(error) => Outcome::Kept(error.label()),
        Ok(parsed) if parsed.content.withdraws_x509() => Outcome::ToConfirm(parsed.content),
        Ok(parsed) => match Bundle::admit(Some(&numbered(7, &[&A])), &parsed.bundle, noon()) {
            Err(error) => Outcome::Kept(error.label()),
            Ok(_) => Outcome::Taken(parsed.bundle.x509.len(), parsed.warnings.len()),
        },
    }
}

/// The 54 answers that it was fed, as far as they differ for us.
#[test]
fn spire_run_and_measured() {
    let (root, other) = (good()["keys"][0].clone(), jwk(&Ca::new("a.example").certificate()));
    let expired = jwk(&Ca::with("a.example", |params| params.not_after = (noon() - HOUR / 2).into()).certificate());
    let leaf = jwk(&A.leaf("spiffe://a.example/shop", |_| {}));
    let theirs = jwk(&Ca::new("b.example").certificate());
    let changed = |member: &str, value: Value| {
        let mut key = other.clone();
        key[member] = value;
        key
    };
    let mut two = other.clone();
    two["x5c"] = json!([two["x5c"][0], root["x5c"][0]]);
    let document = |sequence: Value, keys: Value| json!({"keys": keys, "spiffe_sequence": sequence}).to_string();
    let next = |keys: Value| document(json!(8), keys);
    let hinted = |hint: Value| json!({"keys": [root], "spiffe_sequence": 8, "spiffe_refresh_hint": hint}).to_string();
    let whole = next(json!([root]));
    use Outcome::{Kept, Taken, ToConfirm};
    let cases = [
        ("newer", whole.clone(), Taken(1, 0)),
        ("older sequence", document(json!(6), json!([root])), Kept("older")),
        ("same sequence, other keys", document(json!(7), json!([other])), Kept("same_sequence")),
        ("no sequence", json!({"keys": [root]}).to_string(), Kept("older")),
        ("sequence as text", document(json!("8"), json!([root])), Kept("sequence")),
        ("unknown use", next(json!([root, changed("use", json!("future"))])), Taken(1, 1)),
        ("no use", next(json!([root, changed("use", json!(null))])), Taken(1, 1)),
        ("two in x5c", next(json!([root, two])), Taken(2, 0)),
        ("unknown kty", next(json!([root, changed("kty", json!("LWE"))])), Taken(1, 1)),
        ("garbage in x5c", next(json!([root, changed("x5c", json!(["garbage"]))])), Taken(1, 1)),
        ("keys: []", next(json!([])), ToConfirm(Content::Empty)),
        ("JWT keys only", next(json!([token_jwk("jwt-svid", "1")])), ToConfirm(Content::TokensOnly)),
        ("keys: null", next(json!(null)), Kept("no_keys")),
        ("keys absent", json!({"spiffe_sequence": 8}).to_string(), Kept("no_keys")),
        ("{}", "{}".to_owned(), Kept("no_keys")),
        ("keys twice", whole.replacen('{', r#"{"keys":[],"#, 1), Kept("malformed")),
        ("expired root", next(json!([root, expired])), Taken(1, 1)),
        ("CA:FALSE root", next(json!([root, leaf])), Taken(1, 1)),
        ("only a CA:FALSE root", next(json!([leaf])), Kept("unusable")),
        ("root of another domain", next(json!([root, theirs])), Kept("other_trust_domain")),
        ("trailing garbage", format!("{whole}x"), Kept("malformed")),
        ("a second document", format!("{whole}{whole}"), Kept("malformed")),
        ("cut", whole[..whole.len() - 1].to_owned(), Kept("malformed")),
        ("256 MiB, as far as it is read", " ".repeat(MAX_BYTES + 1), Kept("too_large")),
        ("hint 2e9", hinted(json!(2_000_000_000)), Taken(1, 1)),
        ("hint 0", hinted(json!(0)), Taken(1, 1)),
        ("hint -1", hinted(json!(-1)), Taken(1, 1)),
    ];
    for (name, text, want) in cases {
        assert_eq!(outcome(&text), want, "{name}");
    }
    let hint =
        |text: &str| Bundle::parse_jwks(&domain(), text.as_bytes(), noon()).unwrap().bundle.refresh_hint.as_secs();
    assert_eq!(
        [hint(&hinted(json!(2_000_000_000))), hint(&hinted(json!(0))), hint(&hinted(json!(-1))), hint(&whole)],
        [86_400, 300, 300, 300]
    );
}
