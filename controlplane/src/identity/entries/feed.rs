//! What one node is told of its entries: all of them first, then what has changed, each change once.

use std::collections::HashMap;
use std::sync::Arc;

use super::table::Marks;
use super::{Entries, Entry};
use crate::model::NodeName;

/// One node's view of the entries, as it was told.
#[derive(Debug)]
pub struct Feed {
    entries: Entries,
    key: u64,
    marks: Arc<Marks<Arc<str>>>,
    /// What the node was told, by revision.
    told: HashMap<Arc<str>, u64>,
}

/// What the node does not know yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// New, or in place of the one with this id.
    pub changed: Vec<Arc<Entry>>,
    pub removed: Vec<Arc<str>>,
}

impl Feed {
    pub(super) fn new(entries: Entries, node: &NodeName) -> Self {
        let (key, marks) = entries.listen(node);
        Self { entries, key, marks, told: HashMap::new() }
    }

    /// Everything that the node may have now; from here on [`Feed::next`] tells what changes.
    pub fn all(&mut self) -> Vec<Arc<Entry>> {
        let all = self.entries.heard_by(self.key);
        self.told = all.iter().map(|entry| (entry.id.clone(), entry.revision)).collect();
        all
    }

    /// What the node was told and still has, as it was told; what has changed since comes by [`Feed::next`].
    pub fn told(&self) -> Vec<Arc<Entry>> {
        let mut all = self.entries.heard_by(self.key);
        all.retain(|entry| self.told.get(&entry.id) == Some(&entry.revision));
        all
    }

    /// The next change, as soon as there is one; several at once if they came faster than they were asked for. May be dropped and
    /// called again: nothing is lost by it.
    pub async fn next(&mut self) -> Delta {
        loop {
            let marked = self.marks.take().await;
            // From here on nothing awaits: what was taken is told.
            let mut delta = Delta::default();
            for (id, entry) in self.entries.heard(self.key, marked) {
                match entry {
                    Some(entry) if self.told.get(&id) == Some(&entry.revision) => {}
                    Some(entry) => {
                        self.told.insert(id, entry.revision);
                        delta.changed.push(entry);
                    }
                    None => delta.removed.extend(self.told.remove(&id).map(|_| id)),
                }
            }
            if delta != Delta::default() {
                return delta;
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.entries.forget(self.key);
    }
}
