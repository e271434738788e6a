//! Mutual TLS 1.3 with SPIFFE IDs on rustls: key and bundles are swapped while connections stay; no resumption, which would skip
//! the verifier (spec/identity.md, security lessons).

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use symbolon_proto::ids::SpiffeId;
use tokio::sync::watch;
use tracing::error;

use crate::clock::Clock;
use crate::spiffe::svid::Svid;
use crate::spiffe::verify::{Anchors, BundleTable, Usage, Verified, VerifyError};

/// Hybrid post-quantum first: who records a federation link today cannot read it later. Classic groups for peers without it.
static GROUPS: [&dyn SupportedKxGroup; 3] =
    [aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];

/// What one program presents and trusts; cheap to clone, swapped while connections stay.
#[derive(Clone, Debug)]
pub struct Identity(Arc<State>);

#[derive(Debug)]
struct State {
    clock: Clock,
    provider: Arc<CryptoProvider>,
    /// `None` until the first SVID: a server then accepts nobody, a client is anonymous.
    key: ArcSwapOption<CertifiedKey>,
    anchors: ArcSwap<Anchors>,
    /// Counts the swaps; connections look again after each.
    swaps: watch::Sender<u64>,
}

/// Whom a client accepts.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Exactly this ID, verified by its trust domain's bundle.
    Id(SpiffeId),
    /// Any ID that matches this pattern (see `SpiffeId::matches`), e.g. `spiffe://a.example/symbolon/controlplane/*`.
    Pattern(Arc<str>),
    /// Any certificate: only for [`crate::net::connect_unverified`], whose caller checks the chain itself.
    Unverified,
}

/// The server proved to be somebody else.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the server is {actual}, but {expected} was expected")]
pub struct UnexpectedServer {
    pub actual: SpiffeId,
    pub expected: String,
}

// === impl Identity ===

impl Identity {
    pub fn new(clock: Clock) -> Self {
        let provider = CryptoProvider { kx_groups: GROUPS.to_vec(), ..aws_lc_rs::default_provider() };
        Self(Arc::new(State {
            clock,
            provider: Arc::new(provider),
            key: ArcSwapOption::empty(),
            anchors: ArcSwap::default(),
            swaps: watch::Sender::new(0),
        }))
    }

    /// From now on new handshakes present this SVID.
    pub fn set_svid(&self, svid: &Svid) {
        match svid.certified_key() {
            Ok(key) => self.0.key.store(Some(Arc::new(key))),
            Err(error) => return error!(?svid, %error, "this SVID cannot be presented; the one before stays"),
        }
        self.0.swaps.send_modify(|swaps| *swaps += 1);
    }

    /// From now on new handshakes are verified by these bundles, and live connections that they do not verify are closed.
    pub fn set_bundles(&self, bundles: &BundleTable) {
        self.0.anchors.store(Arc::new(Anchors::new(bundles)));
        self.0.swaps.send_modify(|swaps| *swaps += 1);
    }

    /// TLS 1.3, ALPN h2; a client may come without a certificate (it is then anonymous), but one that it shows must verify.
    pub fn server_config(&self) -> ServerConfig {
        let mut config = ServerConfig::builder_with_details(self.0.provider.clone(), Arc::new(Time(self.clock())))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3 suites")
            .with_client_cert_verifier(Arc::new(Clients(self.clone())))
            .with_cert_resolver(Arc::new(Presented(self.clone())));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would skip the verifier, and so honour a bundle that was withdrawn.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config
    }

    /// For a bundle endpoint, which everybody may ask: no client is asked for a certificate. TLS 1.3 and 1.2, as Mozilla's
    /// "intermediate" has them (SPIFFE_Federation.md §5), ALPN http/1.1.
    pub fn endpoint_config(&self) -> ServerConfig {
        endpoint_config(self.clock(), Arc::new(Presented(self.clone())))
    }

