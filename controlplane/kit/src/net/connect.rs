//! The connecting side.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tracing::debug;

use super::PeerIdentity;
use super::guarded::{Guarded, named, outlived};
use crate::spiffe::verify::Usage;
use crate::tls::{self, Expect, Identity};

/// For one address: TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For all addresses of [`connect_unverified`].
const UNVERIFIED_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent connection is asked for a sign of life, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

type Stream = TokioIo<Guarded<TlsStream<TcpStream>>>;

pub(super) fn channel(addresses: Vec<String>, identity: &Identity, expect: Expect) -> Channel {
    // The configuration reads SVID and bundles from `identity` at each handshake.
    let config = Arc::new(identity.client_config(expect));
    let (identity, addresses) = (identity.clone(), Arc::<[String]>::from(addresses));
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (addresses, config, identity) = (addresses.clone(), config.clone(), identity.clone());
        async move {
            let anonymous = !identity.has_svid();
            let (stream, address) = first(&addresses, &config).await?;
            guard(stream, address, identity, anonymous)
        }
    }))
}

pub(super) fn unix_channel(socket: PathBuf) -> Channel {
    // The address is never looked up; gRPC wants one for its `:authority`.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

pub(super) async fn connect_unverified(
    addresses: &[String],
    identity: &Identity,
) -> io::Result<(Channel, Vec<CertificateDer<'static>>)> {
    let config = Arc::new(identity.client_config(Expect::Unverified));
    let (stream, address) = tokio::time::timeout(UNVERIFIED_TIMEOUT, first(addresses, &config)).await??;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let peer = PeerIdentity { id: None, serial: "".into(), address };
    let stream = TokioIo::new(Guarded::new(stream, peer, futures::future::pending().boxed(), None));
    // Only this connection: another could lead to another server.
    let once = Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = endpoint().connect_with_connector(connector).await.map_err(io::Error::other)?;
    Ok((channel, chain))
}

/// `http://`, because tonic would want its own TLS feature for `https://`; the origin sets `:scheme` right.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://symbolon.invalid")
        .origin(Uri::from_static("https://symbolon.invalid"))
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
}

/// Connects to the first address that answers and is whom we expect.
async fn first(addresses: &[String], config: &Arc<ClientConfig>) -> io::Result<(TlsStream<TcpStream>, SocketAddr)> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to");
    for address in addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, connect(address, config)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => last = in_context(address, &error),
            Err(elapsed) => last = in_context(address, &io::Error::from(elapsed)),
        }
        debug!(%address, error = %last, "cannot connect");
    }
    Err(last)
}

fn in_context(address: &str, error: &io::Error) -> io::Error {
    match tls::reason(error) {
        Some(reason) => io::Error::new(error.kind(), format!("{address}: {reason}")),
        None => io::Error::new(error.kind(), format!("{address}: {error}")),
    }
}

async fn connect(address: &str, config: &Arc<ClientConfig>) -> io::Result<(TlsStream<TcpStream>, SocketAddr)> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let peer = socket.peer_addr()?;
    let nobody = ServerName::try_from("symbolon.invalid").expect("a DNS name"); // never sent, never verified
    Ok((TlsConnector::from(config.clone()).connect(nobody, socket).await?, peer))
}

fn guard(stream: TlsStream<TcpStream>, address: SocketAddr, identity: Identity, anonymous: bool) -> io::Result<Stream> {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let verified = identity.check(&chain, Usage::Server).map_err(io::Error::other)?;
    let peer = PeerIdentity { id: Some(verified.id), serial: "".into(), address };
    let outlived = outlived(identity.clone(), chain, Usage::Server, verified.until);
    let end = async move {
        match anonymous {
            false => outlived.await,
            true => tokio::select! { end = outlived => end, end = named(identity) => end },
        }
    };
    Ok(TokioIo::new(Guarded::new(stream, peer, end.boxed(), None)))
}
