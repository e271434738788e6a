//! Registration entries: which nodes may have which identity, for callers with which selectors. Checked when they are made
//! ([`check`]), kept whole in the store ([`mod@record`]) and in memory ([`table`]); a node hears of its own at once ([`feed`]). A file of
//! them is applied as one transaction ([`plan`]), and [`explain`] says why somebody gets nothing.

mod check;
mod explain;
mod federates;
mod feed;
mod plan;
mod record;
mod table;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use symbolon_kit::clock::{Clock, unix_secs};
use symbolon_kit::drain::Drain;
use symbolon_kit::octets;
use symbolon_proto::ids::SpiffeId;
use symbolon_proto::selector::Selectors;
use tokio::sync::{Mutex, Notify, watch};
use tracing::{info, warn};

use super::audit::{Audit, Kind, Record};
use super::{Config, Refusal, nodes};
use crate::model::NodeName;
use crate::store::{self, Committed, SharedStore, Txn, codec, keys};

pub use check::{AskedFederation, New, Refused};
pub use explain::{Explanation, NearMiss};
pub use federates::{FederatesWith, resolve};
pub use feed::{Delta, Feed};
pub use plan::Plan;

/// The most entries of one parent; a sidecar holds no more.
pub const MAX_PER_PARENT: usize = 20_000;
/// How long an expiry may be noticed too late when the wall clock was stepped.
const LONGEST_NAP: Duration = Duration::from_secs(30);

/// One registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: Arc<str>,
    pub spiffe_id: SpiffeId,
    /// Who may have it.
    pub parent: Parent,
    /// A caller must match them all; of a node alias, a node. Never empty.
    pub selectors: Selectors,
    /// Of X.509-SVIDs; `None`: the control plane's default.
    pub ttl: Option<Duration>,
    /// Of JWT-SVIDs; `None`: the control plane's default.
    pub jwt_ttl: Option<Duration>,
    pub dns_names: Vec<String>,
    pub hint: String,
    /// `None`: every relationship.
    pub federates_with: Option<FederatesWith>,
    /// Unix seconds, from which on nobody has it.
    pub expires_at: Option<i64>,
    /// The store's revision of its last change.
    pub revision: u64,
}

/// Who may have an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Parent {
    Node(NodeName),
    /// Every node that a node alias of this ID names.
    Alias(SpiffeId),
    /// Nobody: the entry is itself a node alias, and no SVID is minted for it.
    ControlPlane,
}

/// Keeps entries; cheap to clone.
#[derive(Clone, Debug)]
pub struct Entries {
    bounds: Arc<check::Bounds>,
    /// Of SVIDs whose entry names no TTL.
    usual_ttl: Duration,
    store: SharedStore,
    clock: Clock,
    nodes: watch::Receiver<Arc<nodes::Table>>,
    audit: Audit,
    table: Arc<RwLock<table::Table>>, // std's: nothing awaits while it is held
    /// One writer at a time, so that the table never shows an order that the store does not have.
    writing: Arc<Mutex<()>>,
    /// An expiry came that may be the next.
    expiries: Arc<Notify>,
}

// === impl Entry ===

impl Entry {
    /// Whether it has not expired.
    pub fn is_current(&self, now: i64) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }

    /// Whether it names nodes, for other entries to have as their parent.
    pub fn is_alias(&self) -> bool {
        self.parent == Parent::ControlPlane
    }
}

// === impl Entries ===

