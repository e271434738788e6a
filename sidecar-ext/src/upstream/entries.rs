//! The entries of this node, folded from what the control plane says, and their copy on disk: the full state once, then each change
//! behind it, so that a change costs what it says and not what is held.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node as wire;

use crate::identity::Entry;
use crate::keep::{Keep, KeepError};

const FILE: &str = "entries.log";
/// Entries of one node.
const MAX_ENTRIES: usize = 20_000;
/// Changes are appended until they are this long, and longer than the full state before them.
const MIN_CHANGES_BYTES: usize = 256 << 10;

/// All entries of this node that it may serve, in the order of their ids.
pub type EntryList = Arc<[Arc<Entry>]>;

/// What the control plane said last of each entry, in the order of their ids, so that a caller's default identity is the same
/// whichever way it was said.
#[derive(Debug)]
pub(super) struct Entries {
    trust_domain: TrustDomain,
    /// `None`: said, and nothing that this node may serve.
    held: BTreeMap<String, (wire::Entry, Option<Arc<Entry>>)>,
}

/// Why a statement is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("more than {MAX_ENTRIES} entries for one node; those held are kept")]
    TooMany,
    #[error("a change of entries before all of them")]
    NoFull,
}

/// What taking a statement did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub changed: bool,
    /// Ids and names of new entries that this node may not serve.
    pub ignored: Vec<(String, String)>,
}

impl Entries {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, held: BTreeMap::new() }
    }

    /// Folds one message. What is the same as before stays the same allocation.
    ///
    /// # Errors
    /// If there would be too many; nothing changes.
    pub(super) fn take(&mut self, said: wire::Entries) -> Result<Taken, Refused> {
        let mut taken = Taken::default();
        if said.full {
            if said.entries.len() > MAX_ENTRIES {
                return Err(Refused::TooMany);
            }
            let mut before = std::mem::take(&mut self.held);
            for entry in said.entries {
                match before.remove_entry(&entry.entry_id) {
                    Some((id, same)) if same.0 == entry => drop(self.held.insert(id, same)),
                    _ => self.put(entry, &mut taken),
                }
            }
            taken.changed |= !before.is_empty();
            return Ok(taken);
        }
        let new = said.entries.iter().filter(|entry| !self.held.contains_key(&entry.entry_id)).count();
        let gone = said.removed.iter().filter(|id| self.held.contains_key(*id)).count();
        if (self.held.len() + new).saturating_sub(gone) > MAX_ENTRIES {
            return Err(Refused::TooMany);
        }
        for id in said.removed {
            taken.changed |= self.held.remove(&id).is_some();
        }
        for entry in said.entries {
            if self.held.get(&entry.entry_id).is_none_or(|(held, _)| *held != entry) {
                self.put(entry, &mut taken);
            }
        }
        Ok(taken)
    }

    fn put(&mut self, entry: wire::Entry, taken: &mut Taken) {
        let parsed = Entry::parse(&entry, &self.trust_domain).map(Arc::new);
        if parsed.is_none() {
            taken.ignored.push((entry.entry_id.clone(), entry.spiffe_id.clone()));
        }
        taken.changed = true;
        self.held.insert(entry.entry_id.clone(), (entry, parsed));
    }

    /// Those that may be served.
    pub(super) fn list(&self) -> EntryList {
        self.held.values().filter_map(|(_, parsed)| parsed.clone()).collect()
    }

    fn full(&self) -> wire::Entries {
        let entries = self.held.values().map(|(entry, _)| entry.clone()).collect();
        wire::Entries { entries, removed: Vec::new(), full: true }
    }
}

impl Refused {
    /// A fixed word for metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::TooMany => "too_many_entries",
            Self::NoFull => "no_full_entries",
        }
    }
}

/// The copy on disk.
#[derive(Debug)]
pub(super) struct Journal {
    keep: Keep,
    full_bytes: usize,
    change_bytes: usize,
}

impl Journal {
    pub(super) fn new(keep: Keep) -> Self {
        // Nothing there yet: the first change writes the full state.
        Self { keep, full_bytes: 0, change_bytes: usize::MAX }
    }

    /// Folds what a former run wrote down; false if there is nothing. A file that a crash cut short is read up to there.
    ///
    /// # Errors
    /// If the file is there and may not be used.
    pub(super) fn restore(&self, into: &mut Entries) -> Result<bool, KeepError> {
        let Some(content) = self.keep.load(FILE)? else { return Ok(false) };
        let mut rest = content.as_slice();
        let mut any = false;
        while let Ok(said) = wire::Entries::decode_length_delimited(&mut rest) {
            if !any && !said.full {
                break; // not a file of ours
            }
            any = true;
            let _ = into.take(said); // what was held once is not too many
            if rest.is_empty() {
                break;
            }
        }
        Ok(any)
    }

