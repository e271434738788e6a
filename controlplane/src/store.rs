//! Durable state, through one small key-value trait shaped like etcd (decision 11): get, range, compare-and-swap transaction,
//! watch from a revision, lease. Every durable fact goes through it. [`keys`] is the key space, [`codec`] how values are written,
//! [`redb`] one file on this machine.

pub mod codec;
pub mod keys;
pub mod redb;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// A key, e.g. `entries/0123abcd`; `/` separates, bytes compare.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Arc<str>);

/// All keys that begin with this text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(pub Arc<str>);

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: Key,
    pub value: Vec<u8>,
    /// The revision of its last write.
    pub modified: u64,
}

/// A change, as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put(Stored),
    Deleted { key: Key, revision: u64 },
}

/// Conditions, and what is done if all of them hold; whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub conditions: Vec<Condition>,
    pub operations: Vec<Operation>,
}

/// What must be so.
#[derive(Clone, Debug)]
pub enum Condition {
    Absent(Key),
    ModifiedAt(Key, u64),
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Operation {
    Put { key: Key, value: Vec<u8>, lease: Option<LeaseId> },
    Delete(Key),
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Durable, at this revision.
    Applied(u64),
    /// A condition did not hold; nothing was done.
    Conflict { key: Key },
}

/// Keys put with a lease are deleted when it is not renewed in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub u64);

/// Why the store cannot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the store at {path} cannot be opened: {why}")]
    Open { path: String, why: String },
    #[error("the store cannot {doing}: {why}")]
    Io { doing: &'static str, why: String },
    #[error("a stored {kind} cannot be read: {why}")]
    Codec { kind: &'static str, why: String },
    #[error("revision {0} is no longer kept; read the range again")]
    Compacted(u64),
    #[error("the lease has expired")]
    LeaseExpired,
}

/// The store as everyone holds it.
pub type SharedStore = Arc<dyn Store>;

/// The seam. Futures are boxed: a durable write costs a disk flush, a box nothing beside it.
pub trait Store: Send + Sync + std::fmt::Debug {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Stored>, Error>>;
    /// All of `prefix` in key order, and the revision that this is the state of.
    fn range(&self, prefix: Prefix) -> BoxFuture<'_, Result<(Vec<Stored>, u64), Error>>;
    /// Durable when it returns [`Committed::Applied`].
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, Error>>;
    /// Every change of `prefix` after `revision`, in order, none twice and none left out.
    fn watch(&self, prefix: Prefix, revision: u64) -> BoxStream<'static, Result<Event, Error>>;
    fn grant_lease(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, Error>>;
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Error>>;
}

// === impl Txn ===

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if nothing is stored under `key`.
    #[must_use]
    pub fn absent(mut self, key: Key) -> Self {
        self.conditions.push(Condition::Absent(key));
        self
    }

    /// Only if `key` was last written at `revision`.
    #[must_use]
    pub fn modified_at(mut self, key: Key, revision: u64) -> Self {
        self.conditions.push(Condition::ModifiedAt(key, revision));
        self
    }

    #[must_use]
    pub fn put(mut self, key: Key, value: Vec<u8>) -> Self {
        self.operations.push(Operation::Put { key, value, lease: None });
        self
    }

    #[must_use]
    pub fn put_leased(mut self, key: Key, value: Vec<u8>, lease: LeaseId) -> Self {
        self.operations.push(Operation::Put { key, value, lease: Some(lease) });
        self
    }

    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.operations.push(Operation::Delete(key));
        self
    }
}
