//! A TLS stream that fails when it should no longer be: its peer's SVID has expired, its bundle no longer verifies the peer, or
//! the listener is stopping.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tonic::transport::server::Connected;
use tracing::info;

use super::PeerIdentity;
use crate::spiffe::verify::{Usage, VerifyError};
use crate::tls::Identity;

/// The longest that an expiry is slept towards: a clock that is set forward is noticed within this.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Why a connection was ended by us.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the peer's SVID has expired")]
    Expired,
    #[error("the bundles no longer verify the peer: {0}")]
    Distrusted(#[from] VerifyError),
    #[error("the peer has lost its standing")]
    Expelled,
    #[error("an anonymous connection may not last longer")]
    AnonymousAge,
    #[error("we have an SVID now, and this connection was made without")]
    Anonymous,
    #[error("we are stopping")]
    Stopping,
}

/// A stream with its peer, and what ends it.
pub(super) struct Guarded<Io> {
    io: Io,
    peer: PeerIdentity,
    end: BoxFuture<'static, Ended>,
    ended: bool,
    _slot: Option<OwnedSemaphorePermit>,
}

impl<Io> Guarded<Io> {
    pub(super) fn new(
        io: Io,
        peer: PeerIdentity,
        end: BoxFuture<'static, Ended>,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { io, peer, end, ended: false, _slot: slot }
    }

    /// Polled wherever the connection's task waits, so that it is woken when the end comes: at every read, and when a write waits
    /// (a peer that never reads must not outlive its SVID either).
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.ended {
            let Poll::Ready(why) = self.end.as_mut().poll(context) else { return Ok(()) };
            info!(peer = self.peer.id.as_ref().map(|id| id.as_str()), address = %self.peer.address, %why, "connection ended");
            self.ended = true;
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn unless_ended<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_pending() {
            self.check(context)?;
        }
        poll
    }

    fn alive(&self) -> io::Result<()> {
        if self.ended { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

/// Returns when what `chain` proved no longer holds.
pub(super) async fn outlived(
    identity: Identity,
    chain: Vec<CertificateDer<'static>>,
    usage: Usage,
    mut until: SystemTime,
) -> Ended {
    let (clock, mut swaps) = (identity.clock(), identity.swaps());
    loop {
        let Ok(left) = until.duration_since(clock.now()) else { return Ended::Expired };
        if left.is_zero() {
            return Ended::Expired;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => continue,
            changed = swaps.changed() => if changed.is_err() { return Ended::Stopping },
        }
        match identity.check(&chain, usage) {
            Ok(verified) => until = verified.until,
            Err(why) => return why.into(),
        }
    }
}

/// Returns when `identity` has an SVID.
pub(super) async fn named(identity: Identity) -> Ended {
    let mut swaps = identity.swaps();
    while !identity.has_svid() {
        if swaps.changed().await.is_err() {
            return Ended::Stopping;
        }
    }
    Ended::Anonymous
}

impl<Io> Connected for Guarded<Io> {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.peer.clone()
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Guarded<Io> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_read(context, to)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Guarded<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.alive()?;
        let written = Pin::new(&mut self.io).poll_write(context, from);
        self.unless_ended(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive()?;
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.unless_ended(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.alive()?;
        let written = Pin::new(&mut self.io).poll_write_vectored(context, from);
        self.unless_ended(context, written)
    }

    /// Without this h2 copies every large frame.
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
