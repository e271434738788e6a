//! What our certificates look like (X509-SVID.md §2–§4), purely. A CSR gives its public key and proves that the caller holds the
//! private one; everything else in it is ignored or refused.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use symbolon_kit::octets;
use symbolon_kit::text::shown;
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_PKCS9_EXTENSION_REQUEST};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::Refusal;

/// The largest CSR read (bad input 3).
pub const MAX_CSR_BYTES: usize = 16 * 1024;
/// How far back `notBefore` lies, for clocks that differ (SPIRE: 10 s).
pub const BACKDATE: Duration = Duration::from_secs(10);

/// What a CSR holds that matters: its key, and the names it asks for.
#[derive(Debug)]
pub struct Request {
    key: SubjectPublicKeyInfo,
    uris: Vec<String>,
    dns_names: Vec<String>,
    /// Names of kinds that we never grant: e-mail, IP addresses, otherName.
    other_names: bool,
}

impl Request {
    /// Parses a CSR whose self-signature is right and whose key our policy allows: P-256, P-384, or RSA of 2048 to 8192 bits (Envoy
    /// loads no Ed25519).
    ///
    /// # Errors
    /// [`Refusal::BadCsr`] or [`Refusal::WeakKey`], with the reason.
    pub fn parse(der: &[u8]) -> Result<Self, Refusal> {
        let bad = |why: &str| Refusal::BadCsr(why.to_owned());
        if der.len() > MAX_CSR_BYTES {
            return Err(bad("longer than 16 KiB"));
        }
        let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| bad("not a PKCS#10 request in DER"))?;
        if !rest.is_empty() {
            return Err(bad("bytes after the request"));
        }
        let info = &csr.certification_request_info.subject_pki;
        if !is_allowed(info) {
            return Err(Refusal::WeakKey("use P-256, P-384 or RSA of at least 2048 bits".into()));
        }
        let mut request = Self {
            // Not rcgen's own CSR type: it takes the curve from the signature's algorithm and mints certificates nobody can read.
            key: SubjectPublicKeyInfo::from_der(info.raw).map_err(|e| Refusal::WeakKey(e.to_string()))?,
            uris: Vec::new(),
            dns_names: Vec::new(),
            other_names: false,
        };
        request.read_claims(&csr)?;
        csr.verify_signature().map_err(|_| bad("the self-signature does not prove possession of the key"))?;
        Ok(request)
    }

    /// SHA-256 of the public key, to know it again.
    pub fn key_hash(&self) -> [u8; 32] {
        octets::sha256(key_bytes(&self.key))
    }

    /// Whether it asks for any name.
    pub fn asks_for_names(&self) -> bool {
        !self.uris.is_empty() || !self.dns_names.is_empty() || self.other_names
    }

    /// The key, if the names asked for are among those granted. They are refused rather than silently dropped: whoever asked expects
    /// what it would not get (bad input 10 to 13).
    ///
    /// # Errors
    /// [`Refusal::NotGranted`], with the name.
    pub fn key_for(self, id: &SpiffeId, dns_names: &[String]) -> Result<SubjectPublicKeyInfo, Refusal> {
        let granted = |uri: &&String| uri.parse().is_ok_and(|asked: SpiffeId| asked == *id);
        if let Some(uri) = self.uris.iter().find(|uri| !granted(uri)) {
            return Err(Refusal::NotGranted(shown(uri, 80)));
        }
        if let Some(name) = self.dns_names.iter().find(|name| !dns_names.contains(name)) {
            return Err(Refusal::NotGranted(shown(name, 80)));
        }
        if self.other_names {
            return Err(Refusal::NotGranted("a name that is neither a URI nor a DNS name".into()));
        }
        Ok(self.key)
    }

    fn read_claims(&mut self, csr: &X509CertificationRequest<'_>) -> Result<(), Refusal> {
        let bad = |why: &str| Err(Refusal::BadCsr(why.to_owned()));
        let attributes = csr.certification_request_info.attributes();
        if attributes.len() > 16 {
            return bad("more than 16 attributes");
        }
        let mut seen = BTreeSet::new();
        for attribute in attributes {
            let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else {
                if attribute.oid == OID_PKCS9_EXTENSION_REQUEST {
                    return bad("its extensions cannot be read");
                }
                continue;
            };
            if request.extensions.len() > 32 {
                return bad("more than 32 extensions");
            }
            for extension in &request.extensions {
                if !seen.insert(extension.oid.to_id_string()) {
                    return bad("an extension twice");
                }
                self.read_extension(extension)?;
            }
        }
        if self.uris.len() > 1 { bad("two URI names") } else { Ok(()) }
    }

    fn read_extension(&mut self, extension: &X509Extension<'_>) -> Result<(), Refusal> {
        let bad = |why: &str| Err(Refusal::BadCsr(why.to_owned()));
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return bad("it asks to be an authority (CA:TRUE)");
            }
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                return bad("it asks to sign certificates (keyCertSign)");
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
                        GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
                        _ => self.other_names = true,
                    }
                }
            }
            ParsedExtension::ParseError { .. } => return bad("an extension that cannot be read"),
            ParsedExtension::UnsupportedExtension { .. } if extension.critical => {
                return bad("an unknown critical extension");
            }
            _ => {}
        }
        Ok(())
    }
}

