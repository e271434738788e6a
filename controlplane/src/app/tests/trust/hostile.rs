//! A bundle endpoint that answers whatever a test wants, over real TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use symbolon_kit::clock::Clock;
use symbolon_kit::tls::Identity;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What is answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// A document, as it should be.
    Json(Vec<u8>),
    /// These bytes, head and all.
    Raw(Vec<u8>),
    /// The head, and then a byte now and then, for ever.
    Drip,
    /// A document of so many bytes, in chunks, as fast as they are taken.
    Flood(usize),
    /// The connection is accepted, and nothing is ever said.
    Silence,
    /// By path.
    Paths(Vec<(&'static str, Box<Answer>)>),
}

pub(super) struct Hostile {
    pub(super) address: SocketAddr,
    pub(super) answer: Arc<Mutex<Answer>>,
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    pub(super) sent: Arc<AtomicUsize>,
    _task: tokio::task::JoinHandle<()>,
}

/// An authority of the Web, in a folder.
pub(super) struct Web {
    pub(super) roots: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Web {
    pub(super) fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let roots = folder.join("web-roots.pem");
        std::fs::write(&roots, issuer.pem()).unwrap();
        Self { roots, issuer }
    }

    /// A certificate for `name`, and its key, both PEM.
    pub(super) fn certificate(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub(super) fn server(&self, name: &str) -> ServerConfig {
        use rustls_pki_types::pem::PemObject as _;
        let (certificate, key) = self.certificate(name);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap()
    }
}

impl Hostile {
    /// Proves `localhost`.
    pub(super) async fn web(web: &Web) -> Self {
        Self::start(web.server("localhost")).await
    }

    /// Proves an SVID.
    pub(super) async fn spiffe(svid: &symbolon_kit::spiffe::svid::Svid) -> Self {
        let identity = Identity::new(Clock::system());
        identity.set_svid(svid);
        Self::start(identity.endpoint_config()).await
    }

    pub(super) async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(Answer::Silence));
        let (asked, sent) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (answers, paths, count) = (answer.clone(), asked.clone(), sent.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (acceptor, answers, paths, count) =
                    (acceptor.clone(), answers.clone(), paths.clone(), count.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(socket).await else { return };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        match stream.read(&mut byte).await {
                            Ok(1) => head.push(byte[0]),
                            _ => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    paths.lock().unwrap().push(path.clone());
                    let mut answer = answers.lock().unwrap().clone();
                    if let Answer::Paths(all) = answer {
                        answer = all.into_iter().find(|(of, _)| *of == path).map_or(Answer::Silence, |(_, one)| *one);
                    }
                    speak(&mut stream, answer, &count).await;
                });
            }
        });
        Self { address, answer, asked, sent, _task: task }
    }

    pub(super) fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/", self.address.port())
    }

    pub(super) fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }
}

async fn speak<S: tokio::io::AsyncWrite + Unpin>(stream: &mut S, answer: Answer, sent: &AtomicUsize) {
    match answer {
        Answer::Json(body) => {
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            let _ = stream.shutdown().await;
        }
        Answer::Raw(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Answer::Drip => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await;
            while stream.write_all(b" ").await.is_ok() && stream.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Answer::Flood(bytes) => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
            for _ in 0..bytes / 0x10000 {
                if stream.write_all(&chunk).await.is_err() {
                    return;
                }
                sent.fetch_add(0x10000, Ordering::Relaxed);
            }
        }
        Answer::Silence => std::future::pending().await,
        Answer::Paths(_) => unreachable!("chosen before"),
    }
}

/// An answer that leads elsewhere.
pub(super) fn redirect(location: &str) -> Answer {
    Answer::Raw(format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n").into_bytes())
}
