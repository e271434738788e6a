//! The task behind the rollouts, one machine per (federated service, peer): it feeds them the mesh, acknowledgements, load,
//! commands and time, makes every new state durable in one transaction with the numbers of the samples in it, and only then tells
//! the state the weights. Killed between any two of these it goes on as if it had not been.

mod counted;
mod facts;
mod handle;
mod turn;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Gauge, Metrics};
use symbolon_kit::supervise::{OnExit, Tasks};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, warn};

use super::decide::{Refusal, State};
use super::plan::{Policy, PolicyError};
use super::status::{Status, Statuses};
use crate::model::{AckTable, Change, MeshView, PeerName, ServiceName, Split};
use crate::store::{self, SharedStore, codec, keys};

use counted::Counted;
use facts::FactsCache;
use handle::Request;
pub use handle::{Handle, Outcome};

/// How many requests may wait, and how many are committed together.
const QUEUE: usize = 1024;
const BATCH: usize = 256;
const KIND: &str = "rollout";
const VERSION: u16 = 1;

type Id = (ServiceName, PeerName);

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    pub policy: Policy,
    pub store: SharedStore,
    pub clock: Clock,
    pub view: watch::Receiver<Arc<MeshView>>,
    pub acks: watch::Receiver<Arc<AckTable>>,
    pub changes: mpsc::Sender<Change>,
    pub metrics: Metrics,
}

/// The task; made by [`Engine::start`].
#[derive(Debug)]
pub struct Engine {
    parts: Parts,
    rollouts: BTreeMap<Id, Rollout>,
    counted: Counted,
    facts: FactsCache,
    /// What the state was last told.
    sent: BTreeMap<ServiceName, Split>,
    statuses: watch::Sender<Arc<Statuses>>,
    meters: Meters,
}

/// One rollout, as it is durable.
#[derive(Clone, Debug, Default)]
struct Rollout {
    state: State,
    stored: Option<Record>,
}

#[derive(Clone, Debug)]
struct Record {
    bytes: Vec<u8>,
    modified: u64,
}

#[derive(Debug)]
struct Meters {
    samples: Counter,
    decisions: Counter,
    weight: Gauge,
}

/// Why the engine cannot, or will not.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("rollouts cannot be kept: {0}")]
    Store(Arc<store::Error>),
    #[error("another replica decided in between; try again")]
    Conflict,
    #[error("{0} is not federated with {1}")]
    Unknown(ServiceName, PeerName),
    #[error("not taken: {0}")]
    Refused(#[from] Refusal),
    #[error("the control plane is stopping")]
    Stopping,
}

