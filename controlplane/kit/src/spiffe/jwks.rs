//! A bundle as JSON: reading what peers send, element by element, and writing what they can read.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde_json::{Map, Value};
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry as oids;
use x509_parser::public_key::PublicKey;

use super::bundle::{Bundle, BundleError, DEFAULT_REFRESH, MAX_BYTES, MAX_KEYS, Parsed};
use super::{json, svid};

/// Bounds of the refresh hint (bad input 56).
const REFRESH: std::ops::RangeInclusive<i64> = 30..=24 * 3600;
/// Members of a JWK that only a private key has, and `k`, which is a symmetric key (RFC 7518 §6).
const SECRETS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "k"];

/// Field order is the order on the wire.
#[derive(Serialize)]
pub(super) struct Document {
    keys: Vec<Jwk>,
    spiffe_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

/// An X.509 authority: exactly one certificate in `x5c`, no `kid`.
#[derive(Serialize)]
struct Jwk {
    r#use: &'static str,
    #[serde(flatten)]
    key: PublicJwk,
    x5c: [String; 1],
}

#[derive(Serialize)]
#[serde(tag = "kty")]
enum PublicJwk {
    #[serde(rename = "EC")]
    Ec { crv: &'static str, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    #[serde(rename = "OKP")]
    Okp { crv: &'static str, x: String },
}

/// What becomes of one element of `keys`.
enum Element {
    Authority(CertificateDer<'static>),
    /// An expired authority: true, and of no use.
    Expired,
    /// Understood, and not for us.
    Other,
    /// Ignored because it is not what the specification says.
    Ignored(String),
}

impl Document {
    pub(super) fn of(bundle: &Bundle, with_hint: bool) -> Self {
        let key = |root: &CertificateDer<'static>| {
            let key = public_jwk(&svid::parse(root).ok()?)?;
            Some(Jwk { r#use: "x509-svid", key, x5c: [STANDARD.encode(root)] })
        };
        Self {
            keys: bundle.x509.iter().filter_map(key).collect(),
            spiffe_sequence: bundle.sequence,
            spiffe_refresh_hint: with_hint.then_some(bundle.refresh_hint.as_secs()),
        }
    }
}

pub(super) fn parse(trust_domain: &TrustDomain, bytes: &[u8], now: SystemTime) -> Result<Parsed, BundleError> {
    if bytes.len() > MAX_BYTES {
        return Err(BundleError::TooLarge);
    }
    let document = json::parse(bytes).map_err(|e| BundleError::Malformed(e.to_string()))?;
    let Value::Object(document) = document else {
        return Err(BundleError::Malformed("not an object".into()));
    };
    let keys = document.get("keys").and_then(Value::as_array).ok_or(BundleError::NoKeys)?;
    if keys.len() > MAX_KEYS {
        return Err(BundleError::TooManyKeys);
    }
    let sequence = match document.get("spiffe_sequence") {
        None => 0, // §4.1.1 says SHOULD; zero never replaces a bundle that has one
        Some(sequence) => sequence.as_u64().ok_or(BundleError::Sequence)?,
    };
    let mut warnings = Vec::new();
    let refresh_hint = refresh_hint(&document, &mut warnings);
    let (mut x509, mut ignored, mut kids) = (Vec::new(), None, BTreeSet::new());
    for (index, key) in keys.iter().enumerate() {
        let element = match key {
            Value::Object(key) => element(trust_domain, index, key, &mut kids, now)?,
            _ => Element::Ignored("not an object".into()),
        };
        match element {
            Element::Authority(root) if x509.contains(&root) => warnings.push(format!("key {index}: the same again")),
            Element::Authority(root) => x509.push(root),
            Element::Expired => warnings.push(format!("key {index}: the authority has expired")),
            Element::Other => {}
            Element::Ignored(why) => {
                warnings.push(format!("key {index}: {why}"));
                ignored.get_or_insert_with(|| format!("key {index}: {why}"));
            }
        }
    }
    // An empty list, or one of other uses only, is a statement. One whose every authority is broken is an accident, and an
    // accident withdraws nothing (invariant I5).
    match ignored {
        Some(why) if x509.is_empty() => Err(BundleError::Unusable(why)),
        _ => Ok(Parsed { bundle: Bundle::new(trust_domain.clone(), sequence, refresh_hint, x509), warnings }),
    }
}

fn refresh_hint(document: &Map<String, Value>, warnings: &mut Vec<String>) -> Duration {
    let Some(hint) = document.get("spiffe_refresh_hint") else { return DEFAULT_REFRESH };
    let seconds = hint.as_i64().or_else(|| hint.as_u64().map(|_| i64::MAX));
    let clamped = seconds.map(|seconds| seconds.clamp(*REFRESH.start(), *REFRESH.end()));
    if clamped != seconds || seconds.is_none() {
        warnings.push("the refresh hint is not between 30 s and 24 h".into());
    }
    clamped.map_or(DEFAULT_REFRESH, |seconds| Duration::from_secs(seconds.unsigned_abs()))
}

fn element(
    trust_domain: &TrustDomain,
    index: usize,
    key: &Map<String, Value>,
    kids: &mut BTreeSet<String>,
    now: SystemTime,
) -> Result<Element, BundleError> {
    let ignored = |why: &str| Ok(Element::Ignored(why.to_owned()));
    let text = |member: &str| key.get(member).and_then(Value::as_str);
    if text("kty") == Some("oct") || SECRETS.iter().any(|member| key.contains_key(*member)) {
        return Err(BundleError::SecretKey(index));
    }
    if let Some(kid) = text("kid")
        && !kids.insert(kid.to_owned())
    {
        return Err(BundleError::DuplicateKid(kid.chars().take(80).collect()));
    }
    match text("kty") {
        Some("EC" | "RSA" | "OKP") => {}
        Some(_) => return ignored("an unknown kty"),
        None => return ignored("no kty"),
    }
    match text("use") {
        Some("x509-svid") => authority(trust_domain, index, key.get("x5c"), now),
        Some("jwt-svid") if text("kid").is_none() => ignored("a jwt-svid key without kid"),
        Some("jwt-svid" | "wit-svid") => Ok(Element::Other),
        Some(_) => ignored("an unknown use"),
        None => ignored("no use"),
    }
}

fn authority(
    trust_domain: &TrustDomain,
    index: usize,
    x5c: Option<&Value>,
    now: SystemTime,
) -> Result<Element, BundleError> {
    let ignored = |why: &str| Ok(Element::Ignored(why.to_owned()));
    // the first certificate counts, the rest is ignored.
    let Some(encoded) = x5c.and_then(Value::as_array).and_then(|list| list.first()).and_then(Value::as_str) else {
        return ignored("no x5c");
    };
    let Ok(der) = STANDARD.decode(encoded) else { return ignored("x5c is not base64") };
    let der = CertificateDer::from(der);
    let Ok(certificate) = svid::parse(&der) else { return ignored("x5c is not a certificate") };
    if let Some(owner) = other_owner(trust_domain, &certificate) {
        return Err(BundleError::OtherTrustDomain { index, owner });
    }
    if let Some(why) = not_an_authority(&certificate) {
        return ignored(why);
    }
    if webpki::anchor_from_trusted_cert(&der).is_err() {
        return ignored("x5c cannot be used as a trust anchor");
    }
    match svid::validity(&der) {
        Ok((_, end)) if end <= now => Ok(Element::Expired),
        _ => Ok(Element::Authority(der)),
    }
}

/// Another trust domain that the certificate names as its own (bad input 46).
fn other_owner(trust_domain: &TrustDomain, certificate: &X509Certificate<'_>) -> Option<String> {
    spiffe_names(certificate).into_iter().find_map(|uri| match uri.parse::<SpiffeId>() {
        Ok(id) if id.trust_domain() == trust_domain => None,
        Ok(id) => Some(id.trust_domain().to_string()),
        Err(_) => Some(uri.chars().take(80).collect()),
    })
}

fn spiffe_names<'a>(certificate: &X509Certificate<'a>) -> Vec<&'a str> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let spiffe = |name: &GeneralName<'a>| match name {
        GeneralName::URI(uri) if uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:")) => {
            Some(*uri)
        }
        _ => None,
    };
    names.value.general_names.iter().filter_map(spiffe).collect()
}

/// and a key that can be believed.
fn not_an_authority(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    if !certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca) {
        return Some("x5c is not an authority (CA:TRUE is missing)");
    }
    if spiffe_names(certificate).iter().any(|uri| SpiffeId::workload(uri).is_ok()) {
        return Some("x5c has an ID with a path, as only a workload may");
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => return Some("x5c may not sign certificates (keyCertSign)"),
        Err(_) => return Some("x5c has a key usage that cannot be read"),
        _ => {}
    }
    if !svid::key_is_strong(&certificate.subject_pki) || public_jwk(certificate).is_none() {
        return Some("x5c has a key that is too weak or of an unknown kind");
    }
    None
}

/// The certificate's public key as JWK members; `None` for a kind that JWK cannot say.
fn public_jwk(certificate: &X509Certificate<'_>) -> Option<PublicJwk> {
    let key = &certificate.subject_pki;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match key.parsed().ok()? {
        PublicKey::EC(point) => {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let (crv, size) = if curve == oids::OID_EC_P256 {
                ("P-256", 32)
            } else if curve == oids::OID_NIST_EC_P384 {
                ("P-384", 48)
            } else if curve == oids::OID_NIST_EC_P521 {
                ("P-521", 66)
            } else {
                return None;
            };
            let (x, y) = point.data().strip_prefix(&[4])?.split_at_checked(size)?;
            (y.len() == size).then(|| PublicJwk::Ec { crv, x: encode(x), y: encode(y) })
        }
        PublicKey::RSA(rsa) => {
            let unsigned = |bytes: &[u8]| encode(&bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]);
            Some(PublicJwk::Rsa { n: unsigned(rsa.modulus), e: unsigned(rsa.exponent) })
        }
        _ if key.algorithm.algorithm == oids::OID_SIG_ED25519 => {
            Some(PublicJwk::Okp { crv: "Ed25519", x: encode(&key.subject_public_key.data) })
        }
        _ => None,
    }
}
