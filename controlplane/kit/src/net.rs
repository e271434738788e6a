//! tonic over our own rustls acceptor and connector: handshakes run side by side, bounded and timed, so that one slow peer delays
//! nobody. Connections are ended when the peer's SVID expires.

use std::net::SocketAddr;

use symbolon_proto::ids::SpiffeId;
use tokio::net::TcpListener;
use tonic::transport::Channel;

use crate::clock::Clock;
use crate::drain::Drain;
use crate::tls::{Expect, Identity};

/// Who is at the other end of a connection; in `request.extensions()` of every call.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    /// `None`: came without a certificate.
    pub id: Option<SpiffeId>,
    pub address: SocketAddr,
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
pub async fn serve(
    _listener: TcpListener,
    _identity: Identity,
    _routes: tonic::service::Routes,
    _limits: Limits,
    _clock: Clock,
    _refused: crate::metrics::Counter,
    _drain: Drain,
) {
    todo!()
}

/// A lazily connected channel to the first of `addresses` that answers, with HTTP/2 keep-alive; reconnects by itself. `addresses` are
/// `host:port`.
pub fn channel(_addresses: Vec<String>, _identity: &Identity, _expect: Expect) -> Channel {
    todo!()
}

/// One connection for redeeming a federation token: any server certificate is accepted, and its chain (DER, leaf first) is returned
/// for the caller to check against the bundle whose hash the token carries.
///
/// # Errors
/// If none of `addresses` answers in 10 s.
pub async fn connect_unverified(
    _addresses: &[String],
    _identity: &Identity,
) -> std::io::Result<(Channel, Vec<rustls_pki_types::CertificateDer<'static>>)> {
    todo!()
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshakes: 256, handshake_timeout: std::time::Duration::from_secs(5), connections: 16_384 }
    }
}
