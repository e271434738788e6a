//! One file on this machine: redb behind the store's trait.
//!
//! ```text
//!  callers ── commands ──► writer task ── batch ──► blocking thread: one redb transaction, one flush
//!     ▲                        │                                  │
//!     └──── answers ◄──────────┴── history (ring) ◄── events ◄────┘
//!                                     │
//!  watches ◄──────────────────────────┘
//! ```
//!
//! What arrives while a flush runs shares the next one (group commit). Each caller is answered after its batch is durable and its
//! events are in the history, so who commits and then watches misses nothing. Readers use redb's own snapshots and wait for no
//! writer. Leases live by tokio's time; after a restart each gets its full time again.

mod history;
mod table;
mod writer;

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use redb::{Builder, Database, DatabaseError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::{Committed, Error, Event, Key, LeaseId, Prefix, SharedStore, Store, Stored, Txn};
use history::History;
use writer::{Answer, Command, Work};

/// How many commands may wait before their callers do.
const QUEUE: usize = 1024;
/// Memory that redb may use to keep pages.
const CACHE_BYTES: usize = 64 * 1024 * 1024;
/// The longest key and value.
const MAX_KEY_BYTES: usize = 4 * 1024;
const MAX_VALUE_BYTES: usize = 16 * 1024 * 1024;

struct Redb {
    database: Arc<Database>,
    history: Arc<History>,
    commands: mpsc::Sender<Command>,
    writer: AbortHandle,
}

/// Opens the store in the file `path`, which is made with mode 0600 (its folder with 0700). Must be called within a tokio runtime;
/// the writer ends when the last clone is dropped.
///
/// # Errors
/// If another process has it open, it is damaged, or the file cannot be made.
pub fn open(path: &Path) -> Result<SharedStore, Error> {
    let refused = |why: String| Error::Open { path: path.display().to_string(), why };
    make_private(path).map_err(|e| refused(e.to_string()))?;
    let opened = Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(path);
    let database = opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => refused(
            "another process has it open. Is another `symbolon serve` running with this dataDir? Stop it first".into(),
        ),
        other => refused(other.to_string()),
    })?;
    let (revision, leases) = table::prepare(&database).map_err(|e| refused(e.to_string()))?;
    let (database, history) = (Arc::new(database), Arc::new(History::new(revision)));
    let (commands, inbox) = mpsc::channel(QUEUE);
    // Not supervised: it ends with the store, and if it fails every caller is told so by its own command.
    let writer = tokio::spawn(writer::run(database.clone(), history.clone(), inbox, leases)).abort_handle();
    Ok(Arc::new(Redb { database, history, commands, writer }))
}

fn make_private(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
    }
    Ok(())
}

// === impl Redb ===

impl Redb {
    async fn ask<T>(&self, doing: &'static str, work: impl FnOnce(Answer<T>) -> Work) -> Result<T, Error> {
        let stopped =
            || Error::Io { doing, why: "the disk refused the write, or the store is closing; see the log".into() };
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command(work(answer))).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

impl Store for Redb {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        async { table::get(&self.database, key).map_err(|e| io("read", &e)) }.boxed()
    }

    fn range(&self, prefix: Prefix) -> BoxFuture<'_, Result<(Vec<Stored>, u64), Error>> {
        let database = self.database.clone();
        async move {
            let read = tokio::task::spawn_blocking(move || table::range(&database, &prefix)).await;
            read.map_err(|e| io("read", &e))?.map_err(|e| io("read", &e))
        }
        .boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, Error>> {
        async move {
            check(&txn)?;
            self.ask("commit", |answer| Work::Commit(txn, answer)).await
        }
        .boxed()
    }

    fn watch(&self, prefix: Prefix, revision: u64) -> BoxStream<'static, Result<Event, Error>> {
        history::watch(self.history.clone(), prefix, revision)
    }

    fn grant_lease(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, Error>> {
        self.ask("grant a lease", move |answer| Work::Grant(ttl, answer)).boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Error>> {
        self.ask("renew a lease", move |answer| Work::KeepAlive(lease, answer)).boxed()
    }
}

impl Drop for Redb {
    fn drop(&mut self) {
        self.history.close();
        self.writer.abort(); // between batches: a batch under way is on a blocking thread and ends
    }
}

impl fmt::Debug for Redb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store::redb at revision {}", self.history.head())
    }
}

fn check(txn: &Txn) -> Result<(), Error> {
    use super::Operation;
    for operation in &txn.operations {
        let (Operation::Put { key, .. } | Operation::Delete(key)) = operation;
        let value = if let Operation::Put { value, .. } = operation { value.len() } else { 0 };
        if key.0.is_empty() || key.0.len() > MAX_KEY_BYTES || value > MAX_VALUE_BYTES {
            let why = format!("a key of {} bytes with a value of {value} is beyond its bounds", key.0.len());
            return Err(Error::Io { doing: "commit", why });
        }
    }
    Ok(())
}

fn io(doing: &'static str, why: &impl fmt::Display) -> Error {
    Error::Io { doing, why: why.to_string() }
}

#[cfg(test)]
mod tests;
