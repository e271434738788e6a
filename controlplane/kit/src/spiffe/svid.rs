//! An X.509-SVID with its private key, and what can be read off a certificate.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{self as oids, Oid};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Version};
use zeroize::Zeroizing;

use crate::octets::hex;

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
pub struct PrivateKey(Arc<Zeroizing<Vec<u8>>>);

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

/// Extensions that may be critical: on any certificate, because we look at each of them; the last on an authority, where webpki does.
const UNDERSTOOD: [Oid<'static>; 5] = [
    oids::OID_X509_EXT_BASIC_CONSTRAINTS,
    oids::OID_X509_EXT_KEY_USAGE,
    oids::OID_X509_EXT_EXTENDED_KEY_USAGE,
    oids::OID_X509_EXT_SUBJECT_ALT_NAME,
    oids::OID_X509_EXT_NAME_CONSTRAINTS,
];

/// What may have signed a certificate; no MD5, no SHA-1, no DSA (bad input 93).
const SIGNATURES: [Oid<'static>; 8] = [
    oids::OID_SIG_ECDSA_WITH_SHA256,
    oids::OID_SIG_ECDSA_WITH_SHA384,
    oids::OID_SIG_ECDSA_WITH_SHA512,
    oids::OID_PKCS1_SHA256WITHRSA,
    oids::OID_PKCS1_SHA384WITHRSA,
    oids::OID_PKCS1_SHA512WITHRSA,
    oids::OID_PKCS1_RSASSAPSS,
    oids::OID_SIG_ED25519,
];

/// A fresh P-256 key and a CSR (PKCS#10, DER) that proves its possession and asks for nothing.
///
/// # Errors
/// [`SvidError::KeyGeneration`].
pub fn new_key() -> Result<(PrivateKey, Vec<u8>), SvidError> {
    let key = KeyPair::generate().map_err(|_| SvidError::KeyGeneration)?;
    let key = PrivateKey::from_pkcs8(key.serialize_der());
    let csr = csr_of(&key)?;
    Ok((key, csr))
}

/// A CSR for a key that there is already; it asks for nothing.
///
/// # Errors
/// [`SvidError::KeyGeneration`] if the key cannot be used.
pub fn csr_of(key: &PrivateKey) -> Result<Vec<u8>, SvidError> {
    let key = KeyPair::try_from(key.pkcs8()).map_err(|_| SvidError::KeyGeneration)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new(); // rcgen's default names itself
    let csr = params.serialize_request(&key).map_err(|_| SvidError::KeyGeneration)?;
    Ok(csr.der().to_vec())
}

/// `notBefore` and `notAfter`.
///
/// # Errors
/// If it cannot be parsed.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), SvidError> {
    let parsed = parse(certificate)?;
    Ok((time(parsed.validity.not_before), time(parsed.validity.not_after)))
}

/// The serial number, lower-case hex as in [`Svid::serial`].
///
/// # Errors
/// If it cannot be parsed.
pub fn serial(certificate: &CertificateDer<'_>) -> Result<String, SvidError> {
    Ok(hex(parse(certificate)?.raw_serial()))
}

/// The subject key identifier, in lower-case hex.
pub fn key_id(certificate: &CertificateDer<'_>) -> Option<String> {
    find_extension(certificate, |extension| match extension {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(hex(id.0)),
        _ => None,
    })
}

/// The key identifier of whoever signed it, in lower-case hex.
pub fn issuer_key_id(certificate: &CertificateDer<'_>) -> Option<String> {
    find_extension(certificate, |extension| match extension {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| hex(id.0)),
        _ => None,
    })
}

fn find_extension<T>(der: &CertificateDer<'_>, find: impl Fn(&ParsedExtension<'_>) -> Option<T>) -> Option<T> {
    let certificate = parse(der).ok()?;
    certificate.extensions().iter().find_map(|extension| find(extension.parsed_extension()))
}

/// The SPIFFE ID of a leaf that keeps the X509-SVID profile (X-1 to X-13: one URI SAN, CA:FALSE, key usage present and critical
/// with digitalSignature and neither keyCertSign nor cRLSign, both EKUs if any).
///
/// # Errors
/// Which rule it breaks.
pub fn spiffe_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, SvidError> {
    let certificate = parse(leaf)?;
    check_signed(&certificate)?;
    check_form(&certificate, &UNDERSTOOD[..4])?;
    check_usages(&certificate)?;
    let id = read_id(&certificate)?;
    // Stricter than the parser above about DER itself: lengths, INTEGERs, BOOLEANs (bad input 97).
    webpki::EndEntityCert::try_from(leaf).map_err(|_| SvidError::Malformed)?;
    Ok(id)
}

