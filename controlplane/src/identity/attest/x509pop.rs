//! Proof of possession of a certificate that the node had before, such as one from the machine's TPM or from a provisioning system:
//! its chain must lead to an authority of the operator's CA bundle, and the node must sign a fresh challenge with the leaf's key. The
//! same certificate serves again and again, so such a node comes back by itself after any outage.
//!
//! What costs a stranger little and us much is bounded before anything is verified: certificates, bytes, the kinds and sizes of keys.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use symbolon_kit::clock::Clock;
use symbolon_kit::octets;
use symbolon_kit::spiffe::svid;
use symbolon_kit::text::shown;
use symbolon_proto::attest::pop_message;
use symbolon_proto::selector::{Selector, Selectors};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{Bound, Challenge, Evidence, NodeAttestor, Step, nonce};
use crate::identity::Refusal;
use crate::identity::nodes::Attested;

pub(super) const KIND: &str = "x509pop";
/// What is looked at of a chain.
const MAX_CERTIFICATES: usize = 8;
const MAX_CHAIN_BYTES: usize = 32 * 1024;
/// The longest signature: RSA of 8192 bits.
const MAX_ANSWER_BYTES: usize = 1024;
/// Authorities of one bundle.
const MAX_AUTHORITIES: usize = 64;
/// Hexadecimal digits of a fingerprint within a name: 160 bits; a name is one DNS label.
const NAME_DIGITS: usize = 40;

/// The attestor.
#[derive(Debug)]
pub struct X509Pop {
    authorities: Vec<Authority>,
    name: NameTemplate,
    clock: Clock,
}

/// webpki's anchor knows neither validity nor the certificate.
#[derive(Debug)]
struct Authority {
    anchor: TrustAnchor<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
    fingerprint: String,
}

/// How a node is named after its certificate: text with `{fingerprint}`, `{commonName}` or `{serialNumber}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate(Arc<str>);

/// Why a node cannot be named like that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's name must differ with its certificate: use {{fingerprint}}, {{commonName}} or {{serialNumber}}")]
pub struct TemplateError;

/// Why there is no such attestor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("identity.x509pop.caBundle {path}: {why}")]
    Bundle { path: String, why: String },
}

/// What a certificate says.
struct Claims {
    fingerprint: String,
    common_name: String,
    serial_number: String,
    algorithm: &'static dyn VerificationAlgorithm,
    /// As the algorithm wants it.
    public_key: Vec<u8>,
}

// === impl X509Pop ===

impl X509Pop {
    /// Reads the authorities that may vouch for nodes, PEM.
    ///
    /// # Errors
    /// If there are none, or one is no authority.
    pub fn load(ca_bundle: &Path, name: NameTemplate, clock: Clock) -> Result<Self, Error> {
        let failed = |why: String| Error::Bundle { path: ca_bundle.display().to_string(), why };
        let mut authorities = Vec::new();
        for certificate in CertificateDer::pem_file_iter(ca_bundle).map_err(|why| failed(why.to_string()))? {
            let certificate = certificate.map_err(|why| failed(why.to_string()))?;
            let number = authorities.len() + 1;
            authorities
                .push(Authority::new(&certificate).map_err(|why| failed(format!("certificate {number} {why}")))?);
        }
        match authorities.len() {
            1..=MAX_AUTHORITIES => Ok(Self { authorities, name, clock }),
            0 => Err(failed("holds no certificate in PEM".into())),
            _ => Err(failed(format!("holds more than {MAX_AUTHORITIES} certificates"))),
        }
    }