impl Entries {
    pub(super) async fn load(
        config: &Config,
        store: SharedStore,
        clock: Clock,
        nodes: watch::Receiver<Arc<nodes::Table>>,
        audit: Audit,
    ) -> Result<Self, store::Error> {
        let mut table = table::Table::default();
        for stored in store.range(keys::entries()).await?.0 {
            let record: record::Record = codec::decode("entry", &stored.value)?;
            match keys::entry_id(&stored.key).and_then(|id| record.parse(id, stored.modified)) {
                Some(entry) => drop(table.put(Arc::new(entry))),
                None => warn!(key = &*stored.key.0, "a stored entry cannot be read; nobody gets its identity"),
            }
        }
        Ok(Self {
            bounds: Arc::new(check::Bounds { trust_domain: config.trust_domain.clone(), longest: config.ca_ttl }),
            usual_ttl: config.svid_ttl,
            store,
            clock,
            nodes,
            audit,
            table: Arc::new(RwLock::new(table)),
            writing: Arc::default(),
            expiries: Arc::default(),
        })
    }

    fn read<T>(&self, ask: impl FnOnce(&table::Table) -> T) -> T {
        ask(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut table::Table) -> T) -> T {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is true of a node; nothing of one that is not attested.
    fn facts(&self, node: &NodeName) -> Selectors {
        let nodes = self.nodes.borrow();
        let attested = nodes.get(node).filter(|node| node.standing == nodes::Standing::Attested);
        attested.map_or_else(Selectors::new, |node| node.selectors.clone())
    }

    fn now(&self) -> i64 {
        unix_secs(self.clock.now())
    }

    /// All entries, now, in the order of their ids.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.read(|table| table.all().values().cloned().collect())
    }

    /// The entry with this id.
    pub fn by_id(&self, id: &str) -> Option<Arc<Entry>> {
        self.read(|table| table.get(id).cloned())
    }

    /// The entry, if `node` may have it (invariant I1).
    ///
    /// # Errors
    /// [`Refusal::UnknownEntry`], also once it has expired; [`Refusal::NotYourEntry`].
    pub fn granted(&self, node: &NodeName, id: &str) -> Result<Arc<Entry>, Refusal> {
        let now = self.now();
        self.read(|table| {
            let entry = table.get(id).filter(|entry| entry.is_current(now)).ok_or(Refusal::UnknownEntry)?;
            if self.is_parent(table, node, entry, now) { Ok(entry.clone()) } else { Err(Refusal::NotYourEntry) }
        })
    }

    /// How long what is minted now for `entry` may live: `ttl`, but not beyond the registration itself.
    pub fn cut(&self, entry: &Entry, ttl: Duration) -> Duration {
        let left = entry.expires_at.map(|at| Duration::from_secs(u64::try_from(at - self.now()).unwrap_or(0)));
        left.map_or(ttl, |left| ttl.min(left))
    }

    /// Whether `node` has an entry for this identity.
    pub fn may_run(&self, node: &NodeName, identity: &SpiffeId) -> bool {
        let now = self.now();
        self.read(|table| {
            let mut entries = table.of_identity(identity).filter(|entry| entry.is_current(now));
            entries.any(|entry| self.is_parent(table, node, entry, now))
        })
    }

    fn is_parent(&self, table: &table::Table, node: &NodeName, entry: &Entry, now: i64) -> bool {
        match &entry.parent {
            Parent::Node(parent) => parent == node,
            Parent::Alias(alias) => {
                let facts = self.facts(node);
                let mut named = table.of_identity(alias).filter(|one| one.is_alias() && one.is_current(now));
                named.any(|alias| alias.selectors.is_subset(&facts))
            }
            Parent::ControlPlane => false,
        }
    }

    /// What `node` may have, now and at each change.
    pub fn feed(&self, node: &NodeName) -> Feed {
        Feed::new(self.clone(), node)
    }

    /// Identities whose SVIDs do not live as long as usual, with the shortest that their entries give.
    pub fn lifetimes(&self) -> Vec<(SpiffeId, Duration)> {
        let of = |table: &table::Table, id: SpiffeId| table.lifetime(&id, self.usual_ttl).map(|ttl| (id, ttl));
        self.read(|table| table.with_ttl().into_iter().filter_map(|id| of(table, id)).collect())
    }

