//! What has to change for the registered entries to be those that a file names. Pure: the dry run and the real one are the same
//! plan.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use symbolon_proto::ids::SpiffeId;
use symbolon_proto::selector::Selectors;

use super::{Entry, Parent, Refused};

/// The difference between what is and what is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub create: Vec<Arc<Entry>>,
    /// Before and after; the id stays.
    pub change: Vec<(Arc<Entry>, Arc<Entry>)>,
    pub delete: Vec<Arc<Entry>>,
    pub unchanged: usize,
}

/// What makes two registrations the same one.
type Identity<'a> = (&'a SpiffeId, &'a Parent, &'a Selectors);

fn identity(entry: &Entry) -> Identity<'_> {
    (&entry.spiffe_id, &entry.parent, &entry.selectors)
}

/// Plans. Each wanted entry comes with a fresh id, and with the id that the file gives it, if any: an entry with that id is changed
/// whatever it says; else the one of the same identity, parent and selectors is meant; else it is new.
pub(super) fn plan(
    known: &BTreeMap<Arc<str>, Arc<Entry>>,
    wanted: Vec<(Option<String>, Entry)>,
    prune: bool,
) -> Result<Plan, Refused> {
    if prune && wanted.is_empty() && !known.is_empty() {
        return Err(Refused::PruneAll);
    }
    let by_identity: HashMap<Identity<'_>, &Arc<Entry>> =
        known.values().map(|entry| (identity(entry), entry)).collect();
    let (mut plan, mut kept, mut after) = (Plan::default(), BTreeSet::new(), HashSet::new());
    for (index, (id, mut entry)) in wanted.into_iter().enumerate() {
        let twice = |entry: &Entry| Refused::Item {
            index,
            spiffe_id: entry.spiffe_id.to_string(),
            why: Box::new(Refused::Twice),
        };
        let named = id.and_then(|id| known.get(id.as_str()));
        let Some(before) = named.or_else(|| by_identity.get(&identity(&entry)).copied()) else {
            let entry = Arc::new(entry);
            if !after.insert(ByIdentity(entry.clone())) {
                return Err(twice(&entry));
            }
            plan.create.push(entry);
            continue;
        };
        (entry.id, entry.revision) = (before.id.clone(), before.revision);
        let entry = Arc::new(entry);
        if !kept.insert(before.id.clone()) || !after.insert(ByIdentity(entry.clone())) {
            return Err(twice(&entry));
        }
        if entry == *before {
            plan.unchanged += 1;
        } else {
            plan.change.push((before.clone(), entry));
        }
    }
    let mut left = known.values().filter(|entry| !kept.contains(&entry.id));
    if prune {
        plan.delete = left.cloned().collect();
    } else if let Some(clash) = left.find(|entry| after.contains(&ByIdentity((*entry).clone()))) {
        return Err(Refused::Exists(clash.id.clone()));
    }
    Ok(plan)
}

/// Hashed and compared by what makes it the same registration.
struct ByIdentity(Arc<Entry>);

impl std::hash::Hash for ByIdentity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        identity(&self.0).hash(state);
    }
}

impl PartialEq for ByIdentity {
    fn eq(&self, other: &Self) -> bool {
        identity(&self.0) == identity(&other.0)
    }
}

impl Eq for ByIdentity {}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.change.is_empty() && self.delete.is_empty()
    }
}
