//! Authorities and certificates for tests, right and wrong ones; [`cases`] are chains with the verdict that each deserves.

#![allow(clippy::unwrap_used, reason = "for tests only: what cannot be made ends the test")]

pub mod cases;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, SigningKey as _,
};
use rustls_pki_types::CertificateDer;
use symbolon_proto::ids::TrustDomain;

use super::bundle::{Bundle, DEFAULT_REFRESH};
use super::svid::{PrivateKey, Svid};
use super::verify::BundleTable;

/// A Wednesday in 2026.
pub fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

pub const HOUR: Duration = Duration::from_secs(3600);

/// An authority of one trust domain.
pub struct Ca {
    pub trust_domain: TrustDomain,
    now: SystemTime,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Ca {
    /// Valid for a day from an hour before [`noon`].
    pub fn new(trust_domain: &str) -> Self {
        Self::with(trust_domain, |_| {})
    }

    pub fn with(trust_domain: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::at(noon(), trust_domain, KeyPair::generate().unwrap(), change)
    }

    pub fn keyed(trust_domain: &str, params: CertificateParams, key: KeyPair) -> Self {
        Self::at(noon(), trust_domain, key, |default| *default = params)
    }

    /// One that exists already: somebody has its key who should not.
    pub fn stolen(now: SystemTime, trust_domain: &str, certificate: CertificateDer<'static>, key: KeyPair) -> Self {
        let issuer = Issuer::from_ca_cert_der(&certificate, key).unwrap();
        Self { trust_domain: trust_domain.parse().unwrap(), now, issuer, certificate }
    }

    /// At another time than noon, and with a key of any kind.
    pub fn at(now: SystemTime, trust_domain: &str, key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority(trust_domain, now);
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap().into();
        Self { trust_domain: trust_domain.parse().unwrap(), now, issuer: Issuer::new(params, key), certificate }
    }

    /// An intermediate, and its certificate.
    pub fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        self.intermediate_for(&KeyPair::generate().unwrap(), change)
    }

    /// The same with this key.
    pub fn intermediate_for(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority(self.trust_domain.as_str(), self.now);
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        change(&mut params);
        let key = KeyPair::try_from(key.serialized_der()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().into();
        let issuer = Issuer::new(params, key);
        Self { trust_domain: self.trust_domain.clone(), now: self.now, issuer, certificate }
    }

    /// The authority's own private key.
    pub fn key(&self) -> PrivateKey {
        PrivateKey::from_pkcs8(self.issuer.key().serialize_der())
    }

    /// The certificate with other bytes in its signed part, and signed again: what no proper program mints.
    pub fn signed_again(
        &self,
        certificate: &CertificateDer<'_>,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> CertificateDer<'static> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
        let mut signed = parsed.tbs_certificate.as_ref().to_vec();
        let length = signed.len();
        change(&mut signed);
        assert_eq!(signed.len(), length, "lengths stay: the headers around them are not written again");
        let old = &parsed.signature_value.data;
        let algorithm = &certificate[certificate.len() - old.len() - ECDSA_SHA256.len() - 3..][..ECDSA_SHA256.len()];
        assert_eq!(algorithm, ECDSA_SHA256);
        let signature = [&[0], self.issuer.key().sign(&signed).unwrap().as_slice()].concat();
        der(0x30, &[signed, algorithm.to_vec(), der(0x03, &signature)].concat()).into()
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub fn bundle(&self) -> Bundle {
        Bundle::new(self.trust_domain.clone(), 1, DEFAULT_REFRESH, vec![self.certificate()])
    }

    /// A good leaf but for `change`.
    pub fn leaf(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        self.leaf_for(id, &KeyPair::generate().unwrap(), change)
    }

    pub fn leaf_for(
        &self,
        id: &str,
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&[0x41; 20]));
        params.not_before = (self.now - Duration::from_secs(10)).into();
        params.not_after = (self.now + HOUR).into();
        change(&mut params);
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// An SVID valid for an hour from [`noon`].
    pub fn svid(&self, path: &str) -> Svid {
        self.svid_until(path, noon() + HOUR)
    }

    pub fn svid_until(&self, path: &str, end: SystemTime) -> Svid {
        self.svid_of(&format!("spiffe://{}{path}", self.trust_domain), end)
    }

    /// Of any ID, even one of another trust domain.
    pub fn svid_of(&self, id: &str, end: SystemTime) -> Svid {
        let key = KeyPair::generate().unwrap();
        let leaf = self.leaf_for(id, &key, |params| params.not_after = end.into());
        Svid::new(vec![leaf], PrivateKey::from_pkcs8(key.serialize_der())).unwrap()
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ca({})", self.trust_domain)
    }
}

/// `AlgorithmIdentifier` of ecdsa-with-SHA256.
const ECDSA_SHA256: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// One element of DER.
pub fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match content.len() {
        short @ 0..=0x7f => vec![short as u8],
        long @ 0x80..=0xff => vec![0x81, long as u8],
        long => vec![0x82, (long >> 8) as u8, long as u8],
    };
    [&[tag], length.as_slice(), content].concat()
}

fn authority(trust_domain: &str, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").as_str().try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - HOUR).into();
    params.not_after = (now + 23 * HOUR).into();
    params
}

pub fn table(authorities: &[&Ca]) -> BundleTable {
    authorities.iter().map(|ca| (ca.trust_domain.clone(), Arc::new(ca.bundle()))).collect()
}

/// `der` with every `from` replaced by `to`, which is as long; its signature is then wrong.
pub fn patched(der: &CertificateDer<'_>, from: &[u8], to: &[u8]) -> CertificateDer<'static> {
    assert_eq!(from.len(), to.len());
    let mut bytes = der.to_vec();
    let places: Vec<_> = (0..=bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "nothing to patch");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes.into()
}
