//! The admin socket: in a folder of mode 0700, for processes of the same user and of root only. What lies in its place is removed
//! only if it is a socket that nobody serves (bad input 155).

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::unistd::Uid;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Counter;
use symbolon_kit::net::{Attended, Companion, Opening, Protocol};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tracing::{debug, warn};

/// The longest path that a socket's address can hold.
const MAX_PATH_BYTES: usize = 107;
const MAX_CONNECTIONS: usize = 64;
/// Calls of one connection at once.
const MAX_CALLS: u32 = 64;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the admin socket's path {0} is longer than {MAX_PATH_BYTES} bytes; use a relative or shorter one")]
    TooLong(String),
    #[error("the admin socket's folder {folder} cannot be made: {why}")]
    Folder { folder: String, why: io::Error },
    #[error(
        "the admin socket's folder {folder} has mode {mode:04o} and owner {owner}: only we may enter. Run: chmod 700 {folder}"
    )]
    Open { folder: String, mode: u32, owner: u32 },
    #[error("{0} is not a socket; it is left alone. Remove it, or set listen.admin to another path")]
    NotASocket(String),
    #[error("another control plane serves {0}; stop it first")]
    InUse(String),
    #[error("the admin socket {path} cannot be bound: {why}")]
    Bind { path: String, why: io::Error },
}

/// Binds the socket.
///
/// # Errors
/// If something else is in its place, or others could reach it.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    let shown = || path.display().to_string();
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(Error::TooLong(shown()));
    }
    private_folder(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")))?;
    let failed = |why| Error::Bind { path: shown(), why };
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(Error::NotASocket(shown())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => return Err(Error::InUse(shown())),
        Ok(_) => std::fs::remove_file(path).map_err(failed)?, // left behind by a process that was killed
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn private_folder(folder: &Path) -> Result<(), Error> {
    let shown = || folder.display().to_string();
    let failed = |why| Error::Folder { folder: shown(), why };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let there = std::fs::metadata(folder).map_err(failed)?;
    let (mode, owner) = (there.mode() & 0o777, there.uid());
    if mode & 0o077 != 0 || owner != Uid::effective().as_raw() {
        return Err(Error::Open { folder: shown(), mode, owner });
    }
    Ok(())
}

/// Serves `routes` until drained; strangers are turned away and counted.
pub async fn serve(listener: UnixListener, routes: tonic::service::Routes, refused: Counter, drain: Drain) {
    let (accepted, connections) = mpsc::channel(1);
    let accepting = accept(listener, accepted, refused, drain.clone());
    let serving = Server::builder()
        .max_concurrent_streams(MAX_CALLS)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move { drain.cancelled().await });
    let ((), served) = tokio::join!(accepting, serving);
    if let Err(error) = served {
        warn!(%error, "the admin socket failed");
    }
}

async fn accept(
    listener: UnixListener,
    accepted: mpsc::Sender<io::Result<Attended<UnixStream, Place>>>,
    refused: Counter,
    drain: Drain,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let opening = Opening::new(Protocol::Http2, "admin socket", refused.clone());
    loop {
        let connection = tokio::select! {
            connection = one(&listener, &slots) => connection,
            () = drain.cancelled() => return,
        };
        match connection {
            Ok((stream, slot)) => match admit(&stream) {
                Ok(()) => {
                    let companion = Place { opening: opening.clone(), _slot: slot };
                    let connection = Attended { io: stream, companion };
                    if accepted.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
                Err(why) => {
                    refused.inc(&[("reason", "stranger")]);
                    warn!(why, "a process was turned away from the admin socket");
                }
            },
            Err(error) => {
                debug!(%error, "accept"); // out of files, most likely: others may end meanwhile
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn one(listener: &UnixListener, slots: &Arc<Semaphore>) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

/// The same user or root: the folder's mode keeps the others out already, unless someone opens it.
fn admit(stream: &UnixStream) -> Result<(), String> {
    let caller = stream.peer_cred().map_err(|error| format!("its credentials cannot be read: {error}"))?;
    let own = Uid::effective().as_raw();
    if caller.uid() == own || caller.uid() == 0 { Ok(()) } else { Err(format!("uid {} is not {own}", caller.uid())) }
}

/// A place among the bounded number of connections, and an eye on how its own begins.
struct Place {
    opening: Opening,
    _slot: OwnedSemaphorePermit,
}

impl Companion for Place {
    type Info = ();

    fn incoming(&mut self, bytes: &mut [u8]) {
        self.opening.pass(bytes);
    }

    fn info(&self) {}
}

#[cfg(test)]
mod tests;
