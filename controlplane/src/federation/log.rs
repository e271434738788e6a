//! What one peer may have from us: the newest statement per key, in one total order. Pure.
//!
//! A change takes the next sequence number, which is also the revision of its key. Only the newest change of a key is kept, so a
//! slow subscriber skips what has been overtaken, and the memory is bounded by the number of keys; tombstones are kept for those
//! who were away, up to a bound. Whoever has the epoch and a sequence not older than the oldest forgotten tombstone resumes from
//! there; everybody else gets a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use symbolon_proto::federation as wire;
use symbolon_proto::federation::tombstone::Why;

use super::resource::{SetDigest, class};

/// How many tombstones are kept.
pub const TOMBSTONES: usize = 65_536;
/// A sequence beyond this is no sequence; also keeps arithmetic on a peer's numbers from overflowing.
pub const MAX_SEQUENCE: u64 = 1 << 62;

/// The newest statement about one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: Arc<str>,
    /// Its place in the order.
    pub revision: u64,
    pub source_time: SystemTime,
    pub said: Said,
}

/// What is said of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Put(Arc<wire::Resource>),
    Gone(Why),
}

/// The statements, and the order.
#[derive(Clone, Debug)]
pub struct Log {
    epoch: Bytes,
    /// The sequence before the first of this epoch.
    base: u64,
    head: u64,
    /// Tombstones up to here may be forgotten.
    floor: u64,
    by_key: BTreeMap<Arc<str>, Arc<Entry>>,
    by_revision: BTreeMap<u64, Arc<Entry>>,
    tombstones: usize,
    max_tombstones: usize,
    digest: SetDigest,
}

impl Log {
    /// An empty log whose sequence begins after `base`. A base that rises from one process to the next (the clock's milliseconds
    /// do) keeps revisions monotone without storing them; [`Self::adopt`] covers a clock that fell back.
    pub fn new(epoch: Bytes, base: u64, max_tombstones: usize) -> Self {
        Self {
            epoch,
            base,
            head: base,
            floor: base,
            by_key: BTreeMap::new(),
            by_revision: BTreeMap::new(),
            tombstones: 0,
            max_tombstones,
            digest: SetDigest::default(),
        }
    }

    pub fn epoch(&self) -> &Bytes {
        &self.epoch
    }

    pub fn head(&self) -> u64 {
        self.head
    }

    pub fn digest(&self) -> SetDigest {
        self.digest
    }

    /// How many keys are not tombstones.
    pub fn live(&self) -> usize {
        self.by_key.len() - self.tombstones
    }

    /// Says something new of `key`.
    pub fn record(&mut self, key: &str, said: Said, source_time: SystemTime) {
        let known = self.by_key.get(key).cloned();
        if known.is_none() && matches!(said, Said::Gone(_)) {
            return;
        }
        if let Some(known) = &known {
            self.by_revision.remove(&known.revision);
            match known.said {
                Said::Put(_) => self.digest.toggle(key, known.revision),
                Said::Gone(_) => self.tombstones -= 1,
            }
        }
        self.head += 1;
        match said {
            Said::Put(_) => self.digest.toggle(key, self.head),
            Said::Gone(_) => self.tombstones += 1,
        }
        let key = known.map_or_else(|| Arc::from(key), |known| known.key.clone());
        let entry = Arc::new(Entry { key: key.clone(), revision: self.head, source_time, said });
        self.by_revision.insert(self.head, entry.clone());
        self.by_key.insert(key, entry);
        self.forget();
    }

    fn forget(&mut self) {
        while self.tombstones > self.max_tombstones {
            let oldest = self.by_revision.iter().find(|(_, entry)| matches!(entry.said, Said::Gone(_)));
            let Some((revision, key)) = oldest.map(|(revision, entry)| (*revision, entry.key.clone())) else { return };
            self.by_revision.remove(&revision);
            self.by_key.remove(&key);
            self.tombstones -= 1;
            self.floor = revision;
        }
    }

    /// The first statement after `seq` that still stands.
    pub fn after(&self, seq: u64) -> Option<&Arc<Entry>> {
        self.by_revision.range(seq.checked_add(1)?..).next().map(|(_, entry)| entry)
    }

    /// Whether all that happened after this cursor can still be told.
    pub fn can_resume(&self, cursor: &wire::Cursor) -> bool {
        cursor.epoch == self.epoch
            && (self.floor..=self.head).contains(&cursor.seq)
            && (cursor.seq != self.head || self.digest.is(&cursor.set_digest))
    }

    /// A subscriber that heard of an earlier life of ours holds revisions up to `cursor.seq`. If ours do not all lie above, they
    /// are numbered anew, in an epoch of their own: a revision never moves backwards (invariant I4).
    pub fn adopt(&mut self, cursor: &wire::Cursor, epoch: impl FnOnce() -> Bytes) {
        let ahead = if cursor.epoch == self.epoch { cursor.seq > self.head } else { cursor.seq > self.base };
        if !ahead || cursor.seq > MAX_SEQUENCE {
            return;
        }
        let mut anew = Self::new(epoch(), cursor.seq, self.max_tombstones);
        for entry in self.snapshot() {
            anew.record(&entry.key, entry.said.clone(), entry.source_time);
        }
        *self = anew;
    }

    /// Every live statement, what others need first.
    pub fn snapshot(&self) -> Vec<Arc<Entry>> {
        let live = self.by_key.values().filter(|entry| matches!(entry.said, Said::Put(_)));
        let mut entries: Vec<_> = live.cloned().collect();
        entries.sort_by_key(|entry| class(&entry.key));
        entries
    }
}

