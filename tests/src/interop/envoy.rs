//! Envoy's SPIFFE validator as a judge: one listener per case, each trusting the bundle of its case, and a client that shows the
//! case's chain whatever it is.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use serde_json::{Value, json};
use symbolon_kit::spiffe::svid::certificates_pem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::cases::{Case, Expect, Input};
use super::judges::{Verdict, Verdicts};
use crate::mesh::{soon, until};
use crate::repository;

/// What Envoy says of each chain.
///
/// # Errors
/// If it does not start: `make tools` first.
pub async fn judge(cases: &[Case], folder: &Path) -> anyhow::Result<Verdicts> {
    let chains: Vec<_> = cases.iter().filter(|case| matches!(case.input, Input::X509 { .. })).collect();
    let own = chains.iter().find(|case| case.expect == Expect::Accept).context("no good SVID for Envoy itself")?;
    let addresses = free_addresses(chains.len())?;
    let listeners: Vec<_> =
        chains.iter().zip(&addresses).map(|(case, address)| listener(case, *address, own)).collect();
    let file = folder.join("envoy.json");
    std::fs::write(&file, json!({ "static_resources": { "listeners": listeners } }).to_string())?;
    let program = repository().join("target/tools/envoy/envoy/_bin/envoy");
    let mut envoy = tokio::process::Command::new(&program)
        .args(["-c", &file.to_string_lossy(), "--disable-hot-restart", "--log-level", "warning"])
        .args(["--concurrency", "1"])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("envoy.log"))?)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{}", program.display()))?;
    let last = *addresses.last().context("no chains")?;
    until("Envoy listens", async || TcpStream::connect(last).await.ok()).await.with_context(|| {
        let log = std::fs::read_to_string(folder.join("envoy.log")).unwrap_or_default();
        format!("Envoy said: {}", log.lines().take(5).collect::<Vec<_>>().join("\n"))
    })?;
    let mut verdicts = Verdicts::new();
    for (case, address) in chains.iter().zip(&addresses) {
        let Input::X509 { chain, key } = &case.input else { continue };
        let verdict = soon("Envoy's answer", shown(*address, chain, key)).await?;
        verdicts.insert(case.name.clone(), verdict);
    }
    envoy.kill().await?;
    Ok(verdicts)
}

fn free_addresses(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    // All held at once, so that no two are the same.
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}

fn listener(case: &Case, address: SocketAddr, own: &Case) -> Value {
    let inline = |text: String| json!({ "inline_string": text });
    let (chain, key) = match &own.input {
        Input::X509 { chain, key } => (certificates_pem(chain), key_pem(key)),
        _ => (String::new(), String::new()),
    };
    let map = json!({ "trust_domains": { &case.trust_domain: case.bundle } }).to_string();
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_certificates": [{ "certificate_chain": inline(chain), "private_key": inline(key) }],
            "validation_context": { "custom_validator_config": {
                "name": "envoy.tls.cert_validator.spiffe",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                    "trust_bundles": inline(map),
                },
            } },
        },
    });
    let answer = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "judge",
        "route_config": { "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "direct_response": { "status": 204 } }],
        }] },
        "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        } }],
    });
    json!({
        "name": case.name,
        "address": { "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } },
        "filter_chains": [{
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
            "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": answer }],
        }],
    })
}

fn key_pem(key: &[u8]) -> String {
    certificates_pem(&[CertificateDer::from(key.to_vec())]).replace("CERTIFICATE", "PRIVATE KEY")
}

/// One request with this chain: TLS 1.3 tells a client only then that its certificate was refused.
async fn shown(address: SocketAddr, chain: &[CertificateDer<'static>], key: &[u8]) -> Verdict {
    let attempt = async || -> anyhow::Result<()> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(Arc::new(aws_lc_rs::default_provider()))))
            .with_client_auth_cert(chain.to_vec(), key)?;
        let name = ServerName::from(address.ip());
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: judge\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        anyhow::ensure!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        Ok(())
    };
    attempt().await.map_err(|why| why.to_string())
}

/// Takes any server: it is the server that judges here.
#[derive(Debug)]
pub struct Anybody(pub Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
