//! The task that owns every slot: mints for all entries ahead of demand, in batches, renews, replaces at once what a tainted
//! authority signed, writes down, and publishes one [`View`] of all that may be served.

mod kept;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Gauge, Metrics};
use symbolon_kit::spiffe::svid::{PrivateKey, new_key};
use symbolon_proto::node as wire;
use tokio::sync::watch;
use tonic::Status;
use tracing::{debug, info, warn};

use super::slot::{Effect, Event};
use super::{is_tainted, pem};
use crate::bundle::{Shelf, Tainted, Trust};
use crate::config::Workload;
use crate::identity::{Entry, Holding, Index, Narrowing, View};
use crate::keep::Keep;
use crate::upstream::{EntryList, Handle};
use kept::{Kept, accept, file_name, outcome};

/// CSRs of one request.
const BATCH: usize = 50;
/// Requests side by side: while one is signed and written to the audit log, the keys of the next are made.
const REQUESTS: usize = 4;
/// The clock is looked at this often at least: it may be set, and a suspended machine does not count its sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Has SVIDs minted; [`Handle`] in the product.
pub trait Minter: Send + Sync + 'static {
    /// One answer per CSR, in their order.
    fn mint(&self, csrs: Vec<wire::Csr>) -> BoxFuture<'_, Result<Vec<wire::Minted>, Status>>;
}

impl Minter for Handle {
    fn mint(&self, csrs: Vec<wire::Csr>) -> BoxFuture<'_, Result<Vec<wire::Minted>, Status>> {
        Box::pin(self.mint(csrs))
    }
}

/// What the view is made of.
#[derive(Debug)]
pub struct Inputs {
    pub entries: watch::Receiver<Option<EntryList>>,
    pub trust: watch::Receiver<Arc<Trust>>,
    pub workloads: watch::Receiver<Arc<[Workload]>>,
}

/// What the cache works with.
#[derive(Debug)]
pub struct Setup {
    /// Where SVIDs are written down; holds nothing else.
    pub keep: Keep,
    pub clock: Clock,
    /// Of jitter.
    pub seed: u64,
    pub counts: Counts,
}

/// What the cache counts.
#[derive(Clone, Debug)]
pub struct Counts {
    /// SVIDs received.
    pub minted: Counter,
    /// Requests refused or lost, by reason.
    pub failed: Counter,
    /// SVIDs that expired before they were renewed.
    pub expired: Counter,
    /// SVIDs held now.
    pub held: Gauge,
}

/// The cache; one task.
pub struct Cache<M> {
    minter: Arc<M>,
    keep: Keep,
    clock: Clock,
    rng: StdRng,
    counts: Counts,
    inputs: Inputs,
    /// The entries that live, in the control plane's order.
    order: EntryList,
    /// When the first of them ends.
    ends: Option<SystemTime>,
    slots: HashMap<Arc<str>, Kept>,
    /// What the view is made of, made anew only when it changes.
    index: Arc<Index>,
    shelf: Arc<Shelf>,
    narrowing: Arc<Narrowing>,
    tainted: Arc<Tainted>,
    view: watch::Sender<Arc<View>>,
    /// Set when what is published no longer says what is held.
    stale: bool,
}

/// A batch under way.
type Asked = Vec<(Arc<str>, PrivateKey)>;
type Answer = (Asked, Result<Vec<wire::Minted>, Status>);

impl Counts {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            minted: metrics.counter("symbolon_sidecar_svids_minted", "SVIDs received for workloads of this node"),
            failed: metrics.counter("symbolon_sidecar_svids_failed", "SVIDs asked for and not received, by reason"),
            expired: metrics.counter("symbolon_sidecar_svids_expired", "SVIDs that expired before they were renewed"),
            held: metrics.gauge("symbolon_sidecar_svids_held", "Valid SVIDs of workloads on this node"),
        }
    }
}

impl<M: Minter> Cache<M> {
    /// Takes what a former run wrote down, for the entries known now, and publishes it: whoever asks first is served from it.
    pub fn new(minter: Arc<M>, setup: Setup, inputs: Inputs, view: watch::Sender<Arc<View>>) -> Self {
        let Setup { keep, clock, seed, counts } = setup;
        let mut cache = Self {
            minter,
            keep,
            clock,
            rng: StdRng::seed_from_u64(seed),
            counts,
            inputs,
            order: Arc::from([]),
            ends: None,
            slots: HashMap::new(),
            index: Arc::default(),
            shelf: Arc::default(),
            narrowing: Arc::default(),
            tainted: Arc::default(),
            view,
            stale: true,
        };
        cache.take_trust();
        cache.take_workloads();
        cache.take_entries();
        cache.publish();
        cache
    }