    /// Writes a change down behind the others, or all that is held in their place. Of a change only a crash of the machine loses
    /// the last: the control plane says it again.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&mut self, change: &[u8], held: &Entries) -> Result<(), KeepError> {
        let most = self.full_bytes.max(MIN_CHANGES_BYTES);
        if self.change_bytes.saturating_add(change.len()) <= most {
            self.keep.append(FILE, change)?;
            self.change_bytes += change.len();
            return Ok(());
        }
        let full = held.full().encode_length_delimited_to_vec();
        self.keep.save(FILE, &full)?;
        (self.full_bytes, self.change_bytes) = (full.len(), 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(id: &str, ttl_seconds: u32) -> wire::Entry {
        wire::Entry {
            entry_id: id.into(),
            spiffe_id: format!("spiffe://a.example/{id}"),
            selectors: vec!["unix:uid:1".into()],
            ttl_seconds,
            ..wire::Entry::default()
        }
    }

    fn full(entries: &[wire::Entry]) -> wire::Entries {
        wire::Entries { entries: entries.to_vec(), removed: Vec::new(), full: true }
    }

    fn delta(entries: &[wire::Entry], removed: &[&str]) -> wire::Entries {
        let removed = removed.iter().map(ToString::to_string).collect();
        wire::Entries { entries: entries.to_vec(), removed, full: false }
    }

    fn entries() -> Entries {
        Entries::new("a.example".parse().unwrap())
    }

    fn ids(of: &Entries) -> Vec<String> {
        of.list().iter().map(|entry| entry.id.to_string()).collect()
    }

    #[test]
    fn all_first_then_what_has_changed_and_nothing_else_is_withdrawn() {
        let mut held = entries();
        assert!(held.take(full(&[entry("b", 0), entry("c", 0)])).unwrap().changed);
        let before = held.list();
        assert!(held.take(delta(&[entry("a", 0), entry("c", 60)], &[])).unwrap().changed);
        assert_eq!(ids(&held), ["a", "b", "c"]);
        let after = held.list();
        assert!(Arc::ptr_eq(&before[0], &after[1]), "what did not change is the same");
        assert_eq!(after[2].ttl_seconds, 60);
        assert!(!held.take(delta(&[entry("a", 0)], &["nobody"])).unwrap().changed);
        assert!(held.take(delta(&[], &["b"])).unwrap().changed);
        assert_eq!(ids(&held), ["a", "c"]);
        assert!(!held.take(full(&[entry("c", 60), entry("a", 0)])).unwrap().changed, "the same in another order");
        assert!(held.take(full(&[entry("c", 60)])).unwrap().changed, "absent from all of them is gone");
        assert_eq!(ids(&held), ["c"]);
    }

    #[test]
    fn what_may_not_be_served_is_said_once_and_too_many_change_nothing() {
        let mut held = entries();
        let foreign = wire::Entry { spiffe_id: "spiffe://b.example/w".into(), ..entry("f", 0) };
        let taken = held.take(full(&[entry("a", 0), foreign.clone()])).unwrap();
        assert_eq!(taken.ignored, [("f".to_owned(), "spiffe://b.example/w".to_owned())]);
        assert_eq!(held.take(delta(&[foreign], &[])).unwrap(), Taken::default());
        let many: Vec<_> = (0..=MAX_ENTRIES).map(|at| entry(&format!("m{at}"), 0)).collect();
        assert_eq!(held.take(full(&many)), Err(Refused::TooMany));
        assert_eq!(held.take(delta(&many, &[])), Err(Refused::TooMany));
        assert_eq!(ids(&held), ["a"]);
    }

    proptest! {
        /// Whatever is said and in whichever steps it is written down, a restart reads what was held; also if the last write was
        /// cut short, up to it.
        #[test]
        fn what_is_written_down_is_read_back(
            steps in proptest::collection::vec((any::<bool>(), proptest::collection::vec((0..8_u8, 0..3_u32), 0..6), proptest::collection::vec(0..8_u8, 0..4)), 1..12),
            cut in 0..20_usize,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let keep = Keep::open(&dir.path().join("d")).unwrap();
            let (mut held, mut journal) = (entries(), Journal::new(keep.clone()));
            let mut states = vec![Vec::new()];
            for (is_full, put, removed) in steps {
                let put: BTreeMap<_, _> = put.into_iter().collect();
                let said = wire::Entries {
                    entries: put.into_iter().map(|(id, ttl)| entry(&id.to_string(), ttl)).collect(),
                    removed: if is_full { Vec::new() } else { removed.iter().map(ToString::to_string).collect() },
                    full: is_full,
                };
                let bytes = said.encode_length_delimited_to_vec();
                held.take(said).unwrap();
                journal.write(&bytes, &held).unwrap();
                states.push(held.list().to_vec());
            }
            let mut again = entries();
            prop_assert!(Journal::new(keep.clone()).restore(&mut again).unwrap());
            prop_assert_eq!(again.list(), held.list());
            let content = keep.load(FILE).unwrap().unwrap();
            keep.save(FILE, &content[..content.len().saturating_sub(cut)]).unwrap();
            let mut torn = entries();
            let any = Journal::new(keep).restore(&mut torn).unwrap();
            prop_assert!(!any || states.contains(&torn.list().to_vec()));
        }
    }

    #[test]
    fn a_change_is_appended_and_the_file_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(&dir.path().join("d")).unwrap();
        let (mut held, mut journal) = (entries(), Journal::new(keep));
        let size = || std::fs::metadata(dir.path().join("d").join(FILE)).unwrap().len() as usize;
        let mut say = |said: wire::Entries| {
            let bytes = said.encode_length_delimited_to_vec();
            held.take(said).unwrap();
            journal.write(&bytes, &held).unwrap();
            bytes.len()
        };
        say(full(&(0..1000).map(|at| entry(&format!("e{at}"), 0)).collect::<Vec<_>>()));
        let before = size();
        let change = say(delta(&[entry("e1", 1)], &[]));
        assert_eq!(size(), before + change);
        for ttl in 0..6000 {
            say(delta(&[entry("e1", ttl)], &[]));
        }
        assert!(size() < before + MIN_CHANGES_BYTES + change, "{}", size());
    }
}