/// Named curves only: explicit parameters may describe anything (CVE-2020-0601).
fn is_allowed(info: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> bool {
    match info.parsed() {
        Ok(PublicKey::EC(_)) => {
            info.algorithm.parameters.as_ref().is_some_and(|curve| {
                curve.as_oid().is_ok_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
            })
        }
        Ok(PublicKey::RSA(rsa)) => {
            (2048..=8192).contains(&rsa.key_size()) && rsa.try_exponent().is_ok_and(|exponent| exponent >= 3)
        }
        _ => false,
    }
}

/// A root of a trust domain: its ID as the only name, allowed to sign and nothing else.
pub fn authority(trust_domain: &TrustDomain, name: &str, now: SystemTime, ttl: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Symbolon");
    subject.push(DnType::CommonName, name); // one subject per authority: equal subjects exhaust path builders
    params.distinguished_name = subject;
    params.subject_alt_names = vec![uri(&trust_domain.id())];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = whole_seconds(now + ttl);
    params
}

/// An X.509-SVID: empty subject, one URI name, critical key usage, never outliving `issuer_end`.
///
/// # Errors
/// If a DNS name cannot be written as one.
pub fn svid(
    id: &SpiffeId,
    dns_names: &[String],
    now: SystemTime,
    ttl: Duration,
    issuer_end: SystemTime,
) -> Result<CertificateParams, Refusal> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    for name in dns_names {
        let name = name.clone().try_into().map_err(|_| Refusal::BadCsr(format!("{name:?} is not a DNS name")))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.is_ca = IsCa::ExplicitNoCa; // NoCa would leave out basicConstraints, which other validators require
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = whole_seconds(now.checked_add(ttl).map_or(issuer_end, |end| end.min(issuer_end)));
    Ok(params)
}

/// As a certificate can say it, so that what we report is what it says.
fn whole_seconds(at: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(at).replace_nanosecond(0).expect("zero nanoseconds exist")
}

fn uri(id: &SpiffeId) -> SanType {
    SanType::URI(id.as_str().to_owned().try_into().expect("a SPIFFE ID is ASCII"))
}

/// 159 random bits, positive, always 20 bytes: rcgen's own default repeats when a key is certified again.
fn serial() -> SerialNumber {
    let mut bytes = octets::random::<20>();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// The raw public key, to compare a CSR's with others.
pub fn key_bytes(key: &SubjectPublicKeyInfo) -> &[u8] {
    key.der_bytes()
}