impl Entry {
    /// As it travels.
    pub fn to_wire(&self) -> wire::Change {
        wire::Change {
            seq: self.revision,
            source_time: Some(self.source_time.into()),
            key: self.key.to_string(),
            revision: self.revision,
            sig: Bytes::new(),
            op: Some(match &self.said {
                Said::Put(resource) => wire::change::Op::Put(wire::Resource::clone(resource)),
                Said::Gone(why) => wire::change::Op::Del(wire::Tombstone { why: (*why).into() }),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn put(n: u64) -> Said {
        let capacity = wire::Capacity { service: "a.b".into(), capacity: n };
        Said::Put(Arc::new(wire::Resource { r: Some(wire::resource::R::Capacity(capacity)) }))
    }

    fn log(max_tombstones: usize) -> Log {
        Log::new(Bytes::from_static(b"one"), 100, max_tombstones)
    }

    fn cursor(log: &Log, seq: u64) -> wire::Cursor {
        let digest = if seq == log.head() { log.digest().bytes() } else { Bytes::new() };
        wire::Cursor { epoch: log.epoch().clone(), seq, set_digest: digest }
    }

    /// What somebody who applies everything after `from` to `held` ends up with.
    fn follow(log: &Log, from: u64, mut held: BTreeMap<Arc<str>, u64>) -> BTreeMap<Arc<str>, u64> {
        let mut at = from;
        while let Some(entry) = log.after(at) {
            at = entry.revision;
            match entry.said {
                Said::Put(_) => held.insert(entry.key.clone(), entry.revision),
                Said::Gone(_) => held.remove(&entry.key),
            };
        }
        held
    }

    proptest! {
        #[test]
        fn resuming_anywhere_in_the_window_ends_where_the_log_is(
            steps in prop::collection::vec((0u8..6, any::<bool>()), 1..60), at in 0usize..60, max in 0usize..8,
        ) {
            let mut log = log(max);
            let mut held = BTreeMap::new();
            let mut from = log.head();
            for (n, (key, gone)) in steps.iter().enumerate() {
                if n == at {
                    held = follow(&log, from, held);
                    from = log.head();
                }
                let said = if *gone { Said::Gone(Why::Deleted) } else { put(1) };
                log.record(&format!("capacity/a{key}.b"), said, UNIX_EPOCH);
            }
            let live: BTreeMap<Arc<str>, u64> = log.snapshot().iter().map(|e| (e.key.clone(), e.revision)).collect();
            let mut digest = SetDigest::default();
            live.iter().for_each(|(key, revision)| digest.toggle(key, *revision));
            prop_assert_eq!(digest, log.digest());
            prop_assert_eq!(live.len(), log.live());
            if log.can_resume(&cursor(&log, from)) {
                prop_assert_eq!(follow(&log, from, held), live);
            }
        }
    }

    #[test]
    fn overtaken_changes_are_not_told() {
        let mut log = log(TOMBSTONES);
        for n in 0..1000 {
            log.record("capacity/a.b", put(n), UNIX_EPOCH);
        }
        log.record("capacity/c.d", put(0), UNIX_EPOCH);
        let first = log.after(100).expect("something");
        assert_eq!((first.revision, &first.said), (1100, &put(999)));
        assert_eq!(log.after(1100).map(|e| e.revision), Some(1101));
        assert!(log.after(1101).is_none() && log.after(u64::MAX).is_none());
    }

    #[test]
    fn what_cannot_be_resumed_needs_a_snapshot() {
        let mut log = log(1);
        for key in ["capacity/a.b", "capacity/c.d"] {
            log.record(key, put(0), UNIX_EPOCH);
        }
        assert!(log.can_resume(&cursor(&log, 100)) && log.can_resume(&cursor(&log, 102)));
        assert!(!log.can_resume(&cursor(&log, 99)) && !log.can_resume(&cursor(&log, 103)));
        let other = wire::Cursor { epoch: Bytes::from_static(b"two"), ..cursor(&log, 101) };
        assert!(!log.can_resume(&other));
        let differs = wire::Cursor { set_digest: Bytes::from_static(b"x"), ..cursor(&log, 102) };
        assert!(!log.can_resume(&differs), "same place, another set");
        for key in ["capacity/a.b", "capacity/c.d"] {
            log.record(key, Said::Gone(Why::Deleted), UNIX_EPOCH);
        }
        assert!(!log.can_resume(&cursor(&log, 102)), "the first tombstone is forgotten");
        assert!(log.can_resume(&cursor(&log, 103)));
    }

    #[test]
    fn a_revision_never_moves_backwards() {
        let mut log = log(TOMBSTONES);
        log.record("capacity/a.b", put(0), UNIX_EPOCH);
        let two = || Bytes::from_static(b"two");
        let ahead = |seq| wire::Cursor { epoch: Bytes::from_static(b"zero"), seq, set_digest: Bytes::new() };
        log.adopt(&ahead(100), two);
        assert_eq!(log.epoch(), "one", "nothing to renumber: all of ours lie above");
        log.adopt(&ahead(MAX_SEQUENCE + 1), two);
        assert_eq!(log.epoch(), "one", "no sequence at all");
        log.adopt(&ahead(5_000), two);
        assert_eq!((log.epoch().as_ref(), log.head()), (b"two".as_ref(), 5_001));
        assert_eq!(log.snapshot()[0].revision, 5_001);
    }
}