    /// The next identities of which an entry has changed, as [`Entries::lifetimes`] has them now. For one caller.
    pub async fn changed_lifetimes(&self) -> Vec<(SpiffeId, Option<Duration>)> {
        let touched = self.read(|table| table.touched.clone()).take().await;
        self.read(|table| touched.into_iter().map(|id| (id.clone(), table.lifetime(&id, self.usual_ttl))).collect())
    }

    /// Registers an entry; durable when it returns.
    ///
    /// # Errors
    /// A [`Refused`] that says what to change.
    pub async fn create(&self, entry: New) -> Result<Arc<Entry>, Refused> {
        let entry = entry.check(&new_id(), &self.bounds, self.now())?;
        let _writing = self.writing.lock().await;
        self.read(|table| {
            let same = |known: &&Arc<Entry>| known.parent == entry.parent && known.selectors == entry.selectors;
            match table.of_identity(&entry.spiffe_id).find(same) {
                Some(known) => Err(Refused::Exists(known.id.clone())),
                None if table.count(&entry.parent) >= MAX_PER_PARENT => Err(Refused::TooMany(MAX_PER_PARENT)),
                None => Ok(()),
            }
        })?;
        let plan = Plan { create: vec![Arc::new(entry)], ..Plan::default() };
        self.audit.append_all(records(&plan)).await?;
        let done = self.perform(plan).await?;
        done.create.into_iter().next().ok_or_else(|| Refused::Unknown(String::new()))
    }

    /// Deletes an entry; the nodes that had it hear of it at once.
    ///
    /// # Errors
    /// [`Refused::Unknown`], or the store's.
    pub async fn delete(&self, id: &str) -> Result<Arc<Entry>, Refused> {
        let _writing = self.writing.lock().await;
        let entry = self.by_id(id).ok_or_else(|| Refused::Unknown(symbolon_kit::text::shown(id, 80)))?;
        let plan = Plan { delete: vec![entry.clone()], ..Plan::default() };
        // What takes an identity away is done even if it cannot be written down.
        if let Err(why) = self.audit.append_all(records(&plan)).await {
            warn!(entry = %entry.id, %why, "an entry is deleted, and the audit log does not say so");
        }
        self.perform(plan).await?;
        Ok(entry)
    }

    /// Makes the registered entries those that are asked for, whole or not at all: each comes with the id that it is to have if an
    /// entry has that. `prune`: delete what is not asked for. `dry_run`: only say what would change.
    ///
    /// # Errors
    /// A [`Refused`] that names the entry to blame; nothing has changed then.
    pub async fn apply(&self, asked: Vec<(String, New)>, prune: bool, dry_run: bool) -> Result<Plan, Refused> {
        let now = self.now();
        let _writing = self.writing.lock().await;
        let mut wanted = Vec::with_capacity(asked.len());
        for (index, (id, new)) in asked.into_iter().enumerate() {
            let spiffe_id = symbolon_kit::text::shown(&new.spiffe_id, 80);
            let entry = new.check(&new_id(), &self.bounds, now);
            let entry = entry.map_err(|why| Refused::Item { index, spiffe_id, why: Box::new(why) })?;
            wanted.push(((!id.is_empty()).then_some(id), entry));
        }
        let plan = self.read(|table| {
            let plan = plan::plan(table.all(), wanted, prune)?;
            self.check_counts(table, &plan)?;
            Ok::<_, Refused>(plan)
        })?;
        if dry_run || plan.is_empty() {
            return Ok(plan);
        }
        self.audit.append_all(records(&plan)).await?;
        self.perform(plan).await
    }

    fn check_counts(&self, table: &table::Table, plan: &Plan) -> Result<(), Refused> {
        let mut more = std::collections::HashMap::<&Parent, usize>::new();
        plan.create
            .iter()
            .chain(plan.change.iter().map(|(_, after)| after))
            .for_each(|entry| *more.entry(&entry.parent).or_default() += 1);
        let gone = plan.delete.iter().chain(plan.change.iter().map(|(before, _)| before));
        let mut less = std::collections::HashMap::<&Parent, usize>::new();
        gone.for_each(|entry| *less.entry(&entry.parent).or_default() += 1);
        let over = |(parent, more): (&&Parent, &usize)| {
            (table.count(parent) + more).saturating_sub(less.get(parent).copied().unwrap_or(0)) > MAX_PER_PARENT
        };
        if more.iter().any(over) { Err(Refused::TooMany(MAX_PER_PARENT)) } else { Ok(()) }
    }

