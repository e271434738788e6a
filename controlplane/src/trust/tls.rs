//! Which servers a fetch accepts: by host name and the Web's authorities (F-10), or by SPIFFE ID and a bundle (F-14, F-15). No
//! resumption: a session that was verified by yesterday's bundle proves nothing today.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::verify::{Anchors, Usage};
use symbolon_kit::tls::{Time, refusal};
use symbolon_proto::ids::SpiffeId;

/// Mozilla's "intermediate" (F-6): TLS 1.3, and 1.2 with forward secrecy and authenticated encryption, which is all that the
/// provider has.
static VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// The Web's authorities could not be had.
#[derive(Debug, thiserror::Error)]
pub enum NoRoots {
    #[error("{path} cannot be read: {why}")]
    File { path: String, why: String },
    #[error("{0} holds no certificate that is an authority")]
    Empty(String),
}

/// The endpoint proved to be somebody else.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint is {actual}, and {expected} was expected")]
pub(super) struct AnotherEndpoint {
    actual: SpiffeId,
    expected: SpiffeId,
}

/// The Web's authorities: those of a PEM file, or the machine's.
pub(super) fn roots(file: Option<&Path>) -> Result<RootCertStore, NoRoots> {
    let mut store = RootCertStore::empty();
    match file {
        Some(path) => {
            let shown = path.display().to_string();
            let unreadable = |why: String| NoRoots::File { path: shown.clone(), why };
            let pem = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            store.add_parsable_certificates(certificates.map_err(|error| unreadable(error.to_string()))?);
            if store.is_empty() {
                return Err(NoRoots::Empty(shown));
            }
        }
        // None at all is no reason not to start: only `https_web` relationships need them, and their fetches will say so.
        None => drop(store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    Ok(store)
}

/// For `https_web`. Without authorities nothing verifies.
pub(super) fn web(roots: RootCertStore, clock: &Clock) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build() {
        Ok(verifier) => config(provider, clock, verifier),
        Err(_) => config(provider, clock, Arc::new(Nobody)),
    }
}

/// For `https_spiffe`: exactly this ID, verified by this bundle of its trust domain.
pub(super) fn spiffe(expected: SpiffeId, bundle: Arc<Bundle>, clock: &Clock) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let anchors = Anchors::new(&[(bundle.trust_domain.clone(), bundle)].into());
    let verifier = BySpiffeId { expected, anchors, clock: clock.clone(), provider: provider.clone() };
    config(provider, clock, Arc::new(verifier))
}

fn config(provider: Arc<CryptoProvider>, clock: &Clock, verifier: Arc<dyn ServerCertVerifier>) -> ClientConfig {
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(Time(clock.clone())))
        .with_protocol_versions(&VERSIONS)
        .expect("the provider has suites of both versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// Accepts an endpoint by its SPIFFE ID; what it is called on the Web does not matter.
#[derive(Debug)]
struct BySpiffeId {
    expected: SpiffeId,
    anchors: Anchors,
    clock: Clock,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for BySpiffeId {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        let actual = self.anchors.verify(&chain, Usage::Server, self.clock.now()).map_err(refusal)?;
        if actual != self.expected {
            return Err(refusal(AnotherEndpoint { actual, expected: self.expected.clone() }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts nobody: this machine has no authorities to verify by.
#[derive(Debug)]
struct Nobody;

impl ServerCertVerifier for Nobody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
