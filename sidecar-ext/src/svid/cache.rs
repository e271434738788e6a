//! The task that owns every slot: mints for all entries ahead of demand, in batches, renews, writes down, and publishes one
//! [`View`] of all that may be served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Gauge, Metrics};
use symbolon_kit::octets;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, new_key};
use symbolon_kit::spiffe::verify::BundleTable;
use symbolon_proto::node as wire;
use tokio::sync::watch;
use tonic::Status;
use tracing::{debug, info, warn};

use super::pem;
use super::slot::{Effect, Event, Slot};
use crate::config::Workload;
use crate::identity::{Entry, Held, Holding, View};
use crate::keep::Keep;
use crate::upstream::{EntryList, Handle, join};

/// CSRs of one request.
const BATCH: usize = 50;
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
    pub bundles: watch::Receiver<Arc<BundleTable>>,
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
    order: EntryList,
    slots: BTreeMap<Arc<str>, Kept>,
    view: watch::Sender<Arc<View>>,
    /// Set when what is published no longer says what is held.
    stale: bool,
}

struct Kept {
    entry: Arc<Entry>,
    slot: Slot,
    /// Of the request under way; an answer to an earlier one is dropped.
    key: Option<PrivateKey>,
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
        let rng = StdRng::seed_from_u64(seed);
        let (order, slots) = (Arc::from([]), BTreeMap::new());
        let mut cache = Self { minter, keep, clock, rng, counts, inputs, order, slots, view, stale: true };
        cache.take_entries();
        cache.publish();
        cache
    }

    pub async fn run(mut self, drain: Drain) {
        let mut asking: Option<BoxFuture<'static, Answer>> = None;
        loop {
            if asking.is_none() {
                asking = self.ask();
            }
            self.publish();
            let sleep = self.sleep();
            tokio::select! {
                () = drain.cancelled() => return,
                changed = self.inputs.entries.changed() => {
                    if changed.is_err() { return }
                    self.take_entries();
                }
                Ok(()) = self.inputs.bundles.changed() => self.stale = true,
                Ok(()) = self.inputs.workloads.changed() => self.stale = true,
                answer = pending(&mut asking) => {
                    asking = None;
                    self.answered(answer);
                }
                () = tokio::time::sleep(sleep) => self.tick(),
            }
        }
    }

    /// Brings the slots in line with the entries: new ones are wanted, gone ones are forgotten.
    fn take_entries(&mut self) {
        let Some(entries) = self.inputs.entries.borrow_and_update().clone() else { return };
        let now = self.clock.now();
        let mut slots = BTreeMap::new();
        for entry in &*entries {
            let kept = match self.slots.remove(&entry.id) {
                Some(kept) if kept.entry == *entry => kept,
                Some(kept) if kept.entry.spiffe_id == entry.spiffe_id => kept.changed(entry.clone(), now),
                _ => self.restored(entry.clone(), now),
            };
            slots.insert(entry.id.clone(), kept);
        }
        for gone in self.slots.keys() {
            info!(entry = %gone, "no longer an entry of this node");
            self.forget(&file_name(gone));
        }
        self.slots = slots;
        self.order = entries;
        self.stale = true;
        self.tick();
        self.sweep();
    }

    /// A slot with what a former run wrote down for this entry, if it is of use.
    fn restored(&mut self, entry: Arc<Entry>, now: SystemTime) -> Kept {
        let mut slot = Slot::wanted(now);
        let found = match self.keep.load(&file_name(&entry.id)) {
            Ok(found) => found.and_then(|text| pem::decode(&text).ok()),
            Err(why) => {
                warn!(%why, "an SVID on disk may not be used");
                None
            }
        };
        if let Some(svid) = found.filter(|svid| svid.id == entry.spiffe_id && svid.not_after > now) {
            (slot, _) = slot.step(Event::Issued(Arc::new(svid)), now, &mut self.rng);
        }
        Kept { entry, slot, key: None }
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        for kept in self.slots.values_mut() {
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
        let wanting = self.slots.values_mut().filter(|kept| kept.wants());
        for kept in wanting.take(BATCH) {
            match new_key() {
                Ok((key, csr)) => {
                    kept.key = Some(key.clone());
                    csrs.push(wire::Csr { entry_id: kept.entry.id.to_string(), csr: csr.into() });
                    asked.push((kept.entry.id.clone(), key));
                }
                Err(why) => {
                    self.counts.failed.inc(&[("reason", "key")]);
                    warn!(%why, "no key could be made");
                    kept.step(Event::Failed, self.clock.now(), &mut self.rng);
                }
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
                warn!(code = ?status.code(), why = status.message(), "SVIDs could not be minted; those held are served on");
                self.counts.failed.inc(&[("reason", "unanswered")]);
                asked.iter().map(|_| Err(String::new())).collect()
            }
        };
        let now = self.clock.now();
        for ((id, key), outcome) in asked.into_iter().zip(outcomes) {
            let Some(kept) = self.slots.get_mut(&id) else { continue };
            if kept.key.as_ref().is_none_or(|asked| asked.pkcs8() != key.pkcs8()) {
                continue;
            }
            kept.key = None;
            let event = match outcome.and_then(|svid| accept(svid, key, &kept.entry)) {
                Ok(svid) => {
                    self.counts.minted.inc(&[]);
                    write_down(&self.keep, &id, &svid);
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
            self.stale |= kept.step(event, now, &mut self.rng).contains(&Effect::Publish);
        }
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let held: Vec<_> = self.order.iter().filter_map(|entry| self.slots.get(&entry.id)).map(Kept::held).collect();
        let valid = held.iter().filter(|held| matches!(held.holding, Holding::Valid(_))).count();
        self.counts.held.set(&[], i64::try_from(valid).unwrap_or(i64::MAX));
        let ready = self.inputs.entries.borrow().is_some();
        let (bundles, workloads) =
            (self.inputs.bundles.borrow_and_update().clone(), self.inputs.workloads.borrow_and_update().clone());
        self.view.send_modify(|view| {
            *view = Arc::new(View { trust_domain: view.trust_domain.clone(), ready, held, bundles, workloads });
        });
    }

    /// Until some slot wants attention.
    fn sleep(&self) -> Duration {
        let now = self.clock.now();
        let next = self.slots.values().filter_map(|kept| kept.slot.wakes()).min();
        next.map_or(LONGEST_SLEEP, |at| {
            at.duration_since(now).unwrap_or_default().clamp(Duration::from_millis(1), LONGEST_SLEEP)
        })
    }

    /// Removes files of entries that are gone, also of those that went while the sidecar was not running.
    fn sweep(&self) {
        let wanted: std::collections::BTreeSet<_> = self.slots.keys().map(|id| file_name(id)).collect();
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

impl Kept {
    fn step(&mut self, event: Event, now: SystemTime, rng: &mut StdRng) -> Vec<Effect> {
        let slot = std::mem::replace(&mut self.slot, Slot::wanted(now));
        let (slot, effects) = slot.step(event, now, rng);
        self.slot = slot;
        effects
    }

    /// Asked by its machine, and no request under way.
    fn wants(&self) -> bool {
        self.key.is_none() && matches!(self.slot, Slot::Requested { .. } | Slot::Renewing { .. })
    }

    /// The same identity by other terms: what is held is served until the new one is there.
    fn changed(self, entry: Arc<Entry>, now: SystemTime) -> Self {
        let same_terms = self.entry.ttl_seconds == entry.ttl_seconds && self.entry.dns_names == entry.dns_names;
        if same_terms {
            return Self { entry, ..self }; // selectors and hint are not in the certificate
        }
        let (slot, _) = self.slot.step(Event::Changed, now, &mut StdRng::seed_from_u64(0)); // draws nothing
        Self { entry, slot, key: None }
    }

    fn held(&self) -> Held {
        let holding = match self.slot.svid() {
            Some(svid) => Holding::Valid(svid.clone()),
            None if self.slot.failures() == 0 => Holding::Pending,
            None => Holding::Failed,
        };
        Held { entry: self.entry.clone(), holding }
    }
}

fn outcome(minted: wire::Minted) -> Result<wire::Svid, String> {
    match minted.outcome {
        Some(wire::minted::Outcome::Svid(svid)) => Ok(svid),
        Some(wire::minted::Outcome::Refusal(refusal)) => Err(format!("{}: {}", refusal.reason, refusal.detail)),
        None => Err("an empty answer".into()),
    }
}

fn accept(svid: wire::Svid, key: PrivateKey, entry: &Entry) -> Result<Svid, String> {
    let svid = join::svid_of(svid.chain, key).map_err(|why| why.to_string())?;
    if svid.id == entry.spiffe_id { Ok(svid) } else { Err(format!("the certificate is for {}", svid.id)) }
}

/// An SVID that cannot be written down is served all the same; only a restart will miss it.
fn write_down(keep: &Keep, id: &str, svid: &Svid) {
    if let Err(why) = keep.save_soon(&file_name(id), &pem::encode(svid)) {
        warn!(%why, "an SVID could not be written down");
    }
}

/// Entry ids are the control plane's words: they name no path here.
fn file_name(entry_id: &str) -> String {
    octets::hex(&octets::sha256(entry_id.as_bytes())[..16]) + ".pem"
}

async fn pending(asking: &mut Option<BoxFuture<'static, Answer>>) -> Answer {
    match asking {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}

impl<M> std::fmt::Debug for Cache<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
