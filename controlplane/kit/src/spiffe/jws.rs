//! The compact JWS that both kinds of token are (JWT-SVID.md §1, WIT-SVID.md §1): taken apart strictly, checked against the keys
//! of the subject's own trust domain, and put together for whoever holds a key to sign.
//!
//! Nothing here fetches anything: a key that the bundle does not hold does not exist (bad input 63, 66).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use symbolon_proto::ids::{IdError, SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use super::bundle::Bundle;
use super::json::{self, Member, Number};
use super::jwks::MAX_KID_BYTES;
use super::token_key::Algorithm;

/// The largest token read or written.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// How far the clocks of issuer and verifier may lie apart (JWT-SVID.md App. A: small).
pub const LEEWAY: Duration = Duration::from_secs(10);
/// The most audiences of one token. More than one is already discouraged (JWT-SVID.md §3.2).
pub const MAX_AUDIENCES: usize = 32;

/// The largest header, encoded; the longest `kid` fits.
const MAX_HEADER_BYTES: usize = 1024;
/// The largest signature, encoded: RSA of 8192 bits.
const MAX_SIGNATURE_BYTES: usize = 1366;
/// Room for the largest of both, decoded.
const ROOM: usize = 1026;
/// The end of the year 9999; later is no date.
const MAX_SECONDS: u64 = 253_402_300_799;

/// Why a token is refused; `bad input` rows 59 to 79. Never quotes the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("larger than 16 KiB")]
    TooLarge,
    #[error("not a compact JWS of three parts in base64url without padding")]
    Form,
    #[error("its header: {0}")]
    Header(String),
    #[error("its alg is not one of the nine that are allowed")]
    Algorithm,
    #[error("its header has the member {0:?}, which is not allowed")]
    HeaderMember(String),
    #[error("its typ is not {0}")]
    Type(&'static str),
    #[error("it has no kid, or one longer than {MAX_KID_BYTES} bytes")]
    Kid,
    #[error("its claims: {0}")]
    Claims(String),
    #[error("its claim {0} is missing")]
    Missing(&'static str),
    #[error("its claim {0} is not what it must be")]
    Claim(&'static str),
    #[error("its subject: {0}")]
    Subject(#[from] IdError),
    #[error("we hold no bundle of trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    #[error("trust domain {0} has no key of the token's kid")]
    UnknownKey(TrustDomain),
    #[error("its alg is not one of the key that its kid names")]
    KeyAlgorithm,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it is for another audience")]
    Audience,
    #[error("the proof of possession is wrong")]
    Proof,
}

/// Why a token is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("a token needs from 1 to {MAX_AUDIENCES} audiences, none of them empty")]
    Audience,
    #[error("the key's name is empty or longer than {MAX_KID_BYTES} bytes")]
    Kid,
    #[error("the workload's key cannot sign with that algorithm")]
    Key,
    #[error("it would expire before it is issued, or at no date")]
    Time,
    #[error("it would be larger than 16 KiB")]
    TooLarge,
}

/// Header and claims, encoded: what is to be signed.
#[derive(Clone, Debug)]
pub struct Unsigned(String);

/// A token as its owner holds it; redacted in `Debug`, wiped when dropped.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

/// What tells the two kinds of token apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    Jwt,
    Wit,
}

/// The parts, still encoded.
pub(super) struct Parts<'a> {
    signed: &'a str,
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

pub(super) struct Header<'r> {
    algorithm: Algorithm,
    kid: Cow<'r, str>,
}

/// Where a header is decoded to.
pub(super) struct Room([u8; ROOM]);

/// The claims that are looked at, as they stand there.
#[derive(Default)]
pub(super) struct Registered<'a> {
    sub: Option<Member<'a>>,
    aud: Option<Member<'a>>,
    exp: Option<Member<'a>>,
    nbf: Option<Member<'a>>,
    iat: Option<Member<'a>>,
    jti: Option<Member<'a>>,
}

// === impl Parts ===

impl<'a> Parts<'a> {
    pub(super) fn of(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(JwtError::Form)?;
        if payload.contains('.') {
            return Err(JwtError::Form);
        }
        // What is not base64url (braces, white space, padding) is refused where it is decoded.
        Ok(Self { signed, header, payload, signature })
    }

