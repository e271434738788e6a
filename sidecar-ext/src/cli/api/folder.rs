//! Files for programs that know no Workload API: each replaced atomically, readable by their owner only, and gone when what they hold
//! was withdrawn.

use std::collections::BTreeMap;
use std::path::Path;

use zeroize::Zeroizing;

use crate::keep::{Keep, KeepError};

/// Content by name.
pub(super) type Files = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// The folder that files are written into.
#[derive(Debug)]
pub(super) struct Folder {
    keep: Keep,
    /// Tells the files that may be removed here.
    is_ours: fn(&str) -> bool,
}

impl Folder {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// If others could write into it.
    pub(super) fn open(path: &Path, is_ours: fn(&str) -> bool) -> Result<Self, KeepError> {
        Ok(Self { keep: Keep::open(path)?, is_ours })
    }

    /// Makes the folder hold these files of ours and no others. Whether anything changed: a file with the same content is not touched.
    ///
    /// # Errors
    /// If a file cannot be written or removed.
    pub(super) fn replace(&self, files: &Files) -> Result<bool, KeepError> {
        let mut changed = false;
        for (name, content) in files {
            // A file that others may read counts as another: it is made anew.
            let same = self.keep.load(name).ok().flatten().is_some_and(|held| *held == **content);
            if !same {
                self.keep.save(name, content)?;
                changed = true;
            }
        }
        for name in self.keep.names()? {
            if (self.is_ours)(&name) && !files.contains_key(&name) {
                self.keep.remove(&name)?;
                changed = true;
            }
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn files(of: &[(&str, &str)]) -> Files {
        of.iter().map(|(name, content)| ((*name).to_owned(), Zeroizing::new(content.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn w_3_what_is_withdrawn_is_removed_and_what_is_the_same_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        let folder = Folder::open(&path, |name| name.ends_with(".pem")).unwrap();
        std::fs::write(path.join("note.txt"), "mine").unwrap();
        assert!(folder.replace(&files(&[("a.pem", "1"), ("b.pem", "2")])).unwrap());
        let inode = || std::fs::metadata(path.join("a.pem")).unwrap().ino();
        let before = inode();
        assert!(!folder.replace(&files(&[("a.pem", "1"), ("b.pem", "2")])).unwrap());
        assert!(folder.replace(&files(&[("a.pem", "1")])).unwrap());
        assert_eq!(inode(), before);
        assert!(!path.join("b.pem").exists() && path.join("note.txt").exists());
        std::fs::set_permissions(path.join("a.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(folder.replace(&files(&[("a.pem", "1")])).unwrap());
        assert_eq!(std::fs::metadata(path.join("a.pem")).unwrap().mode() & 0o777, 0o600);
    }
}
