//! A bundle as JSON: reading what peers send, element by element, and writing what they can read.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde_json::{Map, Value};
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::bundle::{Bundle, BundleError, Content, DEFAULT_REFRESH, MAX_BYTES, MAX_KEYS, Parsed, Use};
use super::svid::SvidError;
use super::token_key::{self, JwtAuthority, KeyError, PublicJwk, TokenKey};
use super::{json, svid};

/// Bounds of the refresh hint (bad input 56).
const REFRESH: std::ops::RangeInclusive<u64> = 30..=24 * 3600;
/// The longest name of a key; a token's header has no room for more.
pub(super) const MAX_KID_BYTES: usize = 255;

/// Field order is the order on the wire.
#[derive(Serialize)]
pub(super) struct Document {
    keys: Vec<Jwk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

/// An X.509 authority has exactly one certificate in `x5c` and no `kid`; a key for tokens has a `kid` and no `x5c` (J-10, T-5).
#[derive(Serialize)]
struct Jwk {
    r#use: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(flatten)]
    key: PublicJwk,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<[String; 1]>,
}

/// What becomes of one element of `keys`.
enum Element {
    X509(CertificateDer<'static>),
    /// An expired authority: true, and of no use.
    Expired,
    Jwt(JwtAuthority),
    Wit(JwtAuthority),
    /// Ignored because it is not what the specification says.
    Ignored(&'static str),
    /// Likewise, and it is a key for tokens.
    IgnoredToken(&'static str),
}

/// A bundle as it is being read.
struct Reading {
    bundle: Bundle,
    warnings: Vec<String>,
    expired: bool,
    /// The first of the elements ignored, see [`Self::done`].
    broken: Option<String>,
    broken_token: Option<String>,
}

impl Document {
    /// All there is to say.
    pub(super) fn of(bundle: &Bundle) -> Self {
        let keys = [Use::X509, Use::Jwt, Use::Wit].into_iter().flat_map(|only| Self::plain(bundle, only).keys);
        Self {
            keys: keys.collect(),
            spiffe_sequence: Some(bundle.sequence),
            // Always: without it SPIRE asks far too seldom.
            spiffe_refresh_hint: Some(bundle.refresh_hint.as_secs()),
        }
    }

    /// As part of a bundle map for verifiers of X.509-SVIDs: no refresh hints inside a map (§5.1.1), no keys for tokens.
    pub(super) fn in_map(bundle: &Bundle) -> Self {
        Self { spiffe_sequence: Some(bundle.sequence), ..Self::plain(bundle, Use::X509) }
    }

    /// The keys of one use and nothing else.
    pub(super) fn plain(bundle: &Bundle, only: Use) -> Self {
        let authority = |root: &CertificateDer<'static>| {
            let key = PublicJwk::of_spki(&svid::parse(root).ok()?.subject_pki)?;
            Some(Jwk { r#use: only.name(), kid: None, key, x5c: Some([STANDARD.encode(root)]) })
        };
        let token = |authority: &JwtAuthority| Jwk {
            r#use: only.name(),
            kid: Some(authority.kid.to_string()),
            key: authority.key.jwk().clone(),
            x5c: None,
        };
        let keys = match only {
            Use::X509 => bundle.x509.iter().filter_map(authority).collect(),
            Use::Jwt => bundle.jwt.iter().map(token).collect(),
            Use::Wit => bundle.wit.iter().map(token).collect(),
        };
        Self { keys, spiffe_sequence: None, spiffe_refresh_hint: None }
    }
}

pub(super) fn parse(trust_domain: &TrustDomain, bytes: &[u8], now: SystemTime) -> Result<Parsed, BundleError> {
    if bytes.len() > MAX_BYTES {
        return Err(BundleError::TooLarge);
    }
    let document = json::parse(bytes).map_err(|e| BundleError::Malformed(e.to_string()))?;
    read(trust_domain, &document, now)
}

/// Of a document that has been parsed strictly.
pub(super) fn read(trust_domain: &TrustDomain, document: &Value, now: SystemTime) -> Result<Parsed, BundleError> {
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
    let refresh_hint = refresh_hint(document, &mut warnings);
    let bundle = Bundle::new(trust_domain.clone(), sequence, refresh_hint, Vec::new());
    let mut reading = Reading { bundle, warnings, expired: false, broken: None, broken_token: None };
    let mut kids = BTreeSet::new();
    for (index, key) in keys.iter().enumerate() {
        let element = match key {
            Value::Object(key) => element(trust_domain, index, key, &mut kids, now)?,
            _ => Element::Ignored("not an object"),
        };
        reading.take(index, element);
    }
    reading.done(keys.is_empty())
}

impl Reading {
    fn take(&mut self, index: usize, element: Element) {
        let bundle = &mut self.bundle;
        let why = match element {
            Element::X509(root) if bundle.x509.contains(&root) => "the same again",
            Element::X509(root) => return bundle.x509.push(root),
            Element::Jwt(authority) => return bundle.jwt.push(authority),
            Element::Wit(authority) => return bundle.wit.push(authority),
            Element::Expired => {
                self.expired = true;
                "the authority has expired"
            }
            Element::Ignored(why) => {
                self.broken.get_or_insert_with(|| format!("key {index}: {why}"));
                why
            }
            Element::IgnoredToken(why) => {
                self.broken_token.get_or_insert_with(|| format!("key {index}: {why}"));
                why
            }
        };
        self.warnings.push(format!("key {index}: {why}"));
    }

    /// An empty list, or one of keys for tokens only, is a statement. One whose every authority is broken is an accident, and an
    /// accident withdraws nothing (invariant I5).
    fn done(self, empty: bool) -> Result<Parsed, BundleError> {
        let Self { bundle, warnings, expired, broken, broken_token } = self;
        let tokens = !(bundle.jwt.is_empty() && bundle.wit.is_empty());
        if let Some(why) = broken
            && bundle.x509.is_empty()
        {
            return Err(BundleError::Unusable(why));
        }
        if let Some(why) = broken_token
            && bundle.x509.is_empty()
            && !expired
            && !tokens
        {
            return Err(BundleError::Unusable(why));
        }
        let content = match () {
            () if empty => Content::Empty,
            () if bundle.x509.is_empty() && !expired => Content::TokensOnly,
            () => Content::Authorities,
        };
        Ok(Parsed { bundle, content, warnings })
    }
}

/// What is no number of seconds, or not a positive one, is no hint: the default then (bad input 56).
fn refresh_hint(document: &Map<String, Value>, warnings: &mut Vec<String>) -> Duration {
    let Some(hint) = document.get("spiffe_refresh_hint") else { return DEFAULT_REFRESH };
    let (from, to) = (*REFRESH.start(), *REFRESH.end());
    let taken = match hint.as_u64().filter(|seconds| *seconds > 0) {
        Some(seconds) => Duration::from_secs(seconds.clamp(from, to)),
        None => DEFAULT_REFRESH,
    };
    if hint.as_u64() != Some(taken.as_secs()) {
        warnings.push("the refresh hint is not between 30 s and 24 h".into());
    }
    taken
}

fn element(
    trust_domain: &TrustDomain,
    index: usize,
    key: &Map<String, Value>,
    kids: &mut BTreeSet<String>,
    now: SystemTime,
) -> Result<Element, BundleError> {
    let text = |member: &str| key.get(member).and_then(Value::as_str);
    if token_key::is_secret(key) {
        return Err(BundleError::SecretKey(index));
    }
    if let Some(kid) = text("kid")
        && !kids.insert(kid.to_owned())
    {
        return Err(BundleError::DuplicateKid(kid.chars().take(80).collect()));
    }
    let usage = text("use");
    if usage == Some(Use::Jwt.name()) {
        return Ok(token(text("kid"), key).map_or_else(Element::IgnoredToken, Element::Jwt));
    }
    if usage == Some(Use::Wit.name()) {
        return Ok(token(text("kid"), key).map_or_else(Element::IgnoredToken, Element::Wit));
    }
    match (text("kty"), usage) {
        (Some("EC" | "RSA" | "OKP"), Some("x509-svid")) => authority(trust_domain, index, key.get("x5c"), now),
        (Some("EC" | "RSA" | "OKP"), Some(_)) => Ok(Element::Ignored("an unknown use")),
        (Some("EC" | "RSA" | "OKP"), None) => Ok(Element::Ignored("no use")),
        (Some(_), _) => Ok(Element::Ignored("an unknown kty")),
        (None, _) => Ok(Element::Ignored("no kty")),
    }
}

/// A key for tokens, or why it is ignored.
fn token(kid: Option<&str>, key: &Map<String, Value>) -> Result<JwtAuthority, &'static str> {
    let kid = kid.filter(|kid| !kid.is_empty()).ok_or("a key for tokens without kid")?;
    if kid.len() > MAX_KID_BYTES {
        return Err("a kid longer than 255 bytes");
    }
    match TokenKey::from_jwk(key) {
        Ok(key) => Ok(JwtAuthority { kid: kid.into(), key }),
        Err(KeyError::Kind) => Err("a key of a kind that cannot sign tokens"),
        Err(KeyError::Weak) => Err("a key that is too weak"),
        Err(KeyError::Secret | KeyError::Malformed) => Err("a key that cannot be read"),
    }
}

fn authority(
    trust_domain: &TrustDomain,
    index: usize,
    x5c: Option<&Value>,
    now: SystemTime,
) -> Result<Element, BundleError> {
    let ignored = |why| Ok(Element::Ignored(why));
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
    if let Some(why) = not_an_authority(trust_domain, &der, &certificate) {
        return ignored(why);
    }
    if webpki::anchor_from_trusted_cert(&der).is_err() {
        return ignored("x5c cannot be used as a trust anchor");
    }
    match svid::validity(&der) {
        Ok((_, end)) if end <= now => Ok(Element::Expired),
        _ => Ok(Element::X509(der)),
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

/// As the verifier judges it, so that what is taken into a bundle is of use there; and of a kind that JWK can say.
fn not_an_authority(
    trust_domain: &TrustDomain,
    der: &CertificateDer<'_>,
    certificate: &X509Certificate<'_>,
) -> Option<&'static str> {
    match svid::check_authority(der, trust_domain) {
        Err(SvidError::Profile(why)) => Some(why),
        Err(_) => Some("x5c is not a certificate that can be read"),
        Ok(_) if PublicJwk::of_spki(&certificate.subject_pki).is_none() => Some("x5c has a key of an unknown kind"),
        Ok(_) => None,
    }
}
