//! What this node tells its control plane: the list joined with the health of each entry. Pure: the task feeds it lists and
//! answers and sends what [`Board::report`] returns.
//!
//! A workload that is checked is told at once and is unhealthy until it has answered well: the control plane programs its Envoy only
//! once it is told, and nobody may be sent there before that Envoy listens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use symbolon_proto::node;

use super::health::{Policy, State};
use super::probe::Target;
use crate::config::Workload;

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

/// A run of checks to begin: at once, then as [`Board::answered`] says, until it says no more. One run is for one target: when other
/// fields of its workload change, it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) target: Target,
}

/// What an answer led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) state: State,
    /// Whether others are to be told another health than before.
    pub(super) turned: bool,
}

// === impl Board ===

impl Board {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Takes a new list; returns the checks to begin.
    pub(super) fn listed(&mut self, list: Arc<[Workload]>) -> Vec<Begin> {
        let mut before = std::mem::take(&mut self.checks);
        let mut begin = Vec::new();
        for workload in list.iter() {
            let Some(target) = Target::of(workload) else { continue };
            let check = match before.remove(&workload.name) {
                Some(check) if check.target == target => check,
                known => {
                    self.generation += 1;
                    let (name, generation) = (workload.name.clone(), self.generation);
                    begin.push(Begin { name, generation, target: target.clone() });
                    let state = known.and_then(|known| known.inherited_by(&target)).unwrap_or_default();
                    Check { target, generation, state }
                }
            };
            self.checks.insert(workload.name.clone(), check);
        }
        self.list = list;
        begin
    }

    /// Takes an answer. `None`: that run of checks is over.
    pub(super) fn answered(&mut self, run: &Begin, well: bool) -> Option<Next> {
        let check = self.checks.get_mut(&run.name).filter(|check| check.generation == run.generation)?;
        let before = check.state;
        check.state = before.step(well, self.policy);
        Some(Next { state: check.state, turned: before.is_healthy() != check.state.is_healthy() })
    }

    /// Whether some workload has not answered yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.checks.values().any(|check| check.state == State::New)
    }

    /// The next report, if it says anything new.
    pub(super) fn report(&mut self) -> Option<Arc<node::Workloads>> {
        let workloads: Vec<_> = self.list.iter().map(|workload| self.told(workload)).collect();
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

    fn told(&self, workload: &Workload) -> node::Workload {
        let health = match self.checks.get(&workload.name) {
            None => node::workload::Health::Unknown, // nobody checks: the control plane takes it for healthy
            Some(check) if check.state.is_healthy() => node::workload::Health::Healthy,
            Some(_) => node::workload::Health::Unhealthy,
        };
        let text = |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        node::Workload {
            name: workload.name.clone(),
            service: workload.service.clone().unwrap_or_default(),
            identity: workload.identity.to_string(),
            address: text(workload.address),
            inbound: text(workload.inbound),
            upstreams: workload.upstreams.clone(),
            health: health.into(),
            weight: workload.weight,
            outbound: text(workload.outbound),
        }
    }
}

// === impl Check ===

impl Check {
    /// What a new target of the same workload begins with. An edit is no outage: who was healthy stays so until the new target
    /// answers. But another inbound address is another endpoint, at which nobody may be listening yet.
    fn inherited_by(&self, target: &Target) -> Option<State> {
        (self.state.is_healthy() && self.target.inbound == target.inbound).then_some(self.state)
    }
}
