//! The log as the program holds it: over restarts, crashes, full disks, and hands that were at it.

use std::io;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::SystemTime;

use super::chain::Problem;
use super::folder::Segment;
use super::*;

/// A data folder, with a disk that can be made to fail.
struct World {
    folder: tempfile::TempDir,
    store: SharedStore,
    clock: Clock,
    metrics: Metrics,
    disk: Arc<Disk>,
}

/// A control plane's run.
struct Run {
    audit: Audit,
    tasks: Tasks,
    drain: Drain,
}

/// Real files, until the room is used up, or as many flushes have failed as are to fail.
#[derive(Debug)]
struct Disk {
    room: AtomicI64,
    failing_flushes: AtomicU32,
}

struct DiskFile(Box<dyn Segment>, Arc<Disk>);

#[derive(Debug)]
struct OnDisk(Arc<Disk>);

impl Volume for OnDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Segment>> {
        Ok(Box::new(DiskFile(Files.open(path)?, self.0.clone())))
    }
}

impl Segment for DiskFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = self.1.room.load(Ordering::Relaxed);
        let fits = usize::try_from(room).unwrap_or(0).min(bytes.len());
        self.0.append(&bytes[..fits])?; // as a disk does: half of it is there
        self.1.room.fetch_sub(fits as i64, Ordering::Relaxed);
        if fits == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.1.failing_flushes.load(Ordering::Relaxed) > 0 {
            self.1.failing_flushes.fetch_sub(1, Ordering::Relaxed);
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        self.0.sync()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.0.cut(length)
    }
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    World {
        store: store::redb::open(&folder.path().join("store.redb")).unwrap(),
        clock: Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)),
        metrics: Metrics::new(),
        disk: Arc::new(Disk { room: AtomicI64::new(i64::MAX), failing_flushes: AtomicU32::new(0) }),
        folder,
    }
}

impl World {
    fn audit_dir(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    async fn start(&self) -> Run {
        let drain = Drain::new();
        let tasks = Tasks::new(drain.clone());
        let (volume, store) = (Arc::new(OnDisk(self.disk.clone())), self.store.clone());
        let (clock, drained) = (self.clock.clone(), drain.clone());
        let audit = Audit::start_on(volume, self.audit_dir(), store, clock, &self.metrics, &tasks, drained).await;
        Run { audit: audit.unwrap(), tasks, drain }
    }

    /// A run that writes these, and ends as the program does.
    async fn run(&self, serials: &[&str]) {
        let run = self.start().await;
        for serial in serials {
            run.audit.append(issued(serial)).await.unwrap();
        }
        run.end().await;
    }

    fn files(&self) -> Vec<PathBuf> {
        folder::entries(&self.audit_dir()).unwrap().into_iter().map(|entry| entry.path).collect()
    }

    fn lines(&self) -> Vec<String> {
        let text: String = self.files().iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        text.lines().map(str::to_owned).collect()
    }

    fn damaged(&self) -> bool {
        self.metrics.gauge("symbolon_audit_damaged", "").value(&[]) == 1
    }
}

impl Run {
    async fn end(self) {
        self.drain.start();
        assert!(self.tasks.join(Duration::from_secs(5)).await);
    }

    async fn problem(&self) -> Option<Problem> {
        self.audit.verify().await.unwrap().problem
    }
}

fn issued(serial: &str) -> Record {
    Record::new(Kind::IssuedX509).with("serial", serial)
}

fn kinds(lines: &[String]) -> Vec<String> {
    let kind = |line: &String| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        json["kind"].as_str().unwrap().to_owned()
    };
    lines.iter().map(kind).collect()
}

#[tokio::test]
async fn the_chain_goes_on_over_restarts() {
    let world = world();
    world.run(&["1", "2"]).await;
    world.run(&["3"]).await;
    let run = world.start().await;
    let verified = run.audit.verify().await.unwrap();
    assert_eq!((verified.head.count, verified.problem), (7, None));
    let all = ["log_segment", "log_started", "issued_x509", "issued_x509", "log_started", "issued_x509", "log_started"];
    assert_eq!(kinds(&world.lines()), all);
    assert!(!world.damaged());
    run.end().await;
    // What a stranger reads, without a running control plane, is the same.
    let offline = folder::verify(&world.audit_dir(), None, None).unwrap();
    assert_eq!((offline.head, offline.problem), (verified.head, None));
}

#[tokio::test]
async fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = world();
    world.run(&["1"]).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&world.audit_dir()), mode(&world.files()[0])), (0o700, 0o600));
}

