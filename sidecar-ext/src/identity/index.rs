//! How a caller's entries are found without looking at all of them. Each entry lies under the one of its selectors that the fewest
//! entries share: a caller has that selector if it has them all, so what lies under a caller's selectors is all that can be its own.

use std::collections::HashMap;
use std::sync::Arc;

use symbolon_proto::ids::SpiffeId;

use super::Entry;
use crate::config::Workload;
use crate::selector::{Selector, Selectors};

/// Positions of entries by selector.
#[derive(Debug, Default)]
pub struct Index(HashMap<Selector, Vec<usize>>);

/// What the file of local workloads demands of whoever carries an identity, beyond its entry.
#[derive(Debug, Default)]
pub struct Narrowing(HashMap<SpiffeId, Vec<Selectors>>);

impl Index {
    pub fn new(entries: &[Arc<Entry>]) -> Self {
        let mut shared: HashMap<&Selector, usize> = HashMap::new();
        for selector in entries.iter().flat_map(|entry| &entry.selectors) {
            *shared.entry(selector).or_default() += 1;
        }
        let mut index: HashMap<Selector, Vec<usize>> = HashMap::new();
        for (at, entry) in entries.iter().enumerate() {
            if let Some(rarest) = entry.selectors.iter().min_by_key(|selector| shared.get(selector)) {
                index.entry(rarest.clone()).or_default().push(at);
            }
        }
        Self(index)
    }

    /// Where to look for this caller, in order.
    pub(super) fn candidates(&self, caller: &Selectors) -> Vec<usize> {
        let mut found: Vec<_> = caller.iter().filter_map(|selector| self.0.get(selector)).flatten().copied().collect();
        found.sort_unstable();
        found
    }
}

impl Narrowing {
    pub fn new(workloads: &[Workload]) -> Self {
        let mut by_identity: HashMap<_, Vec<_>> = HashMap::new();
        for workload in workloads {
            by_identity.entry(workload.identity.clone()).or_default().push(workload.selectors.clone());
        }
        Self(by_identity)
    }

    /// Workloads of the local file that carry this identity narrow it: the caller must be one of them.
    pub(super) fn allows(&self, id: &SpiffeId, caller: &Selectors) -> bool {
        self.0.get(id).is_none_or(|workloads| workloads.iter().any(|demanded| demanded.is_subset(caller)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{entry, selectors};

    proptest! {
        /// The index finds what a look at every entry would.
        #[test]
        fn it_leaves_nobody_out(
            entries in proptest::collection::vec(proptest::collection::btree_set(0..6_u32, 1..4), 0..20),
            caller in proptest::collection::btree_set(0..6_u32, 0..6),
        ) {
            let text = |uid: &u32| format!("unix:uid:{uid}");
            let entries: Vec<_> = entries.iter().enumerate().map(|(at, demanded)| {
                let demanded: Vec<_> = demanded.iter().map(text).collect();
                let demanded: Vec<_> = demanded.iter().map(String::as_str).collect();
                Arc::new(entry(&at.to_string(), "spiffe://a.example/w", &demanded))
            }).collect();
            let caller: Vec<_> = caller.iter().map(text).collect();
            let caller = selectors(&caller.iter().map(String::as_str).collect::<Vec<_>>());
            let own = |at: &usize| entries[*at].selectors.is_subset(&caller);
            let found: Vec<_> = Index::new(&entries).candidates(&caller).into_iter().filter(own).collect();
            let all: Vec<_> = (0..entries.len()).filter(own).collect();
            prop_assert_eq!(found, all);
        }
    }
}
