//! Authorities and certificates for tests, right and wrong ones.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use symbolon_proto::ids::TrustDomain;

use super::bundle::{Bundle, DEFAULT_REFRESH};
use super::svid::{PrivateKey, Svid};
use super::verify::BundleTable;

/// A Wednesday in 2026.
pub(crate) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// An authority of one trust domain.
pub(crate) struct Ca {
    pub(crate) trust_domain: TrustDomain,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    /// Valid for a day from an hour before [`noon`].
    pub(crate) fn new(trust_domain: &str) -> Self {
        Self::with(trust_domain, |_| {})
    }

    pub(crate) fn with(trust_domain: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority(trust_domain);
        change(&mut params);
        Self::keyed(trust_domain, params, KeyPair::generate().unwrap())
    }

    pub(crate) fn keyed(trust_domain: &str, params: CertificateParams, key: KeyPair) -> Self {
        Self { trust_domain: trust_domain.parse().unwrap(), issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// An intermediate, and its certificate.
    pub(crate) fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority(self.trust_domain.as_str());
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(params, key, &self.issuer).unwrap();
        Self { trust_domain: self.trust_domain.clone(), issuer }
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::new(self.trust_domain.clone(), 1, DEFAULT_REFRESH, vec![self.certificate()])
    }

    /// A good leaf but for `change`.
    pub(crate) fn leaf(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        self.leaf_for(id, &KeyPair::generate().unwrap(), change)
    }

    pub(crate) fn leaf_for(
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
        params.serial_number = Some(SerialNumber::from_slice(&[0x41; 20]));
        params.not_before = (noon() - Duration::from_secs(10)).into();
        params.not_after = (noon() + HOUR).into();
        change(&mut params);
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// An SVID valid for an hour from [`noon`].
    pub(crate) fn svid(&self, path: &str) -> Svid {
        self.svid_until(path, noon() + HOUR)
    }

    pub(crate) fn svid_until(&self, path: &str, end: SystemTime) -> Svid {
        self.svid_of(&format!("spiffe://{}{path}", self.trust_domain), end)
    }

    /// Of any ID, even one of another trust domain.
    pub(crate) fn svid_of(&self, id: &str, end: SystemTime) -> Svid {
        let key = KeyPair::generate().unwrap();
        let leaf = self.leaf_for(id, &key, |params| params.not_after = end.into());
        Svid::new(vec![leaf], PrivateKey::from_pkcs8(key.serialize_der())).unwrap()
    }
}

fn authority(trust_domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").as_str().try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (noon() - HOUR).into();
    params.not_after = (noon() + 23 * HOUR).into();
    params
}

pub(crate) fn table(authorities: &[&Ca]) -> BundleTable {
    authorities.iter().map(|ca| (ca.trust_domain.clone(), Arc::new(ca.bundle()))).collect()
}

/// `der` with every `from` replaced by `to`, which is as long; its signature is then wrong.
pub(crate) fn patched(der: &CertificateDer<'_>, from: &[u8], to: &[u8]) -> CertificateDer<'static> {
    assert_eq!(from.len(), to.len());
    let mut bytes = der.to_vec();
    let places: Vec<_> = (0..=bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "nothing to patch");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes.into()
}
