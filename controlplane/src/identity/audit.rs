//! The audit log: every issuance, refusal, use of a token and change of authorities, entries and bundles, durable before its effect
//! leaves (invariant I11).
//!
//! ```text
//!  callers ── records ──► writer task ── batch ──► blocking thread: lines, one write, one fdatasync
//!     ▲                        │                                   │
//!     └──── durable ◄──────────┴──────── head ◄────────────────────┘
//!                                          │ soon after
//!                                          └──► store
//! ```
//!
//! What arrives while a flush runs shares the next one (group commit). The lines form a chain of hashes ([`chain`]) over all files
//! ([`folder`]); the newest hash is kept in the store too, so that a tail that was cut off is missed. A log that cannot be written
//! refuses every record, and with it every credential: nothing is spilled, nothing issued on the quiet. A log that was tampered with
//! does not stop the mesh: it goes on in a new file, and says so, there and at every [`Audit::verify`].

pub mod chain;
pub mod folder;
mod log;
mod record;
mod refusals;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Gauge, Metrics};
use symbolon_kit::octets;
use symbolon_kit::seldom::Seldom;
use symbolon_kit::supervise::{OnExit, Tasks};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use crate::store::{self, SharedStore, Txn, codec, keys};

use chain::Head;
use folder::{Files, Verified, Volume};
use log::Log;
use refusals::Refusals;

pub use log::Durable;
pub use record::{Fact, Kind, Record};

/// Callers that may wait for the writer before the next must.
const QUEUE: usize = 1024;
/// The store learns of a new head this often at most: the log is durable without it.
const HEAD_EVERY: Duration = Duration::from_millis(100);

/// Writes the log and reads it; cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    folder: Arc<Path>,
    queue: mpsc::Sender<Batch>,
    durable: watch::Receiver<Durable>,
    refusals: Refusals,
    failures: Counter,
    said: Seldom,
}

/// Records that are written together, and who waits for them.
struct Batch {
    records: Vec<Record>,
    done: oneshot::Sender<Result<(), Error>>,
}

/// Why a record is not in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the disk of the audit log is full")]
    Full,
    #[error("the audit log cannot be written: {0}")]
    Disk(String),
    #[error("what is to be signed cannot be: {0}")]
    Unsigned(String),
    #[error("too many records wait for the audit log")]
    Busy,
    #[error("the audit log is closed; the control plane is stopping")]
    Closed,
}

/// The head as it is stored.
#[derive(Serialize, Deserialize)]
struct HeadRecord {
    count: u64,
    hash: String,
}

/// What counts of the writer's doings.
struct Counters {
    records: Counter,
    head: Gauge,
}

// === impl Audit ===

impl Audit {
    /// Opens the log in `folder`, and starts its writer.
    ///
    /// # Errors
    /// If it cannot be read and written. A log that was tampered with is no error: that is recorded, logged and counted.
    pub async fn start(
        folder: PathBuf,
        store: SharedStore,
        clock: Clock,
        metrics: &Metrics,
        tasks: &Tasks,
        drain: Drain,
    ) -> Result<Self, super::Error> {
        Self::start_on(Arc::new(Files), folder, store, clock, metrics, tasks, drain).await
    }

    pub(super) async fn start_on(
        volume: Arc<dyn Volume>,
        folder: PathBuf,
        store: SharedStore,
        clock: Clock,
        metrics: &Metrics,
        tasks: &Tasks,
        drain: Drain,
    ) -> Result<Self, super::Error> {
        let known = stored_head(&store).await?;
        let (of, with) = (folder.clone(), clock);
        let (log, durable, damage) = blocking(move || Log::open(&of, volume, with, known)).await?;
        let damaged = metrics.gauge("symbolon_audit_damaged", "1: the audit log was not as it was left; see the log");
        damaged.set(&[], i64::from(damage.is_some()));
        if let Some(problem) = damage {
            error!(%problem, "the audit log is not as it was left; it goes on in a new file. Run: symbolon audit verify");
        }
        let counters = Counters {
            records: metrics.counter("symbolon_audit_records", "Records in the audit log, by kind"),
            head: metrics.gauge("symbolon_audit_head", "The number of the audit log's newest record"),
        };
        let failures =
            metrics.counter("symbolon_audit_failures", "Records that the audit log could not take, by reason");
        let (queue, inbox) = mpsc::channel(QUEUE);
        let (tell, watched) = watch::channel(durable);
        tasks.spawn("audit", OnExit::Shutdown, write(log, inbox, tell, counters, drain.clone()));
        tasks.spawn("audit head", OnExit::Shutdown, keep_head(store, watched.clone(), drain));
        let (refusals, said) = (Refusals::default(), Seldom::default());
        Ok(Self { folder: folder.into(), queue, durable: watched, refusals, failures, said })
    }

