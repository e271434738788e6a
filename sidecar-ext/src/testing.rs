//! What tests share: an authority, callers, views.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, new_key};
use symbolon_kit::spiffe::verify::BundleTable;
use symbolon_proto::ids::TrustDomain;
use tokio::sync::watch;

use crate::config::Workload;
use crate::identity::{Entry, Held, Holding, View};
use crate::selector::{Selector, Selectors};

/// A certificate authority of one trust domain, on the machine's clock.
pub(crate) struct Ca {
    pub(crate) trust_domain: TrustDomain,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, trust_domain);
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = now();
        (params.not_before, params.not_after) = ((now - HOUR).into(), (now + 24 * HOUR).into());
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { trust_domain: trust_domain.parse().unwrap(), issuer }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        self.bundle_at(1)
    }

    pub(crate) fn bundle_at(&self, sequence: u64) -> Bundle {
        Bundle::new(self.trust_domain.clone(), sequence, Duration::from_secs(300), vec![self.issuer.der().clone()])
    }

    /// An SVID of an hour.
    pub(crate) fn svid(&self, id: &str) -> Svid {
        self.svid_for(id, HOUR)
    }

    pub(crate) fn svid_for(&self, id: &str, ttl: Duration) -> Svid {
        self.svid_from(id, now(), ttl)
    }

    pub(crate) fn svid_from(&self, id: &str, from: SystemTime, ttl: Duration) -> Svid {
        let (key, csr) = new_key().unwrap();
        self.join(key, vec![self.sign(&csr, id, from, ttl)])
    }

    fn join(&self, key: PrivateKey, chain: Vec<CertificateDer<'static>>) -> Svid {
        Svid::new(chain, key).unwrap()
    }

    /// Signs the key of a CSR.
    pub(crate) fn sign(&self, csr: &[u8], id: &str, from: SystemTime, ttl: Duration) -> CertificateDer<'static> {
        let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
        (params.not_before, params.not_after) = (from.into(), (from + ttl).into());
        params.signed_by(&csr.public_key, &self.issuer).unwrap().der().clone()
    }
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The machine's time, in whole seconds as certificates have it.
pub(crate) fn now() -> SystemTime {
    let now = symbolon_kit::clock::unix_secs(Clock::system().now());
    SystemTime::UNIX_EPOCH + Duration::from_secs(now.unsigned_abs())
}

/// An entry that demands `selectors`.
pub(crate) fn entry(id: &str, spiffe_id: &str, selectors: &[&str]) -> Entry {
    Entry {
        id: id.into(),
        spiffe_id: spiffe_id.parse().unwrap(),
        selectors: selectors.iter().map(|text| Selector::demanded(text)).collect(),
        ttl_seconds: 0,
        dns_names: Vec::new(),
        hint: String::new(),
    }
}

/// A workload of the local file that narrows `identity` to `selectors`.
pub(crate) fn workload(name: &str, identity: &str, selectors: &[&str]) -> Workload {
    Workload {
        name: name.into(),
        service: None,
        identity: identity.parse().unwrap(),
        selectors: selectors.iter().map(|text| text.parse().unwrap()).collect(),
        address: None,
        inbound: None,
        outbound: None,
        health: None,
        upstreams: Vec::new(),
        weight: 1,
    }
}

pub(crate) fn selectors(texts: &[&str]) -> Selectors {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The selector that this test process meets.
pub(crate) fn my_uid() -> String {
    format!("unix:uid:{}", nix::unistd::geteuid())
}

/// A view of what `ca` issued, ready to serve.
pub(crate) fn view(ca: &Ca, held: Vec<(Entry, Holding)>) -> View {
    View {
        trust_domain: ca.trust_domain.clone(),
        ready: true,
        held: held.into_iter().map(|(entry, holding)| Held { entry: Arc::new(entry), holding }).collect(),
        bundles: bundles(&[ca]),
        workloads: Arc::from([]),
    }
}

pub(crate) fn bundles(cas: &[&Ca]) -> Arc<BundleTable> {
    Arc::new(cas.iter().map(|ca| (ca.trust_domain.clone(), Arc::new(ca.bundle()))).collect())
}

/// Waits until the value is as wanted; fails after ten seconds.
pub(crate) async fn until<T: Clone>(of: &mut watch::Receiver<T>, is: impl FnMut(&T) -> bool) -> T {
    tokio::time::timeout(Duration::from_secs(10), of.wait_for(is)).await.expect("in time").expect("not ended").clone()
}
