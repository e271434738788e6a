//! Files that are written whole or not at all: whoever reads or watches one never sees half of it; and files that are their owner's
//! alone.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Whether a file must outlive a crash of the machine, or can be had again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After a crash it is the old file or the new one.
    Durable,
    /// It may be cut short by a crash of the machine.
    Soon,
}

/// Replaces the file at `path` by one of `mode`.
///
/// # Errors
/// If it cannot be written; the one before stays.
pub fn replace(path: &Path, content: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    match std::fs::remove_file(beside) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    // Made anew, so that nothing planted in its place is followed, and with its mode before it has content.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(beside)?;
    file.write_all(content)?;
    if durability == Durability::Durable {
        file.sync_all()?;
    }
    std::fs::rename(beside, path)?;
    match (durability, path.parent()) {
        (Durability::Durable, Some(folder)) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// The mode of a file (or folder) that others than its owner may use in any way; `None` if nobody else may.
pub fn open_to_others(metadata: &Metadata) -> Option<u32> {
    let mode = metadata.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}
