//! The Unix listeners. The socket is open to every user of the node, so its folder must not be writable by others, and nothing that
//! lies in its place is removed but a socket that nobody listens on. Each connection is attested before it is served, side by side
//! and bounded, so that one caller with a huge executable delays nobody.

mod authority;
mod bind;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Counter;
use symbolon_kit::net::{Attended, Companion, Opening, Protocol};
use symbolon_kit::seldom::Seldom;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{debug, warn};

use crate::attest::{AttestError, Attestor, Caller, Peer};
use crate::guard::{Quota, Share};
pub use bind::{BindError, Listener, bind};

/// Attestations side by side; each may read a whole executable.
const ATTESTATIONS: usize = 8;
const ATTESTATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of one user.
const CONNECTIONS_PER_UID: usize = 1024;
const STREAMS_PER_CONNECTION: u32 = 256;
/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `routes` until drained. Every request carries its [`Caller`] in `extensions()`; a caller that could not be attested is
/// served too, so that it can be told why it is refused.
pub async fn serve(listener: Listener, routes: Routes, attestor: Attestor, refused: Counter, drain: Drain) {
    let (ready, incoming) = mpsc::channel(64);
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), drain.cancelled());
    let accepting = accept(&listener, attestor, refused, ready);
    tokio::select! {
        served = server => {
            if let Err(why) = served {
                warn!(socket = %listener.path().display(), %why, "the socket is no longer served");
            }
        }
        () = accepting => {}
    }
}

async fn accept(
    listener: &Listener,
    attestor: Attestor,
    refused: Counter,
    ready: mpsc::Sender<io::Result<Attended<UnixStream, Guest>>>,
) {
    let places = Arc::new(Semaphore::new(ATTESTATIONS));
    let (quota, said) = (Quota::new(CONNECTIONS_PER_UID), Seldom::default());
    let opening = Opening::new(Protocol::Http2, "Unix socket", refused.clone());
    let mut attesting = JoinSet::new(); // aborted when this future is dropped
    loop {
        while attesting.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(why) => {
                warn!(%why, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Now and not later: the pidfd must be of the process that connected.
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(why) => {
                refused.inc(&[("reason", "no_peer")]);
                if let Some(left_out) = said.ask("no_peer") {
                    let hint = "Linux 6.5 or newer can, unless it has exited";
                    warn!(%why, left_out, hint, "a caller that the kernel cannot name was turned away");
                }
                continue;
            }
        };
        let Some(share) = quota.take(peer.uid) else {
            refused.inc(&[("reason", "connections")]);
            if let Some(left_out) = said.ask("connections") {
                warn!(uid = peer.uid, pid = peer.pid, left_out, "a user has too many connections; one was closed");
            }
            continue; // closed
        };
        let (attestor, places, ready, opening) = (attestor.clone(), places.clone(), ready.clone(), opening.clone());
        attesting.spawn(async move {
            let caller = attest(peer, attestor, &places).await;
            let scrub = authority::Scrub::default();
            let guest = Guest { opening, scrub, caller, _share: share };
            let connection = Attended { io: stream, companion: guest };
            let _ = ready.send(Ok(connection)).await; // the server is gone: so is the connection
        });
    }
}

async fn attest(peer: Peer, attestor: Attestor, places: &Arc<Semaphore>) -> Caller {
    let attested = tokio::time::timeout(ATTESTATION_TIMEOUT, async {
        // The place goes with the reading, which a timeout does not interrupt.
        let place = places.clone().acquire_owned().await;
        let peer = peer.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _place = place;
            attestor.attest(&peer)
        });
        reading.await.unwrap_or_else(|why| Err(AttestError::Unreadable(why.to_string())))
    });
    let attested = attested.await.unwrap_or(Err(AttestError::TimedOut));
    match &attested {
        Ok(selectors) => debug!(pid = peer.pid, uid = peer.uid, ?selectors, "a caller"),
        Err(why) => debug!(pid = peer.pid, uid = peer.uid, %why, "a caller that is nobody"),
    }
    Caller::new(peer, attested.map(Arc::new))
}

/// Who made a connection, and what it brings in.
#[derive(Debug)]
struct Guest {
    opening: Opening,
    scrub: authority::Scrub,
    caller: Caller,
    _share: Share,
}

impl Companion for Guest {
    type Info = Caller;

    fn incoming(&mut self, bytes: &mut [u8]) {
        self.opening.pass(bytes);
        self.scrub.pass(bytes);
    }

    fn info(&self) -> Caller {
        self.caller.clone()
    }
}

#[cfg(test)]
mod tests;
