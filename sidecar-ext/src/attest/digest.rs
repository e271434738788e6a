//! SHA-256 of executables, remembered by what the file system says of them, so that a hundred Envoys cost one reading.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _};
use std::os::linux::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

/// The largest executable that is read.
const MAX_BYTES: u64 = 1 << 30;
/// Readings of a file that changes meanwhile.
const ATTEMPTS: usize = 3;
/// Digests remembered; beyond it all are forgotten, which costs readings and nothing else.
const MAX_REMEMBERED: usize = 1024;

/// A file as it was when it was hashed. The change time is part of it since it cannot be set back by the file's owner, as the
/// modification time can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Stamp {
    dev: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Remembered digests; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Digests(Arc<Mutex<HashMap<Stamp, [u8; SHA256_OUTPUT_LEN]>>>); // a std mutex: nothing reads a file while it is held

impl Digests {
    /// The digest of `file`, which `metadata` describes.
    ///
    /// # Errors
    /// If it cannot be read, is larger than 1 GiB, or changes while it is read.
    pub(super) fn of(&self, mut file: File, metadata: &Metadata) -> io::Result<[u8; SHA256_OUTPUT_LEN]> {
        let mut stamp = Stamp::of(metadata);
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&stamp) {
            return Ok(*known);
        }
        if stamp.size > MAX_BYTES {
            return Err(io::Error::other("its executable is larger than 1 GiB"));
        }
        let digest = settled(&mut file, &mut stamp)?;
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(stamp, digest);
        Ok(digest)
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.st_dev(),
            inode: metadata.st_ino(),
            size: metadata.st_size(),
            modified: (metadata.st_mtime(), metadata.st_mtime_nsec()),
            changed: (metadata.st_ctime(), metadata.st_ctime_nsec()),
        }
    }
}

/// Reads until the file is the same after as before; a link made or a mode changed meanwhile counts as a change too.
fn settled(file: &mut File, stamp: &mut Stamp) -> io::Result<[u8; SHA256_OUTPUT_LEN]> {
    for _ in 0..ATTEMPTS {
        file.rewind()?;
        let digest = read(file)?;
        let after = Stamp::of(&file.metadata()?);
        if std::mem::replace(stamp, after) == after {
            return Ok(digest);
        }
    }
    Err(io::Error::other("its executable changes while it is read"))
}

fn read(file: &mut File) -> io::Result<[u8; SHA256_OUTPUT_LEN]> {
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; 256 * 1024];
    let mut left = MAX_BYTES;
    while left > 0 {
        let got = file.read(&mut chunk)?;
        if got == 0 {
            let mut digest = [0; SHA256_OUTPUT_LEN];
            digest.copy_from_slice(context.finish().as_ref());
            return Ok(digest);
        }
        context.update(&chunk[..got]);
        left = left.saturating_sub(got as u64);
    }
    Err(io::Error::other("its executable grew beyond 1 GiB"))
}
