//! A control plane with a relationship, and the authorities of the other side.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid};
use symbolon_proto::admin as wire;
use symbolon_proto::ids::TrustDomain;

use super::super::Rig;
use super::super::rig::until;
use super::hostile::{Hostile, Web};

/// The foreign trust domain.
pub(super) const B: &str = "b.example";

/// An authority of a trust domain.
pub(super) struct Root(CertifiedIssuer<'static, KeyPair>);

impl Root {
    pub(super) fn of(trust_domain: &str) -> Self {
        Self::with(trust_domain, |_| {})
    }

    pub(super) fn with(trust_domain: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().unwrap())];
        change(&mut params);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// An SVID with this ID.
    pub(super) fn svid(&self, id: &str) -> Svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        let now = Duration::from_secs(3600);
        let at = symbolon_kit::clock::Clock::system().now();
        (params.not_before, params.not_after) = ((at - now).into(), (at + now).into());
        let leaf = params.signed_by(&key, &self.0).unwrap();
        Svid::new(vec![leaf.der().clone()], PrivateKey::from_pkcs8(key.serialize_der())).unwrap()
    }
}

/// A bundle as a JSON value, to be spoilt.
pub(super) fn document(trust_domain: &str, sequence: u64, roots: &[&Root]) -> Value {
    let roots = roots.iter().map(|root| root.der()).collect();
    let domain: TrustDomain = trust_domain.parse().unwrap();
    let bundle = Bundle::new(domain, sequence, Duration::from_secs(300), roots);
    serde_json::from_slice(&bundle.to_jwks()).unwrap()
}

/// A control plane `a.example`, with an endpoint of `b.example` that it polls only when it is asked to.
pub(super) struct World {
    pub(super) a: Rig,
    pub(super) b: Hostile,
    pub(super) root: Root,
    pub(super) web: Web,
}

impl World {
    /// Over `https_web`; it holds B's bundle of sequence 10.
    pub(super) async fn start() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let web = Web::new(folder.path());
        let (b, root) = (Hostile::web(&web).await, Root::of(B));
        b.answers(super::hostile::Answer::Json(bytes(&document(B, 10, &[&root]))));
        let lines = format!("federation: {{rootsFile: {:?}}}\n", web.roots);
        let a = rig(folder, &lines).await;
        let this = Self { a, b, root, web };
        let made = this.set("https_web", &this.b.url("localhost"), "", &[]).await.unwrap();
        assert_eq!(made.profile, "https_web");
        this.is("FRESH").await;
        assert_eq!(this.shown().await.sequence, 10);
        this
    }

    pub(super) async fn set(
        &self,
        profile: &str,
        url: &str,
        id: &str,
        bootstrap: &[u8],
    ) -> Result<wire::Relationship, tonic::Status> {
        let asked = relationship(B, profile, url, id, bootstrap);
        Ok(self.a.admin().set_relationship(asked).await?.into_inner())
    }

    pub(super) async fn shown(&self) -> wire::Relationship {
        shown(&self.a, B).await.expect("it is there")
    }

    pub(super) async fn is(&self, state: &str) {
        is(&self.a, B, state).await;
    }

    /// Looks now.
    pub(super) async fn refresh(&self) -> wire::Relationship {
        let asked = wire::RefreshRelationshipRequest { trust_domain: B.into() };
        self.a.admin().refresh_relationship(asked).await.unwrap().into_inner()
    }

    /// How often a fetch ended so.
    pub(super) fn fetches(&self, result: &str) -> u64 {
        let counter = self.a.running.metrics().counter("symbolon_bundle_fetches", "");
        counter.value(&[("trust_domain", B), ("result", result)])
    }

    pub(super) fn alarms(&self, alarm: &str) -> u64 {
        let counter = self.a.running.metrics().counter("symbolon_bundle_alarms", "");
        counter.value(&[("trust_domain", B), ("alarm", alarm)])
    }

    /// The X.509 authorities that are held.
    pub(super) async fn held(&self) -> Option<Vec<u8>> {
        held(&self.a, B).await
    }
}

/// `a.example`, patient with nobody.
pub(super) async fn rig(folder: Arc<tempfile::TempDir>, lines: &str) -> Rig {
    start(folder, lines).await.unwrap()
}

pub(super) async fn start(folder: Arc<tempfile::TempDir>, lines: &str) -> anyhow::Result<Rig> {
    let hasty = |config: &mut crate::app::Config| {
        config.fetching.deadline = Duration::from_secs(2);
        config.polling.confirm = Duration::from_secs(3600);
    };
    Rig::start_with(folder, "a", "p", lines, hasty).await
}

pub(super) fn relationship(
    trust_domain: &str,
    profile: &str,
    url: &str,
    id: &str,
    bootstrap: &[u8],
) -> wire::SetRelationshipRequest {
    let relationship = wire::Relationship {
        trust_domain: trust_domain.into(),
        profile: profile.into(),
        endpoint: url.into(),
        endpoint_spiffe_id: id.into(),
        ..wire::Relationship::default()
    };
    wire::SetRelationshipRequest { relationship: Some(relationship), bootstrap: bootstrap.to_vec().into() }
}

pub(super) async fn shown(rig: &Rig, trust_domain: &str) -> Option<wire::Relationship> {
    let all = rig.admin().list_relationships(wire::ListRelationshipsRequest {}).await.unwrap().into_inner();
    all.relationships.into_iter().find(|one| one.trust_domain == trust_domain)
}

pub(super) async fn is(rig: &Rig, trust_domain: &str, state: &str) {
    let what = format!("{trust_domain} is {state}");
    until(&what, async || (shown(rig, trust_domain).await?.state == state).then_some(())).await;
}

pub(super) async fn held(rig: &Rig, trust_domain: &str) -> Option<Vec<u8>> {
    let asked = wire::ShowBundleRequest { trust_domain: trust_domain.into() };
    Some(rig.admin().show_bundle(asked).await.ok()?.into_inner().jwks.to_vec())
}

pub(super) fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

/// The same document with one member of it changed.
pub(super) fn with(mut value: Value, member: &str, to: Value) -> Value {
    value[member] = to;
    value
}

/// The same document with another key behind those that it has.
pub(super) fn and(mut value: Value, key: Value) -> Value {
    value["keys"].as_array_mut().unwrap().push(key);
    value
}

/// A key for tokens.
pub(super) fn token_key(kid: &str) -> Value {
    let key = KeyPair::generate().unwrap();
    let raw = key.public_key_raw();
    use base64::Engine as _;
    let part = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    json!({"use": "jwt-svid", "kty": "EC", "crv": "P-256", "kid": kid, "x": part(&raw[1..33]), "y": part(&raw[33..65])})
}

impl World {
    /// Our own first authority as a JWK.
    pub(super) async fn a_root(&self) -> Value {
        let own: Value = serde_json::from_slice(&held(&self.a, "").await.unwrap()).unwrap();
        own["keys"][0].clone()
    }
}
