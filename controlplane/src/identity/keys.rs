//! Where authorities' private keys live and how they sign: [`disk`], [`memory`], or a PKCS#11 token ([`pkcs11`]). Everything here
//! blocks, for microseconds or, with a token, for as long as its deadline: callers on the runtime go through `spawn_blocking`.

pub mod disk;
pub mod memory;
pub mod pkcs11;
mod pool;
pub mod soft;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rcgen::PublicKeyData;
use symbolon_proto::ids::TrustDomain;
use tracing::error;

/// Makes, finds and destroys keys by name. A name is never used twice: it has random bytes in it.
pub trait KeyManager: Send + Sync + fmt::Debug {
    /// `disk`, `memory` or `pkcs11`.
    fn kind(&self) -> &'static str;

    /// A new key, kept durably when this returns.
    ///
    /// # Errors
    /// If it cannot be made or kept.
    fn generate(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError>;

    /// The key made under this name.
    ///
    /// # Errors
    /// [`KeyError::Missing`] if it is gone, others if it cannot be used as it is.
    fn load(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError>;

    /// Destroys the key; one that is gone already is no error.
    ///
    /// # Errors
    /// If it is still there.
    fn remove(&self, name: &str) -> Result<(), KeyError>;

    /// Whether keys end with the process.
    fn is_volatile(&self) -> bool {
        false
    }

    /// The names of all keys that are kept.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn names(&self) -> Result<Vec<String>, KeyError>;
}

/// Which key manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Files in the data folder.
    #[default]
    Disk,
    Memory,
    Pkcs11(pkcs11::Config),
}

/// A private key that may never be seen, only used.
pub trait SigningKey: Send + Sync + fmt::Debug {
    fn algorithm(&self) -> Algorithm;

    /// The content of the public key's BIT STRING: an uncompressed point, or an RSAPublicKey.
    fn public_key(&self) -> &[u8];

    /// The signature of `message` as X.509 wants it: ECDSA as a DER SEQUENCE, RSA as PKCS#1 v1.5.
    ///
    /// # Errors
    /// If the key cannot sign now.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// Whether signing waits for something outside this process.
    fn is_slow(&self) -> bool {
        false
    }

    /// The signature of `message` as a JWS wants it: ECDSA as r and s of fixed length (RFC 7518 §3.4).
    ///
    /// # Errors
    /// As [`SigningKey::sign`].
    fn sign_jws(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.sign(message)?;
        match self.algorithm().half() {
            Some(half) => fixed(&signature, half).ok_or(KeyError::Signature),
            None => Ok(signature),
        }
    }
}

/// What a key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    EcdsaP256,
    EcdsaP384,
    /// PKCS#1 v1.5 with SHA-256; only for an upstream authority that has such a key.
    Rsa,
}

/// Why a key cannot be had, or cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the authority's key {name} is missing: {place}")]
    Missing { name: String, place: String },
    #[error("the authority's key file {path} has mode {mode:04o}: only its owner may read it. Run: chmod 600 {path}")]
    Mode { path: String, mode: u32 },
    #[error("the authority's key file {path} {what}: {why}")]
    File { path: String, what: &'static str, why: String },
    #[error("the key cannot be used: {0}")]
    Unusable(String),
    #[error("the PKCS#11 token {0}")]
    Token(String),
    #[error("the key manager did not sign within {} ms", .0.as_millis())]
    Late(std::time::Duration),
    #[error("too many signatures are waiting for the key manager")]
    Overloaded,
    #[error("the key manager gave no signature of the key's kind")]
    Signature,
}

/// A key as rcgen wants it.
#[derive(Clone, Debug)]
pub struct RcgenKey(pub Arc<dyn SigningKey>);

// === impl Place ===

