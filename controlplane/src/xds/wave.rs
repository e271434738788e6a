//! All types of one stream, and the order among them: make before break.
//!
//! ```text
//!   upserts    CDS ──► EDS ──► LDS ──► RDS      one pass per event; a type with a response in flight is passed over
//!               ▲ └─owes─▲       └─owes─▲       a cluster or listener that changes has its EDS or RDS sent again (21, 30, 35)
//!               │                       │
//!               └──────── waits ────────┘       a route (or listener) goes out when its clusters are accepted, or after [`WAIT`]
//!   removals   a name goes when nothing that the client still holds, and is to lose, needs it: so CDS after the RDS ACK, then EDS
//! ```
//!
//! Only these edges wait. Endpoints never wait for the CDS ACK, which Envoy gives only when warming ends, for which it needs the
//! endpoints (12). Types without an edge flow independently.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::model::{ProxyAck, ResourceType};
use crate::snapshot::{Resource, Snapshot};

use super::WAIT;
use super::kind::Kind;
use super::plan::{Gate, Plan};
use super::refusal::Refusal;
use super::status::{TYPES, TypeState, TypeStatus};
use super::subscription::{Holds, Subscription, Table};
use super::wire::{Asks, Request, Variant};

/// What happens to a stream.
#[derive(Debug)]
pub(super) enum Event {
    Request(Request),
    /// What the proxy is to have from now on. A set of a higher generation with the same content is told too: it counts as
    /// acknowledged without being sent.
    Snapshot {
        snapshot: Arc<Snapshot>,
        generation: u64,
    },
    /// [`Wave::wake_at`] has come.
    Tick,
}

/// What is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub kind: Kind,
    pub nonce: String,
    /// `version_info` of the SotW variant; empty in delta.
    pub version: String,
    pub upserts: Vec<Arc<Resource>>,
    pub removed: Vec<Arc<str>>,
}

/// What came of an event.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// In sending order; at most one for each type.
    pub responses: Vec<Response>,
    /// The event was a NACK of this type.
    pub nack: Option<Kind>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Wave {
    variant: Variant,
    /// Makes this stream's nonces unlike any other's (6).
    tag: u64,
    nonces: u64,
    opened: Instant,
    /// The client said what it holds from an earlier stream.
    resumed: bool,
    snapshot: Option<Arc<Snapshot>>,
    generation: u64,
    subscriptions: BTreeMap<Kind, Subscription>,
    wake_at: Option<Instant>,
}

static EMPTY: Table = Table::new();

// === impl Wave ===

impl Wave {
    pub(super) fn new(variant: Variant, tag: u64, now: Instant) -> Self {
        let subscriptions = Kind::all().map(|kind| (kind, Subscription::new(kind, variant))).collect();
        Self {
            variant,
            tag,
            nonces: 0,
            opened: now,
            resumed: false,
            snapshot: None,
            generation: 0,
            subscriptions,
            wake_at: None,
        }
    }

    /// Takes one event.
    ///
    /// # Errors
    /// A refusal that ends the stream.
    pub(super) fn step(&mut self, event: Event, now: Instant) -> Result<Effects, Refusal> {
        let mut effects = Effects::default();
        match event {
            Event::Request(request) => {
                let kind = request.kind;
                self.resumed |= match &request.asks {
                    Asks::Delta { initial, .. } => !initial.is_empty(),
                    Asks::Sotw { version, .. } => !self.subscription(kind).started && !version.is_empty(),
                };
                let subscription = self.subscription_mut(kind);
                effects.nack = subscription.apply(request)?.then_some(kind);
            }
            Event::Snapshot { snapshot, generation } => {
                let same =
                    self.snapshot.replace(snapshot.clone()).is_some_and(|before| Arc::ptr_eq(&before, &snapshot));
                let before = std::mem::replace(&mut self.generation, generation);
                if same && self.subscriptions.values().all(|subscription| subscription.is_settled(before)) {
                    // Most generations are about others.
                    for subscription in self.subscriptions.values_mut().filter(|subscription| subscription.started) {
                        subscription.acked = Some(generation);
                    }
                    return Ok(effects);
                }
            }
            Event::Tick => {}
        }
        self.wake_at = None;
        effects.responses = Kind::all().filter_map(|kind| self.advance(kind, now)).collect();
        Ok(effects)
    }

