//! All entries in memory, found by what is asked of them, and who is told of a change: a change of one entry costs what that
//! entry's audience costs, however many others there are.
//!
//! ```text
//!              put, remove ──► entries ──► by parent ──► listeners of that node, or of that alias ──► marked, woken
//!  put, remove of an alias ──► the listeners whose node it names (or named) ──► the entries below it ──► marked, woken
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use symbolon_proto::ids::SpiffeId;
use symbolon_proto::selector::Selectors;
use tokio::sync::Notify;

use super::{Entry, Parent};
use crate::model::NodeName;

type Ids = BTreeSet<Arc<str>>;

/// Entries and their indices; one lock around it, held for as long as a map is read or written.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    by_parent: HashMap<Parent, Ids>,
    by_spiffe_id: HashMap<SpiffeId, Ids>,
    expiries: BTreeSet<(i64, Arc<str>)>,
    listeners: BTreeMap<u64, Listener>,
    by_node: HashMap<NodeName, BTreeSet<u64>>,
    by_alias: HashMap<SpiffeId, BTreeSet<u64>>,
    next_listener: u64,
    /// Identities of which an entry is different.
    pub(super) touched: Arc<Marks<SpiffeId>>,
}

/// What somebody has still to look at, and what wakes them.
#[derive(Debug)]
pub(super) struct Marks<T> {
    marked: Mutex<BTreeSet<T>>,
    wake: Notify,
}

/// A node's conversation.
#[derive(Debug)]
struct Listener {
    node: NodeName,
    /// Aliases that name the node.
    aliases: BTreeSet<SpiffeId>,
    marks: Arc<Marks<Arc<str>>>,
}

// === impl Marks ===

impl<T> Default for Marks<T> {
    fn default() -> Self {
        Self { marked: Mutex::default(), wake: Notify::new() }
    }
}

impl<T: Ord> Marks<T> {
    pub(super) fn mark(&self, what: impl IntoIterator<Item = T>) {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner).extend(what);
        self.wake.notify_one();
    }

    /// Everything marked since the last call, as soon as there is something. Nothing is lost if the future is dropped.
    pub(super) async fn take(&self) -> BTreeSet<T> {
        loop {
            let marked = std::mem::take(&mut *self.marked.lock().unwrap_or_else(PoisonError::into_inner));
            if !marked.is_empty() {
                return marked;
            }
            self.wake.notified().await;
        }
    }
}

// === impl Table ===

impl Table {
    pub(super) fn get(&self, id: &str) -> Option<&Arc<Entry>> {
        self.entries.get(id)
    }

    pub(super) fn all(&self) -> &BTreeMap<Arc<str>, Arc<Entry>> {
        &self.entries
    }

    pub(super) fn of_identity(&self, id: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        self.by_spiffe_id.get(id).into_iter().flatten().filter_map(|id| self.entries.get(id))
    }

