use std::fs::File;
use std::path::{Path, PathBuf};
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

/// The real kernel, and something that happens right before, or right after, one of its reads.
#[derive(Clone)]
struct Racing(Arc<dyn Fn(Read) + Send + Sync>);

/// A read, and how many of its kind came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Status,
    Cgroup,
    Path(usize),
    File(usize),
}

#[derive(Debug)]
struct Raced {
    racing: Racing,
    paths: std::sync::atomic::AtomicUsize,
    files: std::sync::atomic::AtomicUsize,
}

impl std::fmt::Debug for Racing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Racing")
    }
}

impl Proc for Raced {
    fn status(&self, pid: i32) -> io::Result<String> {
        (self.racing.0)(Read::Status);
        Kernel.status(pid)
    }
    fn cgroup(&self, pid: i32) -> io::Result<String> {
        (self.racing.0)(Read::Cgroup);
        Kernel.cgroup(pid)
    }
    fn executable_path(&self, pid: i32) -> io::Result<PathBuf> {
        (self.racing.0)(Read::Path(self.paths.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
        Kernel.executable_path(pid)
    }
    fn executable(&self, pid: i32) -> io::Result<File> {
        (self.racing.0)(Read::File(self.files.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
        Kernel.executable(pid)
    }
    fn has_file(&self, path: &Path) -> bool {
        Kernel.has_file(path)
    }
}

/// An attestor to which `happen` occurs at each read.
fn raced(happen: impl Fn(Read) + Send + Sync + 'static) -> Attestor {
    let raced = Raced { racing: Racing(Arc::new(happen)), paths: Default::default(), files: Default::default() };
    Attestor::asking(BTreeSet::from([Kind::Unix, Kind::Systemd]), Arc::new(raced))
}

const READS: [Read; 6] = [Read::Status, Read::Path(0), Read::File(0), Read::File(1), Read::Path(1), Read::Cgroup];

#[tokio::test]
async fn bad_150_a_peer_that_exits_at_any_read_is_nobody_and_its_descriptor_is_closed() {
    for at in READS {
        let (_dir, path, listener) = listener();
        let child = std::sync::Mutex::new(Some(Process::start(&own_exe(), &path)));
        let (stream, _) = listener.accept().await.unwrap();
        let peer = Peer::of(&stream).unwrap();
        let attestor = raced(move |read| {
            if read == at {
                drop(child.lock().unwrap().take()); // killed, and waited for: its number is free
            }
        });
        assert_eq!(attestor.attest(&peer), Err(AttestError::PeerExited), "{at:?}");
        let caller = Caller::new(peer.clone(), Err(AttestError::PeerExited));
        let weak = Arc::downgrade(&peer.pidfd);
        assert_eq!(caller.selectors(), Err(AttestError::PeerExited));
        drop((caller, peer));
        assert!(weak.upgrade().is_none(), "the descriptor goes with the connection");
    }
}

/// Answers about another process from some read on, as the kernel does once a number has a new owner.
#[derive(Debug)]
struct Reused {
    now: i32,
}

impl Proc for Reused {
    fn status(&self, _: i32) -> io::Result<String> {
        Kernel.status(self.now)
    }
    fn cgroup(&self, _: i32) -> io::Result<String> {
        Kernel.cgroup(self.now)
    }
    fn executable_path(&self, _: i32) -> io::Result<PathBuf> {
        Kernel.executable_path(self.now)
    }
    fn executable(&self, _: i32) -> io::Result<File> {
        Kernel.executable(self.now)
    }
    fn has_file(&self, path: &Path) -> bool {
        Kernel.has_file(path)
    }
}

#[tokio::test]
async fn bad_151_what_is_read_of_a_numbers_new_owner_counts_for_nobody() {
    let (_dir, path, listener) = listener();
    let mut child = Process::start(&own_exe(), &path);
    let (stream, _) = listener.accept().await.unwrap();
    let peer = Peer::of(&stream).unwrap();
    child.kill();
    let reused = Reused { now: i32::try_from(std::process::id()).unwrap() };
    let attestor = Attestor::asking(BTreeSet::from([Kind::Unix]), Arc::new(reused));
    assert_eq!(attestor.attest(&peer), Err(AttestError::PeerExited), "every read went well, and none counts");
}

#[tokio::test]
async fn a_caller_that_becomes_another_program_while_it_is_attested_is_refused() {
    // Between the look at the path and that at the file, and between the file and the second look.
    for at in [Read::File(0), Read::File(1), Read::Path(1)] {
        let (_dir, path, listener) = listener();
        let _client = UnixStream::connect(&path).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let peer = Peer::of(&stream).unwrap();
        let attestor = Attestor::asking(BTreeSet::from([Kind::Unix]), Arc::new(Exec::at(at)));
        let attested = attestor.attest(&peer);
        assert_eq!(attested, Err(AttestError::ExecutableChanged), "{at:?}");
    }
}

/// From the given read on, the process runs `/proc/self/exe`'s copy.
#[derive(Debug)]
struct Exec {
    at: Read,
    other: OtherNameForExec,
    reads: std::sync::Mutex<(usize, usize, bool)>,
}

#[derive(Debug)]
struct OtherNameForExec(tempfile::NamedTempFile);

impl Exec {
    fn at(at: Read) -> Self {
        let other = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(other.path(), "another program").unwrap();
        Self { at, other: OtherNameForExec(other), reads: Default::default() }
    }

    /// Whether the other program runs at this read.
    fn is_other(&self, path: bool) -> bool {
        let mut reads = self.reads.lock().unwrap();
        let this = if path { Read::Path(reads.0) } else { Read::File(reads.1) };
        if path {
            reads.0 += 1
        } else {
            reads.1 += 1
        }
        reads.2 |= this == self.at;
        reads.2
    }
}

impl Proc for Exec {
    fn status(&self, pid: i32) -> io::Result<String> {
        Kernel.status(pid)
    }
    fn cgroup(&self, pid: i32) -> io::Result<String> {
        Kernel.cgroup(pid)
    }
    fn executable_path(&self, pid: i32) -> io::Result<PathBuf> {
        if self.is_other(true) { Ok(self.other.0.path().into()) } else { Kernel.executable_path(pid) }
    }
    fn executable(&self, pid: i32) -> io::Result<File> {
        if self.is_other(false) { File::open(self.other.0.path()) } else { Kernel.executable(pid) }
    }
    fn has_file(&self, path: &Path) -> bool {
        Kernel.has_file(path)
    }
}

/// A process of a systemd unit, as far as `/proc` tells.
#[derive(Debug)]
struct Unit(&'static str, &'static str);

impl Proc for Unit {
    fn status(&self, pid: i32) -> io::Result<String> {
        Kernel.status(pid)
    }
    fn cgroup(&self, _: i32) -> io::Result<String> {
        Ok(format!("0::{}\n", self.0))
    }
    fn executable_path(&self, _: i32) -> io::Result<PathBuf> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn executable(&self, _: i32) -> io::Result<File> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn has_file(&self, path: &Path) -> bool {
        path == Path::new(self.1)
    }
}

#[tokio::test]
async fn a_caller_of_a_systemd_unit_is_known_by_it() {
    let (_dir, path, listener) = listener();
    let _client = UnixStream::connect(&path).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let peer = Peer::of(&stream).unwrap();
    let of = |kinds: &[Kind], unit: Unit| -> Vec<String> {
        let attestor = Attestor::asking(kinds.iter().copied().collect(), Arc::new(unit));
        attestor.attest(&peer).unwrap().iter().map(Selector::to_string).collect()
    };
    let template = || Unit("/system.slice/system-pay.slice/pay@1.service", "/etc/systemd/system/pay@.service");
    assert_eq!(
        of(&[Kind::Systemd], template()),
        ["systemd:fragment_path:/etc/systemd/system/pay@.service", "systemd:id:pay@1.service"]
    );
    assert_eq!(of(&[Kind::Systemd], Unit("/system.slice/x.service", "/nowhere")), ["systemd:id:x.service"]);
    assert_eq!(of(&[Kind::Systemd], Unit("/", "")), Vec::<String>::new());
    let both = of(&[Kind::Unix, Kind::Systemd], template());
    assert!(both.iter().any(|one| one.starts_with("unix:uid:")) && both.contains(&"systemd:id:pay@1.service".into()));
    assert!(!of(&[Kind::Unix], template()).iter().any(|one| one.starts_with("systemd:")), "only what is switched on");
}

#[tokio::test]
async fn a_process_that_did_not_call_is_attested_by_its_number() {
    let attestor = Attestor::default();
    let (_dir, path, listener) = listener();
    let mut child = Process::start(&own_exe(), &path);
    let (stream, _) = listener.accept().await.unwrap();
    let pid = i32::try_from(child.0.id()).unwrap();
    let as_caller = attestor.attest(&Peer::of(&stream).unwrap()).unwrap();
    assert_eq!(attestor.attest_pid(pid).unwrap(), as_caller);
    child.kill();
    for nobody in [pid, 0, -1, i32::MAX] {
        assert_eq!(attestor.attest_pid(nobody), Err(AttestError::NoSuchProcess), "{nobody}");
    }
}