    /// One transaction, then the table; the caller holds `writing`. Gives back the plan with the revisions it was done at.
    async fn perform(&self, mut plan: Plan) -> Result<Plan, Refused> {
        let mut txn = Txn::new();
        for entry in &plan.create {
            let key = keys::entry(&entry.id);
            txn = txn.absent(key.clone()).put(key, codec::encode("entry", 2, &record::Record::of(entry))?);
        }
        for (before, after) in &plan.change {
            let key = keys::entry(&after.id);
            txn = txn.modified_at(key.clone(), before.revision);
            txn = txn.put(key, codec::encode("entry", 2, &record::Record::of(after))?);
        }
        for entry in &plan.delete {
            let key = keys::entry(&entry.id);
            txn = txn.modified_at(key.clone(), entry.revision).delete(key);
        }
        let revision = match self.store.commit(txn).await? {
            Committed::Applied(revision) => revision,
            Committed::Conflict { key } => return Err(Refused::Raced(key.0)),
        };
        let stamp = |entry: &mut Arc<Entry>| Arc::make_mut(entry).revision = revision;
        plan.create.iter_mut().for_each(stamp);
        plan.change.iter_mut().for_each(|(_, after)| stamp(after));
        let put = plan.create.iter().chain(plan.change.iter().map(|(_, after)| after)).cloned().collect();
        let now = self.now();
        self.write(|table| table.change(put, &plan.delete, &|node| self.facts(node), now));
        self.expiries.notify_one();
        Ok(plan)
    }

    /// Why a caller on `node` (or anywhere) gets what it gets.
    pub fn explain(&self, node: Option<&NodeName>, caller: &Selectors) -> Explanation {
        let now = self.now();
        self.read(|table| {
            let aliases = node.map_or_else(BTreeSet::new, |node| table.aliases(&self.facts(node), now));
            let workloads = table.all().values().filter(|entry| !entry.is_alias());
            let standing = workloads.map(|entry| {
                let (named, exists) = match &entry.parent {
                    Parent::Alias(id) => (aliases.contains(id), table.of_identity(id).any(|one| one.is_alias())),
                    _ => (false, false),
                };
                let standing = explain::elsewhere(&entry.parent, node.map(NodeName::as_str), named, exists);
                let expired = || explain::Standing::Not("it has expired".into());
                (entry.clone(), if entry.is_current(now) { standing } else { expired() })
            });
            explain::explain(standing, caller)
        })
    }

    // === for a feed ===

    fn listen(&self, node: &NodeName) -> (u64, Arc<table::Marks<Arc<str>>>) {
        let (facts, now) = (self.facts(node), self.now());
        self.write(|table| table.listen(node, &facts, now))
    }

    fn forget(&self, key: u64) {
        self.write(|table| table.forget(key));
    }

    fn heard_by(&self, key: u64) -> Vec<Arc<Entry>> {
        let now = self.now();
        self.read(|table| table.heard_by(key, now))
    }

    fn heard(&self, key: u64, ids: BTreeSet<Arc<str>>) -> Vec<(Arc<str>, Option<Arc<Entry>>)> {
        let now = self.now();
        self.read(|table| {
            ids.into_iter()
                .map(|id| {
                    let entry = table.heard(key, &id, now);
                    (id, entry)
                })
                .collect()
        })
    }

    // === expiry ===

    /// Lets entries go at the moment they expire, and then deletes them; and follows what attestation finds true of nodes.
    pub(super) async fn run(self, drain: Drain) {
        tokio::select! {
            () = self.expire() => {}
            () = self.follow_nodes() => {}
            () = drain.cancelled() => {}
        }
    }

