//! What the kernel tells of a process, through a seam: each read is a moment at which the process may exit, be replaced or change its
//! program, and tests choose that moment.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The most that is read of one file below `/proc`.
const MAX_BYTES: u64 = 256 * 1024;

/// Reads below `/proc/<pid>`. Whether the process is still the one that was asked about is not its business.
pub trait Proc: Send + Sync + Debug {
    /// `status`: user, groups.
    ///
    /// # Errors
    /// If there is no such process, or it may not be looked at.
    fn status(&self, pid: i32) -> io::Result<String>;
    /// `cgroup`: which unit started it.
    ///
    /// # Errors
    /// As [`Self::status`].
    fn cgroup(&self, pid: i32) -> io::Result<String>;
    /// Where its executable is, as the kernel tells it.
    ///
    /// # Errors
    /// As [`Self::status`].
    fn executable_path(&self, pid: i32) -> io::Result<PathBuf>;
    /// The file that runs, whatever its path leads to by now, in whichever mount namespace.
    ///
    /// # Errors
    /// As [`Self::status`].
    fn executable(&self, pid: i32) -> io::Result<File>;
    /// Whether there is a file of this name on this machine.
    fn has_file(&self, path: &Path) -> bool;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Proc for Kernel {
    fn status(&self, pid: i32) -> io::Result<String> {
        read(&of(pid, "status"))
    }

    fn cgroup(&self, pid: i32) -> io::Result<String> {
        read(&of(pid, "cgroup"))
    }

    fn executable_path(&self, pid: i32) -> io::Result<PathBuf> {
        std::fs::read_link(of(pid, "exe"))
    }

    fn executable(&self, pid: i32) -> io::Result<File> {
        File::open(of(pid, "exe"))
    }

    fn has_file(&self, path: &Path) -> bool {
        path.is_file()
    }
}

fn of(pid: i32, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
