//! The tables in the file, and one transaction on them.

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::store::{Committed, Condition, Error, Event, Key, LeaseId, Operation, Prefix, Stored, Txn};

/// Key to (revision of the last write, lease or 0, value).
const VALUES: TableDefinition<&str, (u64, u64, &[u8])> = TableDefinition::new("values");
/// Lease to its time to live, in milliseconds.
const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");
/// The keys of a lease.
const LEASED: TableDefinition<(u64, &str), ()> = TableDefinition::new("leased");
/// Counters: [`REVISION`] and [`LAST_LEASE`].
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const LAST_LEASE: &str = "lease";

/// A lease as it is kept.
pub(super) type Lease = (LeaseId, std::time::Duration);

/// Makes the tables if they are missing. The revision, and the leases that live.
pub(super) fn prepare(database: &Database) -> Result<(u64, Vec<Lease>), redb::Error> {
    let txn = database.begin_write()?;
    let (revision, leases) = {
        txn.open_table(VALUES)?;
        txn.open_table(LEASED)?;
        let revision = txn.open_table(META)?.get(REVISION)?.map_or(0, |value| value.value());
        let mut leases = Vec::new();
        for row in txn.open_table(LEASES)?.iter()? {
            let (id, ttl) = row?;
            leases.push((LeaseId(id.value()), std::time::Duration::from_millis(ttl.value())));
        }
        (revision, leases)
    };
    txn.commit()?;
    Ok((revision, leases))
}

pub(super) fn get(database: &Database, key: &Key) -> Result<Option<Stored>, redb::Error> {
    let values = database.begin_read()?.open_table(VALUES)?;
    let found = values.get(&*key.0)?;
    Ok(found.map(|row| {
        let (modified, _, value) = row.value();
        Stored { key: key.clone(), value: value.to_vec(), modified }
    }))
}

pub(super) fn range(database: &Database, prefix: &Prefix) -> Result<(Vec<Stored>, u64), redb::Error> {
    let snapshot = database.begin_read()?; // both reads see one moment
    let revision = snapshot.open_table(META)?.get(REVISION)?.map_or(0, |value| value.value());
    let mut found = Vec::new();
    for row in snapshot.open_table(VALUES)?.range::<&str>(&*prefix.0..)? {
        let (key, row) = row?;
        if !key.value().starts_with(&*prefix.0) {
            break;
        }
        let (modified, _, value) = row.value();
        found.push(Stored { key: Key(key.value().into()), value: value.to_vec(), modified });
    }
    Ok((found, revision))
}

/// One redb transaction, in which the transactions of a batch are done one after another.
pub(super) struct Batch<'a> {
    values: Table<'a, &'static str, (u64, u64, &'static [u8])>,
    leases: Table<'a, u64, u64>,
    leased: Table<'a, (u64, &'static str), ()>,
    meta: Table<'a, &'static str, u64>,
    pub(super) revision: u64,
    pub(super) events: Vec<Event>,
}

impl<'a> Batch<'a> {
    pub(super) fn begin(txn: &'a WriteTransaction) -> Result<Self, redb::Error> {
        let meta = txn.open_table(META)?;
        let revision = meta.get(REVISION)?.map_or(0, |value| value.value());
        Ok(Self {
            values: txn.open_table(VALUES)?,
            leases: txn.open_table(LEASES)?,
            leased: txn.open_table(LEASED)?,
            meta,
            revision,
            events: Vec::new(),
        })
    }

    /// Writes the revision down; what was done is to be committed now.
    pub(super) fn finish(mut self) -> Result<(u64, Vec<Event>), redb::Error> {
        self.meta.insert(REVISION, self.revision)?;
        Ok((self.revision, self.events))
    }

    /// Does `txn` whole or not at all. The inner error is the caller's, the outer one spoils the batch.
    pub(super) fn apply(&mut self, txn: Txn) -> Result<Result<Committed, Error>, redb::Error> {
        for condition in &txn.conditions {
            let (Condition::Absent(key) | Condition::ModifiedAt(key, _)) = condition;
            let modified = self.values.get(&*key.0)?.map(|row| row.value().0);
            let holds = match condition {
                Condition::Absent(_) => modified.is_none(),
                Condition::ModifiedAt(_, wanted) => modified == Some(*wanted),
            };
            if !holds {
                return Ok(Ok(Committed::Conflict { key: key.clone() }));
            }
        }
        for operation in &txn.operations {
            if let Operation::Put { lease: Some(lease), .. } = operation
                && self.leases.get(lease.0)?.is_none()
            {
                return Ok(Err(Error::LeaseExpired));
            }
        }
        if !txn.operations.is_empty() {
            self.revision += 1;
        }
        for operation in txn.operations {
            match operation {
                Operation::Put { key, value, lease } => self.put(key, value, lease)?,
                Operation::Delete(key) => self.delete(key)?,
            }
        }
        Ok(Ok(Committed::Applied(self.revision)))
    }

    fn put(&mut self, key: Key, value: Vec<u8>, lease: Option<LeaseId>) -> Result<(), redb::Error> {
        let lease = lease.map_or(0, |lease| lease.0);
        let before = self.values.insert(&*key.0, (self.revision, lease, value.as_slice()))?.map(|row| row.value().1);
        if let Some(before) = before.filter(|before| *before != 0 && *before != lease) {
            self.leased.remove((before, &*key.0))?;
        }
        if lease != 0 {
            self.leased.insert((lease, &*key.0), ())?;
        }
        self.events.push(Event::Put(Stored { key, value, modified: self.revision }));
        Ok(())
    }

    /// Deleting what is not there changes nothing and tells nobody.
    fn delete(&mut self, key: Key) -> Result<(), redb::Error> {
        let Some(lease) = self.values.remove(&*key.0)?.map(|row| row.value().1) else { return Ok(()) };
        if lease != 0 {
            self.leased.remove((lease, &*key.0))?;
        }
        self.events.push(Event::Deleted { key, revision: self.revision });
        Ok(())
    }

    pub(super) fn grant(&mut self, ttl: std::time::Duration) -> Result<LeaseId, redb::Error> {
        let id = self.meta.get(LAST_LEASE)?.map_or(0, |value| value.value()) + 1;
        self.meta.insert(LAST_LEASE, id)?;
        self.leases.insert(id, u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))?;
        Ok(LeaseId(id))
    }

    /// Ends a lease and deletes its keys.
    pub(super) fn expire(&mut self, lease: LeaseId) -> Result<(), redb::Error> {
        self.leases.remove(lease.0)?;
        let mut keys = Vec::new();
        for row in self.leased.range((lease.0, "")..)? {
            let (row, ()) = (row?.0, ());
            let (id, key) = row.value();
            if id != lease.0 {
                break;
            }
            keys.push(Key(key.into()));
        }
        if !keys.is_empty() {
            self.revision += 1;
        }
        keys.into_iter().try_for_each(|key| self.delete(key))
    }
}