#[tokio::test]
async fn what_waits_at_once_is_flushed_together() {
    let world = world();
    let run = world.start().await;
    let appended = (0..200).map(|n| run.audit.append(issued(&n.to_string()))).collect::<Vec<_>>();
    futures::future::join_all(appended).await.into_iter().for_each(|done| done.unwrap());
    assert_eq!(run.problem().await, None);
    let (last, _) = run.audit.last(200).await.unwrap();
    let serial = |line: &String| line.split('"').skip_while(|word| *word != "serial").nth(2).unwrap().parse().unwrap();
    let mut serials: Vec<u32> = last.iter().map(serial).collect();
    serials.sort_unstable();
    assert_eq!(serials, (0..200).collect::<Vec<_>>());
    run.end().await;
}

#[tokio::test]
async fn a_new_file_is_begun_each_day_and_the_chain_goes_on_in_it() {
    let world = world();
    let run = world.start().await;
    for day in 0..3 {
        run.audit.append(issued(&day.to_string())).await.unwrap();
        world.clock.advance(Duration::from_secs(86_400));
    }
    assert_eq!(world.files().len(), 3);
    assert_eq!(run.problem().await, None);
    let (last, durable) = run.audit.last(3).await.unwrap();
    assert_eq!(kinds(&last), ["issued_x509", "log_segment", "issued_x509"]);
    // A follower walks from file to file.
    let (mut at, mut seen) = ((1, 0), Vec::new());
    while at != (durable.first, durable.bytes) {
        let (lines, next) = run.audit.between(at, durable).await.unwrap();
        seen.extend(lines);
        at = next;
    }
    assert_eq!(seen, world.lines());
    run.end().await;
}

#[tokio::test]
async fn fault_044_a_full_disk_refuses_records_and_leaves_nothing_half_written() {
    let world = world();
    let run = world.start().await;
    run.audit.append(issued("1")).await.unwrap();
    world.disk.room.store(10, Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(run.audit.append(issued("2")).await, Err(Error::Full));
    }
    assert_eq!(run.problem().await, None, "what is durable is whole");
    assert_eq!(world.metrics.counter("symbolon_audit_failures", "").value(&[("reason", "audit_full")]), 3);
    world.disk.room.store(i64::MAX, Ordering::Relaxed);
    run.audit.append(issued("3")).await.unwrap();
    run.end().await;
    let text = world.lines().concat();
    assert!(text.contains("\"serial\":\"3\"") && !text.contains("\"serial\":\"2\""), "{text}");
    assert_eq!(folder::verify(&world.audit_dir(), None, None).unwrap().problem, None);
}

#[tokio::test]
async fn fault_044_a_disk_that_is_full_at_the_start_of_a_file_is_no_end() {
    let world = world();
    let run = world.start().await;
    run.audit.append(issued("1")).await.unwrap();
    world.clock.advance(Duration::from_secs(86_400));
    world.disk.room.store(10, Ordering::Relaxed);
    assert_eq!(run.audit.append(issued("2")).await, Err(Error::Full));
    assert_eq!(run.audit.append(issued("2")).await, Err(Error::Full));
    world.disk.room.store(i64::MAX, Ordering::Relaxed);
    run.audit.append(issued("3")).await.unwrap();
    assert_eq!(world.files().len(), 2);
    assert_eq!(run.problem().await, None);
    run.end().await;
}

#[tokio::test]
async fn fault_003_a_flush_that_failed_is_never_taken_for_one_that_did_not() {
    let world = world();
    let run = world.start().await;
    world.disk.failing_flushes.store(1, Ordering::Relaxed);
    assert!(matches!(run.audit.append(issued("1")).await, Err(Error::Disk(_))));
    run.audit.append(issued("2")).await.unwrap();
    assert_eq!(run.problem().await, None);
    run.end().await;
    let text = world.lines().concat();
    assert!(!text.contains("\"serial\":\"1\""), "{text}");
}

#[tokio::test]
async fn fault_002_a_line_that_a_crash_cut_is_taken_away_and_that_is_recorded() {
    for rest in [&b"{\"seq\":4,\"at\":\"20"[..], &[0; 300], b"x"] {
        let world = world();
        world.run(&["1"]).await;
        let file = &world.files()[0];
        let whole = std::fs::read(file).unwrap();
        std::fs::write(file, [&whole, rest].concat()).unwrap();
        assert!(matches!(folder::verify(&world.audit_dir(), None, None).unwrap().problem, Some(Problem::Torn { .. })));
        let run = world.start().await;
        assert_eq!(run.problem().await, None);
        assert!(!world.damaged());
        let (last, _) = run.audit.last(2).await.unwrap();
        assert_eq!(kinds(&last), ["log_started", "log_repaired"]);
        assert!(last[1].contains(&format!("\"bytes\":{}", rest.len())), "{}", last[1]);
        run.end().await;
    }
}

#[tokio::test]
async fn fault_001_a_file_that_was_just_begun_is_begun_again() {
    let world = world();
    world.run(&["1"]).await;
    let next = world.lines().len() as u64 + 1;
    std::fs::write(folder::path(&world.audit_dir(), next), b"{\"seq\":4,").unwrap();
    let run = world.start().await;
    assert_eq!(run.problem().await, None);
    assert!(!world.damaged());
    run.end().await;
}