    pub async fn run(mut self, drain: Drain) {
        let mut asking: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        loop {
            while asking.len() < REQUESTS
                && let Some(request) = self.ask()
            {
                asking.push(request);
            }
            self.publish();
            let sleep = self.sleep();
            tokio::select! {
                () = drain.cancelled() => return,
                changed = self.inputs.entries.changed() => {
                    if changed.is_err() { return }
                    self.take_entries();
                }
                Ok(()) = self.inputs.trust.changed() => self.take_trust(),
                Ok(()) = self.inputs.workloads.changed() => self.take_workloads(),
                Some(answer) = asking.next() => self.answered(answer),
                () = tokio::time::sleep(sleep) => self.tick(),
            }
        }
    }

    /// Brings the slots in line with the entries: new ones are wanted, gone and ended ones are forgotten.
    fn take_entries(&mut self) {
        let Some(entries) = self.inputs.entries.borrow_and_update().clone() else { return };
        let first = self.slots.is_empty();
        let now = self.clock.now();
        let living: EntryList = if entries.iter().all(|entry| entry.lives(now)) {
            entries
        } else {
            entries.iter().filter(|entry| entry.lives(now)).cloned().collect()
        };
        for entry in &*living {
            match self.slots.get_mut(&entry.id) {
                Some(kept) if Arc::ptr_eq(&kept.entry, entry) => {}
                Some(kept) if kept.entry.spiffe_id == entry.spiffe_id => kept.change(entry.clone(), now),
                _ => {
                    let kept = self.restored(entry.clone(), now);
                    self.slots.insert(entry.id.clone(), kept);
                }
            }
        }
        self.ends = living.iter().filter_map(|entry| entry.expires_at).min();
        self.index = Arc::new(Index::new(&living));
        self.order = living;
        self.stale = true;
        self.forget_others();
        if first {
            self.sweep();
        }
        self.tick();
    }

    /// Drops the slots, and the keys, of what is no entry any more.
    fn forget_others(&mut self) {
        if self.slots.len() == self.order.len() {
            return; // every entry has a slot, so none is left over
        }
        let wanted: BTreeSet<_> = self.order.iter().map(|entry| entry.id.clone()).collect();
        let gone: Vec<_> = self.slots.keys().filter(|id| !wanted.contains(*id)).cloned().collect();
        for id in gone {
            info!(entry = %id, "no longer an entry of this node");
            self.slots.remove(&id);
            self.forget(&file_name(&id));
        }
    }

    /// What is trusted, and what is to be replaced: all SVIDs of a tainted authority at once, the old ones being served meanwhile.
    fn take_trust(&mut self) {
        let trust = self.inputs.trust.borrow_and_update().clone();
        if !Arc::ptr_eq(self.shelf.table(), &trust.bundles) {
            let own = self.view.borrow().trust_domain.clone();
            self.shelf = Arc::new(Shelf::new(own, trust.bundles.clone()));
        }
        self.stale = true;
        if self.tainted == trust.tainted {
            return;
        }
        self.tainted = trust.tainted.clone();
        let now = self.clock.now();
        let mut replaced = 0;
        for kept in self.slots.values_mut() {
            if kept.slot.svid().is_some_and(|svid| is_tainted(&svid.chain, &self.tainted)) {
                kept.step(Event::Tainted, now, &mut self.rng);
                replaced += 1;
            }
        }
        if replaced > 0 {
            warn!(svids = replaced, "an authority is tainted: what it signed is replaced");
        }
        self.tick();
    }

    fn take_workloads(&mut self) {
        self.narrowing = Arc::new(Narrowing::new(&self.inputs.workloads.borrow_and_update()));
        self.stale = true;
    }

    /// A slot with what a former run wrote down for this entry, if it is of use.
    fn restored(&mut self, entry: Arc<Entry>, now: SystemTime) -> Kept {
        let mut kept = Kept::wanted(entry, now);
        let found = match self.keep.load(&file_name(&kept.entry.id)) {
            Ok(found) => found.and_then(|text| pem::decode(&text).ok()),
            Err(why) => {
                warn!(%why, "an SVID on disk may not be used");
                None
            }
        };
        if let Some(svid) = found.filter(|svid| svid.id == kept.entry.spiffe_id && svid.not_after > now) {
            let tainted = is_tainted(&svid.chain, &self.tainted);
            kept.step(Event::Issued(Arc::new(svid)), now, &mut self.rng);
            if tainted {
                kept.step(Event::Tainted, now, &mut self.rng);
            }
        }
        kept
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        if self.ends.is_some_and(|end| end <= now) {
            self.ends = None;
            self.inputs.entries.mark_changed(); // looked at again, and what has ended left out
        }
        for kept in self.slots.values_mut().filter(|kept| kept.slot.wakes().is_some_and(|at| at <= now)) {
            let held = kept.slot.svid().is_some();
            for effect in kept.step(Event::Tick, now, &mut self.rng) {
                if effect == Effect::Publish {
                    self.stale = true;
                    if held {
                        self.counts.expired.inc(&[]);
                        warn!(id = %kept.entry.spiffe_id, "an SVID expired before it could be renewed; it is served no longer");
                    }
                }
            }
        }
    }

