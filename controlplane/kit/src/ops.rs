//! `/livez`, `/readyz`, `/metrics` over plain HTTP.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::net::{Attended, Opening, Protocol};
use crate::readiness::Readiness;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Ops {
    readiness: Readiness,
    metrics: Metrics,
    drain: Drain,
}

/// Serves until drained. `/readyz` answers 503 with the pending names while something is awaited or the drain has begun.
pub async fn serve(listener: TcpListener, readiness: Readiness, metrics: Metrics, drain: Drain) {
    let refused = metrics.counter("symbolon_ops_refusals", "Connections to the operations port refused, by reason");
    let listener = Watched { listener, opening: Opening::new(Protocol::Http1, "operations port", refused) };
    let ops = Ops { readiness, metrics, drain: drain.clone() };
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(async |State(ops): State<Ops>| ([(CONTENT_TYPE, OPENMETRICS)], ops.metrics.render())))
        .with_state(ops);
    let stop = async move { drain.cancelled().await };
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stop).await {
        warn!(%error, "the operations port failed");
    }
}

async fn readyz(State(ops): State<Ops>) -> impl IntoResponse {
    let mut pending = ops.readiness.pending();
    if ops.drain.is_draining() {
        pending.push("draining");
    }
    if pending.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", pending.join(", ")))
    }
}

/// The listener, with an eye on how its connections begin.
struct Watched {
    listener: TcpListener,
    opening: Opening,
}

impl Listener for Watched {
    type Io = Attended<TcpStream, Opening>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (io, address) = Listener::accept(&mut self.listener).await;
        (Attended { io, companion: self.opening.clone() }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_follows_the_guards_and_the_port_ends_with_the_drain() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (readiness, metrics, drain) = (Readiness::new(), Metrics::new(), Drain::new());
        metrics.counter("c", "help").inc(&[]);
        let guard = readiness.guard("first snapshot");
        let serving = tokio::spawn(serve(listener, readiness, metrics, drain.clone()));
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let waiting = ask(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503") && waiting.contains("first snapshot"), "{waiting}");
        drop(guard);
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/metrics").await.contains("c_total{} 1"));
        for path in ["/debug", "/debug/pprof", "/shutdown", "/quitquitquit"] {
            assert!(ask(address, path).await.starts_with("HTTP/1.1 404"), "bad_162: {path}");
        }
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(b"\x16\x03\x01\x02\x00garbage\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stranger.read_to_end(&mut answer).await.unwrap();
        let counted = ask(address, "/metrics").await;
        assert!(counted.contains(r#"symbolon_ops_refusals_total{reason="not_http"} 1"#), "{counted}");
        drain.start();
        serving.await.unwrap();
    }
}
