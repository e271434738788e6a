//! Who on this node is entitled to what: the entries of the control plane, narrowed by the file of local workloads, met by the
//! attested caller.

mod index;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use symbolon_kit::spiffe::svid::Svid;
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use symbolon_proto::node;
use tokio::sync::watch;

use crate::attest::Caller;
use crate::bundle::{Seen, Shelf};
use crate::selector::{Selector, Selectors};
pub use index::{Index, Narrowing};

/// Trust domains that one entry is federated with.
const MAX_FEDERATED: usize = 1000;

/// A registration entry of this node, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: Arc<str>,
    pub spiffe_id: SpiffeId,
    pub selectors: Selectors,
    pub ttl_seconds: u32,
    pub dns_names: Vec<String>,
    pub hint: String,
    pub jwt_ttl_seconds: u32,
    /// Whose bundles its workloads get beside their own; the control plane has resolved labels and defaults.
    pub federates_with: BTreeSet<TrustDomain>,
    /// From then on it is no entry any more.
    pub expires_at: Option<SystemTime>,
}

/// What is held for an entry.
#[derive(Clone, Debug)]
pub enum Holding {
    /// Asked for, not answered yet.
    Pending,
    /// Held and not expired.
    Valid(Arc<Svid>),
    /// Nothing to serve, and the last attempt failed.
    Failed,
}

/// One entry and what is held for it.
#[derive(Clone, Debug)]
pub struct Held {
    pub entry: Arc<Entry>,
    pub holding: Holding,
}

/// Everything that may be served, as one value; replaced whole by the SVID cache.
#[derive(Clone, Debug)]
pub struct View {
    pub trust_domain: TrustDomain,
    /// False until the control plane's entries, or last-known-good ones, are here.
    pub ready: bool,
    /// In the order of the entries; the first a caller matches is its default.
    pub held: Vec<Held>,
    /// Where in `held` to look for a caller.
    pub index: Arc<Index>,
    pub bundles: Arc<Shelf>,
    pub narrowing: Arc<Narrowing>,
    /// Whether WIT-SVIDs are served.
    pub incubating: bool,
}

/// Answers which identities a caller may claim; cheap to clone. For both sockets.
#[derive(Clone, Debug)]
pub struct Entitled(watch::Receiver<Arc<View>>);

impl Entry {
    /// Parses what the control plane says. `None` for what no honest control plane sends: an entry without selectors (it would be
    /// everybody's), of another trust domain, or of a reserved path.
    pub fn parse(entry: &node::Entry, trust_domain: &TrustDomain) -> Option<Self> {
        let spiffe_id = SpiffeId::workload(&entry.spiffe_id).ok()?;
        if spiffe_id.trust_domain() != trust_domain || spiffe_id.is_reserved() || entry.selectors.is_empty() {
            return None;
        }
        let federated = entry.federates_with.iter().take(MAX_FEDERATED).filter_map(|name| name.parse().ok());
        let expires_at = u64::try_from(entry.expires_at).ok().filter(|at| *at > 0);
        Some(Self {
            id: entry.entry_id.as_str().into(),
            spiffe_id,
            selectors: entry.selectors.iter().map(|text| Selector::demanded(text)).collect(),
            ttl_seconds: entry.ttl_seconds,
            dns_names: entry.dns_names.clone(),
            hint: entry.hint.clone(),
            jwt_ttl_seconds: entry.jwt_ttl_seconds,
            federates_with: federated.collect(),
            expires_at: expires_at.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at))),
        })
    }

    /// Whether it still is one.
    pub fn lives(&self, now: SystemTime) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }
}

impl View {
    /// Before anything is known.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            ready: false,
            held: Vec::new(),
            index: Arc::default(),
            bundles: Arc::default(),
            narrowing: Arc::default(),
            incubating: false,
        }
    }

    /// What `caller` is entitled to, in order. Its cost is that of what it finds, however many entries the node has.
    pub fn held_for<'a>(&'a self, caller: &'a Selectors) -> impl Iterator<Item = &'a Held> {
        self.index.candidates(caller).into_iter().filter_map(|at| self.held.get(at)).filter(move |held| {
            held.entry.selectors.is_subset(caller) && self.narrowing.allows(&held.entry.spiffe_id, caller)
        })
    }

    /// The bundles that go with these entries, all held by one caller.
    pub fn seen_with<'a>(&self, held: impl IntoIterator<Item = &'a Held>) -> Arc<Seen> {
        let mut held = held.into_iter();
        let Some(first) = held.next() else { return self.bundles.seen_by(&BTreeSet::new()) };
        let mut union = std::borrow::Cow::Borrowed(&first.entry.federates_with);
        for more in held {
            if !more.entry.federates_with.is_subset(&union) {
                union.to_mut().extend(more.entry.federates_with.iter().cloned());
            }
        }
        self.bundles.seen_by(&union)
    }
}

impl Entitled {
    pub fn new(view: watch::Receiver<Arc<View>>) -> Self {
        Self(view)
    }

    /// The identities `caller` may claim now: nothing if it was not attested or has exited.
    pub fn entitled(&self, caller: &Caller) -> Vec<SpiffeId> {
        let Ok(selectors) = caller.selectors() else { return Vec::new() };
        let view = self.0.borrow();
        view.held_for(selectors).map(|held| held.entry.spiffe_id.clone()).collect()
    }

    /// Marked changed whenever an answer of [`Self::entitled`] may have.
    pub fn changes(&self) -> watch::Receiver<Arc<View>> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests;