    /// Writes a record; it is durable when this returns.
    ///
    /// # Errors
    /// If it is not: then what it is about must not happen.
    pub async fn append(&self, record: Record) -> Result<(), Error> {
        self.append_all(vec![record]).await
    }

    /// Writes records, all or none.
    ///
    /// # Errors
    /// As [`Audit::append`].
    pub async fn append_all(&self, records: Vec<Record>) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        let count = records.len() as u64;
        let (done, written) = oneshot::channel();
        let written = async {
            self.queue.send(Batch { records, done }).await.map_err(|_| Error::Closed)?;
            written.await.map_err(|_| Error::Closed)?
        };
        written.await.inspect_err(|failed| {
            self.failures.add(&[("reason", failed.label())], count);
            if let Some(left_out) = self.said.ask(failed.label()) {
                error!(%failed, left_out, "records are not in the audit log; what they are about is refused");
            }
        })
    }

    /// Writes a refusal down, soon: it stands whether or not it could be written. One that is like others of the same caller and
    /// reason, seconds before, is counted with them, so that nobody can fill the disk by being refused. Callers without a name are
    /// one, whatever their address.
    pub fn refused(&self, caller: &str, reason: &'static str, describe: impl FnOnce(Record) -> Record) {
        let of = if caller.starts_with("anonymous") { "anonymous" } else { caller };
        let due = self.refusals.ask(of, reason);
        let refusal = |caller: &str, reason: &str| Record::new(Kind::Refused).with("by", caller).with("reason", reason);
        let again = |(caller, reason, times): (String, &str, u64)| {
            refusal(&caller, reason).with("detail", "the same again").with("times", times)
        };
        let mut records: Vec<_> = due.ended.into_iter().map(again).collect();
        if due.record {
            records.push(describe(refusal(caller, reason)));
        }
        let (count, (done, _)) = (records.len() as u64, oneshot::channel());
        if count > 0 && self.queue.try_send(Batch { records, done }).is_err() {
            self.failures.add(&[("reason", Error::Busy.label())], count);
        }
    }

    /// How far the log goes, now and later.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }

    /// The folder it lies in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads the whole log, and whether it is as it was written: up to the newest record, each in its place.
    ///
    /// # Errors
    /// If its folder cannot be read.
    pub async fn verify(&self) -> Result<Verified, Error> {
        let (folder, durable) = (self.folder.clone(), *self.durable.borrow());
        let known = durable.head;
        blocking(move || Ok(folder::verify(&folder, Some(&known), Some((durable.first, durable.bytes)))?)).await
    }

    /// The last `count` records, oldest first, as they are on disk; and what was durable then.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn last(&self, count: usize) -> Result<(Vec<String>, Durable), Error> {
        let (folder, durable) = (self.folder.clone(), *self.durable.borrow());
        let read = move || {
            let mut lines: Vec<String> = Vec::new();
            let files = folder::entries(&folder)?;
            for file in files.iter().rev().skip_while(|file| file.first > durable.first) {
                let length = if file.first == durable.first { durable.bytes } else { u64::MAX };
                let mut older = folder::last_lines(&file.path, length, count - lines.len())?;
                older.append(&mut lines);
                lines = older;
                if lines.len() >= count {
                    break;
                }
            }
            Ok(lines)
        };
        Ok((blocking(read).await?, durable))
    }

    /// The records between two points of the log, at most some hundreds, and how far they go.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn between(&self, from: (u64, u64), to: Durable) -> Result<(Vec<String>, (u64, u64)), Error> {
        let folder = self.folder.clone();
        let read = move || {
            let (first, offset) = from;
            let length = if first == to.first { to.bytes } else { u64::MAX };
            let (lines, next) = folder::lines_from(&folder::path(&folder, first), offset, length)?;
            if first != to.first && lines.is_empty() {
                // That file is at its end: the next begins.
                let files = folder::entries(&folder)?;
                let next = files.iter().map(|file| file.first).find(|other| *other > first);
                return Ok((lines, (next.unwrap_or(to.first), 0)));
            }
            Ok((lines, (first, next)))
        };
        blocking(read).await
    }
}

