//! The folder of a run. It is emptied before each, so it must be the demo's own; and two runs in one would end each other's processes.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// What a run leaves at the top of its folder; anything else is somebody else's.
const OURS: [&str; 5] = ["a", "b", "processes", "summary.json", "wrong-bundle.json"];

/// A folder that no other run uses while this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The folder itself, locked: nothing else need lie beside it, and the kernel forgets the lock of whoever is killed.
    _lock: File,
}

impl Folder {
    /// Makes the folder if need be, and takes it.
    ///
    /// # Errors
    /// If another run has it, or something in it is not a run's.
    pub fn take(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        fs::create_dir_all(path).with_context(|| format!("make {shown}"))?;
        let lock = File::open(path).with_context(|| format!("open {shown}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another demo runs in {shown}; end it first, or choose another --dir and --network")
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {shown}")),
        }
        for entry in fs::read_dir(path).with_context(|| format!("read {shown}"))? {
            let name = entry.with_context(|| format!("read {shown}"))?.file_name();
            if !OURS.iter().any(|ours| name == OsStr::new(ours)) {
                bail!(
                    "{shown} holds {name:?}, which is not of a demo; it would be deleted. Choose an empty or new --dir"
                );
            }
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Deletes what an earlier run has left in it.
    ///
    /// # Errors
    /// If something cannot be deleted.
    pub fn empty(&self) -> anyhow::Result<()> {
        for name in OURS {
            let path = self.path.join(name);
            let gone =
                if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match gone {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("delete {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_left_is_emptied_and_nothing_else_is_touched() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("demo");
        fs::create_dir_all(dir.join("a/checkout")).unwrap();
        fs::write(dir.join("summary.json"), "{}").unwrap();
        Folder::take(&dir).unwrap().empty().unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::write(dir.join("thesis.tex"), "all of it").unwrap();
        let refused = Folder::take(&dir).unwrap_err().to_string();
        assert!(refused.contains("thesis.tex"), "{refused}");
        assert_eq!(fs::read_to_string(dir.join("thesis.tex")).unwrap(), "all of it");
    }

    #[test]
    fn two_runs_never_share_a_folder() {
        let home = tempfile::tempdir().unwrap();
        let first = Folder::take(home.path()).unwrap();
        let refused = Folder::take(home.path()).unwrap_err().to_string();
        assert!(refused.contains("another demo runs"), "{refused}");
        drop(first);
        Folder::take(home.path()).unwrap();
    }
}
