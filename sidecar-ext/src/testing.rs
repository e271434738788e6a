//! What tests share: an authority, callers, views.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::net;
use symbolon_kit::spiffe::bundle::{Bundle, JwtAuthority, TokenKey};
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, new_key};
use symbolon_kit::spiffe::token_key::Algorithm;
use symbolon_kit::spiffe::{jwt, wit};
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node::SecretAck;
use tokio::sync::{mpsc, watch};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::transport::Channel;

use crate::attest::Attestor;
use crate::bundle::Shelf;
use crate::config::{Header, Workload};
use crate::guard::Guard;
use crate::identity::{Entry, Held, Holding, Index, Narrowing, View};
use crate::sds::acks::Acks;
use crate::sds::{self, Sds};
use crate::selector::{Selector, Selectors};
use crate::server;
use crate::tokens;
use crate::workload_api::{self, WorkloadApi, reflection};

/// A key for tokens.
#[derive(Debug)]
pub(crate) struct Signer {
    pub(crate) kid: String,
    pair: EcdsaKeyPair,
}

impl Signer {
    pub(crate) fn new(kid: &str) -> Self {
        Self { kid: kid.into(), pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    pub(crate) fn authority(&self) -> JwtAuthority {
        let spki = self.pair.public_key().as_der().unwrap();
        JwtAuthority { kid: self.kid.as_str().into(), key: TokenKey::from_spki(spki.as_ref()).unwrap() }
    }

    pub(crate) fn jwt(&self, sub: &str, aud: &[String], iat: SystemTime, exp: SystemTime) -> String {
        let (sub, jti) = (sub.parse().unwrap(), rand::random::<u64>().to_string());
        let claims = jwt::Claims { sub: &sub, aud, iat, exp, jti: Some(&jti) };
        self.sign(claims.unsigned(&self.kid, Algorithm::Es256).unwrap())
    }

    pub(crate) fn wit(&self, sub: &str, key: &PrivateKey, iat: SystemTime, exp: SystemTime) -> String {
        let (sub, jti) = (sub.parse().unwrap(), rand::random::<u64>().to_string());
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.pkcs8()).unwrap();
        let key = TokenKey::from_spki(pair.public_key().as_der().unwrap().as_ref()).unwrap();
        let algorithm = Algorithm::Es256;
        let claims = wit::Claims { sub: &sub, key: &key, algorithm, nbf: iat, iat, exp, jti: Some(&jti) };
        self.sign(claims.unsigned(&self.kid, Algorithm::Es256).unwrap())
    }

    fn sign(&self, unsigned: jwt::Unsigned) -> String {
        let signature = self.pair.sign(&SystemRandom::new(), unsigned.signing_input()).unwrap();
        unsigned.signed(signature.as_ref()).as_str().to_owned()
    }
}

/// A certificate authority of one trust domain, on the machine's clock.
pub(crate) struct Ca {
    pub(crate) trust_domain: TrustDomain,
    /// Of its JWT-SVIDs and WIT-SVIDs.
    pub(crate) signer: Arc<Signer>,
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
        let signer = Arc::new(Signer::new(&format!("{trust_domain}-1")));
        Self { trust_domain: trust_domain.parse().unwrap(), signer, issuer }
    }

    /// The subject key identifier, as a taint names it.
    pub(crate) fn key_id(&self) -> String {
        use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};
        let (_, certificate) = X509Certificate::from_der(self.issuer.der()).unwrap();
        let id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(symbolon_kit::octets::hex(id.0)),
            _ => None,
        });
        id.unwrap()
    }

    pub(crate) fn bundle(&self) -> Bundle {
        self.bundle_at(1)
    }

    pub(crate) fn bundle_at(&self, sequence: u64) -> Bundle {
        let wit = JwtAuthority { kid: "wit".into(), ..self.signer.authority() };
        Bundle::new(self.trust_domain.clone(), sequence, Duration::from_secs(300), vec![self.issuer.der().clone()])
            .with_tokens(vec![self.signer.authority()], vec![wit])
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
        params.use_authority_key_identifier_extension = true;
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
        jwt_ttl_seconds: 0,
        federates_with: FEDERATED.iter().map(|name| name.parse().unwrap()).collect(),
        expires_at: None,
    }
}

/// Whom every entry of these tests is federated with.
pub(crate) const FEDERATED: [&str; 2] = ["b.example", "c.example"];

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
    let mut view = View { ready: true, bundles: bundles(&[ca]), ..View::empty(ca.trust_domain.clone()) };
    view.hold(held.into_iter().map(|(entry, holding)| Held { entry: Arc::new(entry), holding }).collect());
    view
}

