//! Who is at the other end of a Unix socket, as selectors. The kernel says it, never the caller: uid and gid of the connection
//! (SO_PEERCRED), and the process itself by a pidfd taken at accept (SO_PEERPIDFD). What is read under `/proc/<pid>` counts only if
//! that very process still lives afterwards: a pid that was reused meanwhile belongs to a process whose pidfd has hung up.
//!
//! ```text
//!  accept ── uid, gid, pid, pidfd ──► read /proc/<pid>/{status,exe}, hash the executable ──► pidfd alive? ── yes ──► selectors
//!                                                                                               └── no ──► PeerExited
//! ```

mod digest;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use tokio::net::UnixStream;

use crate::selector::{Selector, Selectors};
pub use digest::Digests;

/// The kernel appends this to the path of an executable that no longer has a name.
const DELETED: &str = " (deleted)";
/// Groups of one process that are turned into selectors.
const MAX_GROUPS: usize = 1024;

/// Who called, fixed when the connection was accepted; the `ConnectInfo` of both sockets, so it is in `request.extensions()`.
#[derive(Clone, Debug)]
pub struct Caller {
    peer: Peer,
    attested: Result<Arc<Selectors>, AttestError>,
}

/// The process at the other end, held by its pidfd. Cheap to clone; the descriptor closes with the last clone.
#[derive(Clone, Debug)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
    pidfd: Arc<OwnedFd>,
}

/// Why a caller is nobody. Safe to show: it says nothing that the caller does not know of itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    #[error("the calling process exited before it could be attested")]
    PeerExited,
    #[error("the caller's process is not visible here: it runs in another pid namespace")]
    OtherPidNamespace,
    #[error("the caller's executable was deleted or replaced while it runs: restart it")]
    ExecutableDeleted,
    #[error("the caller could not be attested: {0}")]
    Unreadable(String),
    #[error("attestation took too long")]
    TimedOut,
}

/// Turns peers into selectors; cheap to clone, the clones share one cache of digests.
#[derive(Clone, Debug, Default)]
pub struct Attestor {
    digests: Digests,
}

// === impl Caller ===

impl Caller {
    pub fn new(peer: Peer, attested: Result<Arc<Selectors>, AttestError>) -> Self {
        Self { peer, attested }
    }

    pub fn pid(&self) -> i32 {
        self.peer.pid
    }

    pub fn uid(&self) -> u32 {
        self.peer.uid
    }

    /// What is true of the caller.
    ///
    /// # Errors
    /// If it was not attested, or has exited since: whoever holds its connection now is somebody else.
    pub fn selectors(&self) -> Result<&Selectors, AttestError> {
        match &self.attested {
            Ok(selectors) if self.peer.is_alive() => Ok(selectors),
            Ok(_) => Err(AttestError::PeerExited),
            Err(why) => Err(why.clone()),
        }
    }
}

// === impl Peer ===

impl Peer {
    /// Takes the peer of a connection that was just accepted.
    ///
    /// # Errors
    /// If the kernel cannot name it; Linux 6.5 or newer is needed.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        let pidfd = getsockopt(stream, PeerPidfd)?;
        Ok(Self { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid(), pidfd: Arc::new(pidfd) })
    }

    /// Takes a process by its number, for whoever asks what it would be given.
    ///
    /// # Errors
    /// If there is none, or it cannot be looked at.
    pub fn of_pid(pid: i32) -> io::Result<Self> {
        let number = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())?;
        // What the kernel would say of a connection of its own: the effective ids.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let effective = |label: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(label));
            line.and_then(|ids| ids.split_ascii_whitespace().nth(1)?.parse().ok()).ok_or(io::ErrorKind::InvalidData)
        };
        Ok(Self { pid, uid: effective("Uid:")?, gid: effective("Gid:")?, pidfd: Arc::new(pidfd) })
    }

    /// Whether that very process still runs: a pidfd becomes readable when its process has exited.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::ZERO) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(0) => return true,
                Ok(_) | Err(_) => return false,
            }
        }
    }
}

// === impl Attestor ===

impl Attestor {
    /// Reads what is true of `peer`. Blocks: it may read a whole executable.
    ///
    /// # Errors
    /// If that cannot be said for certain.
    pub fn attest(&self, peer: &Peer) -> Result<Selectors, AttestError> {
        if peer.pid <= 0 {
            return Err(AttestError::OtherPidNamespace);
        }
        let proc = Path::new("/proc").join(peer.pid.to_string());
        let read = self.read(&proc, peer);
        // Only now: whatever was read before this is of the process that the pidfd holds, or of nobody.
        if peer.is_alive() { read } else { Err(AttestError::PeerExited) }
    }

    fn read(&self, proc: &Path, peer: &Peer) -> Result<Selectors, AttestError> {
        let mut selectors = Selectors::from([Selector::uid(peer.uid), Selector::gid(peer.gid)]);
        let status = std::fs::read_to_string(proc.join("status")).map_err(unreadable)?;
        selectors.extend(groups(&status).map(Selector::supplementary_gid));
        selectors.extend(self.executable(&proc.join("exe"))?);
        Ok(selectors)
    }

    /// Path and digest of the executable; none if this sidecar may not look (another user's process, and no CAP_SYS_PTRACE):
    /// then entries that demand them do not match.
    fn executable(&self, exe: &Path) -> Result<Vec<Selector>, AttestError> {
        let path = match std::fs::read_link(exe) {
            Ok(path) => path,
            Err(why) if why.kind() == io::ErrorKind::PermissionDenied => return Ok(Vec::new()),
            Err(why) => return Err(unreadable(why)),
        };
        // Opened through /proc: the file that runs, whatever its path leads to by now, in whichever mount namespace.
        let file = match File::open(exe) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::PermissionDenied => return Ok(Vec::new()),
            Err(why) => return Err(unreadable(why)),
        };
        let metadata = file.metadata().map_err(unreadable)?;
        let Some(path) = path.to_str() else {
            return Err(AttestError::Unreadable("its executable's path is not UTF-8".into()));
        };
        if metadata.st_nlink() == 0 || path.ends_with(DELETED) {
            return Err(AttestError::ExecutableDeleted);
        }
        let digest = self.digests.of(file, &metadata).map_err(unreadable)?;
        Ok(vec![Selector::path(path), Selector::sha256(&digest)])
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(why: io::Error) -> AttestError {
    AttestError::Unreadable(why.to_string())
}

/// The `Groups:` line of `/proc/<pid>/status`.
fn groups(status: &str) -> impl Iterator<Item = u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|gid| gid.parse().ok()).take(MAX_GROUPS)
}

impl AttestError {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::PeerExited => "peer_exited",
            Self::OtherPidNamespace => "other_pid_namespace",
            Self::ExecutableDeleted => "executable_deleted",
            Self::Unreadable(_) => "unreadable",
            Self::TimedOut => "timed_out",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
