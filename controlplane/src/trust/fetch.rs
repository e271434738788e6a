//! One GET from a bundle endpoint (F-12): a connection of its own, one deadline over everything, 1 MiB at most and never compressed
//! (what a bomb would be), redirects only where [`super::url`] lets them lead, each under the same TLS checks. Nothing of a redirect
//! is kept (F-13).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, OtherError};
use rustls_pki_types::ServerName;
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::bundle::{Bundle, MAX_BYTES};
use symbolon_kit::spiffe::verify::VerifyError;
use symbolon_kit::text::shown;
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tls::{self, AnotherEndpoint, NoRoots};
use super::url::{EndpointUrl, NotFollowed, is_forbidden};

/// Redirects followed for one document.
const MAX_REDIRECTS: usize = 3;
/// Header lines of an answer, and the bytes read ahead for them.
const MAX_HEADERS: usize = 64;
const HEADER_BYTES: usize = 64 * 1024;

/// Bounds of one fetch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Over everything: name, connection, handshake, redirects, body.
    pub deadline: Duration,
}

/// How the endpoint proves itself.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By its host name, to the Web's authorities.
    Web,
    /// By this SPIFFE ID, verified by this bundle of its trust domain.
    Spiffe { id: SpiffeId, bundle: Arc<Bundle> },
}

/// Fetches documents; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    web: Arc<ClientConfig>,
    clock: Clock,
    limits: Limits,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no whole answer within {0:?}")]
    Deadline(Duration),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the endpoint's certificate is not acceptable: {0}")]
    Certificate(String),
    #[error("the endpoint is another: {0}")]
    OtherEndpoint(String),
    #[error("no TLS: {0}")]
    Tls(String),
    #[error("the answer is no HTTP: {0}")]
    Http(String),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it redirects {0}")]
    Redirect(#[from] NotFollowed),
    #[error("it sends the document encoded ({0}), which was not asked for")]
    Encoded(String),
    #[error("its document is larger than 1 MiB")]
    TooLarge,
    #[error(
        "no bundle of {0} is held, by which the endpoint could be verified; set one with `symbolon bundle set`, or make a \
         relationship with {0} first"
    )]
    NoEndpointBundle(TrustDomain),
}

enum Answer {
    Document(Bytes),
    Redirect(EndpointUrl),
}

impl Fetcher {
    /// `roots`: PEM, by which `https_web` endpoints are verified; the machine's own if left out.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub fn new(roots: Option<&Path>, clock: Clock, limits: Limits) -> Result<Self, NoRoots> {
        let web = Arc::new(tls::web(tls::roots(roots)?, &clock));
        Ok(Self { web, clock, limits })
    }

    /// Over everything that one fetch does.
    pub fn deadline(&self) -> Duration {
        self.limits.deadline
    }

    /// The document at `url`.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn fetch(&self, url: &EndpointUrl, proof: &Proof) -> Result<Bytes, FetchError> {
        let deadline = self.limits.deadline;
        tokio::time::timeout(deadline, self.follow(url, proof)).await.map_err(|_| FetchError::Deadline(deadline))?
    }

    async fn follow(&self, url: &EndpointUrl, proof: &Proof) -> Result<Bytes, FetchError> {
        let tls = match proof {
            Proof::Web => self.web.clone(),
            Proof::Spiffe { id, bundle } => Arc::new(tls::spiffe(id.clone(), bundle.clone(), &self.clock)),
        };
        let mut at = url.clone();
        for redirects in 0..=MAX_REDIRECTS {
            let stream = connect(&at, &tls, redirects > 0).await?;
            match ask(stream, &at).await? {
                Answer::Document(document) => return Ok(document),
                Answer::Redirect(to) => at = to,
            }
        }
        Err(NotFollowed::TooMany.into())
    }
}