#[tokio::test]
async fn a_cut_tail_is_found_at_the_start_and_ever_after() {
    let world = world();
    world.run(&["1", "2", "3"]).await;
    let file = &world.files()[0];
    let lines = world.lines();
    std::fs::write(file, lines[..3].join("\n") + "\n").unwrap();
    // Offline only who knows the head can tell.
    assert_eq!(folder::verify(&world.audit_dir(), None, None).unwrap().problem, None);
    let known = stored_head(&world.store).await.unwrap();
    let missing = Some(Problem::MissingRange { from: 4, to: 5 });
    assert_eq!(folder::verify(&world.audit_dir(), known.as_ref(), None).unwrap().problem, missing);
    let run = world.start().await;
    assert!(world.damaged());
    run.audit.append(issued("4")).await.unwrap();
    assert_eq!(run.problem().await, missing, "what was written since does not hide it");
    let (last, _) = run.audit.last(4).await.unwrap();
    assert_eq!(kinds(&last), ["log_segment", "log_started", "log_damaged", "issued_x509"]);
    assert!(last[2].contains("records 4 to 5 are missing"), "{}", last[2]);
    run.end().await;
}

#[tokio::test]
async fn a_last_file_that_was_removed_is_found_and_so_is_one_in_the_middle() {
    for removed in 0..3 {
        let world = world();
        for _ in 0..3 {
            world.run(&["1"]).await;
            world.clock.advance(Duration::from_secs(86_400));
            let run = world.start().await;
            run.audit.append(issued("2")).await.unwrap();
            world.clock.advance(Duration::from_secs(86_400));
            run.audit.append(issued("3")).await.unwrap();
            run.end().await;
        }
        let files = world.files();
        let gone = &files[[0, files.len() / 2, files.len() - 1][removed]];
        std::fs::remove_file(gone).unwrap();
        let run = world.start().await;
        let problem = run.problem().await;
        assert!(
            matches!(problem, Some(Problem::Missing { .. } | Problem::MissingRange { .. })),
            "{removed}: {problem:?}"
        );
        assert_eq!(world.damaged(), removed == 2, "at the start only the end is looked at");
        run.end().await;
    }
}

#[tokio::test]
async fn a_log_that_was_removed_whole_is_found() {
    let world = world();
    world.run(&["1"]).await;
    std::fs::remove_dir_all(world.audit_dir()).unwrap();
    let run = world.start().await;
    assert!(world.damaged());
    assert_eq!(run.problem().await, Some(Problem::MissingRange { from: 1, to: 3 }));
    run.end().await;
}

#[tokio::test]
async fn a_byte_flipped_under_the_control_plane_is_found() {
    let world = world();
    let run = world.start().await;
    run.audit.append(issued("1")).await.unwrap();
    assert_eq!(run.problem().await, None);
    let file = &world.files()[0];
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.windows(8).position(|window| window == b"\"serial\"").unwrap() + 10;
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
    assert_eq!(run.problem().await, Some(Problem::Changed { seq: 3 }));
    run.end().await;
}

#[tokio::test]
async fn a_flipped_byte_does_not_stop_the_next_start() {
    let world = world();
    world.run(&["1", "2"]).await;
    let file = &world.files()[0];
    let text = std::fs::read_to_string(file).unwrap().replace("\"serial\":\"1\"", "\"serial\":\"9\"");
    std::fs::write(file, text).unwrap();
    let run = world.start().await;
    assert!(world.damaged());
    run.audit.append(issued("3")).await.unwrap();
    assert_eq!(run.problem().await, Some(Problem::Changed { seq: 3 }));
    assert_eq!(world.files().len(), 2, "what was there stays as it is");
    run.end().await;
}

#[tokio::test]
async fn refusals_are_written_and_a_flood_of_them_is_counted() {
    let world = world();
    let run = world.start().await;
    for _ in 0..1_000 {
        run.audit.refused("node-1", "bad_csr", |record| record.with("detail", "no DER"));
    }
    run.audit.append(issued("1")).await.unwrap(); // behind them
    let (last, _) = run.audit.last(100).await.unwrap();
    assert_eq!(kinds(&last), ["log_segment", "log_started", "refused", "issued_x509"]);
    assert!(last[2].contains(r#""by":"node-1","reason":"bad_csr","detail":"no DER""#), "{}", last[2]);
    run.end().await;
}

#[tokio::test]
async fn a_log_that_is_closed_takes_nothing() {
    let world = world();
    let run = world.start().await;
    let audit = run.audit.clone();
    run.end().await;
    assert_eq!(audit.append(issued("1")).await, Err(Error::Closed));
}
