//! How many tokens were spent, in a file beside the store: a store that knows of fewer was restored from a backup, in which spent
//! tokens are unspent (bad input 147). A backup of the whole folder brings the file back too; what protects then is that tokens expire.

use std::path::{Path, PathBuf};

use symbolon_kit::files::{self, Durability};

use crate::identity::Error;

#[derive(Debug)]
pub(super) struct Fence {
    path: PathBuf,
    spent: u64,
}

impl Fence {
    /// The file, and whether a store that knows of `stored` spent tokens is older than it. A file that is lost counts as newer.
    pub(super) fn open(path: &Path, stored: u64) -> Result<(Self, bool), Error> {
        let failed = |why: String| Error::Fence { path: path.display().to_string(), why };
        let spent = match std::fs::read_to_string(path) {
            Ok(text) => Some(text.trim().parse().map_err(|_| failed("does not hold a number".into()))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error.to_string())),
        };
        let restored = spent.map_or(stored > 0, |spent| spent > stored);
        Ok((Self { path: path.to_owned(), spent: spent.unwrap_or(0) }, restored))
    }

    pub(super) fn spent(&self) -> u64 {
        self.spent
    }

    /// Writes down that so many are spent; durable when it returns.
    pub(super) fn raise(&mut self, spent: u64) -> Result<(), Error> {
        let failed = |why: std::io::Error| Error::Fence { path: self.path.display().to_string(), why: why.to_string() };
        files::replace(&self.path, spent.to_string().as_bytes(), 0o600, Durability::Durable).map_err(failed)?;
        self.spent = spent;
        Ok(())
    }
}
