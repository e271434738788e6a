//! Why a caller gets an identity, or does not: the entries that it meets, the nearest of the others, and what they lack, in words.

use std::sync::Arc;

use symbolon_proto::selector::{Selector, Selectors};

use super::{Entry, Parent};

/// The most entries that are told as near.
const NEAREST: usize = 5;

/// What became of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub granted: Vec<Arc<Entry>>,
    /// Nearest first.
    pub nearest: Vec<NearMiss>,
}

/// An entry that the caller does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    pub entry: Arc<Entry>,
    /// Its selectors that the caller does not have.
    pub missing: Vec<Selector>,
    pub why: String,
}

/// How an entry stands to the node of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The node may have it.
    Here,
    /// It may not; in words.
    Not(String),
}

/// Explains `caller` by all workload entries, each with its standing.
pub(super) fn explain(entries: impl Iterator<Item = (Arc<Entry>, Standing)>, caller: &Selectors) -> Explanation {
    let (mut granted, mut near) = (Vec::new(), Vec::new());
    for (entry, standing) in entries {
        let missing: Vec<Selector> = entry.selectors.difference(caller).cloned().collect();
        if missing.is_empty() && standing == Standing::Here {
            granted.push(entry);
            continue;
        }
        let met = entry.selectors.len() - missing.len();
        let elsewhere = standing != Standing::Here;
        near.push(((missing.len() + usize::from(elsewhere), elsewhere, usize::MAX - met), entry, missing, standing));
    }
    near.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.id.cmp(&b.1.id)));
    let nearest = near.into_iter().take(NEAREST).map(|(_, entry, missing, standing)| {
        let mut words: Vec<String> = missing.iter().map(|selector| differs(selector, caller)).collect();
        if let Standing::Not(why) = standing {
            words.push(why);
        }
        NearMiss { entry, missing, why: words.join("; ") }
    });
    Explanation { granted, nearest: nearest.collect() }
}

/// What the caller has instead.
fn differs(wanted: &Selector, caller: &Selectors) -> String {
    let has: Vec<&str> = caller.iter().filter(|one| one.prefix() == wanted.prefix()).map(Selector::as_str).collect();
    match has.as_slice() {
        [] => format!("the entry wants {wanted}, the caller has no {}", wanted.prefix().trim_end_matches(':')),
        has => format!("the caller has {}, the entry wants {wanted}", has.join(", ")),
    }
}

/// In words, why a node may not have an entry of this parent; `None` if it is a node's by name or by alias.
pub(super) fn elsewhere(parent: &Parent, node: Option<&str>, alias_names_it: bool, alias_exists: bool) -> Standing {
    match (parent, node) {
        (Parent::ControlPlane, _) => Standing::Not("it names nodes, not workloads".into()),
        (_, None) => Standing::Here,
        (Parent::Node(of), Some(node)) if of.as_str() == node => Standing::Here,
        (Parent::Node(of), Some(node)) => {
            Standing::Not(format!("it is registered for node {of}, the caller is on {node}"))
        }
        (Parent::Alias(_), Some(_)) if alias_names_it => Standing::Here,
        (Parent::Alias(alias), Some(_)) if !alias_exists => {
            Standing::Not(format!("its parent {alias} is no node alias that is registered"))
        }
        (Parent::Alias(alias), Some(node)) => Standing::Not(format!("its parent {alias} does not name node {node}")),
    }
}