    pub(super) fn of_parent(&self, parent: &Parent) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        self.by_parent.get(parent).into_iter().flatten().filter_map(|id| self.entries.get(id))
    }

    pub(super) fn count(&self, parent: &Parent) -> usize {
        self.by_parent.get(parent).map_or(0, BTreeSet::len)
    }

    /// The aliases that name a node of which this is true.
    pub(super) fn aliases(&self, node: &Selectors, now: i64) -> BTreeSet<SpiffeId> {
        let aliases = self.of_parent(&Parent::ControlPlane);
        let named = aliases.filter(|alias| alias.is_current(now) && alias.selectors.is_subset(node));
        named.map(|alias| alias.spiffe_id.clone()).collect()
    }

    /// Everything that a node named by these aliases may have, in the order of the ids.
    pub(super) fn visible(&self, node: &NodeName, aliases: &BTreeSet<SpiffeId>, now: i64) -> Vec<Arc<Entry>> {
        let own = self.of_parent(&Parent::Node(node.clone()));
        let shared = aliases.iter().flat_map(|alias| self.of_parent(&Parent::Alias(alias.clone())));
        let mut visible: Vec<_> = own.chain(shared).filter(|entry| entry.is_current(now)).cloned().collect();
        visible.sort_by(|a, b| a.id.cmp(&b.id));
        visible
    }

    /// The shortest lifetime of SVIDs of this identity, if that is not the `usual` one of all.
    pub(super) fn lifetime(&self, id: &SpiffeId, usual: Duration) -> Option<Duration> {
        let workloads = self.of_identity(id).filter(|entry| !entry.is_alias());
        workloads.map(|entry| entry.ttl.unwrap_or(usual)).min().filter(|ttl| *ttl != usual)
    }

    /// Identities of which an entry gives a lifetime.
    pub(super) fn with_ttl(&self) -> BTreeSet<SpiffeId> {
        self.entries.values().filter(|entry| entry.ttl.is_some()).map(|entry| entry.spiffe_id.clone()).collect()
    }

    /// When the next entry expires.
    pub(super) fn next_expiry(&self) -> Option<i64> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// The entries that have expired.
    pub(super) fn expired(&self, now: i64) -> Vec<Arc<Entry>> {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now);
        due.filter_map(|(_, id)| self.entries.get(id).cloned()).collect()
    }

    /// Puts an entry in, in place of the one with its id.
    pub(super) fn put(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let before = self.take_out(&entry.id);
        self.by_parent.entry(entry.parent.clone()).or_default().insert(entry.id.clone());
        self.by_spiffe_id.entry(entry.spiffe_id.clone()).or_default().insert(entry.id.clone());
        self.expiries.extend(entry.expires_at.map(|at| (at, entry.id.clone())));
        self.entries.insert(entry.id.clone(), entry);
        before
    }

    fn take_out(&mut self, id: &str) -> Option<Arc<Entry>> {
        let entry = self.entries.remove(id)?;
        drop_from(&mut self.by_parent, &entry.parent, &entry.id);
        drop_from(&mut self.by_spiffe_id, &entry.spiffe_id, &entry.id);
        if let Some(at) = entry.expires_at {
            self.expiries.remove(&(at, entry.id.clone()));
        }
        Some(entry)
    }

    /// Puts all of `put` in and takes all of `remove` out, then tells everybody concerned.
    pub(super) fn change(
        &mut self,
        put: Vec<Arc<Entry>>,
        remove: &[Arc<Entry>],
        facts: &impl Fn(&NodeName) -> Selectors,
        now: i64,
    ) {
        let mut concerned: Vec<Arc<Entry>> = Vec::with_capacity(put.len() + remove.len());
        for entry in put {
            concerned.extend(self.put(entry.clone()));
            concerned.push(entry);
        }
        concerned.extend(remove.iter().filter_map(|entry| self.take_out(&entry.id)));
        self.touched.mark(concerned.iter().map(|entry| entry.spiffe_id.clone()));
        self.tell(&concerned);
        if concerned.iter().any(|entry| entry.is_alias()) {
            let all: Vec<u64> = self.listeners.keys().copied().collect();
            all.into_iter().for_each(|key| self.regroup(key, facts, now));
        }
    }

    /// Something that hides an entry happened without a change of it: it expired.
    pub(super) fn expire(&mut self, due: &[Arc<Entry>], facts: &impl Fn(&NodeName) -> Selectors, now: i64) {
        self.tell(due);
        if due.iter().any(|entry| entry.is_alias()) {
            let all: Vec<u64> = self.listeners.keys().copied().collect();
            all.into_iter().for_each(|key| self.regroup(key, facts, now));
        }
    }

    /// Marks the entries for the listeners that have them, or may.
    fn tell(&self, concerned: &[Arc<Entry>]) {
        let mut marks: BTreeMap<u64, Vec<Arc<str>>> = BTreeMap::new();
        for entry in concerned {
            let listeners = match &entry.parent {
                Parent::Node(node) => self.by_node.get(node),
                Parent::Alias(alias) => self.by_alias.get(alias),
                Parent::ControlPlane => None,
            };
            for key in listeners.into_iter().flatten() {
                marks.entry(*key).or_default().push(entry.id.clone());
            }
        }
        for (key, ids) in marks {
            if let Some(listener) = self.listeners.get(&key) {
                listener.marks.mark(ids);
            }
        }
    }

    // === listeners ===

    /// A new listener; it begins with nothing marked.
    pub(super) fn listen(&mut self, node: &NodeName, facts: &Selectors, now: i64) -> (u64, Arc<Marks<Arc<str>>>) {
        let key = self.next_listener;
        self.next_listener += 1;
        let (aliases, marks) = (self.aliases(facts, now), Arc::<Marks<Arc<str>>>::default());
        self.by_node.entry(node.clone()).or_default().insert(key);
        for alias in &aliases {
            self.by_alias.entry(alias.clone()).or_default().insert(key);
        }
        self.listeners.insert(key, Listener { node: node.clone(), aliases, marks: marks.clone() });
        (key, marks)
    }

    pub(super) fn forget(&mut self, key: u64) {
        let Some(listener) = self.listeners.remove(&key) else { return };
        drop_from(&mut self.by_node, &listener.node, &key);
        for alias in &listener.aliases {
            drop_from(&mut self.by_alias, alias, &key);
        }
    }

    /// What a listener's node may have.
    pub(super) fn heard_by(&self, key: u64, now: i64) -> Vec<Arc<Entry>> {
        self.listeners.get(&key).map_or_else(Vec::new, |one| self.visible(&one.node, &one.aliases, now))
    }

    /// The entry, if a listener's node may have it.
    pub(super) fn heard(&self, key: u64, id: &str, now: i64) -> Option<Arc<Entry>> {
        let (listener, entry) = (self.listeners.get(&key)?, self.entries.get(id)?);
        let may = match &entry.parent {
            Parent::Node(node) => *node == listener.node,
            Parent::Alias(alias) => listener.aliases.contains(alias),
            Parent::ControlPlane => false,
        };
        (may && entry.is_current(now)).then(|| entry.clone())
    }

    /// What is true of `node` may be different now.
    pub(super) fn regroup_node(&mut self, node: &NodeName, facts: &impl Fn(&NodeName) -> Selectors, now: i64) {
        let keys: Vec<u64> = self.by_node.get(node).into_iter().flatten().copied().collect();
        keys.into_iter().for_each(|key| self.regroup(key, facts, now));
    }

    /// Finds the aliases of a listener's node anew, and marks the entries below those that came or went.
    fn regroup(&mut self, key: u64, facts: &impl Fn(&NodeName) -> Selectors, now: i64) {
        let Some(listener) = self.listeners.get(&key) else { return };
        let (aliases, marks) = (self.aliases(&facts(&listener.node), now), listener.marks.clone());
        let differ: Vec<SpiffeId> = aliases.symmetric_difference(&listener.aliases).cloned().collect();
        if differ.is_empty() {
            return;
        }
        for alias in &differ {
            if aliases.contains(alias) {
                self.by_alias.entry(alias.clone()).or_default().insert(key);
            } else {
                drop_from(&mut self.by_alias, alias, &key);
            }
        }
        let below = differ.iter().flat_map(|alias| self.of_parent(&Parent::Alias(alias.clone())));
        marks.mark(below.map(|entry| entry.id.clone()).collect::<Vec<_>>());
        if let Some(listener) = self.listeners.get_mut(&key) {
            listener.aliases = aliases;
        }
    }
}

fn drop_from<K: std::hash::Hash + Eq, V: Ord>(index: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}