async fn connect(
    url: &EndpointUrl,
    tls: &Arc<ClientConfig>,
    redirected: bool,
) -> Result<TlsStream<TcpStream>, FetchError> {
    let refused = |error: io::Error| FetchError::Connect(error.to_string());
    let mut last = FetchError::Connect("the host has no address".into());
    for address in lookup_host((url.host(), url.port())).await.map_err(refused)? {
        if redirected && is_forbidden(address.ip()) {
            return Err(NotFollowed::LinkLocal.into());
        }
        match TcpStream::connect(address).await {
            Ok(socket) => {
                let _ = socket.set_nodelay(true); // slower, not wrong, without it
                let name = ServerName::try_from(url.host().to_owned())
                    .map_err(|_| FetchError::Connect("its host is no name that a certificate could hold".into()))?;
                return TlsConnector::from(tls.clone()).connect(name, socket).await.map_err(|error| tls_error(&error));
            }
            Err(error) => last = refused(error),
        }
    }
    Err(last)
}

fn tls_error(error: &io::Error) -> FetchError {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return FetchError::Tls(error.to_string());
    };
    match tls {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(reason))) => {
            match reason.downcast_ref::<AnotherEndpoint>() {
                Some(other) => FetchError::OtherEndpoint(other.to_string()),
                None => FetchError::Certificate(
                    reason.downcast_ref::<VerifyError>().map_or_else(|| reason.to_string(), ToString::to_string),
                ),
            }
        }
        rustls::Error::InvalidCertificate(why) => FetchError::Certificate(why.to_string()),
        other => FetchError::Tls(other.to_string()),
    }
}

async fn ask(stream: TlsStream<TcpStream>, url: &EndpointUrl) -> Result<Answer, FetchError> {
    let http = |error: hyper::Error| FetchError::Http(error.to_string());
    let mut builder = http1::Builder::new();
    builder.max_headers(MAX_HEADERS).max_buf_size(HEADER_BYTES);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(http)?;
    let request = Request::get(url.target())
        .header(HOST, url.authority())
        .header(ACCEPT, "application/json")
        .header(ACCEPT_ENCODING, "identity")
        .header(USER_AGENT, concat!("symbolon/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Http(error.to_string()))?;
    let asking = async {
        let answer = sender.send_request(request).await.map_err(http)?;
        let (head, body) = answer.into_parts();
        match head.status {
            StatusCode::OK => Ok(Answer::Document(read(&head.headers, body).await?)),
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                let location = head.headers.get(LOCATION).and_then(|location| location.to_str().ok());
                Ok(Answer::Redirect(url.redirect(location.ok_or(NotFollowed::NoLocation)?)?))
            }
            status => Err(FetchError::Status(status)),
        }
    };
    // The connection lives as long as this question; whoever gives up on it closes it.
    tokio::pin!(asking, connection);
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        ended = &mut connection => match ended {
            Ok(()) => asking.await,
            Err(error) => Err(http(error)),
        },
    }
}

async fn read(headers: &HeaderMap, mut body: Incoming) -> Result<Bytes, FetchError> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(FetchError::Encoded(shown(&String::from_utf8_lossy(encoding.as_bytes()), 40)));
    }
    let said = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|said| said > MAX_BYTES as u64) {
        return Err(FetchError::TooLarge);
    }
    let mut document = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FetchError::Http(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            if document.len() + data.len() > MAX_BYTES {
                return Err(FetchError::TooLarge);
            }
            document.extend_from_slice(&data);
        }
    }
    Ok(document.freeze())
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10) }
    }
}

impl FetchError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Connect(_) => "connect",
            Self::Certificate(_) => "certificate",
            Self::OtherEndpoint(_) => "other_endpoint",
            Self::Tls(_) => "tls",
            Self::Http(_) => "http",
            Self::Status(_) => "status",
            Self::Redirect(why) => why.label(),
            Self::Encoded(_) => "encoded",
            Self::TooLarge => "too_large",
            Self::NoEndpointBundle(_) => "no_endpoint_bundle",
        }
    }
}
