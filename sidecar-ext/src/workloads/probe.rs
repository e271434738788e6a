//! One check of one workload: that its Envoy listens, and that its application answers, on this machine, bounded in time.

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
use tokio::time::{Instant, timeout_at};

use crate::config::{HealthCheck, Workload};

/// Longest wait for both answers.
const LONGEST: Duration = Duration::from_secs(2);

/// What to check of a workload: one of the two at least. Both must be well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Where its Envoy accepts mTLS, if anywhere.
    pub(super) inbound: Option<SocketAddr>,
    /// Where and how its application is asked, if it is.
    pub(super) application: Option<(SocketAddr, HealthCheck)>,
}

/// What did not answer well in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ill {
    /// Its Envoy is not there, or has not got its listener, its SVID and its bundles.
    Inbound,
    Application,
}

// === impl Ill ===

impl Ill {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Application => "application",
        }
    }
}

// === impl Target ===

impl Target {
    /// `None`: there is nothing to check.
    pub(super) fn of(workload: &Workload) -> Option<Self> {
        let application = workload.address.zip(workload.health.clone());
        let target = Self { inbound: workload.inbound, application };
        (target.inbound.is_some() || target.application.is_some()).then_some(target)
    }

    /// Asks both parts, together no longer than the interval between two checks. The inbound listener comes first: while Envoy is
    /// being started that is a refused connection, which costs nothing, and the application is not troubled.
    pub(super) async fn check(&self, interval: Duration) -> Result<(), Ill> {
        let until = Instant::now() + interval.min(LONGEST);
        if let Some(inbound) = self.inbound {
            in_time(until, accepts(inbound)).await.then_some(()).ok_or(Ill::Inbound)?;
        }
        if let Some((address, probe)) = &self.application {
            in_time(until, answers(probe, *address)).await.then_some(()).ok_or(Ill::Application)?;
        }
        Ok(())
    }
}

async fn in_time(until: Instant, well: impl Future<Output = bool>) -> bool {
    timeout_at(until, well).await.unwrap_or(false)
}

/// Whether an Envoy listens there. Envoy opens the port only once the listener has its secrets, so that accepting is all there is
/// to ask: we connect and close, without a handshake, which costs neither side any cryptography. Envoy sees a connection that ends
/// before it said anything, one an interval: it is in `downstream_cx_total` of the listener, and need not alarm in its TLS counts.
async fn accepts(inbound: SocketAddr) -> bool {
    connect(inbound).await.is_some()
}

async fn answers(probe: &HealthCheck, address: SocketAddr) -> bool {
    let Some(socket) = connect(address).await else { return false };
    match probe {
        HealthCheck::Tcp => true,
        HealthCheck::Http(path) => get(socket, address, path).await.unwrap_or(false),
    }
}

async fn connect(address: SocketAddr) -> Option<TcpStream> {
    let socket = TcpStream::connect(address).await.ok()?;
    is_another(&socket).then_some(socket)
}

/// A connection to a port of this machine that nobody listens on can meet itself, when the system happens to choose that very
/// port as its source. That is nobody's answer.
pub(super) fn is_another(socket: &TcpStream) -> bool {
    !matches!((socket.local_addr(), socket.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
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