/// As [`check_authority`], of one that another authority has signed.
///
/// # Errors
/// Which rule it breaks.
pub(super) fn check_intermediate(
    certificate: &CertificateDer<'_>,
    domain: &TrustDomain,
) -> Result<(SystemTime, SystemTime), SvidError> {
    check_signed(&parse(certificate)?)?;
    check_authority(certificate, domain)
}

/// The validity of an authority of `domain`, a root or below one, that keeps the profile: CA:TRUE, keyCertSign in the key usage if it has
/// one, and if it is an SVID itself (if it has a SPIFFE ID), an ID of that domain without a path, and a critical key usage (X-4, X-6, X-8,
///
///
/// # Errors
/// Which rule it breaks.
pub(super) fn check_authority(
    certificate: &CertificateDer<'_>,
    domain: &TrustDomain,
) -> Result<(SystemTime, SystemTime), SvidError> {
    let bad = |rule| Err(SvidError::Profile(rule));
    let parsed = parse(certificate)?;
    check_form(&parsed, &UNDERSTOOD)?;
    if !parsed.basic_constraints().map_err(|_| SvidError::Malformed)?.is_some_and(|constraints| constraints.value.ca) {
        return bad("it is not an authority (CA:TRUE is missing)");
    }
    let usage = parsed.key_usage().map_err(|_| SvidError::Malformed)?;
    if usage.as_ref().is_some_and(|usage| !usage.value.key_cert_sign()) {
        return bad("its key usage lacks keyCertSign");
    }
    let uris = uris(&parsed)?;
    for uri in uris.iter().filter(|uri| is_spiffe(uri)) {
        let id: SpiffeId = uri.parse()?;
        if id.trust_domain() != domain {
            return bad("it names another trust domain as its own");
        }
        if !id.path().is_empty() {
            return bad("its SPIFFE ID has a path, as only a workload's may");
        }
        if uris.len() > 1 {
            return bad("it has more than one URI name");
        }
        if !usage.as_ref().is_some_and(|usage| usage.critical) {
            return bad("it is an SVID, and its key usage is not critical");
        }
    }
    Ok((time(parsed.validity.not_before), time(parsed.validity.not_after)))
}

/// Only what any leaf must be: no more than a certificate that can be believed.
#[cfg(test)]
pub(super) fn check_leaf_form(leaf: &CertificateDer<'_>) -> Result<(), SvidError> {
    let certificate = parse(leaf)?;
    check_signed(&certificate)?;
    check_form(&certificate, &UNDERSTOOD[..4])
}

fn is_spiffe(uri: &str) -> bool {
    uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}

/// Parses one certificate with nothing behind it.
pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, SvidError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(SvidError::Malformed),
    }
}

/// P-256, P-384, P-521, RSA of 2048 to 8192 bits with a sane exponent, Ed25519.
pub(super) fn key_is_strong(key: &SubjectPublicKeyInfo<'_>) -> bool {
    match key.parsed() {
        Ok(PublicKey::EC(_)) => {
            key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).is_some_and(|curve| {
                [oids::OID_EC_P256, oids::OID_NIST_EC_P384, oids::OID_NIST_EC_P521].contains(&curve)
            })
        }
        Ok(PublicKey::RSA(rsa)) => (2048..=8192).contains(&rsa.key_size()) && rsa.try_exponent().is_ok_and(|e| e >= 3),
        Ok(_) => key.algorithm.algorithm == oids::OID_SIG_ED25519,
        Err(_) => false,
    }
}

/// What somebody signed: not asked of a root, which is trusted for being in the bundle. Public roots exist with serial number zero.
fn check_signed(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let bad = |rule| Err(SvidError::Profile(rule));
    let serial = certificate.raw_serial();
    if serial.len() > 20 {
        return bad("its serial number is longer than 20 bytes");
    }
    if serial.iter().all(|byte| *byte == 0) || serial[0] >= 0x80 {
        return bad("its serial number is not positive");
    }
    if !SIGNATURES.contains(&certificate.signature_algorithm.algorithm) {
        return bad("it is signed with an algorithm that is too weak or unknown");
    }
    Ok(())
}

fn check_form(certificate: &X509Certificate<'_>, understood: &[Oid<'static>]) -> Result<(), SvidError> {
    let bad = |rule| Err(SvidError::Profile(rule));
    if certificate.version != X509Version::V3 {
        return bad("it is not a version 3 certificate");
    }
    if !key_is_strong(&certificate.subject_pki) {
        return bad("its public key is too weak or of an unknown kind");
    }
    let mut seen = std::collections::BTreeSet::new();
    for extension in certificate.extensions() {
        if !seen.insert(extension.oid.as_bytes()) {
            return bad("it carries an extension twice");
        }
        if extension.critical && !understood.contains(&extension.oid) {
            return bad("it carries a critical extension that we do not understand");
        }
        if matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. }) {
            return Err(SvidError::Malformed);
        }
    }
    Ok(())
}

