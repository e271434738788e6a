//! An X.509-SVID with its private key, and what can be read off a certificate.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use symbolon_proto::ids::SpiffeId;
use zeroize::Zeroizing;

/// An SVID as its owner holds it.
#[derive(Clone)]
pub struct Svid {
    pub id: SpiffeId,
    /// DER, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKey,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Lower-case hex, without leading zeros stripped.
    pub serial: String,
}

/// PKCS#8 DER; redacted in `Debug`, wiped when dropped.
#[derive(Clone)]
pub struct PrivateKey(std::sync::Arc<Zeroizing<Vec<u8>>>);

/// Why a certificate is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    #[error("not an X.509 certificate in DER")]
    Malformed,
    #[error("{0}")]
    Profile(&'static str),
    #[error("its SPIFFE ID: {0}")]
    Id(#[from] symbolon_proto::ids::IdError),
    #[error("the key does not belong to the certificate")]
    KeyMismatch,
    #[error("key generation failed")]
    KeyGeneration,
}

/// A fresh P-256 key and a CSR (PKCS#10, DER) that proves its possession and asks for nothing.
///
/// # Errors
/// [`SvidError::KeyGeneration`].
pub fn new_key() -> Result<(PrivateKey, Vec<u8>), SvidError> {
    todo!()
}

/// `notBefore` and `notAfter`.
///
/// # Errors
/// If it cannot be parsed.
pub fn validity(_certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), SvidError> {
    todo!()
}

/// The SPIFFE ID of a leaf that keeps the X509-SVID profile (X-1 to X-13: one URI SAN, CA:FALSE, key usage present and critical
/// with digitalSignature and neither keyCertSign nor cRLSign, both EKUs if any).
///
/// # Errors
/// Which rule it breaks.
pub fn spiffe_id(_leaf: &CertificateDer<'_>) -> Result<SpiffeId, SvidError> {
    todo!()
}

impl Svid {
    /// Joins what was issued with the key it was issued for.
    ///
    /// # Errors
    /// If the leaf breaks the profile or is for another key.
    pub fn new(_chain: Vec<CertificateDer<'static>>, _key: PrivateKey) -> Result<Self, SvidError> {
        todo!()
    }
}

impl PrivateKey {
    pub fn from_pkcs8(der: Vec<u8>) -> Self {
        Self(std::sync::Arc::new(Zeroizing::new(der)))
    }

    /// PKCS#8 DER.
    pub fn pkcs8(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Svid({} serial {})", self.id, self.serial)
    }
}