impl Place {
    /// Opens it. Blocks.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn open(&self, folder: &Path, trust_domain: &TrustDomain) -> Result<Arc<dyn KeyManager>, KeyError> {
        Ok(match self {
            Self::Disk => Arc::new(disk::Disk::open(folder)?),
            Self::Memory => Arc::new(memory::Memory::default()),
            Self::Pkcs11(config) => Arc::new(pkcs11::open(config, trust_domain)?),
        })
    }
}

// === impl Algorithm ===

impl Algorithm {
    /// As `alg` of a JWS says it.
    pub fn jws(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ES256",
            Self::EcdsaP384 => "ES384",
            Self::Rsa => "RS256",
        }
    }

    /// The length of r and of s.
    pub(crate) fn half(self) -> Option<usize> {
        match self {
            Self::EcdsaP256 => Some(32),
            Self::EcdsaP384 => Some(48),
            Self::Rsa => None,
        }
    }

    fn rcgen(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Rsa => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

// === impl KeyError ===

impl KeyError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "key_missing",
            Self::Mode { .. } => "key_file_mode",
            Self::File { .. } => "key_file",
            Self::Unusable(_) => "key_unusable",
            Self::Token(_) => "key_token",
            Self::Late(_) => "key_late",
            Self::Overloaded => "key_overloaded",
            Self::Signature => "key_signature",
        }
    }
}

// === impl RcgenKey ===

impl PublicKeyData for RcgenKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm().rcgen()
    }
}

impl rcgen::SigningKey for RcgenKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|error| {
            error!(%error, "an authority's key could not sign"); // rcgen's error has no room for the reason
            rcgen::Error::RemoteKeyError
        })
    }
}

/// The SubjectPublicKeyInfo of a key, in DER.
pub fn spki(key: &Arc<dyn SigningKey>) -> Vec<u8> {
    RcgenKey(key.clone()).subject_public_key_info()
}

/// r and s of `half` bytes each, of a DER `SEQUENCE { r INTEGER, s INTEGER }`.
fn fixed(der: &[u8], half: usize) -> Option<Vec<u8>> {
    let body = element(der, 0x30)?;
    let (body, rest) = (body.0, body.1);
    let (r, after) = element(body, 0x02)?;
    let (s, end) = element(after, 0x02)?;
    if !rest.is_empty() || !end.is_empty() {
        return None;
    }
    let mut out = vec![0; 2 * half];
    for (number, place) in [(r, half), (s, 2 * half)] {
        let digits = number.strip_prefix(&[0]).unwrap_or(number);
        let start = place.checked_sub(digits.len()).filter(|start| start + half >= place)?;
        out[start..place].copy_from_slice(digits);
    }
    Some(out)
}

/// The content of the first element, if it has this tag, and what is behind it. Lengths up to 255, which is more than any signature.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (first, rest) = rest.split_first()?;
    match first {
        0..=0x7f => rest.split_at_checked(usize::from(*first)),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            rest.split_at_checked(usize::from(*length))
        }
        _ => None,
    }
}

/// `SEQUENCE { r INTEGER, s INTEGER }` of r and s as a PKCS#11 token gives them.
pub(crate) fn der_of_fixed(fixed: &[u8]) -> Option<Vec<u8>> {
    if fixed.is_empty() || !fixed.len().is_multiple_of(2) || fixed.len() > 132 {
        return None;
    }
    let integer = |number: &[u8]| {
        let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len() - 1);
        let digits = &number[first..];
        let pad = usize::from(digits[0] & 0x80 != 0);
        let mut out = vec![0x02, u8::try_from(digits.len() + pad).unwrap_or(u8::MAX)];
        out.extend(std::iter::repeat_n(0, pad));
        out.extend_from_slice(digits);
        out
    };
    let (r, s) = fixed.split_at(fixed.len() / 2);
    let body = [integer(r), integer(s)].concat();
    let length = u8::try_from(body.len()).ok()?;
    let mut out = if length < 0x80 { vec![0x30, length] } else { vec![0x30, 0x81, length] };
    out.extend(body);
    Some(out)
}

#[cfg(test)]
mod tests;
