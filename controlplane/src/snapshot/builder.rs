//! The builder: one snapshot per proxy, and as little work as the change demands.
//!
//! ```text
//!            node's workloads ──► Need, once per change of the node
//!  arms of a service, by Arc  ──► Shape (EDS, accepted identities), once per change of one of its arms
//!  identity × lifetime × Shape ─► CDS, shared by every proxy of that identity
//!  listener, route            ──► by its inputs, shared by every proxy with the same
//!  proxy with other needs, peers or weights ──► Draft ──check──► Snapshot
//!  proxy with other endpoints               ──► its last Snapshot, patched       all others: the same resources, a new generation
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use symbolon_proto::ids::{SpiffeId, TrustDomain};

use super::consistency::{Draft, Inconsistency, Splits};
use super::need::{self, Need};
use super::pool::Pool;
use super::resource::{ByName, Resources, Snapshot, SnapshotSet};
use super::routes::Target;
use crate::model::{MeshView, NodeName, PeerName, ProxyKey, ResourceType, ServiceName, ServiceRef, Split, Workload};

/// What does not come from the mesh.
#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    /// How long an SVID is valid whose registration does not say it; connections end before half of it has passed.
    pub svid_ttl: Duration,
}

/// Makes snapshots; remembers the last ones, so that what did not change stays the same `Arc`. The result depends on the view
/// alone, but for a proxy whose snapshot is held back: that one keeps the last good.
#[derive(Debug)]
pub struct Builder {
    pool: Pool,
    nodes: BTreeMap<NodeName, Node>,
    federated: BTreeMap<ServiceName, Vec<PeerName>>,
    splits: BTreeMap<ServiceName, (Split, u64)>,
    proxies: BTreeMap<ProxyKey, Proxy>,
    held: BTreeMap<ProxyKey, Inconsistency>,
}

/// The services of which something is different from the last view.
#[derive(Debug)]
struct News {
    /// Their endpoints or identities.
    arms: BTreeSet<ServiceName>,
    /// Their peers or weights.
    splits: BTreeSet<ServiceName>,
}

/// A node's workloads, and what their proxies need.
#[derive(Debug)]
struct Node {
    workloads: Arc<[Workload]>,
    needs: Vec<Arc<Need>>,
}

#[derive(Debug)]
struct Proxy {
    need: Arc<Need>,
    /// Who may call each of the need's inbound workloads.
    callers: Vec<BTreeSet<TrustDomain>>,
    /// Of its connections.
    lifetime: Duration,
    /// `None` until the first that is consistent.
    published: Option<Arc<Snapshot>>,
    splits: Splits,
}

// === impl Config ===

impl Config {
    /// The longest that a connection of `identity` takes new requests. An SVID is renewed at 55 % of its life at the latest, so a
    /// connection may begin with one that has 45 % left: half of its life would run on an expired one.
    pub(super) fn connection_lifetime(&self, view: &MeshView, identity: &SpiffeId) -> Duration {
        view.lifetimes.get(identity).copied().unwrap_or(self.svid_ttl) * 2 / 5
    }
}

// === impl Builder ===

impl Builder {
    /// A builder that has built nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            pool: Pool::new(config),
            nodes: BTreeMap::new(),
            federated: BTreeMap::new(),
            splits: BTreeMap::new(),
            proxies: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// What every proxy is to have according to `view`. A proxy whose snapshot would be inconsistent keeps its last one, with the
    /// generation of that, and is listed by [`Builder::held`].
    pub fn build(&mut self, view: &MeshView) -> SnapshotSet {
        let news = News { arms: self.pool.refresh(view), splits: self.resplit(view) };
        let mut before = std::mem::take(&mut self.proxies);
        self.read_nodes(view);
        let needs: Vec<Arc<Need>> = self.nodes.values().flat_map(|node| node.needs.iter().cloned()).collect();
        for need in needs {
            let key = need.key.clone();
            let known = before.remove(&key);
            let proxy = self.proxy(view, need, known, &news);
            self.proxies.insert(key, proxy);
        }
        self.held.retain(|key, _| self.proxies.contains_key(key));
        self.pool.sweep();
        let published = self.proxies.iter().filter_map(|(key, proxy)| Some((key.clone(), proxy.published.clone()?)));
        SnapshotSet { generation: view.generation, proxies: published.collect() }
    }

