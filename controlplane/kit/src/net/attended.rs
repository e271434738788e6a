//! A connection with something at its side: the one place where a byte stream is passed through.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What goes along with a connection and lives as long: it sees what comes in, and may answer for it in a request's extensions.
pub trait Companion: Send + Unpin + 'static {
    type Info: Clone + Send + Sync + 'static;

    /// The next bytes that came in; what it leaves there is what the server reads.
    fn incoming(&mut self, bytes: &mut [u8]);

    fn info(&self) -> Self::Info;
}

/// A connection and its companion.
#[derive(Debug)]
pub struct Attended<IO, C> {
    pub io: IO,
    pub companion: C,
}

impl<IO, C: Companion> Connected for Attended<IO, C> {
    type ConnectInfo = C::Info;

    fn connect_info(&self) -> C::Info {
        self.companion.info()
    }
}

impl<IO: AsyncRead + Unpin, C: Companion> AsyncRead for Attended<IO, C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.companion.incoming(&mut buf.filled_mut()[before..]);
        read
    }
}

impl<IO: AsyncWrite + Unpin, C: Companion> AsyncWrite for Attended<IO, C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored() // else h2 copies every large frame
    }
}
