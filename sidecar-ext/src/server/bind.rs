//! Putting a socket into the file system without stepping on anything, and taking it away again.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The longest path that fits a socket's address, without its end.
const MAX_PATH_BYTES: usize = 107;

/// A bound socket; its file is removed when this is dropped, if it is still ours.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file as we made it.
    made: (u64, u64),
}

/// Why a socket cannot be put where the configuration says.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{path}: a socket's path may have {MAX_PATH_BYTES} bytes; a relative one is taken from where the sidecar runs", path = path.display())]
    TooLong { path: PathBuf },
    #[error("{path} is there and is {what}: it is not removed. Move it away, or name another path under sockets", path = path.display())]
    InTheWay { path: PathBuf, what: &'static str },
    #[error("{path} is served by another process", path = path.display())]
    InUse { path: PathBuf },
    #[error("{folder} has mode {mode:04o}: others could put their own socket into it. Run: chmod 755 {folder}", folder = folder.display())]
    Folder { folder: PathBuf, mode: u32 },
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Binds `path`, open to every user of the node. Makes its folder if it is not there. Must be called inside a Tokio runtime.
///
/// # Errors
/// If something other than an abandoned socket lies there, or others could replace what we put there.
pub fn bind(path: &Path) -> Result<Listener, BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(BindError::TooLong { path: path.to_owned() });
    }
    prepare_folder(path)?;
    remove_abandoned(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(0o777)).map_err(failed)?;
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    Ok(Listener { listener, path: path.to_owned(), made: (metadata.dev(), metadata.ino()) })
}

/// The folder lets everybody through and nobody but its owner write.
fn prepare_folder(path: &Path) -> Result<(), BindError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let failed = |source| BindError::Io { path: folder.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
    let metadata = fs::metadata(folder).map_err(failed)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let own = owner == 0 || owner == nix::unistd::geteuid().as_raw();
    if mode & 0o022 != 0 || !own {
        return Err(BindError::Folder { folder: folder.to_owned(), mode });
    }
    Ok(())
}

fn remove_abandoned(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(failed(why)),
    };
    if !kind.is_socket() {
        let what = match kind {
            kind if kind.is_symlink() => "a symbolic link",
            kind if kind.is_dir() => "a folder",
            kind if kind.is_file() => "a regular file",
            _ => "not a socket",
        };
        return Err(BindError::InTheWay { path: path.to_owned(), what });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        Err(why) if why.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(why) => Err(failed(why)),
    }
}

impl Listener {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.made) {
            let _ = fs::remove_file(&self.path); // whoever comes next removes an abandoned one too
        }
    }
}