    /// The proxies whose last snapshot was held back, and why.
    pub fn held(&self) -> &BTreeMap<ProxyKey, Inconsistency> {
        &self.held
    }

    fn proxy(&mut self, view: &MeshView, need: Arc<Need>, known: Option<Proxy>, news: &News) -> Proxy {
        let callers: Vec<_> = need.inbound.iter().map(|one| need::callers(view, one.service.as_ref())).collect();
        let lifetime = self.pool.lifetime(view, &need.key.identity);
        let as_known =
            |known: &Proxy| Arc::ptr_eq(&known.need, &need) && known.callers == callers && known.lifetime == lifetime;
        let same = known.as_ref().is_some_and(as_known);
        let (published, splits) = known.map(|known| (known.published, known.splits)).unwrap_or_default();
        let held = self.held.contains_key(&need.key);
        let names_stay = same && need.services.is_disjoint(&news.splits);
        if names_stay && held && need.services.is_disjoint(&news.arms) {
            return Proxy { need, callers, lifetime, published, splits };
        }
        if let Some(last) = published.as_ref().filter(|_| names_stay && !held) {
            let resources = self.patched(view, &need, &last.resources, &news.arms);
            let published = Some(Arc::new(Snapshot { generation: view.generation, resources }));
            return Proxy { need, callers, lifetime, published, splits };
        }
        let draft = self.draft(view, &need, &callers);
        match draft.check(&splits) {
            Ok(()) => {
                self.held.remove(&need.key);
                let last = published.map(|snapshot| snapshot.resources.clone());
                let resources = last.filter(|last| same_resources(last, &draft.resources));
                let resources = resources.unwrap_or_else(|| Arc::new(draft.resources));
                let snapshot = Snapshot { generation: view.generation, resources };
                Proxy { need, callers, lifetime, published: Some(Arc::new(snapshot)), splits: draft.splits }
            }
            Err(why) => {
                self.held.insert(need.key.clone(), why);
                Proxy { need, callers, lifetime, published, splits }
            }
        }
    }

    /// `last` with the arms of the `touched` services as they are now; `last` itself if none of them is this proxy's. Every name
    /// stays, so what was consistent still is. Stamped with the new generation either way: there may be nothing to send, and then
    /// it is acknowledged at once, but without it such a change would never count as acknowledged.
    fn patched(
        &mut self,
        view: &MeshView,
        need: &Need,
        last: &Arc<Resources>,
        touched: &BTreeSet<ServiceName>,
    ) -> Arc<Resources> {
        let mut resources = last.clone();
        if need.services.is_disjoint(touched) {
            return resources;
        }
        let upstreams = need.outbound.values().flatten().filter(|of| touched.contains(&of.service));
        for arm in upstreams.flat_map(|of| need::arms(view, of)) {
            let (cluster, assignment) = self.pool.arm(view, &need.key.identity, &arm);
            for (kind, resource) in [(ResourceType::Cluster, cluster), (ResourceType::Endpoint, assignment)] {
                let before = resources.get(&kind).and_then(|all| all.get(&resource.name));
                if before.is_none_or(|before| !Arc::ptr_eq(before, &resource)) {
                    let all = Arc::make_mut(&mut resources).entry(kind).or_default();
                    all.insert(resource.name.clone(), resource);
                }
            }
        }
        resources
    }

