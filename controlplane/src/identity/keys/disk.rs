//! Keys as files of mode 0600 in a folder of mode 0700.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use symbolon_kit::files::open_to_others;
use zeroize::Zeroizing;

use super::soft::SoftKey;
use super::{KeyError, KeyManager, SigningKey};

/// The longest key file read: an RSA key of 8192 bits in PEM is 6 KiB.
const MAX_BYTES: u64 = 64 * 1024;

/// A folder of key files.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Makes the folder if there is none.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|e| file_error(folder, "cannot be made", &e))?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }
}

impl KeyManager for Disk {
    fn kind(&self) -> &'static str {
        "disk"
    }

    fn generate(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        let (key, pem) = SoftKey::generate()?;
        let path = self.path(name);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(pem.0.as_bytes())?;
            file.sync_all()?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|e| file_error(&path, "cannot be written", &e))?;
        Ok(Arc::new(key))
    }

    fn load(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        Ok(Arc::new(read(&self.path(name))?))
    }

    fn remove(&self, name: &str) -> Result<(), KeyError> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(why) if why.kind() != ErrorKind::NotFound => Err(file_error(&path, "cannot be removed", &why)),
            _ => Ok(()),
        }
    }

    fn names(&self) -> Result<Vec<String>, KeyError> {
        let failed = |e: std::io::Error| file_error(&self.folder, "cannot be listed", &e);
        let mut names = Vec::new();
        for file in std::fs::read_dir(&self.folder).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            names.extend(name.to_str().and_then(|name| name.strip_suffix(".key")).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

/// Reads a key that only its owner may read (bad input 136).
pub(in crate::identity) fn read(path: &Path) -> Result<SoftKey, KeyError> {
    check_private(path, MAX_BYTES)?;
    let pem = Zeroizing::new(std::fs::read(path).map_err(|e| file_error(path, "cannot be read", &e))?);
    SoftKey::from_pem(&pem).map_err(|e| file_error(path, "is not a private key", &e))
}

/// Whether a file is there, of a sane size, and only its owner may read it.
pub(super) fn check_private(path: &Path, max_bytes: u64) -> Result<(), KeyError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(why) if why.kind() == ErrorKind::NotFound => {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            return Err(KeyError::Missing { name, place: format!("{} does not exist", path.display()) });
        }
        Err(why) => return Err(file_error(path, "cannot be read", &why)),
    };
    if let Some(mode) = open_to_others(&metadata) {
        return Err(KeyError::Mode { path: path.display().to_string(), mode });
    }
    if !metadata.is_file() || metadata.len() > max_bytes {
        return Err(file_error(path, "cannot be used", &format!("not a file of at most {max_bytes} bytes")));
    }
    Ok(())
}

fn file_error(path: &Path, what: &'static str, why: &dyn std::fmt::Display) -> KeyError {
    KeyError::File { path: path.display().to_string(), what, why: why.to_string() }
}