impl View {
    /// Puts these in place of what is held.
    pub(crate) fn hold(&mut self, held: Vec<Held>) {
        let entries: Vec<_> = held.iter().map(|held| held.entry.clone()).collect();
        (self.held, self.index) = (held, Arc::new(Index::new(&entries)));
    }

    /// Replaces the local file's workloads.
    pub(crate) fn narrow(&mut self, workloads: &[Workload]) {
        self.narrowing = Arc::new(Narrowing::new(workloads));
    }
}

/// The bundles of these trust domains, the first being the own.
pub(crate) fn bundles(cas: &[&Ca]) -> Arc<Shelf> {
    let table = cas.iter().map(|ca| (ca.trust_domain.clone(), Arc::new(ca.bundle()))).collect();
    Arc::new(Shelf::new(cas[0].trust_domain.clone(), Arc::new(table)))
}

/// Waits until the value is as wanted; fails after ten seconds.
pub(crate) async fn until<T: Clone>(of: &mut watch::Receiver<T>, is: impl FnMut(&T) -> bool) -> T {
    tokio::time::timeout(Duration::from_secs(10), of.wait_for(is)).await.expect("in time").expect("not ended").clone()
}

/// The agent socket over a view that the test sets; everything but the control plane is real.
pub(crate) struct Agent {
    pub(crate) view: watch::Sender<Arc<View>>,
    pub(crate) socket: PathBuf,
    pub(crate) drain: Drain,
    pub(crate) metrics: Metrics,
    pub(crate) acks: mpsc::UnboundedReceiver<SecretAck>,
    /// Of tokens.
    pub(crate) issuer: Arc<tokens::tests::Fake>,
    _dir: tempfile::TempDir,
}

/// Streams of one user in these tests.
pub(crate) const STREAMS: usize = 4;

impl Agent {
    pub(crate) fn start(view: View) -> Self {
        Self::start_with(view, Header::Required, STREAMS)
    }

    pub(crate) fn start_with(view: View, header: Header, streams: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/agent.sock");
        let (view, views) = watch::channel(Arc::new(view));
        let (drain, metrics) = (Drain::new(), Metrics::new());
        let refused = metrics.counter("refused", "test");
        let guard = Guard::new(streams, refused.clone());
        let (tx, acks) = mpsc::unbounded_channel();
        let issuer = tokens::tests::Fake::new(Clock::system());
        let (trust, entries) = (watch::channel(Arc::default()).1, watch::channel(None).1);
        let counts = tokens::Counts::new(&metrics);
        let (tokens, keeper) = tokens::Keeper::new(issuer.clone(), Clock::system(), counts, trust, entries);
        tokio::spawn(keeper.run(drain.clone()));
        let (wits, keeper) = {
            let (trust, entries) = (watch::channel(Arc::default()).1, watch::channel(None).1);
            tokens::Keeper::new(issuer.clone(), Clock::system(), tokens::Counts::new(&metrics), trust, entries)
        };
        tokio::spawn(keeper.run(drain.clone()));
        let workload_api = WorkloadApi::server(workload_api::Setup {
            view: views.clone(),
            tokens,
            wits,
            guard: guard.clone(),
            clock: Clock::system(),
            validated: WorkloadApi::counter(&metrics),
            drain: drain.clone(),
        });
        let counts = sds::Counts::new(&metrics);
        let sds = Sds::server(views, guard, Acks::new(Arc::new(Sink(tx))), counts, header, drain.clone());
        let routes = reflection::add(Routes::new(workload_api).add_service(sds)).unwrap();
        let listener = server::bind(&socket).unwrap();
        tokio::spawn(server::serve(listener, routes, Attestor::default(), refused, drain.clone()));
        Self { view, socket, drain, metrics, acks, issuer, _dir: dir }
    }

    pub(crate) fn channel(&self) -> Channel {
        net::unix_channel(&self.socket)
    }

    /// What was refused for this reason.
    pub(crate) fn refused(&self, reason: &'static str) -> u64 {
        self.metrics.counter("refused", "test").value(&[("reason", reason)])
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut View)) {
        self.view.send_modify(|view| {
            let mut next = (**view).clone();
            change(&mut next);
            *view = Arc::new(next);
        });
    }

    /// Replaces what is held for the first entry.
    pub(crate) fn hold(&self, at: usize, holding: Holding) {
        self.change(|view| view.held[at].holding = holding);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.drain.start();
    }
}

#[derive(Debug)]
struct Sink(mpsc::UnboundedSender<SecretAck>);

impl sds::acks::Sink for Sink {
    fn acked(&self, ack: SecretAck) {
        let _ = self.0.send(ack);
    }
}

/// A request with the header that SPIFFE demands.
pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// Fails instead of hanging.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("in time")
}

/// Waits for what nobody announces; fails after ten seconds.
pub(crate) async fn eventually(mut is: impl FnMut() -> bool) {
    soon(async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
