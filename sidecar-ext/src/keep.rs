//! Files of this node that outlive the process: keys, certificates, last-known-good state. Written whole or not at all; readable by
//! their owner only, and refused when they are not.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use symbolon_kit::files::{self, Durability};
use zeroize::Zeroizing;

/// The largest file that is read back.
const MAX_BYTES: u64 = 64 << 20;

/// The data folder; cheap to clone.
#[derive(Clone, Debug)]
pub struct Keep(Arc<Path>);

/// Why a file cannot be kept or read back.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} has mode {mode:04o}: only its owner may have access. Run: chmod {wanted:o} {path}", path = path.display())]
    TooOpen { path: PathBuf, mode: u32, wanted: u32 },
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile { path: PathBuf },
    #[error("{path} is larger than {MAX_BYTES} bytes", path = path.display())]
    TooLarge { path: PathBuf },
}

impl Keep {
    /// Opens the folder; makes it, with mode 0700, if it is not there.
    ///
    /// # Errors
    /// If it cannot be made, or others could write into it.
    pub fn open(dir: &Path) -> Result<Self, KeepError> {
        let failed = |source| KeepError::Io { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let mode = fs::metadata(dir).map_err(failed)?.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(KeepError::TooOpen { path: dir.to_owned(), mode, wanted: 0o700 });
        }
        Ok(Self(dir.into()))
    }

    /// A folder below this one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn below(&self, name: &str) -> Result<Self, KeepError> {
        Self::open(&self.0.join(name))
    }

    /// The file's content; `None` if there is none.
    ///
    /// # Errors
    /// If others than its owner have access to it, or it cannot be read.
    pub fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, KeepError> {
        let path = self.0.join(name);
        let failed = |source| KeepError::Io { path: path.clone(), source };
        let no_follow = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        let file = match OpenOptions::new().read(true).custom_flags(no_follow).open(&path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(failed(why)),
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(KeepError::NotAFile { path });
        }
        if let Some(mode) = files::open_to_others(&metadata) {
            return Err(KeepError::TooOpen { path, mode, wanted: 0o600 });
        }
        if metadata.len() > MAX_BYTES {
            return Err(KeepError::TooLarge { path });
        }
        // Sized up front: growing would leave copies of a key behind in freed memory.
        let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
        file.take(MAX_BYTES).read_to_end(&mut content).map_err(failed)?;
        Ok(Some(content))
    }

    /// Replaces the file, durably: after a crash it is the old one or the new one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, name: &str, content: &[u8]) -> Result<(), KeepError> {
        self.write(name, content, Durability::Durable)
    }

    /// Replaces the file without waiting for the disk: for what can be had again. After a crash of the machine it may be cut short.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_soon(&self, name: &str, content: &[u8]) -> Result<(), KeepError> {
        self.write(name, content, Durability::Soon)
    }

    fn write(&self, name: &str, content: &[u8], durability: Durability) -> Result<(), KeepError> {
        let path = self.0.join(name);
        files::replace(&path, content, 0o600, durability).map_err(|source| KeepError::Io { path, source })
    }

    /// Writes behind what the file holds, without waiting for the disk. After a crash the last of it may be cut short.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&self, name: &str, content: &[u8]) -> Result<(), KeepError> {
        let path = self.0.join(name);
        let no_follow = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(no_follow).open(&path);
        file.and_then(|mut file| file.write_all(content)).map_err(|source| KeepError::Io { path, source })
    }

    /// Removes the file, if it is there.
    ///
    /// # Errors
    /// If it is there and stays.
    pub fn remove(&self, name: &str) -> Result<(), KeepError> {
        match fs::remove_file(self.0.join(name)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(KeepError::Io { path: self.0.join(name), source })
            }
            _ => Ok(()),
        }
    }

    /// Names of the files here.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, KeepError> {
        let failed = |source| KeepError::Io { path: self.0.to_path_buf(), source };
        let mut names = Vec::new();
        for file in fs::read_dir(&*self.0).map_err(failed)? {
            names.extend(file.map_err(failed)?.file_name().into_string());
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(&dir.path().join("a/b")).unwrap();
        assert!(keep.load("x").unwrap().is_none());
        keep.save("x", b"one").unwrap();
        keep.save("x", b"two").unwrap();
        assert_eq!(keep.load("x").unwrap().unwrap().as_slice(), b"two");
        keep.append("y", b"one").unwrap();
        keep.append("y", b"two").unwrap();
        assert_eq!(keep.load("y").unwrap().unwrap().as_slice(), b"onetwo");
        keep.remove("y").unwrap();
        assert_eq!(fs::metadata(dir.path().join("a/b/x")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("a/b")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(keep.names().unwrap(), ["x"]);
        keep.remove("x").unwrap();
        keep.remove("x").unwrap();
        assert!(keep.load("x").unwrap().is_none());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(&dir.path().join("d")).unwrap();
        keep.save("key", b"secret").unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(dir.path().join("d/key"), fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(keep.load("key"), Err(KeepError::TooOpen { .. })), "{mode:o}");
        }
        fs::set_permissions(dir.path().join("d"), fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(Keep::open(&dir.path().join("d")), Err(KeepError::TooOpen { .. })));
    }

    #[test]
    fn a_link_in_place_of_a_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(&dir.path().join("d")).unwrap();
        fs::write(dir.path().join("elsewhere"), b"planted").unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("d/key")).unwrap();
        assert!(matches!(keep.load("key"), Err(KeepError::Io { .. })));
    }
}