    /// Whose certificate this is, if an authority vouches for it now.
    fn verify(&self, chain: &[CertificateDer<'static>]) -> Result<(Claims, Attested), Refusal> {
        let bad = |why: &str| Refusal::BadEvidence(why.to_owned());
        let (leaf, intermediates) = chain.split_first().ok_or_else(|| bad("no certificate"))?;
        if chain.len() > MAX_CERTIFICATES || chain.iter().map(|der| der.len()).sum::<usize>() > MAX_CHAIN_BYTES {
            return Err(bad("more than 8 certificates or 32 KiB"));
        }
        let claims = Claims::of(leaf)?;
        let mut fingerprints = self.path(leaf, intermediates)?;
        fingerprints.sort();
        let name = self.name.expand(&claims);
        let name = name.parse().map_err(|_| {
            Refusal::BadEvidence(format!("its certificate makes {:?}, which is no node's name", shown(&name, 80)))
        })?;
        let mut selectors: Selectors =
            fingerprints.iter().map(|of| Selector::demanded(&format!("x509pop:ca:fingerprint:{of}"))).collect();
        selectors.insert(Selector::demanded(&format!("x509pop:serialnumber:{}", claims.serial_number)));
        // A name that no selector can hold is nobody's to demand.
        selectors.extend(format!("x509pop:subject:cn:{}", claims.common_name).parse::<Selector>());
        Ok((claims, Attested { name, selectors, can_reattest: true }))
    }

    /// Fingerprints of the authorities between the leaf and, with it, the one that we know.
    fn path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'static>],
    ) -> Result<Vec<String>, Refusal> {
        let now = self.clock.now();
        let living: Vec<_> = self.authorities.iter().filter(|known| known.lives(now)).collect();
        let anchors: Vec<_> = living.iter().map(|known| known.anchor.clone()).collect();
        let bad = |why: webpki::Error| Refusal::BadEvidence(format!("its chain does not verify: {why}"));
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let provider = default_provider();
        let end_entity = EndEntityCert::try_from(leaf).map_err(bad)?;
        let verified = end_entity.verify_for_usage(
            provider.signature_verification_algorithms.all,
            &anchors,
            intermediates,
            UnixTime::since_unix_epoch(since),
            KeyUsage::client_auth(),
            None,
            None,
        );
        let verified = verified.map_err(bad)?;
        let root = living.iter().find(|known| known.anchor == *verified.anchor());
        let between = verified.intermediate_certificates().map(|certificate| fingerprint(&certificate.der()));
        Ok(between.chain(root.map(|known| known.fingerprint.clone())).collect())
    }
}

impl NodeAttestor for X509Pop {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn begin<'a>(&'a self, evidence: Evidence, bound: &'a Bound) -> BoxFuture<'a, Result<Step, Refusal>> {
        async move {
            let Evidence::X509Pop(chain) = evidence else { return Err(Refusal::AttestorOff(KIND)) };
            let (claims, attested) = self.verify(&chain)?;
            Ok(Step::Challenge(Box::new(Possession { nonce: nonce(), csr: bound.csr.clone(), claims, attested })))
        }
        .boxed()
    }
}

/// The node must sign this with the leaf's key. The CSR is part of what it signs: nobody else's key is certified by its answer.
struct Possession {
    nonce: [u8; 32],
    csr: Bytes,
    claims: Claims,
    attested: Attested,
}

impl Challenge for Possession {
    fn question(&self) -> Bytes {
        Bytes::copy_from_slice(&self.nonce)
    }

    fn answer(self: Box<Self>, answer: &[u8]) -> BoxFuture<'static, Result<Step, Refusal>> {
        let key = UnparsedPublicKey::new(self.claims.algorithm, &self.claims.public_key);
        let message = pop_message(&self.nonce, &self.csr);
        let proven = answer.len() <= MAX_ANSWER_BYTES && key.verify(&message, answer).is_ok();
        let step = match proven {
            true => Ok(Step::Proven(self.attested)),
            false => Err(Refusal::BadEvidence("the answer does not prove possession of the certificate's key".into())),
        };
        futures::future::ready(step).boxed()
    }
}

// === impl Authority, Claims, NameTemplate ===

