//! Our own bundle endpoint (SPIFFE_Federation.md §5): the newest bundle at `/`, by GET and HEAD, to everybody, over either profile.
//! What a stranger may cost us is bounded: handshakes and connections in number and time, requests in size, answers to one document
//! that was encoded when it changed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Metrics};
use symbolon_kit::octets::{hex, sha256};
use symbolon_kit::seldom::Seldom;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_kit::tls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use super::certificate::Certificate;
pub use super::certificate::{Files, Unusable};

/// After `accept` failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a request may have, beside its first line.
const MAX_HEADERS: usize = 64;
const HEADER_BYTES: usize = 16 * 1024;

/// What a stranger may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    /// Of them from one address: nobody takes the place of all others (I9).
    pub of_one: usize,
    pub handshake_timeout: Duration,
    /// For the head of a request, and for the silence between two.
    pub request_timeout: Duration,
    /// Over all requests of one connection.
    pub connection_age: Duration,
}

/// How the endpoint proves itself.
#[derive(Clone, Debug)]
pub enum Presented {
    /// By an SVID.
    Spiffe(tls::Identity),
    /// By a certificate of the Web.
    Web(Files),
}

/// The bundle as it is answered.
#[derive(Debug)]
struct Document {
    body: Bytes,
    etag: HeaderValue,
    /// What caches may do with it: not longer than half of what clients wait between two looks.
    cache: HeaderValue,
}

/// The endpoint; what it serves follows the bundle.
#[derive(Clone, Debug)]
pub struct Endpoint {
    document: Arc<ArcSwapOption<Document>>,
    tls: Arc<ServerConfig>,
    limits: Limits,
    sources: Sources,
    refused: Counter,
    answered: Counter,
    said: Seldom,
}

/// Connections by address; as many entries as there are connections, at most. A std mutex: nothing awaits while it is held.
#[derive(Clone, Debug, Default)]
struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place among those of its address.
struct Place(Sources, IpAddr);

impl Sources {
    fn take(&self, of: IpAddr, most: usize) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(of).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), of))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

impl Endpoint {
    /// `own` is our bundle, now and later. It serves nothing before [`Self::serve`].
    ///
    /// # Errors
    /// If the certificate's files cannot be used.
    pub fn new(
        presented: Presented,
        mut own: watch::Receiver<Option<Arc<Bundle>>>,
        limits: Limits,
        clock: Clock,
        tasks: &Tasks,
        drain: &Drain,
        metrics: &Metrics,
    ) -> Result<Self, Unusable> {
        let config: ServerConfig = match presented {
            Presented::Spiffe(identity) => identity.endpoint_config(),
            Presented::Web(files) => {
                let expires = metrics.gauge(
                    "symbolon_bundle_endpoint_certificate_expires_seconds",
                    "Unix time at which the bundle endpoint's Web certificate expires",
                );
                let certificate = Certificate::load(files, expires)?;
                tasks.spawn("endpoint certificate", OnExit::Log, certificate.clone().follow(drain.clone()));
                tls::endpoint_config(clock, certificate)
            }
        };
        let document = Arc::new(ArcSwapOption::empty());
        let (served, drain) = (document.clone(), drain.clone());
        tasks.spawn("endpoint bundle", OnExit::Log, async move {
            loop {
                served.store(own.borrow_and_update().as_deref().map(Document::of).map(Arc::new));
                tokio::select! {
                    changed = own.changed() => if changed.is_err() { return },
                    () = drain.cancelled() => return,
                }
            }
        });
        Ok(Self {
            document,
            tls: Arc::new(config),
            limits,
            sources: Sources::default(),
            refused: metrics
                .counter("symbolon_bundle_endpoint_refusals", "Connections to the bundle endpoint refused, by reason"),
            answered: metrics.counter("symbolon_bundle_endpoint_answers", "Answers of the bundle endpoint, by status"),
            said: Seldom::default(),
        })
    }

