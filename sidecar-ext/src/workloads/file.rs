//! Watches the sidecar's file. A complete write is read at once; what may be half a write is read after it has settled; a file
//! that cannot be read or parsed leaves the running list in place.
//!
//! The folder is watched rather than the file, since editors and Kubernetes replace files by renaming. A slow poll catches what
//! the system does not tell (network file systems, a replaced folder).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Counter;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::config::{self, Workload};

/// How long a write that is not known to be complete gets to finish.
const SETTLE: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_secs(2);
/// Waits before each attempt to parse: a writer may be half way through.
const ATTEMPTS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(40), Duration::from_millis(150)];

/// Reads the workloads of the sidecar's file.
pub type Load = Arc<dyn Fn() -> Result<Vec<Workload>, config::Error> + Send + Sync>;

/// What an event of the folder means for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    /// The file is complete: renamed into place, or closed after writing.
    Now,
    /// The file may be half written, or its folder was rearranged.
    Settle,
}

#[derive(Debug, Default)]
struct Bells {
    now: Notify,
    settle: Notify,
}

/// The task that keeps `lists` at what the file says.
pub(super) struct FileWatch {
    path: PathBuf,
    load: Load,
    bells: Arc<Bells>,
    /// Holds the system's watch open; `None`: polling only.
    _watcher: Option<RecommendedWatcher>,
    lists: watch::Sender<Arc<[Workload]>>,
    /// The last error that was logged: a bad file is said once, not at each poll.
    complaint: Option<String>,
    reads: Counter,
    stamp: Stamp,
}

/// Tells one state of the file from another without reading it; `None`: it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

impl FileWatch {
    pub(super) fn new(path: &Path, load: Load, lists: watch::Sender<Arc<[Workload]>>, reads: Counter) -> Self {
        let bells = Arc::new(Bells::default());
        bells.settle.notify_one(); // the file may have changed since it was first read
        let watcher = watch_folder(path, Arc::clone(&bells))
            .inspect_err(|error| warn!(file = %path.display(), %error, "cannot watch the folder; polling the file"))
            .ok();
        Self { path: path.to_owned(), load, bells, _watcher: watcher, lists, complaint: None, reads, stamp: None }
    }

    pub(super) async fn run(mut self, drain: Drain) {
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                () = self.bells.now.notified() => {}
                () = self.bells.settle.notified() => {
                    // The close or the rename may follow: no need to wait longer then.
                    let _ = timeout(SETTLE, self.bells.now.notified()).await;
                }
                () = sleep(POLL) => {
                    if self.stamp == stamp(&self.path) {
                        continue;
                    }
                }
            }
            self.read().await;
        }
    }

    async fn read(&mut self) {
        for wait in ATTEMPTS {
            if !wait.is_zero() {
                sleep(wait).await;
            }
            self.stamp = stamp(&self.path); // before reading: what is written meanwhile differs from it
            let load = Arc::clone(&self.load);
            let Ok(loaded) = tokio::task::spawn_blocking(move || load()).await else { return };
            match loaded {
                Ok(list) => return self.accept(list),
                Err(error) => {
                    let error = error.to_string();
                    if self.complaint.as_ref() == Some(&error) {
                        return;
                    }
                    if wait == ATTEMPTS[ATTEMPTS.len() - 1] {
                        self.reads.inc(&[("result", "bad")]);
                        warn!(%error, "the file cannot be used; keeping the running workloads");
                        self.complaint = Some(error);
                    }
                }
            }
        }
    }

    fn accept(&mut self, list: Vec<Workload>) {
        if self.complaint.take().is_some() {
            info!("the file can be used again");
        }
        if **self.lists.borrow() != *list {
            self.reads.inc(&[("result", "changed")]);
            info!(workloads = list.len(), "workloads file changed");
            self.lists.send_replace(list.into());
        }
    }
}

fn watch_folder(path: &Path, bells: Arc<Bells>) -> notify::Result<RecommendedWatcher> {
    let name = path.file_name().unwrap_or_default().to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
        Ok(event) => match urgency(&event, &name) {
            Some(Urgency::Now) => bells.now.notify_one(),
            Some(Urgency::Settle) => bells.settle.notify_one(),
            None => {}
        },
        Err(_) => bells.settle.notify_one(),
    })?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_owned);
    watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// `None`: nothing to do with the file `name`, or only reading it (which would answer itself for ever).
fn urgency(event: &Event, name: &OsStr) -> Option<Urgency> {
    if event.need_rescan() {
        return Some(Urgency::Settle);
    }
    let ours = event.paths.iter().filter_map(|path| path.file_name()).any(|other| {
        // Kubernetes swaps the link `..data` and leaves the file's own link alone.
        other == name || other.as_encoded_bytes().starts_with(b"..")
    });
    match event.kind {
        _ if !ours => None,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => Some(Urgency::Now),
        EventKind::Access(_) => None,
        _ => Some(Urgency::Settle),
    }
}

#[cfg(test)]
pub(in crate::workloads) mod tests;
