//! What this node tells its control plane: the list joined with the health of each entry. Pure: the task feeds it lists and
//! answers and sends what [`Board::report`] returns.
//!
//! A workload that is checked but has never answered is withheld for that moment, rather than offered before it listens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use symbolon_proto::node;

use super::health::Policy;
use super::health::State;
use crate::config::{HealthCheck, Workload};

/// Joins the list with the health of its entries.
#[derive(Debug, Default)]
pub(super) struct Board {
    policy: Policy,
    list: Arc<[Workload]>,
    checks: BTreeMap<String, Check>,
    /// Names one run of checks: an answer to an older one is of no interest.
    generation: u64,
    revision: u64,
    said: Option<Vec<node::Workload>>,
}

#[derive(Debug)]
struct Check {
    target: Target,
    generation: u64,
    state: State,
}

/// What to check. The same target is not checked anew when other fields of its workload change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) check: HealthCheck,
}

/// A run of checks to begin: at once, then every interval, until [`Board::answered`] says that it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) target: Target,
}

impl Board {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Takes a new list; returns the checks to begin. A workload whose target changed keeps what was known of it until the
    /// new target answers: an edit is no outage.
    pub(super) fn listed(&mut self, list: Arc<[Workload]>) -> Vec<Begin> {
        let mut before = std::mem::take(&mut self.checks);
        let mut begin = Vec::new();
        for workload in list.iter() {
            let Some(target) = target(workload) else { continue };
            let known = before.remove(&workload.name);
            let check = match known {
                Some(check) if check.target == target => check,
                known => {
                    self.generation += 1;
                    let (name, generation) = (workload.name.clone(), self.generation);
                    begin.push(Begin { name, generation, target: target.clone() });
                    Check { target, generation, state: known.map_or(State::Unknown, |check| check.state) }
                }
            };
            self.checks.insert(workload.name.clone(), check);
        }
        self.list = list;
        begin
    }

    /// Takes an answer; whether this run of checks goes on. Returns the old and the new state when others should know.
    pub(super) fn answered(&mut self, name: &str, generation: u64, well: bool) -> (bool, Option<(State, State)>) {
        match self.checks.get_mut(name) {
            Some(check) if check.generation == generation => {
                let before = check.state;
                check.state = before.step(well, self.policy);
                (true, (!before.says_same(check.state)).then_some((before, check.state)))
            }
            _ => (false, None),
        }
    }

    /// Whether some workload has not answered yet.
    pub(super) fn is_withholding(&self) -> bool {
        self.checks.values().any(|check| check.state == State::Unknown)
    }

    /// The next report, if it says anything new.
    pub(super) fn report(&mut self) -> Option<Arc<node::Workloads>> {
        let workloads: Vec<_> = self.list.iter().filter_map(|workload| self.told(workload)).collect();
        if self.said.as_ref() == Some(&workloads) {
            return None;
        }
        self.revision += 1;
        self.said = Some(workloads.clone());
        Some(Arc::new(node::Workloads { revision: self.revision, workloads }))
    }

    /// How many workloads are in each state of health, as told.
    pub(super) fn counts(&self) -> [(&'static str, i64); 3] {
        let count = |health: node::workload::Health| {
            let same = |workload: &&node::Workload| workload.health == health as i32;
            i64::try_from(self.said.iter().flatten().filter(same).count()).unwrap_or(i64::MAX)
        };
        use node::workload::Health::{Healthy, Unhealthy, Unknown};
        [("unknown", count(Unknown)), ("healthy", count(Healthy)), ("unhealthy", count(Unhealthy))]
    }

    fn told(&self, workload: &Workload) -> Option<node::Workload> {
        let health = match self.checks.get(&workload.name).map(|check| check.state) {
            None => node::workload::Health::Unknown, // nobody checks: the control plane takes it for healthy
            Some(State::Unknown) => return None,
            Some(State::Healthy { .. }) => node::workload::Health::Healthy,
            Some(State::Unhealthy { .. }) => node::workload::Health::Unhealthy,
        };
        let text = |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        Some(node::Workload {
            name: workload.name.clone(),
            service: workload.service.clone().unwrap_or_default(),
            identity: workload.identity.to_string(),
            address: text(workload.address),
            inbound: text(workload.inbound),
            upstreams: workload.upstreams.clone(),
            health: health.into(),
            weight: workload.weight,
            outbound: text(workload.outbound),
        })
    }
}

fn target(workload: &Workload) -> Option<Target> {
    Some(Target { address: workload.address?, check: workload.health.clone()? })
}