    /// Serves until drained.
    pub async fn serve(self, listener: TcpListener, tasks: Tasks, drain: Drain) {
        let connections = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = drain.cancelled() => return,
            };
            let Ok((socket, from)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(slot) = connections.clone().try_acquire_owned() else {
                self.refuse(from, "too_many_connections", &format_args!("{} are open", self.limits.connections));
                continue;
            };
            let Some(place) = self.sources.take(from.ip(), self.limits.of_one) else {
                self.refuse(from, "too_many_of_one", &format_args!("{} of this address are open", self.limits.of_one));
                continue;
            };
            let (endpoint, drain) = (self.clone(), drain.clone());
            tasks.spawn("bundle endpoint", OnExit::Log, async move {
                tokio::select! {
                    () = endpoint.connection(socket, from) => {}
                    () = drain.cancelled() => {}
                }
                drop((slot, place));
            });
        }
    }

    async fn connection(&self, socket: TcpStream, from: SocketAddr) {
        let _ = socket.set_nodelay(true); // slower, not wrong, without it
        let handshake = TlsAcceptor::from(self.tls.clone()).accept(socket);
        let stream = match tokio::time::timeout(self.limits.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.refuse(from, "handshake", &error),
            Err(_) => return self.refuse(from, "handshake_timeout", &"no handshake in time"),
        };
        let service = service_fn(async |request: Request<_>| Ok::<_, Infallible>(self.answer(&request)));
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.request_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(self.limits.connection_age, serving).await {
            Ok(Ok(())) | Err(_) => {} // whoever stays longer comes again
            Ok(Err(error)) if error.is_timeout() => self.refuse(from, "request_timeout", &error),
            Ok(Err(error)) if error.is_parse_too_large() => self.refuse(from, "request_too_large", &error),
            Ok(Err(error)) if error.is_parse() => self.refuse(from, "not_http", &error),
            Ok(Err(_)) => {} // a client that went away
        }
    }

    /// Neither a certificate nor a header of the client counts for anything (F-11).
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let document = self.document.load();
        let (status, document) = match (request.uri().path(), request.method(), document.as_deref()) {
            ("/", &Method::GET | &Method::HEAD, Some(document)) if is_known(request.headers(), &document.etag) => {
                (StatusCode::NOT_MODIFIED, Some(document))
            }
            ("/", &Method::GET | &Method::HEAD, Some(document)) => (StatusCode::OK, Some(document)),
            ("/", &Method::GET | &Method::HEAD, None) => (StatusCode::SERVICE_UNAVAILABLE, None),
            ("/", _, _) => (StatusCode::METHOD_NOT_ALLOWED, None),
            _ => (StatusCode::NOT_FOUND, None),
        };
        self.answered.inc(&[("status", status.as_str())]);
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if let Some(document) = document {
            headers.insert(ETAG, document.etag.clone());
            headers.insert(CACHE_CONTROL, document.cache.clone());
            if status == StatusCode::OK {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                *response.body_mut() = Full::new(document.body.clone()); // hyper leaves it out of an answer to HEAD
            }
        }
        response
    }

    fn refuse(&self, from: SocketAddr, reason: &'static str, why: &dyn std::fmt::Display) {
        self.refused.inc(&[("reason", reason)]);
        if let Some(left_out) = self.said.ask(reason) {
            warn!(%from, reason, %why, left_out, "a connection to the bundle endpoint was refused");
        }
    }
}

/// Whether the client holds this very document (RFC 9110 §13.1.2).
fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let ours = etag.to_str().unwrap_or_default();
    known
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.trim_start_matches("W/") == ours)
}

impl Document {
    fn of(bundle: &Bundle) -> Self {
        let body = Bytes::from(bundle.to_jwks());
        let value = |text: String| HeaderValue::try_from(text).expect("hexadecimal digits and ASCII words");
        let etag = value(format!("\"{}\"", hex(&sha256(&body))));
        let cache = value(format!("max-age={}", bundle.refresh_hint.as_secs() / 2));
        Self { body, etag, cache }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            of_one: 64,
            handshake_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            connection_age: Duration::from_mins(5),
        }
    }
}