    fn draft(&mut self, view: &MeshView, need: &Need, callers: &[BTreeSet<TrustDomain>]) -> Draft {
        let mut draft = Draft::default();
        for (workload, allowed) in need.inbound.iter().zip(callers) {
            draft.add_listener(workload.inbound, self.pool.inbound_listener(view, &need.key.identity, workload));
            draft.add(ResourceType::Route, self.pool.inbound_route(&workload.workload, allowed));
            for app in self.pool.apps(workload) {
                draft.add(ResourceType::Cluster, app);
            }
        }
        for (address, upstreams) in &need.outbound {
            let targets: Vec<_> = upstreams.iter().map(|of| (of.clone(), self.target(view, of))).collect();
            for (of, target) in &targets {
                if let Target::Split(arms) = target {
                    draft.splits.insert(of.service.clone(), arms.clone());
                }
                for arm in need::arms(view, of) {
                    let (cluster, assignment) = self.pool.arm(view, &need.key.identity, &arm);
                    draft.add(ResourceType::Cluster, cluster);
                    draft.add(ResourceType::Endpoint, assignment);
                }
            }
            draft.add_listener(*address, self.pool.outbound_listener(*address));
            draft.add(ResourceType::Route, self.pool.outbound_route(*address, targets));
        }
        draft
    }

    /// One cluster, or all arms with their weights: each arm is named from federation on, at weight 0 if need be, since the first
    /// load report of a new cluster is lost.
    fn target(&mut self, view: &MeshView, of: &ServiceRef) -> Target {
        let arms = need::arms(view, of);
        let Some((split, _)) = view.splits.get(&of.service).filter(|_| arms.len() > 1) else {
            return match arms.as_slice() {
                [_] => Target::Whole(self.pool.name(of)),
                _ => self.split(&arms, &Split::all_local([])),
            };
        };
        self.split(&arms, split)
    }

    fn split(&mut self, arms: &[ServiceRef], split: &Split) -> Target {
        let weight =
            |arm: &ServiceRef| arm.peer.as_ref().map_or_else(|| split.local(), |peer| split.of(peer)).value().into();
        Target::Split(arms.iter().map(|arm| (self.pool.name(arm), weight(arm))).collect())
    }

    /// Remembers the splits; says which services have other arms or weights than before.
    fn resplit(&mut self, view: &MeshView) -> BTreeSet<ServiceName> {
        let mut moved = BTreeSet::new();
        if self.federated != view.federated {
            moved.extend(differing(&self.federated, &view.federated));
            self.federated.clone_from(&view.federated);
        }
        if self.splits != view.splits {
            moved.extend(differing(&self.splits, &view.splits));
            self.splits.clone_from(&view.splits);
        }
        moved
    }

    fn read_nodes(&mut self, view: &MeshView) {
        self.nodes.retain(|node, _| view.workloads.contains_key(node));
        for (node, workloads) in &view.workloads {
            if !self.nodes.get(node).is_some_and(|known| Arc::ptr_eq(&known.workloads, workloads)) {
                let needs = need::needs_of(node, workloads);
                self.nodes.insert(node.clone(), Node { workloads: workloads.clone(), needs });
            }
        }
    }
}

fn same_resources(one: &Resources, two: &Resources) -> bool {
    let same =
        |(a, b): (&ByName, &ByName)| a.len() == b.len() && a.values().zip(b.values()).all(|(a, b)| Arc::ptr_eq(a, b));
    one.keys().eq(two.keys()) && one.values().zip(two.values()).all(same)
}

/// The keys that only one of the two has, or whose values differ.
fn differing<'a, V: PartialEq>(
    one: &'a BTreeMap<ServiceName, V>,
    two: &'a BTreeMap<ServiceName, V>,
) -> impl Iterator<Item = ServiceName> + 'a {
    let of_one = one.iter().filter(|(name, value)| two.get(*name) != Some(*value));
    of_one.map(|(name, _)| name).chain(two.keys().filter(|name| !one.contains_key(*name))).cloned()
}