    async fn follow_nodes(&self) {
        let mut nodes = self.nodes.clone();
        let mut known: Arc<nodes::Table> = Arc::default();
        while nodes.changed().await.is_ok() {
            let now_known = nodes.borrow_and_update().clone();
            let same = |name: &NodeName| match (known.get(name), now_known.get(name)) {
                (Some(before), Some(after)) => Arc::ptr_eq(before, after),
                (before, after) => before.is_none() && after.is_none(),
            };
            let changed: BTreeSet<_> = known.keys().chain(now_known.keys()).filter(|name| !same(name)).collect();
            let now = self.now();
            self.write(|table| {
                changed.into_iter().for_each(|node| table.regroup_node(node, &|node| self.facts(node), now));
            });
            known = now_known;
        }
    }

    async fn expire(&self) {
        loop {
            tokio::select! {
                () = self.next_expiry() => {}
                () = self.expiries.notified() => continue,
            }
            if let Err(why) = self.prune().await {
                warn!(%why, "expired registrations cannot be deleted; nobody has them any more all the same");
                tokio::time::sleep(LONGEST_NAP).await;
            }
        }
    }

    async fn next_expiry(&self) {
        let Some(at) = self.read(table::Table::next_expiry) else { return std::future::pending().await };
        // Naps, since it is the wall clock that says what has expired, and that may be stepped.
        let left = symbolon_kit::clock::unix_ms(self.clock.now());
        let left = Duration::from_millis(u64::try_from(at.saturating_mul(1000) - left).unwrap_or(0));
        tokio::time::sleep(left.min(LONGEST_NAP)).await;
    }

    /// What has expired is told first: it is over even if the store cannot write.
    async fn prune(&self) -> Result<(), Refused> {
        let now = self.now();
        let _writing = self.writing.lock().await;
        let due = self.read(|table| table.expired(now));
        if due.is_empty() {
            return Ok(());
        }
        self.write(|table| table.expire(&due, &|node| self.facts(node), now));
        for entry in &due {
            info!(entry = %entry.id, id = %entry.spiffe_id, "registration expired");
        }
        let expired = due.iter().map(|entry| record(Kind::EntryExpired, entry)).collect();
        if let Err(why) = self.audit.append_all(expired).await {
            warn!(%why, "entries have expired, and the audit log does not say so");
        }
        self.perform(Plan { delete: due, ..Plan::default() }).await.map(drop)
    }
}

/// What is done, for the audit log: written before it is done, so that nothing is done unwritten.
fn records(plan: &Plan) -> Vec<Record> {
    let created = plan.create.iter().map(|entry| record(Kind::EntryCreated, entry));
    let updated = plan.change.iter().map(|(_, after)| record(Kind::EntryUpdated, after));
    let deleted = plan.delete.iter().map(|entry| record(Kind::EntryDeleted, entry));
    created.chain(updated).chain(deleted).collect()
}

fn record(kind: Kind, entry: &Entry) -> Record {
    let seconds = |ttl: Option<Duration>| ttl.map_or(0, |ttl| ttl.as_secs());
    let parent = match &entry.parent {
        Parent::Node(node) => node.to_string(),
        Parent::Alias(alias) => alias.to_string(),
        Parent::ControlPlane => String::new(),
    };
    Record::new(kind)
        .with("entry", &*entry.id)
        .with("id", entry.spiffe_id.as_str())
        .with("parent", parent)
        .with("selectors", entry.selectors.iter().map(ToString::to_string).collect::<Vec<_>>())
        .with("dns", entry.dns_names.clone())
        .with("ttl", seconds(entry.ttl))
        .with("jwt_ttl", seconds(entry.jwt_ttl))
        .with("expires", entry.expires_at.unwrap_or(0))
}

fn new_id() -> String {
    octets::hex(&octets::random::<8>())
}