impl super::Identity {
    /// Writes a record that the trust domain vouches for: it is signed by the JWT authority, whose key is in the bundle.
    ///
    /// # Errors
    /// If it is not in the log.
    pub async fn append_signed(&self, record: Record) -> Result<(), Error> {
        let issuer = self.issuer.clone();
        let signed = self.pool.run(move || {
            let (kid, signature) = issuer.sign_statement(&record.statement())?;
            Some(record.with("kid", &*kid).with("signature", signature))
        });
        let signed = signed.await.map_err(|refusal| Error::Unsigned(refusal.to_string()))?;
        let signed = signed.ok_or_else(|| Error::Unsigned("the authority cannot sign now".into()))?;
        self.audit.append(signed).await
    }
}

async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|stopped| Err(Error::Disk(stopped.to_string())))
}

/// Writes what arrives until drained; then what has arrived.
async fn write(
    mut log: Log,
    mut inbox: mpsc::Receiver<Batch>,
    durable: watch::Sender<Durable>,
    counters: Counters,
    drain: Drain,
) {
    let mut waiting = Vec::new();
    loop {
        let count = tokio::select! {
            biased;
            count = inbox.recv_many(&mut waiting, QUEUE) => count,
            () = drain.cancelled(), if !inbox.is_closed() => {
                inbox.close();
                continue;
            }
        };
        if count == 0 {
            return;
        }
        let mut batch = std::mem::take(&mut waiting);
        let flushed = blocking(move || {
            let records: Vec<Record> = batch.iter_mut().flat_map(|one| std::mem::take(&mut one.records)).collect();
            let written = log.append(&records);
            Ok((log, batch, records, written))
        });
        // Whoever waited for a batch that panicked hears that the log is closed.
        let Ok((same, batch, records, written)) = flushed.await else { return };
        log = same;
        let answer = match written {
            Ok(end) => {
                records.iter().for_each(|record| counters.records.inc(&[("kind", record.kind.word())]));
                counters.head.set(&[], i64::try_from(end.head.count).unwrap_or(i64::MAX));
                durable.send_replace(end);
                Ok(())
            }
            Err(error) => Err(error),
        };
        for one in batch {
            let _ = one.done.send(answer.clone()); // who has gone away does not wait
        }
    }
}

/// Keeps the head in the store, a little behind the log; the last one when drained.
async fn keep_head(store: SharedStore, mut durable: watch::Receiver<Durable>, drain: Drain) {
    loop {
        let head = durable.borrow_and_update().head;
        let record = HeadRecord { count: head.count, hash: octets::hex(&head.hash) };
        let kept = async {
            let value = codec::encode("audit head", 1, &record)?;
            store.commit(Txn::new().put(keys::audit_head(), value)).await
        };
        if let Err(error) = kept.await {
            warn!(%error, "the audit log's head is not in the store: a cut tail would not be missed");
        }
        if durable.changed().await.is_err() {
            return; // the writer has ended, and the newest head is kept
        }
        tokio::select! {
            () = tokio::time::sleep(HEAD_EVERY) => {}
            () = drain.cancelled() => {}
        }
    }
}

/// How far the log goes, as the store knows it: a little less than it does while a control plane writes.
///
/// # Errors
/// If the store cannot be read.
pub async fn stored_head(store: &SharedStore) -> Result<Option<Head>, store::Error> {
    let Some(stored) = store.get(&keys::audit_head()).await? else { return Ok(None) };
    let record: HeadRecord = codec::decode("audit head", &stored.value)?;
    let hash = chain::unhex(record.hash.as_bytes());
    let why = || "its hash is none".to_owned();
    let hash = hash.ok_or_else(|| store::Error::Codec { kind: "audit head", why: why() })?;
    Ok(Some(Head { count: record.count, hash }))
}

// === impl Error ===

impl Error {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Full => "audit_full",
            Self::Disk(_) => "audit_disk",
            Self::Unsigned(_) => "audit_unsigned",
            Self::Busy => "audit_busy",
            Self::Closed => "audit_closed",
        }
    }
}

#[cfg(test)]
mod tests;
