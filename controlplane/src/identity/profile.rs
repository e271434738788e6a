//! What our certificates look like (X509-SVID.md §2–§4), purely. A CSR gives its public key and proves that the caller holds the
//! private one; everything else in it is ignored or refused.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::Refusal;

/// The largest CSR read (bad input 3).
pub const MAX_CSR_BYTES: usize = 16 * 1024;
/// How far back `notBefore` lies, for clocks that differ (SPIRE: 10 s).
pub const BACKDATE: Duration = Duration::from_secs(10);

/// The public key of a CSR whose self-signature is right and whose key our policy allows: P-256, P-384, or RSA of 2048 bits
/// and more (Envoy loads no Ed25519).
///
/// # Errors
/// [`Refusal::BadCsr`] or [`Refusal::WeakKey`], with the reason.
pub fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, Refusal> {
    let bad = |why: &str| Refusal::BadCsr(why.to_owned());
    if der.len() > MAX_CSR_BYTES {
        return Err(bad("longer than 16 KiB"));
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| bad("not a PKCS#10 request in DER"))?;
    if !rest.is_empty() {
        return Err(bad("bytes after the request"));
    }
    refuse_claims(&csr)?;
    let info = &csr.certification_request_info.subject_pki;
    match info.parsed().map_err(|_| Refusal::WeakKey("the key cannot be parsed".into()))? {
        PublicKey::EC(point) if matches!(point.key_size(), 256 | 384) => {}
        PublicKey::RSA(rsa) if rsa.key_size() >= 2048 => {}
        _ => return Err(Refusal::WeakKey("use P-256, P-384 or RSA of at least 2048 bits".into())),
    }
    csr.verify_signature().map_err(|_| bad("the self-signature does not prove possession of the key"))?;
    // Not rcgen's own CSR type: it takes the curve from the signature's algorithm and mints certificates nobody can read.
    SubjectPublicKeyInfo::from_der(info.raw).map_err(|e| Refusal::WeakKey(e.to_string()))
}

/// A request that asks for more than a key is refused rather than silently cut down: whoever sent it expects what it will not get.
fn refuse_claims(csr: &X509CertificationRequest<'_>) -> Result<(), Refusal> {
    let bad = |why: &str| Err(Refusal::BadCsr(why.to_owned()));
    let Some(attributes) = csr.certification_request_info.attributes().len().checked_sub(0) else { return Ok(()) };
    if attributes > 16 {
        return bad("more than 16 attributes");
    }
    for attribute in csr.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else { continue };
        if request.extensions.len() > 32 {
            return bad("more than 32 extensions");
        }
        let mut seen = std::collections::BTreeSet::new();
        for extension in &request.extensions {
            if !seen.insert(extension.oid.to_id_string()) {
                return bad("an extension twice");
            }
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                    return bad("it asks to be an authority (CA:TRUE)");
                }
                ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                    return bad("it asks to sign certificates (keyCertSign)");
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    let uris = names.general_names.iter().filter(|n| matches!(n, GeneralName::URI(_))).count();
                    if uris > 1 {
                        return bad("two URI names");
                    }
                }
                ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. }
                    if extension.critical =>
                {
                    return bad("an unknown critical extension");
                }
                _ => {}
            }
        }
    }
    Ok(())
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
    params.not_after = OffsetDateTime::from(now + ttl);
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
    params.not_after = OffsetDateTime::from((now + ttl).min(issuer_end));
    Ok(params)
}

fn uri(id: &SpiffeId) -> SanType {
    SanType::URI(id.as_str().to_owned().try_into().expect("a SPIFFE ID is ASCII"))
}

/// 159 random bits, positive, always 20 bytes: rcgen's own default repeats when a key is certified again.
fn serial() -> SerialNumber {
    let mut bytes = [0u8; 20];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source works");
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// The raw public key, to compare a CSR's with others.
pub fn key_bytes(key: &SubjectPublicKeyInfo) -> &[u8] {
    key.der_bytes()
}
