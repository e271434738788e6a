//! User, groups and executable of a process.

use std::io;
use std::os::linux::fs::MetadataExt as _;

use super::proc::Proc;
use super::{AttestError, Digests, Peer, unreadable};
use crate::selector::{Selector, Selectors};

/// The kernel appends this to the path of an executable that no longer has a name.
const DELETED: &str = " (deleted)";
/// Groups of one process that are turned into selectors.
const MAX_GROUPS: usize = 1024;

pub(super) fn selectors(proc: &dyn Proc, peer: &Peer, digests: &Digests) -> Result<Selectors, AttestError> {
    let mut selectors = Selectors::from([Selector::uid(peer.uid), Selector::gid(peer.gid)]);
    let status = proc.status(peer.pid).map_err(unreadable)?;
    selectors.extend(groups(&status).map(Selector::supplementary_gid));
    selectors.extend(executable(proc, peer.pid, digests)?);
    Ok(selectors)
}

/// Effective user and group of a `/proc/<pid>/status`.
pub(super) fn ids(status: &str) -> Option<(u32, u32)> {
    let effective = |name: &str| field(status, name).split_ascii_whitespace().nth(1)?.parse().ok();
    Some((effective("Uid:")?, effective("Gid:")?))
}

/// Path and digest of the executable; none if this sidecar may not look (another user's process, and no CAP_SYS_PTRACE):
/// then entries that demand them do not match.
fn executable(proc: &dyn Proc, pid: i32, digests: &Digests) -> Result<Vec<Selector>, AttestError> {
    let Some(path) = visible(proc.executable_path(pid))? else { return Ok(Vec::new()) };
    let Some(file) = visible(proc.executable(pid))? else { return Ok(Vec::new()) };
    let metadata = file.metadata().map_err(unreadable)?;
    let Some(text) = path.to_str() else {
        return Err(AttestError::Unreadable("its executable's path is not UTF-8".into()));
    };
    if metadata.st_nlink() == 0 || text.ends_with(DELETED) {
        return Err(AttestError::ExecutableDeleted);
    }
    let digest = digests.of(file, &metadata).map_err(unreadable)?;
    // Path and file were two looks, and the process may have become another program in between: it must be the same as before.
    let after = proc.executable(pid).and_then(|file| file.metadata()).map_err(unreadable)?;
    let same = (after.st_dev(), after.st_ino()) == (metadata.st_dev(), metadata.st_ino());
    if !same || proc.executable_path(pid).map_err(unreadable)? != path {
        return Err(AttestError::ExecutableChanged);
    }
    Ok(vec![Selector::path(text), Selector::sha256(&digest)])
}

/// `None` for what we may not look at.
fn visible<T>(read: io::Result<T>) -> Result<Option<T>, AttestError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(why) => Err(unreadable(why)),
    }
}

fn groups(status: &str) -> impl Iterator<Item = u32> {
    field(status, "Groups:").split_ascii_whitespace().filter_map(|gid| gid.parse().ok()).take(MAX_GROUPS)
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t1\t2\t1\t1\nGroups:\t4 24 1000 \nNStgid:\t1\n";

    #[test]
    fn ids_and_groups_are_read_from_the_status() {
        assert_eq!(ids(STATUS), Some((0, 2)), "the effective ones, as SO_PEERCRED has them");
        assert_eq!(ids("Uid:\t1\n"), None);
        assert_eq!(groups(STATUS).collect::<Vec<_>>(), [4, 24, 1000]);
        assert_eq!(groups("Groups:\t\n").count() + groups("").count(), 0);
    }
}
