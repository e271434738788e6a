//! Public keys that verify tokens: read from a JWK or an SPKI, checked once, and then ready to verify with. The algorithms are a
//! closed list (JWT-SVID.md §2.1), and which of them a key may verify follows from the key, never from the token.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};
use x509_parser::oid_registry as oids;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::octets::sha256;

/// Sizes of an RSA modulus that can be believed, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Members of a JWK that only a private key has, and `k`, which is a symmetric key (RFC 7518 §6).
const SECRETS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "k"];

/// How tokens may be signed; there is no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
}

/// A checked public key: on one of the curves P-256, P-384 and P-521, or RSA of 2048 to 8192 bits.
#[derive(Clone)]
pub struct TokenKey(Arc<Inner>);

struct Inner {
    jwk: PublicJwk,
    spki: Vec<u8>,
    /// One per algorithm that the key can verify.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// A trust domain's key for JWT-SVIDs or WIT-SVIDs, under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtAuthority {
    pub kid: Arc<str>,
    pub key: TokenKey,
}

/// Why a public key is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("private or symmetric key material, which must never be published")]
    Secret,
    #[error("a key of a kind that cannot sign tokens")]
    Kind,
    #[error("a key that is too weak")]
    Weak,
    #[error("a key that cannot be read")]
    Malformed,
}

/// The members of a JWK that are the key. The order is the order on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kty")]
pub(super) enum PublicJwk {
    #[serde(rename = "EC")]
    Ec { crv: &'static str, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    /// Of certificates only: no token is signed with it.
    #[serde(rename = "OKP")]
    Okp { crv: &'static str, x: String },
}

/// A curve, as JWK names it.
struct Curve {
    crv: &'static str,
    /// Of one coordinate, in bytes.
    size: usize,
    algorithm: Algorithm,
    verifier: &'static EcdsaVerificationAlgorithm,
}

static CURVES: [Curve; 3] = [
    Curve { crv: "P-256", size: 32, algorithm: Algorithm::Es256, verifier: &ECDSA_P256_SHA256_FIXED },
    Curve { crv: "P-384", size: 48, algorithm: Algorithm::Es384, verifier: &ECDSA_P384_SHA384_FIXED },
    Curve { crv: "P-521", size: 66, algorithm: Algorithm::Es512, verifier: &ECDSA_P521_SHA512_FIXED },
];

static RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &RSA_PSS_2048_8192_SHA512),
];

/// Whether the JWK has a member that must never be published (bad input 50, 51).
pub(super) fn is_secret(jwk: &Map<String, Value>) -> bool {
    jwk.get("kty").and_then(Value::as_str) == Some("oct") || SECRETS.iter().any(|member| jwk.contains_key(*member))
}

// === impl TokenKey ===

