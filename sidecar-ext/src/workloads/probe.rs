//! One check of one workload: an HTTP GET or a connection, on this machine, bounded in time.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http::header::{CONNECTION, HOST, USER_AGENT};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::HealthCheck;

/// Longest wait for an answer.
const LONGEST: Duration = Duration::from_secs(2);

/// Whether the workload at `address` answered well in time. A check never lasts longer than the interval between two.
pub(super) async fn check(probe: &HealthCheck, address: SocketAddr, interval: Duration) -> bool {
    timeout(interval.min(LONGEST), ask(probe, address)).await.unwrap_or(false)
}

async fn ask(probe: &HealthCheck, address: SocketAddr) -> bool {
    let Ok(socket) = TcpStream::connect(address).await else { return false };
    match probe {
        HealthCheck::Tcp => true,
        HealthCheck::Http(path) => get(socket, address, path).await.unwrap_or(false),
    }
}

async fn get(socket: TcpStream, address: SocketAddr, path: &str) -> hyper::Result<bool> {
    let (mut send, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let request = http::Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, "symbolon-sidecar")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let Ok(request) = request else { return Ok(false) };
    // The connection moves the bytes, and may end with the response in hand. Dropping it closes the socket.
    let (response, connection) = (pin!(send.send_request(request)), pin!(connection));
    let response = match select(response, connection).await {
        Either::Left((response, _)) => response,
        Either::Right((_, response)) => response.await,
    };
    let status = response?.status();
    Ok(status.is_success() || status.is_redirection())
}
