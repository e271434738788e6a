use std::path::Path;

use symbolon_kit::config::ConfigError;
use symbolon_kit::metrics::Metrics;
use tempfile::TempDir;

use super::*;

/// A file format for tests: names of workloads, separated by blanks; `!` is a syntax error.
pub(in crate::workloads) fn names_as_workloads(
    path: &Path,
    workload: impl Fn(&str) -> Workload + Send + Sync + 'static,
) -> Load {
    let path = path.to_owned();
    Arc::new(move || {
        let fail = |message: String| ConfigError { path: path.clone(), line: 7, column: 3, message };
        let text = fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
        if text.contains('!') || text.is_empty() {
            return Err(fail(format!("cannot be parsed: {text}")).into());
        }
        Ok(text.split_whitespace().map(&workload).collect())
    })
}

struct Rig {
    folder: TempDir,
    lists: watch::Receiver<Arc<[Workload]>>,
    reads: Counter,
    drain: Drain,
}

fn named(name: &str) -> Workload {
    Workload {
        name: name.into(),
        service: None,
        identity: "spiffe://a.example/w".parse().unwrap(),
        selectors: Default::default(),
        address: None,
        inbound: None,
        outbound: None,
        health: None,
        upstreams: vec![],
        weight: 1,
    }
}

/// Watches `sidecar.yaml`, which begins as `first`.
async fn rig(prepare: impl FnOnce(&Path)) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let path = folder.path().join("sidecar.yaml");
    let load = names_as_workloads(&path, named);
    let (tx, lists) = watch::channel(load().unwrap().into());
    let reads = Metrics::new().counter("reads", "");
    let drain = Drain::new();
    let watch = FileWatch::new(&path, load, tx, reads.clone());
    tokio::spawn(watch.run(drain.clone()));
    Rig { folder, lists, reads, drain }
}

impl Rig {
    async fn until(&mut self, names: &str) {
        let same = |list: &Arc<[Workload]>| list.iter().map(|w| w.name.as_str()).collect::<Vec<_>>().join(" ") == names;
        self.lists.wait_for(same).await.unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.drain.start();
    }
}

fn plain(folder: &Path) {
    fs::write(folder.join("sidecar.yaml"), "one").unwrap();
}

#[tokio::test]
async fn follows_writes_renames_and_removal() {
    let mut rig = rig(plain).await;
    fs::write(rig.path("sidecar.yaml"), "one two").unwrap();
    rig.until("one two").await;
    // As most editors and deployment tools do it.
    fs::write(rig.path(".sidecar.yaml.swp"), "three").unwrap();
    fs::rename(rig.path(".sidecar.yaml.swp"), rig.path("sidecar.yaml")).unwrap();
    rig.until("three").await;
    // As vi does it with a backup: away, then a new file of the same name.
    fs::rename(rig.path("sidecar.yaml"), rig.path("sidecar.yaml~")).unwrap();
    fs::write(rig.path("sidecar.yaml"), "four").unwrap();
    rig.until("four").await;
}

#[tokio::test]
async fn follows_a_kubernetes_volume() {
    use std::os::unix::fs::symlink;
    let mut rig = rig(|folder| {
        fs::create_dir(folder.join("..1")).unwrap();
        fs::write(folder.join("..1/sidecar.yaml"), "one").unwrap();
        symlink("..1", folder.join("..data")).unwrap();
        symlink("..data/sidecar.yaml", folder.join("sidecar.yaml")).unwrap();
    })
    .await;
    fs::create_dir(rig.path("..2")).unwrap();
    fs::write(rig.path("..2/sidecar.yaml"), "two").unwrap();
    symlink("..2", rig.path("..data_tmp")).unwrap();
    fs::rename(rig.path("..data_tmp"), rig.path("..data")).unwrap();
    rig.until("two").await;
}

#[tokio::test]
async fn a_bad_or_missing_file_keeps_the_running_list() {
    let mut rig = rig(plain).await;
    fs::write(rig.path("sidecar.yaml"), "two !").unwrap();
    while rig.reads.value(&[("result", "bad")]) < 1 {
        tokio::task::yield_now().await;
    }
    fs::remove_file(rig.path("sidecar.yaml")).unwrap();
    while rig.reads.value(&[("result", "bad")]) < 2 {
        tokio::task::yield_now().await;
    }
    assert!(!rig.lists.has_changed().unwrap(), "nothing was withdrawn");
    fs::write(rig.path("sidecar.yaml"), "two").unwrap();
    rig.until("two").await;
}

#[test]
fn reading_rings_no_bell() {
    let name = OsStr::new("sidecar.yaml");
    let event = |kind, path: &str| urgency(&Event::new(kind).add_path(path.into()), name);
    let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
    for (kind, path, want) in [
        (close, "/x/sidecar.yaml", Some(Urgency::Now)),
        (close, "/x/envoy.log", None),
        (EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/x/sidecar.yaml", Some(Urgency::Now)),
        (EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/x/..data", Some(Urgency::Now)),
        (EventKind::Modify(ModifyKind::Any), "/x/sidecar.yaml", Some(Urgency::Settle)),
        (EventKind::Remove(notify::event::RemoveKind::File), "/x/sidecar.yaml", Some(Urgency::Settle)),
        (EventKind::Access(AccessKind::Open(AccessMode::Any)), "/x/sidecar.yaml", None),
        (EventKind::Access(AccessKind::Close(AccessMode::Read)), "/x/sidecar.yaml", None),
    ] {
        assert_eq!(event(kind, path), want, "{kind:?} {path}");
    }
}

/// The folder of the link sees nothing of a change behind it: only the poll does. Time is paused, and runs on when all wait.
#[tokio::test(start_paused = true)]
async fn what_the_system_does_not_tell_is_polled() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.yaml");
    fs::write(&target, "one").unwrap();
    let mut rig = rig(|folder| std::os::unix::fs::symlink(&target, folder.join("sidecar.yaml")).unwrap()).await;
    fs::write(&target, "one two").unwrap();
    rig.until("one two").await;
    fs::write(&target, "three").unwrap();
    rig.until("three").await;
}
