//! Bad input 80 to 97, and one mutant at least per line of X509-SVID.md, where they arrive: in a TLS handshake at the node port, made by
//! somebody who has stolen the authority's key. In detail: the verifier's own tests.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::testing::Ca;
use symbolon_kit::spiffe::testing::cases::{Case, TRUST_DOMAIN, cases_below};
use symbolon_tests::interop::envoy::Anybody;
use symbolon_tests::mesh::{Mesh, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Shows a chain whatever it is: rustls' own way reads the leaf first.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whether the server talks HTTP/2 with who shows this chain. TLS 1.3 tells a client only then that it was refused.
async fn is_let_in(address: SocketAddr, case: &Case) -> anyhow::Result<bool> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(case.key.pkcs8()));
    let key = CertifiedKey::new(case.chain.clone(), aws_lc_rs::sign::any_supported_type(&key)?);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_client_cert_resolver(Arc::new(Shown(Arc::new(key))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let talk = async || -> std::io::Result<usize> {
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), stream).await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        stream.read(&mut [0; 64]).await
    };
    Ok(soon(case.name, talk()).await?.is_ok_and(|read| read > 0))
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_080_to_097_no_wrong_chain_is_let_in() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let address = mesh.a.addresses().node;
    let (certificate, key) = mesh.a.stolen_authority().await?;
    let root = Ca::stolen(Clock::system().now(), TRUST_DOMAIN, certificate.clone(), key);
    // Some cases bring a root of their own, which is not in this bundle.
    let cases: Vec<_> =
        cases_below(root).into_iter().filter(|case| case.trusted == std::slice::from_ref(&certificate)).collect();
    assert!(cases.len() >= 60, "{}", cases.len());
    let refused = || {
        let reasons =
            ["chain_size", "leaf", "unknown_trust_domain", "unknown_issuer", "validity", "authority", "chain"];
        let count = |reason: &&str| mesh.a.counted("symbolon_handshakes_refused", &[("reason", reason)]);
        reasons.iter().chain(&["uri_name_constraint"]).map(count).sum::<u64>()
    };
    for case in &cases {
        let before = refused();
        assert_eq!(is_let_in(address, case).await?, case.accepted, "{}: {}", case.name, case.what);
        let counted = async {
            while refused() == before {
                tokio::task::yield_now().await; // counted after the client has learned of it
            }
        };
        if !case.accepted {
            soon(case.name, counted).await?;
        }
    }
    assert_eq!(refused(), cases.iter().filter(|case| !case.accepted).count() as u64, "each once, and no other");
    Ok(())
}