fn check_usages(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let bad = |rule| Err(SvidError::Profile(rule));
    if let Some(constraints) = certificate.basic_constraints().map_err(|_| SvidError::Malformed)?
        && constraints.value.ca
    {
        return bad("a certificate authority cannot be a leaf (CA:TRUE)");
    }
    let Some(usage) = certificate.key_usage().map_err(|_| SvidError::Malformed)? else {
        return bad("it has no key usage");
    };
    if !usage.critical {
        return bad("its key usage is not critical");
    }
    if !usage.value.digital_signature() {
        return bad("its key usage lacks digitalSignature");
    }
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return bad("its key usage has keyCertSign or cRLSign, which only an authority may have");
    }
    if let Some(usage) = certificate.extended_key_usage().map_err(|_| SvidError::Malformed)?
        && !(usage.value.server_auth && usage.value.client_auth)
    {
        return bad("its extended key usage must name both serverAuth and clientAuth");
    }
    Ok(())
}

fn read_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let names = certificate.subject_alternative_name().map_err(|_| SvidError::Malformed)?;
    let names = names.ok_or(SvidError::Profile("it has no URI name"))?;
    if certificate.subject().iter_rdn().next().is_none() && !names.critical {
        return Err(SvidError::Profile("its subject is empty, so its alternative name must be critical"));
    }
    match uris(certificate)?.as_slice() {
        [uri] => Ok(SpiffeId::workload(uri)?),
        [] => Err(SvidError::Profile("it has no URI name")),
        _ => Err(SvidError::Profile("it has more than one URI name")),
    }
}

/// The URIs among a certificate's alternative names.
fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, SvidError> {
    let Some(names) = certificate.subject_alternative_name().map_err(|_| SvidError::Malformed)? else {
        return Ok(Vec::new());
    };
    let mut uris = Vec::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // A second URI that we cannot read is a second URI: others may read it.
            GeneralName::Invalid(..) => return Err(SvidError::Profile("one of its alternative names cannot be read")),
            _ => {}
        }
    }
    Ok(uris)
}

fn time(at: ASN1Time) -> SystemTime {
    let seconds = at.timestamp();
    let offset = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::UNIX_EPOCH - offset } else { SystemTime::UNIX_EPOCH + offset }
}

/// Certificates in PEM, one block after the other.
pub fn certificates_pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = Zeroizing::default();
    for certificate in certificates {
        pem("CERTIFICATE", certificate, &mut text);
    }
    text.as_str().to_owned()
}

/// One PEM block.
fn pem(label: &str, der: &[u8], out: &mut Zeroizing<String>) {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    out.reserve(encoded.len() + encoded.len() / 64 + 64); // no copy of a key is left behind by a growing buffer
    let _ = writeln!(out, "-----BEGIN {label}-----");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        let _ = writeln!(out, "{line}");
        rest = next;
    }
    let _ = writeln!(out, "-----END {label}-----");
}

// === impl Svid ===

impl Svid {
    /// Joins what was issued with the key it was issued for.
    ///
    /// # Errors
    /// If the leaf breaks the profile or is for another key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKey) -> Result<Self, SvidError> {
        let leaf = chain.first().ok_or(SvidError::Malformed)?;
        let id = spiffe_id(leaf)?;
        let (not_before, not_after) = validity(leaf)?;
        let serial = hex(parse(leaf)?.raw_serial());
        let svid = Self { id, chain, key, not_before, not_after, serial };
        svid.certified_key()?;
        Ok(svid)
    }

    /// As rustls wants it.
    ///
    /// # Errors
    /// [`SvidError::KeyMismatch`].
    pub(crate) fn certified_key(&self) -> Result<CertifiedKey, SvidError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.pkcs8()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|_| SvidError::KeyMismatch)?;
        let certified = CertifiedKey::new(self.chain.clone(), signer);
        certified.keys_match().map_err(|_| SvidError::KeyMismatch)?;
        Ok(certified)
    }

    /// The chain in PEM, leaf first.
    pub fn chain_pem(&self) -> String {
        certificates_pem(&self.chain)
    }

    /// The private key in PEM (PKCS#8).
    pub fn key_pem(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::default();
        pem("PRIVATE KEY", self.key.pkcs8(), &mut text);
        text
    }
}

impl PrivateKey {
    pub fn from_pkcs8(der: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(der)))
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

#[cfg(test)]
mod tests;