impl TokenKey {
    /// The key of a JWK; members that are not the key are ignored (SPIFFE_Trust_Domain_and_Bundle.md §4.2).
    ///
    /// # Errors
    /// Why it is not a key that can verify tokens.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<Self, KeyError> {
        if is_secret(jwk) {
            return Err(KeyError::Secret);
        }
        let text = |member: &str| jwk.get(member).and_then(Value::as_str);
        let bytes = |member: &str| URL_SAFE_NO_PAD.decode(text(member)?).ok();
        match text("kty") {
            Some("EC") => {
                let crv = text("crv").ok_or(KeyError::Malformed)?;
                let (x, y) = (bytes("x").ok_or(KeyError::Malformed)?, bytes("y").ok_or(KeyError::Malformed)?);
                Self::ec(crv, &x, &y)
            }
            Some("RSA") => {
                let (n, e) = (bytes("n").ok_or(KeyError::Malformed)?, bytes("e").ok_or(KeyError::Malformed)?);
                Self::rsa(&n, &e)
            }
            _ => Err(KeyError::Kind),
        }
    }

    /// The key of a `SubjectPublicKeyInfo` in DER.
    ///
    /// # Errors
    /// As [`Self::from_jwk`].
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let ([], spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Malformed)? else {
            return Err(KeyError::Malformed);
        };
        match spki.parsed().map_err(|_| KeyError::Malformed)? {
            PublicKey::EC(_) => {
                let (curve, x, y) = ec_point(&spki).ok_or(KeyError::Kind)?;
                Self::ec(curve.crv, x, y)
            }
            PublicKey::RSA(rsa) => Self::rsa(unsigned(rsa.modulus), unsigned(rsa.exponent)),
            _ => Err(KeyError::Kind),
        }
    }

    fn ec(crv: &str, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        let curve = CURVES.iter().find(|curve| curve.crv == crv).ok_or(KeyError::Kind)?;
        if x.len() != curve.size || y.len() != curve.size {
            return Err(KeyError::Malformed);
        }
        // Uncompressed; whether it lies on the curve is checked by the library.
        let point = [&[4], x, y].concat();
        let parsed = ParsedPublicKey::new(curve.verifier, point).map_err(|_| KeyError::Malformed)?;
        let jwk = PublicJwk::Ec { crv: curve.crv, x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) };
        Self::checked(jwk, vec![(curve.algorithm, parsed)])
    }

    fn rsa(n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        // RFC 7518 §6.3.1: as few octets as can be. An even modulus or exponent is no RSA key.
        let minimal = |number: &[u8]| number.first().is_some_and(|first| *first != 0);
        let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
        if !(minimal(n) && minimal(e) && odd(n) && odd(e)) {
            return Err(KeyError::Malformed);
        }
        if !RSA_BITS.contains(&bits) || e == [1] || e.len() > 4 {
            return Err(KeyError::Weak);
        }
        let components = RsaPublicKeyComponents { n, e };
        let parse = |(algorithm, parameters): &(Algorithm, &'static RsaParameters)| {
            Ok((*algorithm, components.to_parsed_public_key(parameters).map_err(|_| KeyError::Malformed)?))
        };
        let verifiers = RSA.iter().map(parse).collect::<Result<_, KeyError>>()?;
        Self::checked(PublicJwk::Rsa { n: URL_SAFE_NO_PAD.encode(n), e: URL_SAFE_NO_PAD.encode(e) }, verifiers)
    }

    fn checked(jwk: PublicJwk, verifiers: Vec<(Algorithm, ParsedPublicKey)>) -> Result<Self, KeyError> {
        let (_, first) = verifiers.first().ok_or(KeyError::Kind)?;
        let spki: PublicKeyX509Der<'_> = first.as_der().map_err(|_| KeyError::Malformed)?;
        let spki = spki.as_ref().to_vec();
        Ok(Self(Arc::new(Inner { jwk, spki, verifiers })))
    }

    /// As a JWK that holds nothing but the key.
    pub fn to_jwk(&self) -> Value {
        serde_json::to_value(&self.0.jwk).expect("strings serialise")
    }

    /// `SubjectPublicKeyInfo` in DER.
    pub fn spki(&self) -> &[u8] {
        &self.0.spki
    }

    /// The key's name by its content (RFC 7638).
    fn thumbprint(&self) -> String {
        let canonical = match &self.0.jwk {
            PublicJwk::Ec { crv, x, y } => format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#),
            PublicJwk::Rsa { n, e } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
            PublicJwk::Okp { crv, x } => format!(r#"{{"crv":"{crv}","kty":"OKP","x":"{x}"}}"#),
        };
        URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes()))
    }

    /// What the key can verify; the first is what it signs with if nothing else is said.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.0.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }

    pub(super) fn jwk(&self) -> &PublicJwk {
        &self.0.jwk
    }

    /// `None` if `algorithm` is not one of this kind of key; else whether the signature (P1363 for ECDSA) is right.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Option<bool> {
        let (_, verifier) = self.0.verifiers.iter().find(|(of, _)| *of == algorithm)?;
        Some(verifier.verify_sig(message, signature).is_ok())
    }
}

impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.spki == other.0.spki
    }
}

impl Eq for TokenKey {}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.thumbprint())
    }
}

// === impl PublicJwk ===

impl PublicJwk {
    /// `None` for a kind that JWK cannot say, or that we do not read.
    pub(super) fn of_spki(spki: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match spki.parsed().ok()? {
            PublicKey::EC(_) => {
                let (curve, x, y) = ec_point(spki)?;
                Some(Self::Ec { crv: curve.crv, x: encode(x), y: encode(y) })
            }
            PublicKey::RSA(rsa) => {
                Some(Self::Rsa { n: encode(unsigned(rsa.modulus)), e: encode(unsigned(rsa.exponent)) })
            }
            _ if spki.algorithm.algorithm == oids::OID_SIG_ED25519 => {
                Some(Self::Okp { crv: "Ed25519", x: encode(&spki.subject_public_key.data) })
            }
            _ => None,
        }
    }
}

/// The curve and the coordinates; `None` for another curve, or a point that is compressed or cut.
fn ec_point<'a>(spki: &'a SubjectPublicKeyInfo<'_>) -> Option<(&'static Curve, &'a [u8], &'a [u8])> {
    let oid = spki.algorithm.parameters.as_ref()?.as_oid().ok()?;
    let named = [oids::OID_EC_P256, oids::OID_NIST_EC_P384, oids::OID_NIST_EC_P521];
    let curve = &CURVES[named.iter().position(|known| *known == oid)?];
    let (x, y) = spki.subject_public_key.data.strip_prefix(&[4])?.split_at_checked(curve.size)?;
    (y.len() == curve.size).then_some((curve, x, y))
}

/// DER pads a positive INTEGER; JWK does not.
fn unsigned(integer: &[u8]) -> &[u8] {
    &integer[integer.iter().take_while(|byte| **byte == 0).count()..]
}

// === impl Algorithm ===

impl Algorithm {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Rs256, "RS256"),
        (Self::Rs384, "RS384"),
        (Self::Rs512, "RS512"),
        (Self::Es256, "ES256"),
        (Self::Es384, "ES384"),
        (Self::Es512, "ES512"),
        (Self::Ps256, "PS256"),
        (Self::Ps384, "PS384"),
        (Self::Ps512, "PS512"),
    ];

    /// By the name that `alg` gives it, which is case-sensitive.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(algorithm, _)| *algorithm)
    }

    /// As `alg` names it.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
