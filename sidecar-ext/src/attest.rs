//! Who is at the other end of a Unix socket, as selectors. The kernel says it, never the caller: uid and gid of the connection
//! (SO_PEERCRED), and the process itself by a pidfd taken at accept (SO_PEERPIDFD). What is read under `/proc/<pid>` counts only if
//! that very process still lives afterwards: a pid that was reused meanwhile belongs to a process whose pidfd has hung up.
//!
//! ```text
//!  accept ── uid, gid, pid, pidfd ──► each attestor reads /proc/<pid> ──► pidfd alive? ── yes ──► selectors
//!                                                                              └── no ──► PeerExited
//! ```
//!
//! What is read goes through a seam ([`Proc`]), so that tests place a race exactly. The attestors: `unix` (user, groups, executable) and
//! `systemd` (the unit). Another, such as Kubernetes' by the container in the control group, is one more [`Kind`].

mod digest;
mod proc;
mod systemd;
mod unix;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use tokio::net::UnixStream;

use crate::selector::{Selector, Selectors};
pub use digest::Digests;
pub use proc::{Kernel, Proc};

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
    #[error("there is no process of this number here")]
    NoSuchProcess,
    #[error("the caller's executable was deleted or replaced while it runs: restart it")]
    ExecutableDeleted,
    #[error("the caller became another program while it was attested; connect again")]
    ExecutableChanged,
    #[error("the caller could not be attested: {0}")]
    Unreadable(String),
    #[error("attestation took too long")]
    TimedOut,
}

/// Turns peers into selectors; cheap to clone, the clones share one cache of digests.
#[derive(Clone, Debug)]
pub struct Attestor {
    kinds: BTreeSet<Kind>,
    proc: Arc<dyn Proc>,
    digests: Digests,
}

/// One attestor of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Unix,
    Systemd,
}

/// There is no such attestor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the attestors of workloads are unix and systemd")]
pub struct UnknownKind;

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
    /// By these attestors, asking this machine's kernel.
    pub fn new(kinds: BTreeSet<Kind>) -> Self {
        Self::asking(kinds, Arc::new(Kernel))
    }

    /// By these attestors, asking `proc`.
    pub fn asking(kinds: BTreeSet<Kind>, proc: Arc<dyn Proc>) -> Self {
        Self { kinds, proc, digests: Digests::default() }
    }

    /// Reads what is true of `peer`. Blocks: it may read a whole executable.
    ///
    /// # Errors
    /// If that cannot be said for certain.
    pub fn attest(&self, peer: &Peer) -> Result<Selectors, AttestError> {
        if peer.pid <= 0 {
            return Err(AttestError::OtherPidNamespace);
        }
        let read = self.read(peer);
        // Only now: whatever was read before this is of the process that the pidfd holds, or of nobody.
        if peer.is_alive() { read } else { Err(AttestError::PeerExited) }
    }

    /// Reads what is true of the process with this number, now; it need not have called. Blocks.
    ///
    /// # Errors
    /// If there is none, or it cannot be said for certain.
    pub fn attest_pid(&self, pid: i32) -> Result<Selectors, AttestError> {
        self.attest(&self.peer_of(pid)?)
    }

    fn peer_of(&self, pid: i32) -> Result<Peer, AttestError> {
        // Checked first: rustix panics at a negative one.
        let number = (pid > 0).then(|| rustix::process::Pid::from_raw(pid)).flatten();
        let number = number.ok_or(AttestError::NoSuchProcess)?;
        // The pidfd first: what is then read is of the process that it holds, or of nobody.
        let pidfd = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty());
        let pidfd = pidfd.map_err(|why| match why {
            rustix::io::Errno::SRCH => AttestError::NoSuchProcess,
            other => unreadable(other.into()),
        })?;
        let status = self.proc.status(pid).map_err(unreadable)?;
        let unnamed = || AttestError::Unreadable("its status names no user".into());
        let (uid, gid) = unix::ids(&status).ok_or_else(unnamed)?;
        Ok(Peer { pid, uid, gid, pidfd: Arc::new(pidfd) })
    }

    fn read(&self, peer: &Peer) -> Result<Selectors, AttestError> {
        let mut selectors = Selectors::new();
        for kind in &self.kinds {
            match kind {
                Kind::Unix => selectors.extend(unix::selectors(&*self.proc, peer, &self.digests)?),
                Kind::Systemd => selectors.extend(self.unit(peer)?),
            }
        }
        Ok(selectors)
    }

    fn unit(&self, peer: &Peer) -> Result<Selectors, AttestError> {
        let cgroup = self.proc.cgroup(peer.pid).map_err(unreadable)?;
        let Some(unit) = systemd::unit(&cgroup) else { return Ok(Selectors::new()) };
        let fragment = systemd::fragment(&unit, &*self.proc);
        let fragment = fragment.map(|path| format!("systemd:fragment_path:{}", path.display()));
        let texts = [Some(format!("systemd:id:{unit}")), fragment];
        Ok(texts.into_iter().flatten().filter_map(|text| text.parse::<Selector>().ok()).collect())
    }
}

impl Default for Attestor {
    /// By all of them.
    fn default() -> Self {
        Self::new(BTreeSet::from([Kind::Unix, Kind::Systemd]))
    }
}

impl std::str::FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        match word {
            "unix" => Ok(Self::Unix),
            "systemd" => Ok(Self::Systemd),
            _ => Err(UnknownKind),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(why: io::Error) -> AttestError {
    AttestError::Unreadable(why.to_string())
}

impl AttestError {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::PeerExited => "peer_exited",
            Self::OtherPidNamespace => "other_pid_namespace",
            Self::NoSuchProcess => "no_such_process",
            Self::ExecutableChanged => "executable_changed",
            Self::ExecutableDeleted => "executable_deleted",
            Self::Unreadable(_) => "unreadable",
            Self::TimedOut => "timed_out",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