    /// Starts a request for slots that want one; the rest wait for the next.
    fn ask(&mut self) -> Option<BoxFuture<'static, Answer>> {
        let mut asked = Asked::new();
        let mut csrs = Vec::new();
        for entry in &*self.order {
            let Some(kept) = self.slots.get_mut(&entry.id).filter(|kept| kept.wants()) else { continue };
            match new_key() {
                Ok((key, csr)) => {
                    kept.key = Some(key.clone());
                    csrs.push(wire::Csr { entry_id: entry.id.to_string(), csr: csr.into() });
                    asked.push((entry.id.clone(), key));
                }
                Err(why) => {
                    self.counts.failed.inc(&[("reason", "key")]);
                    warn!(%why, "no key could be made");
                    kept.step(Event::Failed, self.clock.now(), &mut self.rng);
                }
            }
            if asked.len() == BATCH {
                break;
            }
        }
        if asked.is_empty() {
            return None;
        }
        debug!(csrs = csrs.len(), "asking for SVIDs");
        let minter = self.minter.clone();
        Some(Box::pin(async move {
            let answer = minter.mint(csrs).await;
            (asked, answer)
        }))
    }

    fn answered(&mut self, (asked, answer): Answer) {
        let outcomes: Vec<Result<wire::Svid, String>> = match answer {
            Ok(results) => results.into_iter().map(outcome).collect(),
            Err(status) => {
                self.counts.failed.inc(&[("reason", "unanswered")]);
                warn!(code = ?status.code(), why = status.message(), svids = asked.len(), "no answer to a request for SVIDs");
                asked.iter().map(|_| Err(String::new())).collect()
            }
        };
        for ((id, key), outcome) in asked.into_iter().zip(outcomes) {
            self.settle(&id, key, outcome);
        }
    }

    fn settle(&mut self, id: &Arc<str>, key: PrivateKey, outcome: Result<wire::Svid, String>) {
        let Some(kept) = self.slots.get_mut(id) else { return };
        if kept.key.as_ref().is_none_or(|asked| asked.pkcs8() != key.pkcs8()) {
            return; // a change of the entry has overtaken it
        }
        kept.key = None;
        let event = match outcome.and_then(|svid| accept(svid, key, &kept.entry)) {
            Ok(svid) if is_tainted(&svid.chain, &self.tainted) => {
                self.counts.failed.inc(&[("reason", "tainted")]);
                warn!(%id, "an SVID was issued by an authority that is tainted; another is asked for");
                Event::IssuedTainted(Arc::new(svid))
            }
            Ok(svid) => {
                self.counts.minted.inc(&[]);
                write_down(&self.keep, id, &svid);
                Event::Issued(Arc::new(svid))
            }
            Err(why) => {
                if !why.is_empty() {
                    self.counts.failed.inc(&[("reason", "refused")]);
                    warn!(id = %kept.entry.spiffe_id, why, "no SVID");
                }
                Event::Failed
            }
        };
        self.stale |= kept.step(event, self.clock.now(), &mut self.rng).contains(&Effect::Publish);
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let held: Vec<_> = self.order.iter().filter_map(|entry| self.slots.get(&entry.id)).map(Kept::held).collect();
        let valid = held.iter().filter(|held| matches!(held.holding, Holding::Valid(_))).count();
        self.counts.held.set(&[], i64::try_from(valid).unwrap_or(i64::MAX));
        let ready = self.inputs.entries.borrow().is_some();
        let incubating = self.inputs.trust.borrow().incubating;
        let (index, bundles, narrowing) = (self.index.clone(), self.shelf.clone(), self.narrowing.clone());
        self.view.send_modify(|view| {
            let trust_domain = view.trust_domain.clone();
            *view = Arc::new(View { trust_domain, ready, held, index, bundles, narrowing, incubating });
        });
    }

    /// Until some slot wants attention, or an entry ends.
    fn sleep(&self) -> Duration {
        let now = self.clock.now();
        let next = self.slots.values().filter_map(|kept| kept.slot.wakes()).chain(self.ends).min();
        next.map_or(LONGEST_SLEEP, |at| {
            at.duration_since(now).unwrap_or_default().clamp(Duration::from_millis(1), LONGEST_SLEEP)
        })
    }

    /// Removes files of entries that went while the sidecar was not running.
    fn sweep(&self) {
        let wanted: BTreeSet<_> = self.slots.keys().map(|id| file_name(id)).collect();
        match self.keep.names() {
            Ok(names) => names.iter().filter(|name| !wanted.contains(*name)).for_each(|name| self.forget(name)),
            Err(why) => warn!(%why, "the SVIDs on disk could not be listed"),
        }
    }

    fn forget(&self, name: &str) {
        if let Err(why) = self.keep.remove(name) {
            warn!(%why, "an SVID on disk could not be removed");
        }
    }
}

/// An SVID that cannot be written down is served all the same; only a restart will miss it.
fn write_down(keep: &Keep, id: &str, svid: &symbolon_kit::spiffe::svid::Svid) {
    if let Err(why) = keep.save_soon(&file_name(id), &pem::encode(svid)) {
        warn!(%why, "an SVID could not be written down");
    }
}

impl<M> std::fmt::Debug for Cache<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