    /// When to step again without an outer event.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }

    /// What is acknowledged, by type. A type appears with its first generation that is acknowledged whole.
    pub(super) fn acks(&self) -> ProxyAck {
        let acked = |of: ResourceType| Some((of, self.subscription(of.into()).acked?));
        ProxyAck { generations: TYPES.into_iter().filter_map(acked).collect() }
    }

    /// For operators.
    pub(super) fn status(&self) -> Vec<TypeStatus> {
        TYPES.into_iter().map(|of| self.status_of(of)).collect()
    }

    fn status_of(&self, of: ResourceType) -> TypeStatus {
        let subscription = self.subscription(of.into());
        if !subscription.started || self.snapshot.is_none() {
            return TypeStatus::not_sent(of);
        }
        let held = subscription.client.values().filter(|holds| matches!(holds, Holds::Version { .. })).count();
        let error = subscription.rejection().map(str::to_owned);
        let state = match (&error, subscription.acked) {
            (Some(_), _) => TypeState::Rejected,
            (None, Some(acked)) if acked >= self.generation => TypeState::Synced,
            (None, _) => TypeState::Stale,
        };
        TypeStatus { kind: of, state, resources: u32::try_from(held).unwrap_or(u32::MAX), error }
    }

    /// Sends what is to be sent of `kind`, if nothing of it is in flight.
    fn advance(&mut self, kind: Kind, now: Instant) -> Option<Response> {
        // Without a snapshot only that is answered which no snapshot would hold back: a runtime layer, and types we have none of.
        // Everything else waits until the proxy's workload is registered.
        if self.snapshot.is_none() && !matches!(kind, Kind::Runtime) && kind.model().is_some() {
            return None;
        }
        let snapshot = self.snapshot.clone();
        let table = snapshot.as_deref().map_or(&EMPTY, |snapshot| table(snapshot, kind));
        let subscription = self.subscription_mut(kind);
        if !subscription.started || subscription.in_flight.is_some() {
            return None;
        }
        if snapshot.is_some() {
            subscription.resolve(table);
        }
        let mut plan = self.plan(kind, table, now);
        plan.whole &= self.is_asked_for(kind, table);
        if plan.is_idle() {
            if plan.whole && snapshot.is_some() {
                let generation = self.generation;
                let subscription = self.subscription_mut(kind);
                subscription.acked = subscription.acked.max(Some(generation));
            }
            return None;
        }
        Some(self.send(kind, plan))
    }

    fn plan(&mut self, kind: Kind, table: &Table, now: Instant) -> Plan {
        let gate = |overdue: bool| {
            let ready = |resource: &Resource| overdue || self.is_ready(kind, resource);
            let removable = |name: &str| self.is_removable(kind, name, now);
            self.subscription(kind).plan(table, &Gate { ready: &ready, removable: &removable })
        };
        let mut plan = gate(false);
        let mut since = None;
        if plan.waiting {
            let begun = self.subscription(kind).waiting_since.unwrap_or(now);
            if now >= begun + WAIT {
                plan = gate(true);
            } else {
                since = Some(begun);
                self.wake_by(begun + WAIT);
            }
        }
        self.subscription_mut(kind).waiting_since = since;
        if !plan.whole && self.resumed && now < self.opened + WAIT {
            self.wake_by(self.opened + WAIT);
        }
        plan
    }