    pub(super) fn payload(&self) -> Result<Vec<u8>, JwtError> {
        URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| JwtError::Form)
    }

    /// Who the token is about, if a key of that trust domain has signed it (J-11, T-5; invariant I2).
    pub(super) fn authenticate(
        &self,
        profile: Profile,
        header: &Header<'_>,
        claims: &Registered<'_>,
        bundles: impl Fn(&TrustDomain) -> Option<Arc<Bundle>>,
    ) -> Result<SpiffeId, JwtError> {
        let Some(Member::Text(subject)) = &claims.sub else { return Err(missing("sub", claims.sub.as_ref())) };
        let subject = SpiffeId::workload(subject)?;
        let domain = subject.trust_domain();
        let bundle = bundles(domain).ok_or_else(|| JwtError::UnknownTrustDomain(domain.clone()))?;
        let authorities = match profile {
            Profile::Jwt => &bundle.jwt,
            Profile::Wit => &bundle.wit,
        };
        let authority = authorities.iter().find(|authority| *authority.kid == *header.kid);
        let authority = authority.ok_or_else(|| JwtError::UnknownKey(domain.clone()))?;
        let mut room = [0; ROOM];
        let signature = decode(self.signature, &mut room)?;
        match authority.key.verifies(header.algorithm, self.signed.as_bytes(), signature) {
            Some(true) => Ok(subject),
            Some(false) => Err(JwtError::Signature),
            None => Err(JwtError::KeyAlgorithm),
        }
    }
}

/// Without padding, white space or bits set behind the last byte, and if there is room.
fn decode<'r>(text: &str, room: &'r mut [u8]) -> Result<&'r [u8], JwtError> {
    let length = URL_SAFE_NO_PAD.decode_slice(text, room).map_err(|_| JwtError::Form)?;
    Ok(&room[..length])
}

fn missing(name: &'static str, found: Option<&Member<'_>>) -> JwtError {
    if found.is_some() { JwtError::Claim(name) } else { JwtError::Missing(name) }
}

// === impl Header ===

impl Room {
    pub(super) fn new() -> Self {
        Self([0; ROOM])
    }
}

impl<'r> Header<'r> {
    /// J-2 to J-5, T-1.
    pub(super) fn read(parts: &Parts<'_>, profile: Profile, room: &'r mut Room) -> Result<Self, JwtError> {
        if parts.header.len() > MAX_HEADER_BYTES {
            return Err(JwtError::Header("longer than 1 KiB".into()));
        }
        let bytes = decode(parts.header, &mut room.0)?;
        let (mut alg, mut kid, mut typ, mut critical, mut other) = (None, None, None, false, None);
        let take = |name: &str, value| match name {
            "alg" => alg = Some(value),
            "kid" => kid = Some(value),
            "typ" => typ = Some(value),
            name => {
                critical |= name == "crit";
                other.get_or_insert_with(|| name.chars().take(80).collect::<String>());
            }
        };
        json::members(bytes, take).map_err(|error| JwtError::Header(error.to_string()))?;
        let algorithm = match &alg {
            Some(Member::Text(name)) => Algorithm::parse(name).ok_or(JwtError::Algorithm)?,
            _ => return Err(JwtError::Algorithm),
        };
        profile.allows(typ.as_ref(), critical, other)?;
        match kid {
            Some(Member::Text(kid)) if !kid.is_empty() && kid.len() <= MAX_KID_BYTES => Ok(Self { algorithm, kid }),
            _ => Err(JwtError::Kid),
        }
    }
}

impl Profile {
    fn allows(self, typ: Option<&Member<'_>>, critical: bool, other: Option<String>) -> Result<(), JwtError> {
        match (self, other) {
            (Self::Jwt, Some(name)) => return Err(JwtError::HeaderMember(name)),
            // WIT-SVID.md §2.3: ignored, unless the issuer insists.
            (Self::Wit, Some(_)) if critical => return Err(JwtError::HeaderMember("crit".into())),
            _ => {}
        }
        match (self, typ) {
            (Self::Jwt, None) => Ok(()),
            (Self::Jwt, Some(Member::Text(typ))) if typ == "JWT" || typ == "JOSE" => Ok(()),
            (Self::Wit, Some(Member::Text(typ))) if typ == self.typ() => Ok(()),
            _ => Err(JwtError::Type(self.typ())),
        }
    }

    /// As it is written.
    fn typ(self) -> &'static str {
        match self {
            Self::Jwt => "JWT",
            Self::Wit => "wit+jwt",
        }
    }
}

// === impl Registered ===

impl<'a> Registered<'a> {
    pub(super) fn read(payload: &'a [u8]) -> Result<Self, JwtError> {
        let mut claims = Self::default();
        let take = |name: &str, value| match name {
            "sub" => claims.sub = Some(value),
            "aud" => claims.aud = Some(value),
            "exp" => claims.exp = Some(value),
            "nbf" => claims.nbf = Some(value),
            "iat" => claims.iat = Some(value),
            "jti" => claims.jti = Some(value),
            _ => {}
        };
        json::members(payload, take).map_err(|error| JwtError::Claims(error.to_string()))?;
        Ok(claims)
    }

