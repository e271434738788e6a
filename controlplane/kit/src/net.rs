//! tonic over our own rustls acceptor and connector: handshakes run side by side, bounded and timed, so that one slow peer delays
//! nobody ([`serve`]); channels that find the first address that answers ([`channel`]). On both sides a connection ends when the
//! peer's SVID does, or when the bundles no longer verify it.

mod attended;
mod connect;
mod guarded;
mod listen;
mod malformed;
mod opening;

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;

use symbolon_proto::ids::SpiffeId;
use tokio::net::TcpListener;
use tonic::transport::Channel;

pub use attended::{Attended, Companion};
pub use malformed::count_malformed;
pub use opening::{Opening, Protocol};

use crate::drain::Drain;
use crate::metrics::Counter;
use crate::tls::{Expect, Identity};

/// Who is at the other end of a connection; in `request.extensions()` of every call.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    /// `None`: came without a certificate.
    pub id: Option<SpiffeId>,
    /// Of its certificate, lower-case hex; empty if it came without.
    pub serial: Arc<str>,
    pub address: SocketAddr,
}

/// Whether a peer that its certificate proves may stay: certificates outlive the standing of their owners.
pub trait Standing: Send + Sync + 'static {
    /// Returns when the peer has lost its standing; never, for one that has none to lose. Held for as long as the connection is.
    fn lost(&self, peer: &PeerIdentity) -> BoxFuture<'static, ()>;
}

/// Limits of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Handshakes in flight.
    pub handshakes: usize,
    pub handshake_timeout: std::time::Duration,
    pub connections: usize,
}

/// Serves `routes` on `listener` until drained: mTLS by `identity`, HTTP/2 keep-alive, `refused` counts failed handshakes by reason.
/// After the word to stop it takes no new connections, and returns when the last one has ended, at the latest after some seconds.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    routes: tonic::service::Routes,
    limits: Limits,
    refused: Counter,
    drain: Drain,
) {
    listen::serve(listener, identity, routes, limits, refused, None, drain).await;
}

/// The same, and a connection ends also when its peer has lost its `standing`.
pub async fn serve_with_standing(
    listener: TcpListener,
    identity: Identity,
    routes: tonic::service::Routes,
    limits: Limits,
    refused: Counter,
    standing: Arc<dyn Standing>,
    drain: Drain,
) {
    listen::serve(listener, identity, routes, limits, refused, Some(standing), drain).await;
}

/// A lazily connected channel to the first of `addresses` that answers, with HTTP/2 keep-alive; reconnects by itself. `addresses` are
/// `host:port`. A connection made while `identity` had no SVID ends when it gets one, so that the next is not anonymous.
pub fn channel(addresses: Vec<String>, identity: &Identity, expect: Expect) -> Channel {
    connect::channel(addresses, identity, expect)
}

/// A lazily connected channel over a Unix socket; reconnects by itself.
pub fn unix_channel(socket: impl Into<std::path::PathBuf>) -> Channel {
    connect::unix_channel(socket.into())
}

/// One connection for redeeming a federation token: any server certificate is accepted, and its chain (DER, leaf first) is returned
/// for the caller to check against the bundle whose hash the token carries. We come without a certificate, since the server cannot
/// know us yet. The channel does not reconnect.
///
/// # Errors
/// If none of `addresses` answers in 10 s.
pub async fn connect_unverified(
    addresses: &[String],
    identity: &Identity,
) -> std::io::Result<(Channel, Vec<rustls_pki_types::CertificateDer<'static>>)> {
    connect::connect_unverified(addresses, identity).await
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshakes: 256, handshake_timeout: std::time::Duration::from_secs(5), connections: 16_384 }
    }
}

#[cfg(test)]
mod tests;
