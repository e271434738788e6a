use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tokio::net::UnixListener;

use super::*;

/// Named in the environment of a child that this test binary starts of itself.
pub(crate) const CHILD: &str = "SIDECAR_TEST_CHILD_SOCKET";

/// Not a test of its own: what a child process runs. It connects and stays until the other side hangs up.
#[test]
fn as_child() {
    let Some(socket) = std::env::var_os(CHILD) else { return };
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let _ = io::Read::read(&mut stream, &mut [0]);
}

/// A process of `exe` that is killed when dropped.
struct Process(Child);

impl Process {
    fn start(exe: &Path, socket: &Path) -> Self {
        let mut command = Command::new(exe);
        command.args(["--exact", "attest::tests::as_child"]).env(CHILD, socket);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listener() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    (dir, path, listener)
}

fn own_exe() -> PathBuf {
    std::env::current_exe().unwrap().canonicalize().unwrap()
}

/// A copy of this executable by another name; removed when dropped.
pub(crate) struct OtherName(pub(crate) PathBuf);

impl OtherName {
    pub(crate) fn new(name: &str) -> Self {
        let path = own_exe().with_file_name(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        std::fs::copy(own_exe(), &path).unwrap();
        Self(path)
    }
}

impl Drop for OtherName {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_caller_is_what_the_kernel_says_it_is() {
    let (_dir, path, listener) = listener();
    let _client = UnixStream::connect(&path).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let peer = Peer::of(&stream).unwrap();
    assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
    let attestor = Attestor::default();
    let selectors = attestor.attest(&peer).unwrap();

    let content = std::fs::read(own_exe()).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content);
    for selector in [
        Selector::uid(nix::unistd::geteuid().as_raw()),
        Selector::gid(nix::unistd::getegid().as_raw()),
        Selector::path(own_exe().to_str().unwrap()),
        Selector::sha256(digest.as_ref()),
    ] {
        assert!(selectors.contains(&selector), "{selector} of {selectors:?}");
    }
    assert_eq!(attestor.attest(&peer).unwrap(), selectors);
    assert_eq!(attestor.digests.remembered(), 1, "the executable is read once");
}

#[tokio::test]
async fn the_path_is_that_of_the_process_and_not_of_its_content() {
    let (_dir, path, listener) = listener();
    let other = OtherName::new("stranger");
    let (_one, _two) = (Process::start(&own_exe(), &path), Process::start(&other.0, &path));
    let attestor = Attestor::default();
    let mut paths = Vec::new();
    let mut open = Vec::new();
    for _ in 0..2 {
        let (stream, _) = listener.accept().await.unwrap();
        let selectors = attestor.attest(&Peer::of(&stream).unwrap()).unwrap();
        paths.extend(selectors.iter().find(|selector| selector.as_str().starts_with("unix:path:")).cloned());
        open.push(stream);
    }
    paths.sort();
    let mut expected = [own_exe(), other.0.clone()].map(|path| Selector::path(path.to_str().unwrap()));
    expected.sort();
    assert_eq!(paths, expected);
    assert_eq!(attestor.digests.remembered(), 2, "two files of the same content");
}

#[tokio::test]
async fn bad_150_a_peer_that_exits_during_attestation_is_nobody() {
    let (_dir, path, listener) = listener();
    let mut child = Process::start(&own_exe(), &path);
    let (stream, _) = listener.accept().await.unwrap();
    let peer = Peer::of(&stream).unwrap();
    let attestor = Attestor::default();
    let selectors = Arc::new(attestor.attest(&peer).unwrap());
    let caller = Caller::new(peer.clone(), Ok(selectors));
    assert!(caller.selectors().is_ok());
    child.kill();
    assert!(!peer.is_alive());
    assert_eq!(attestor.attest(&peer), Err(AttestError::PeerExited));
    assert_eq!(caller.selectors(), Err(AttestError::PeerExited), "whoever holds the connection now is somebody else");
}

#[tokio::test]
async fn bad_151_a_reused_pid_is_nobody() {
    let (_dir, path, listener) = listener();
    let mut child = Process::start(&own_exe(), &path);
    let (stream, _) = listener.accept().await.unwrap();
    let peer = Peer::of(&stream).unwrap();
    child.kill();
    // Its number now belongs to a living process, which attests well under its own pidfd: this one.
    let reused = Peer { pid: i32::try_from(std::process::id()).unwrap(), ..peer };
    assert_eq!(Attestor::default().attest(&reused), Err(AttestError::PeerExited));
}

#[tokio::test]
async fn a_deleted_executable_is_refused_by_name() {
    let (_dir, path, listener) = listener();
    let other = OtherName::new("deleted");
    let _child = Process::start(&other.0, &path);
    let (stream, _) = listener.accept().await.unwrap();
    let peer = Peer::of(&stream).unwrap();
    let attestor = Attestor::default();
    assert!(attestor.attest(&peer).is_ok());
    drop(other);
    assert_eq!(attestor.attest(&peer), Err(AttestError::ExecutableDeleted));
}

#[test]
fn groups_are_read_from_the_status() {
    let status = "Name:\tx\nGid:\t1\t1\t1\t1\nGroups:\t4 24 1000 \nNStgid:\t1\n";
    assert_eq!(groups(status).collect::<Vec<_>>(), [4, 24, 1000]);
    assert_eq!(groups("Groups:\t\n").count() + groups("").count(), 0);
}
