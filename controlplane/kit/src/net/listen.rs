//! The accepting side.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::warn;

use super::guarded::{Ended, Guarded, outlived};
use super::{Limits, PeerIdentity, Standing};
use crate::drain::Drain;
use crate::metrics::Counter;
use crate::seldom::Seldom;
use crate::spiffe::svid;
use crate::spiffe::verify::Usage;
use crate::tls::{self, Identity};

/// How often a silent connection is asked for a sign of life, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a peer without a certificate may stay: long enough to redeem a token.
const ANONYMOUS_AGE: Duration = Duration::from_secs(60);
/// How long connections may go on after the word to stop; services end their streams at that word.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// After `accept` failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Concurrent calls of one connection, and the size of their headers.
const MAX_STREAMS: u32 = 1024;
const MAX_HEADER_BYTES: u32 = 16 * 1024;

type Stream = Guarded<TlsStream<TcpStream>>;

/// What every handshake of a listener shares.
#[derive(Clone)]
struct Listener {
    identity: Identity,
    acceptor: TlsAcceptor,
    timeout: Duration,
    refused: Counter,
    said: Seldom,
    standing: Option<Arc<dyn Standing>>,
    /// Ends every connection.
    stop: CancellationToken,
}

pub(super) async fn serve(
    listener: TcpListener,
    identity: Identity,
    routes: Routes,
    limits: Limits,
    refused: Counter,
    standing: Option<Arc<dyn Standing>>,
    drain: Drain,
) {
    let shared = Listener {
        acceptor: TlsAcceptor::from(Arc::new(identity.server_config())),
        identity,
        timeout: limits.handshake_timeout,
        refused,
        said: Seldom::default(),
        standing,
        stop: CancellationToken::new(),
    };
    let (accepted, incoming) = mpsc::channel(64);
    let stop = shared.stop.clone();
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), drain.cancelled());
    let stopping = async {
        accept(listener, shared, limits, accepted, &drain).await;
        drain.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
        stop.cancel();
    };
    tokio::pin!(server, stopping);
    let served = tokio::select! {
        served = &mut server => served,
        () = &mut stopping => server.await,
    };
    if let Err(error) = served {
        warn!(%error, "the listener ended");
    }
}

/// Accepts until drained. Handshakes run in tasks of their own, which end with the last of them or with `stop`.
async fn accept(
    listener: TcpListener,
    shared: Listener,
    limits: Limits,
    accepted: mpsc::Sender<io::Result<Stream>>,
    drain: &Drain,
) {
    let handshakes = Arc::new(Semaphore::new(limits.handshakes));
    let connections = Arc::new(Semaphore::new(limits.connections));
    let tasks = TaskTracker::new();
    let next = async || {
        let permit = handshakes.clone().acquire_owned().await;
        (permit, listener.accept().await)
    };
    loop {
        let (permit, socket) = tokio::select! {
            next = next() => next,
            () = drain.cancelled() => return,
        };
        let (Ok(permit), Ok((socket, address))) = (permit, socket) else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Refused at once rather than left waiting, so that a client with other addresses goes there.
        let Ok(slot) = connections.clone().try_acquire_owned() else {
            shared.refuse(address, "too_many_connections", &format_args!("{} are open", limits.connections));
            continue;
        };
        let (shared, accepted) = (shared.clone(), accepted.clone());
        tasks.spawn(async move {
            let stream = shared.handshake(socket, address, slot).await;
            drop(permit);
            if let Some(stream) = stream {
                let _ = accepted.send(Ok(stream)).await; // fails only when the server is gone
            }
        });
    }
}

impl Listener {
    /// Counts every refusal and logs one of each kind now and then.
    fn refuse(&self, address: SocketAddr, reason: &'static str, why: &dyn std::fmt::Display) {
        self.refused.inc(&[("reason", reason)]);
        if let Some(left_out) = self.said.ask(reason) {
            warn!(%address, reason, %why, left_out, "a connection was refused");
        }
    }

    /// `None`: refused, counted and logged.
    async fn handshake(self, socket: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit) -> Option<Stream> {
        let refused = |reason, error: &dyn std::fmt::Display| {
            self.refuse(address, reason, error);
            None
        };
        let _ = socket.set_nodelay(true); // slower, not wrong, without it
        let stream = match tokio::time::timeout(self.timeout, self.acceptor.accept(socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => match tls::reason(&error) {
                Some(reason) => return refused(tls::label(&error), reason),
                None => return refused(tls::label(&error), &error),
            },
            Err(elapsed) => return refused("timeout", &elapsed),
        };
        let stop = self.stop.clone().cancelled_owned().map(|()| Ended::Stopping);
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        if chain.is_empty() {
            let age = tokio::time::sleep(ANONYMOUS_AGE).map(|()| Ended::AnonymousAge);
            let end = async move {
                tokio::select! { end = age => end, end = stop => end }
            };
            return Some(Guarded::new(
                stream,
                PeerIdentity { id: None, serial: "".into(), address },
                end.boxed(),
                Some(slot),
            ));
        }
        // Again, not only during the handshake: the ID must be one that the bundles of this moment verify.
        let verified = match self.identity.check(&chain, Usage::Client) {
            Ok(verified) => verified,
            Err(error) => return refused(error.label(), &error),
        };
        let serial = chain.first().and_then(|leaf| svid::serial(leaf).ok()).unwrap_or_default().into();
        let peer = PeerIdentity { id: Some(verified.id), serial, address };
        let lost = match &self.standing {
            Some(standing) => standing.lost(&peer).map(|()| Ended::Expelled).boxed(),
            None => std::future::pending().boxed(),
        };
        let outlived = outlived(self.identity, chain, Usage::Client, verified.until);
        let end = async move {
            tokio::select! { end = outlived => end, end = lost => end, end = stop => end }
        };
        Some(Guarded::new(stream, peer, end.boxed(), Some(slot)))
    }
}