impl Error {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Policy(_) => "policy",
            Self::Store(_) => "store",
            Self::Conflict => "conflict",
            Self::Unknown(..) => "unknown",
            Self::Refused(refusal) => refusal.label(),
            Self::Stopping => "stopping",
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl Engine {
    /// Reads what is stored and starts the task. The changes restore the stored weights: fold them, after the definitions and before
    /// anything is served.
    ///
    /// # Errors
    /// If the policy cannot be, or what is stored cannot be read: to begin anew over it would give traffic to an arm that was out.
    pub async fn start(parts: Parts, tasks: &Tasks, drain: Drain) -> Result<(Handle, Vec<Change>), Error> {
        parts.policy.check()?;
        let (inbox, statuses) = (mpsc::channel(QUEUE), watch::Sender::new(Arc::new(Statuses::new())));
        let mut engine = Self {
            rollouts: stored_rollouts(&parts.store).await?,
            counted: Counted::load(&parts.store).await?,
            facts: FactsCache::default(),
            sent: BTreeMap::new(),
            statuses,
            meters: Meters::new(&parts.metrics),
            parts,
        };
        let handle = Handle::new(inbox.0, engine.statuses.subscribe());
        let changes = engine.restored();
        engine.publish();
        tasks.spawn("rollout", OnExit::Shutdown, engine.run(inbox.1, drain));
        Ok((handle, changes))
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, drain: Drain) {
        // What was stored is looked at once before any request, so that none is judged by how soon a first tick comes.
        self.turn(Vec::new(), true).await;
        let every = self.parts.policy.interval;
        let mut tick = tokio::time::interval_at(Instant::now() + every, every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            let mut ticked = false;
            tokio::select! {
                received = inbox.recv_many(&mut batch, BATCH) => if received == 0 { return },
                changed = self.parts.view.changed() => if changed.is_err() { return },
                changed = self.parts.acks.changed() => if changed.is_err() { return },
                _ = tick.tick() => ticked = true,
                () = drain.cancelled() => return,
            }
            self.turn(std::mem::take(&mut batch), ticked).await;
        }
    }

    /// The stored weights. Of a service that the mesh does not federate yet the order of the arms is not known: by name then, which
    /// is right for a single peer; a wrong one is dropped by the state, and told again once the mesh has it.
    fn restored(&mut self) -> Vec<Change> {
        let view = self.parts.view.borrow().clone();
        let mut arms: BTreeMap<ServiceName, Vec<PeerName>> = BTreeMap::new();
        for (service, peer) in self.rollouts.keys() {
            arms.entry(service.clone()).or_default().push(peer.clone());
        }
        arms.extend(view.federated.clone());
        let mut changes = Vec::new();
        for (service, peers) in arms {
            let split = self.split(&service, &peers);
            if split.remote().iter().any(|(_, weight)| weight.value() > 0) {
                self.sent.insert(service.clone(), split.clone());
                changes.push(Change::Split { service, split });
            }
        }
        changes
    }

    /// The split of `service`, from the weights of its rollouts.
    fn split(&self, service: &ServiceName, peers: &[PeerName]) -> Split {
        let mut left = u32::from(crate::model::TOTAL);
        let weights = peers.iter().map(|peer| {
            let rollout = self.rollouts.get(&(service.clone(), peer.clone()));
            let wanted = rollout.map_or(0, |rollout| u32::from(rollout.state.weight.value()));
            // Each machine keeps to the room that the others leave; this only catches a unit of rounding.
            let given = wanted.min(left);
            left -= given;
            (peer.clone(), crate::model::Weight::new(given).unwrap_or_default())
        });
        let weights: Vec<_> = weights.collect();
        Split::with_remote(weights).unwrap_or_else(|_| Split::all_local(peers.iter().cloned()))
    }

    /// Tells the state every split that it does not have.
    async fn tell(&mut self) {
        let view = self.parts.view.borrow().clone();
        for (service, peers) in &view.federated {
            let split = self.split(service, peers);
            let has = view.splits.get(service).is_some_and(|(has, _)| *has == split);
            let told = self.sent.get(service) == Some(&split);
            if has && (told || !self.sent.contains_key(service)) || told && !self.facts.is_new_view() {
                continue;
            }
            let change = Change::Split { service: service.clone(), split: split.clone() };
            if self.parts.changes.send(change).await.is_err() {
                warn!(%service, "the state task is gone: weights are not told");
                return;
            }
            self.sent.insert(service.clone(), split);
        }
    }

    fn publish(&self) {
        let status = |(id, rollout): (&Id, &Rollout)| {
            let status = Status::of(id.0.clone(), id.1.clone(), &rollout.state, &self.parts.policy);
            (id.clone(), Arc::new(status))
        };
        // By the mesh and not by the facts: what was stored is shown from the start, before the first turn has read any.
        let federated = |(service, peer): &Id, view: &MeshView| {
            view.federated.get(service).is_some_and(|peers| peers.contains(peer))
        };
        let view = self.parts.view.borrow().clone();
        let active = self.rollouts.iter().filter(|(id, _)| federated(id, &view));
        let statuses: Statuses = active.map(status).collect();
        for ((service, peer), status) in &statuses {
            let labels = [("service", service.as_str()), ("peer", peer.as_str())];
            self.meters.weight.set(&labels, status.weight.value().into());
        }
        self.statuses.send_if_modified(|before| {
            let changed = **before != statuses;
            if changed {
                *before = Arc::new(statuses);
            }
            changed
        });
    }
}

async fn stored_rollouts(store: &SharedStore) -> Result<BTreeMap<Id, Rollout>, Error> {
    let (all, _) = store.range(keys::rollouts()).await?;
    let mut rollouts = BTreeMap::new();
    for stored in all {
        let Some(id) = keys::pair_of_rollout(&stored.key) else {
            error!(key = %stored.key.0, "not a rollout's key; left alone");
            continue;
        };
        let state = codec::decode(KIND, &stored.value)?;
        let record = Record { bytes: stored.value, modified: stored.modified };
        rollouts.insert(id, Rollout { state, stored: Some(record) });
    }
    Ok(rollouts)
}

impl Meters {
    fn new(metrics: &Metrics) -> Self {
        Self {
            samples: metrics.counter("symbolon_rollout_samples", "Load samples, by what became of them"),
            decisions: metrics.counter("symbolon_rollout_decisions", "Decisions, by the phase they led to"),
            weight: metrics.gauge("symbolon_rollout_weight", "Wanted weight of the remote arm, in 1/10,000"),
        }
    }
}

/// How long a caller waits for a turn that does not end.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