    /// When it expires, if it is valid at `now`. When it was issued makes no difference (T-3).
    pub(super) fn valid_at(&self, now: SystemTime) -> Result<SystemTime, JwtError> {
        let expires = seconds("exp", self.exp.as_ref())?.ok_or(JwtError::Missing("exp"))?;
        if now >= expires + LEEWAY {
            return Err(JwtError::Expired);
        }
        if seconds("nbf", self.nbf.as_ref())?.is_some_and(|from| now + LEEWAY < from) {
            return Err(JwtError::NotYetValid);
        }
        seconds("iat", self.iat.as_ref())?;
        match &self.jti {
            None | Some(Member::Text(_)) => Ok(expires),
            Some(_) => Err(JwtError::Claim("jti")),
        }
    }

    /// Whether it is for `audience`, byte for byte (J-7).
    pub(super) fn is_for(&self, audience: &str) -> Result<(), JwtError> {
        let one;
        let values: &[Cow<'_, str>] = match &self.aud {
            Some(Member::Text(value)) => {
                one = [Cow::Borrowed(&**value)];
                &one
            }
            Some(Member::Texts(values)) => values,
            other => return Err(missing("aud", other.as_ref())),
        };
        if values.is_empty() || values.len() > MAX_AUDIENCES || values.iter().any(|value| value.is_empty()) {
            return Err(JwtError::Claim("aud"));
        }
        if values.iter().any(|value| value == audience) { Ok(()) } else { Err(JwtError::Audience) }
    }

    /// A token that must be proven is for nobody in particular (T-2), and so is never taken for one that is not.
    pub(super) fn is_for_nobody(&self) -> Result<(), JwtError> {
        if self.aud.is_none() { Ok(()) } else { Err(JwtError::Claim("aud")) }
    }
}

/// A date; a fraction of a second is cut off (RFC 7519 §2).
fn seconds(name: &'static str, claim: Option<&Member<'_>>) -> Result<Option<SystemTime>, JwtError> {
    let seconds = match claim {
        None => return Ok(None),
        Some(Member::Number(Number::Whole(seconds))) => *seconds,
        Some(Member::Number(Number::Other(seconds))) if *seconds >= 0.0 => *seconds as u64, // saturates
        Some(_) => return Err(JwtError::Claim(name)),
    };
    if seconds > MAX_SECONDS {
        return Err(JwtError::Claim(name));
    }
    Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

// === impl Unsigned ===

impl Unsigned {
    pub(super) fn new(
        profile: Profile,
        kid: &str,
        algorithm: Algorithm,
        claims: &impl Serialize,
    ) -> Result<Self, EncodeError> {
        #[derive(Serialize)]
        struct Header<'a> {
            alg: &'static str,
            kid: &'a str,
            typ: &'static str,
        }
        if kid.is_empty() || kid.len() > MAX_KID_BYTES {
            return Err(EncodeError::Kid);
        }
        let header = Header { alg: algorithm.name(), kid, typ: profile.typ() };
        let (header, claims) = (encode(&header), encode(claims));
        if header.len() > MAX_HEADER_BYTES || header.len() + claims.len() + MAX_SIGNATURE_BYTES + 2 > MAX_TOKEN_BYTES {
            return Err(EncodeError::TooLarge);
        }
        Ok(Self(format!("{header}.{claims}")))
    }

    /// What the key signs, with the algorithm that the header names.
    pub fn signing_input(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The token. An ECDSA signature is in P1363 form (RFC 7518 §3.4), not in DER.
    pub fn signed(self, signature: &[u8]) -> Token {
        let mut token = Zeroizing::new(self.0);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Token(token)
    }
}

fn encode(part: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).expect("strings and numbers serialise"))
}

/// Seconds since 1970.
pub(super) fn date(at: SystemTime) -> Result<u64, EncodeError> {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| EncodeError::Time)?.as_secs();
    if seconds > MAX_SECONDS { Err(EncodeError::Time) } else { Ok(seconds) }
}

// === impl Token ===

impl Token {
    /// Takes charge of a token that was received.
    pub fn received(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

// === impl JwtError ===

impl JwtError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Form => "form",
            Self::Header(_) => "header",
            Self::Algorithm => "algorithm",
            Self::HeaderMember(_) => "header_member",
            Self::Type(_) => "type",
            Self::Kid => "kid",
            Self::Claims(_) => "claims",
            Self::Missing(_) => "missing_claim",
            Self::Claim(_) => "claim",
            Self::Subject(_) => "subject",
            Self::UnknownTrustDomain(_) => "unknown_trust_domain",
            Self::UnknownKey(_) => "unknown_key",
            Self::KeyAlgorithm => "key_algorithm",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Audience => "audience",
            Self::Proof => "proof",
        }
    }
}
