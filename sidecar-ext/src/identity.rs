//! Who on this node is entitled to what: the entries of the control plane, narrowed by the file of local workloads, met by the
//! attested caller.

use std::sync::Arc;

use symbolon_kit::spiffe::svid::Svid;
use symbolon_kit::spiffe::verify::BundleTable;
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use symbolon_proto::node;
use tokio::sync::watch;

use crate::attest::Caller;
use crate::config::Workload;
use crate::selector::{Selector, Selectors};

/// A registration entry of this node, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: Arc<str>,
    pub spiffe_id: SpiffeId,
    pub selectors: Selectors,
    pub ttl_seconds: u32,
    pub dns_names: Vec<String>,
    pub hint: String,
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
    /// In the order of the control plane; the first a caller matches is its default.
    pub held: Vec<Held>,
    pub bundles: Arc<BundleTable>,
    pub workloads: Arc<[Workload]>,
}

/// Answers which identities a caller may claim; cheap to clone. For both sockets.
#[derive(Clone, Debug)]
pub struct Entitled(watch::Receiver<Arc<View>>);

impl Entry {
    /// Parses what the control plane says. `None` for what no honest control plane sends: an entry without selectors (it would be
    /// everybody's), of another trust domain, or of a reserved path.
    pub fn parse(entry: node::Entry, trust_domain: &TrustDomain) -> Option<Self> {
        let spiffe_id = SpiffeId::workload(&entry.spiffe_id).ok()?;
        if spiffe_id.trust_domain() != trust_domain || spiffe_id.is_reserved() || entry.selectors.is_empty() {
            return None;
        }
        Some(Self {
            id: entry.entry_id.into(),
            spiffe_id,
            selectors: entry.selectors.iter().map(|text| Selector::demanded(text)).collect(),
            ttl_seconds: entry.ttl_seconds,
            dns_names: entry.dns_names,
            hint: entry.hint,
        })
    }
}

impl View {
    /// Before anything is known.
    pub fn empty(trust_domain: TrustDomain, workloads: Arc<[Workload]>) -> Self {
        Self { trust_domain, ready: false, held: Vec::new(), bundles: Arc::default(), workloads }
    }

    /// What `caller` is entitled to, in order.
    pub fn held_for<'a>(&'a self, caller: &'a Selectors) -> impl Iterator<Item = &'a Held> {
        self.held.iter().filter(move |held| {
            held.entry.selectors.is_subset(caller) && self.allowed_here(&held.entry.spiffe_id, caller)
        })
    }

    /// Workloads of the local file that carry this identity narrow it: the caller must be one of them.
    fn allowed_here(&self, id: &SpiffeId, caller: &Selectors) -> bool {
        let mut of_id = self.workloads.iter().filter(|workload| workload.identity == *id).peekable();
        of_id.peek().is_none() || of_id.any(|workload| workload.selectors.is_subset(caller))
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