    /// TLS 1.3, ALPN h2, no SNI. With [`Expect::Unverified`] the client stays anonymous: whoever does not know us yet cannot
    /// verify what we would present.
    pub fn client_config(&self, expect: Expect) -> ClientConfig {
        let anonymous = matches!(expect, Expect::Unverified);
        let builder = ClientConfig::builder_with_details(self.0.provider.clone(), Arc::new(Time(self.clock())))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3 suites")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Servers { identity: self.clone(), expect }));
        let mut config = match anonymous {
            true => builder.with_no_client_auth(),
            false => builder.with_client_cert_resolver(Arc::new(Presented(self.clone()))),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        config
    }

    /// What a peer's chain proves now.
    pub(crate) fn check(&self, chain: &[CertificateDer<'_>], usage: Usage) -> Result<Verified, VerifyError> {
        self.0.anchors.load().check(chain, usage, self.0.clock.now())
    }

    pub(crate) fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    pub(crate) fn has_svid(&self) -> bool {
        self.0.key.load().is_some()
    }

    /// Changes when the SVID or the bundles are swapped.
    pub(crate) fn swaps(&self) -> watch::Receiver<u64> {
        self.0.swaps.subscribe()
    }

    fn verify(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], usage: Usage) -> Result<SpiffeId, Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        self.check(&chain, usage).map(|verified| verified.id).map_err(refusal)
    }

    fn verify_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// As [`Identity::endpoint_config`], with another certificate.
pub fn endpoint_config(clock: Clock, presented: Arc<dyn ResolvesServerCert>) -> ServerConfig {
    let mut config = ServerConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), Arc::new(Time(clock)))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the provider has suites of both versions")
        .with_no_client_auth()
        .with_cert_resolver(presented);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Keeps our own reason inside rustls' error, for counters and logs.
/// A certificate refused for `reason`, which whoever handles the failed handshake can ask for.
pub fn refusal(reason: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

/// Our own reason in rustls' error; rustls itself would print it as a structure.
pub(crate) fn reason(error: &std::io::Error) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => Some(&**reason),
        _ => None,
    }
}

/// A stable word for why a handshake failed.
pub(crate) fn label(error: &std::io::Error) -> &'static str {
    if let Some(reason) = reason(error).and_then(|reason| reason.downcast_ref::<VerifyError>()) {
        return reason.label();
    }
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else { return "io" };
    match tls {
        Error::InvalidCertificate(_) => "certificate",
        Error::AlertReceived(_) => "alert",
        Error::InvalidMessage(_) | Error::InappropriateHandshakeMessage { .. } | Error::InappropriateMessage { .. } => {
            "not_tls"
        }
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => "incompatible",
        _ => "tls",
    }
}

/// rustls' time is our clock's, so that simulated time covers certificates.
#[derive(Debug)]
pub struct Time(pub Clock);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// Presents the SVID of the moment.
#[derive(Debug)]
struct Presented(Identity);

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.0.key.load_full()
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.0.key.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.has_svid()
    }
}

/// Verifies clients.
#[derive(Debug)]
struct Clients(Identity);

impl ClientCertVerifier for Clients {
    /// Borrowed from self, so it cannot follow a swap; empty means "send what you have".
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify(leaf, rest, Usage::Client).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is off".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.schemes()
    }
}

/// Verifies servers: by SPIFFE ID, never by host name.
#[derive(Debug)]
struct Servers {
    identity: Identity,
    expect: Expect,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let expected = match &self.expect {
            Expect::Unverified => return Ok(ServerCertVerified::assertion()),
            Expect::Id(id) => id.as_str(),
            Expect::Pattern(pattern) => pattern,
        };
        let actual = self.identity.verify(leaf, rest, Usage::Server)?;
        let fits = match &self.expect {
            Expect::Id(id) => *id == actual,
            _ => actual.matches(expected),
        };
        if !fits {
            return Err(refusal(UnexpectedServer { actual, expected: expected.to_owned() }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is off".into()))
    }

    /// Also for [`Expect::Unverified`]: the server must hold the key of the chain that it shows.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.identity.verify_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.identity.schemes()
    }
}