impl Authority {
    fn new(certificate: &CertificateDer<'static>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| "cannot be read".to_owned())?;
        if !parsed.is_ca() {
            return Err("is no authority (CA:TRUE is missing)".into());
        }
        let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|why| why.to_string())?.to_owned();
        let (not_before, not_after) = svid::validity(certificate).map_err(|why| why.to_string())?;
        Ok(Self { anchor, not_before, not_after, fingerprint: fingerprint(certificate) })
    }

    fn lives(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

impl Claims {
    fn of(leaf: &CertificateDer<'_>) -> Result<Self, Refusal> {
        let bad = |why: &str| Refusal::BadEvidence(why.to_owned());
        let (rest, parsed) = X509Certificate::from_der(leaf).map_err(|_| bad("its certificate cannot be read"))?;
        if !rest.is_empty() {
            return Err(bad("bytes after its certificate"));
        }
        if parsed.is_ca() {
            return Err(bad("its certificate is an authority's"));
        }
        if matches!(parsed.key_usage(), Ok(Some(usage)) if !usage.value.digital_signature()) {
            return Err(bad("its certificate's key may not sign (digitalSignature)"));
        }
        let algorithm = algorithm(parsed.public_key()).ok_or_else(|| {
            bad("its certificate's key is none of P-256, P-384, Ed25519 and RSA of 2048 to 8192 bits")
        })?;
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Ok(Self {
            fingerprint: fingerprint(leaf),
            common_name: common_name.unwrap_or_default().to_owned(),
            serial_number: octets::hex(parsed.raw_serial()),
            algorithm,
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
        })
    }
}

/// How such a key signs.
fn algorithm(key: &SubjectPublicKeyInfo<'_>) -> Option<&'static dyn VerificationAlgorithm> {
    match key.parsed() {
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
            match curve {
                curve if curve == OID_EC_P256 => Some(&signature::ECDSA_P256_SHA256_ASN1),
                curve if curve == OID_NIST_EC_P384 => Some(&signature::ECDSA_P384_SHA384_ASN1),
                _ => None,
            }
        }
        Ok(PublicKey::RSA(rsa)) => {
            let sane = (2048..=8192).contains(&rsa.key_size()) && rsa.try_exponent().is_ok_and(|e| e >= 3);
            sane.then_some(&signature::RSA_PSS_2048_8192_SHA256 as _)
        }
        Ok(_) if key.algorithm.algorithm == OID_SIG_ED25519 => Some(&signature::ED25519),
        _ => None,
    }
}

fn fingerprint(der: &[u8]) -> String {
    octets::hex(&octets::sha256(der))
}

impl NameTemplate {
    fn expand(&self, claims: &Claims) -> String {
        // One pass: what a certificate says is text, never a place to fill in.
        let mut name = String::new();
        let mut rest = &*self.0;
        while let Some(at) = rest.find('{') {
            name.push_str(&rest[..at]);
            let (value, length) = match &rest[at..] {
                place if place.starts_with(FINGERPRINT) => (&claims.fingerprint[..NAME_DIGITS], FINGERPRINT.len()),
                place if place.starts_with(COMMON_NAME) => (claims.common_name.as_str(), COMMON_NAME.len()),
                place if place.starts_with(SERIAL_NUMBER) => (claims.serial_number.as_str(), SERIAL_NUMBER.len()),
                _ => ("{", 1),
            };
            name.push_str(value);
            rest = &rest[at + length..];
        }
        name.push_str(rest);
        name
    }
}

const FINGERPRINT: &str = "{fingerprint}";
const COMMON_NAME: &str = "{commonName}";
const SERIAL_NUMBER: &str = "{serialNumber}";

impl std::str::FromStr for NameTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let differs = [FINGERPRINT, COMMON_NAME, SERIAL_NUMBER].iter().any(|place| text.contains(place));
        if differs { Ok(Self(text.into())) } else { Err(TemplateError) }
    }
}

impl Default for NameTemplate {
    fn default() -> Self {
        Self(format!("x509pop-{FINGERPRINT}").into())
    }
}

#[cfg(test)]
mod tests;