    fn wake_by(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    fn send(&mut self, kind: Kind, plan: Plan) -> Response {
        self.nonces += 1;
        let nonce = format!("{:x}.{}", self.tag, self.nonces);
        let generation = self.generation;
        let subscription = self.subscription_mut(kind);
        let version =
            if subscription.variant == Variant::Sotw { subscription.version_after(&plan) } else { String::new() };
        subscription.send(&plan, nonce.clone(), generation);
        // A cluster that changes warms until its endpoints come, a listener until its routes do; the client asks again only in
        // SotW, and after a reconnect it is told that they are unchanged.
        let child = match kind {
            Kind::Cluster => Some(ResourceType::Endpoint),
            Kind::Listener => Some(ResourceType::Route),
            _ => None,
        };
        if let Some(child) = child {
            for (_, name) in plan.changed.iter().flat_map(|parent| parent.needs.iter()).filter(|(of, _)| *of == child) {
                self.subscription_mut(child.into()).owe(name);
            }
        }
        Response { kind, nonce, version, upserts: plan.upserts, removed: plan.removed }
    }

    /// Whether the clusters that a route or listener names are accepted. A cluster that the snapshot lacks, or that the client
    /// finds by the route (gRPC), is not waited for.
    fn is_ready(&self, kind: Kind, resource: &Resource) -> bool {
        if !Kind::Cluster.parents().contains(&kind) {
            return true;
        }
        let Some(snapshot) = &self.snapshot else { return true };
        let clusters = resource.needs.iter().filter(|(of, _)| *of == ResourceType::Cluster);
        clusters
            .filter_map(|(_, name)| snapshot.of(ResourceType::Cluster).get(name))
            .all(|cluster| self.is_usable(cluster))
    }

    fn is_usable(&self, cluster: &Resource) -> bool {
        let clusters = self.subscription(Kind::Cluster);
        if !clusters.started {
            // A reconnecting client sends its types in any order (31); the clusters will come.
            return !self.resumed;
        }
        if !clusters.wildcard {
            return true;
        }
        if clusters.version_of(&cluster.name).is_none() {
            return false;
        }
        // Envoy's delta ACK says that warming has ended. The SotW ACK does not, and routes are not warmed (36).
        let endpoints = self.subscription(Kind::Endpoint);
        self.variant == Variant::Delta
            || cluster
                .needs
                .iter()
                .filter(|(of, _)| *of == ResourceType::Endpoint)
                .all(|(_, name)| endpoints.client.contains_key(name))
    }

    /// Whether the client has asked for every child that its clusters or listeners will make it ask for: what it is to have and
    /// does not know of yet is not acknowledged. Children of a rejected parent are not expected.
    fn is_asked_for(&self, kind: Kind, table: &Table) -> bool {
        let (parent, of) = match kind {
            Kind::Endpoint => (Kind::Cluster, ResourceType::Endpoint),
            Kind::Route => (Kind::Listener, ResourceType::Route),
            _ => return true,
        };
        let (children, parents) = (self.subscription(kind), self.subscription(parent));
        let Some(snapshot) = self.snapshot.as_deref().filter(|_| parents.wildcard) else { return true };
        let expected = self::table(snapshot, parent).values();
        let expected = expected.filter(|parent| parents.rejected.get(&parent.name) != Some(&parent.version));
        let mut needs = expected.flat_map(|parent| parent.needs.iter()).filter(|(needed, _)| *needed == of);
        needs.all(|(_, name)| children.wants(name) || !table.contains_key(name))
    }

    /// Whether nothing that the client holds of the types above, and is to lose, needs `name`.
    fn is_removable(&self, kind: Kind, name: &str, now: Instant) -> bool {
        let (Some(snapshot), Some(of)) = (&self.snapshot, kind.model()) else { return true };
        kind.parents().iter().all(|parent| {
            let holder = self.subscription(*parent);
            if !holder.started {
                // After a reconnect it has not said yet what it holds.
                return !self.resumed || now >= self.opened + WAIT;
            }
            let current = table(snapshot, *parent);
            let in_flight = holder.in_flight.iter().flat_map(|in_flight| &in_flight.sent);
            holder.client.iter().chain(in_flight).all(|(parent, holds)| match holds {
                Holds::Nothing => true,
                Holds::Version { version, .. } if current.get(parent).is_some_and(|to| to.version == *version) => true,
                Holds::Version { resource: Some(resource), .. } => {
                    !resource.needs.iter().any(|(needed, by)| *needed == of && by.as_ref() == name)
                }
                Holds::Version { resource: None, .. } => false,
            })
        })
    }

    fn subscription(&self, kind: Kind) -> &Subscription {
        self.subscriptions.get(&kind).expect("new() makes one for every kind")
    }

    fn subscription_mut(&mut self, kind: Kind) -> &mut Subscription {
        self.subscriptions.get_mut(&kind).expect("new() makes one for every kind")
    }
}

fn table(snapshot: &Snapshot, kind: Kind) -> &Table {
    kind.model().map_or(&EMPTY, |of| snapshot.of(of))
}
