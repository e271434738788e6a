//! Where the traffic of a service can go. A cluster serves one arm first and carries the others behind it, so that a dead arm
//! loses no share (`Two arms that cannot drop traffic`).

use std::collections::BTreeSet;
use std::sync::Arc;

use symbolon_proto::ids::{SpiffeId, TrustDomain};

use crate::model::{Endpoint, Health, ImportedService, LocalService, MeshView, PeerState, ServiceRef};

/// One arm: a service as one mesh serves it, with what is known of it now.
#[derive(Clone, Debug)]
pub(super) struct Arm {
    pub(super) of: ServiceRef,
    /// Of the mesh that serves it; `None` for a peer never heard of.
    pub(super) trust_domain: Option<TrustDomain>,
    known: Known,
}

#[derive(Clone, Debug)]
enum Known {
    Nothing,
    Local(Arc<LocalService>),
    Imported(Arc<ImportedService>, PeerState),
}

/// Whom a client accepts at an arm's endpoints.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Accept {
    /// The arm's cluster name; its endpoints carry it as metadata.
    pub(super) arm: Arc<str>,
    /// The service's name in the mesh that serves it, which is what a gateway there can route by.
    pub(super) sni: Arc<str>,
    /// Sorted; empty if none is known.
    pub(super) identities: Vec<SpiffeId>,
}

/// How far a peer's endpoints may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// As their health says.
    Full,
    /// Only when no endpoint of another arm is healthy.
    LastResort,
    /// Listed, never used.
    Unusable,
}

/// The arms of the cluster `of`, each with its priority; the first is its own. Priorities are dense, as Envoy demands.
pub(super) fn arms_of(view: &MeshView, of: &ServiceRef) -> Vec<(u32, Arm)> {
    let mut arms = vec![(0, Arm::new(view, of.clone()))];
    let Some(peers) = view.federated.get(&of.service) else { return arms };
    let others = peers.iter().filter(|peer| of.peer.as_ref() != Some(peer));
    match &of.peer {
        None => arms.extend(others.map(|peer| (1, Arm::new(view, of.service.of(peer))))),
        Some(own) if peers.contains(own) => {
            arms.push((1, Arm::new(view, of.service.local())));
            arms.extend(others.map(|peer| (2, Arm::new(view, of.service.of(peer)))));
        }
        Some(_) => {}
    }
    arms
}

// === impl Arm ===

impl Arm {
    fn new(view: &MeshView, of: ServiceRef) -> Self {
        let Some(peer) = &of.peer else {
            let known = view.services.get(&of.service).map_or(Known::Nothing, |local| Known::Local(local.clone()));
            return Self { of, trust_domain: Some(view.trust_domain.clone()), known };
        };
        let Some(peer) = view.peers.get(peer) else { return Self { of, trust_domain: None, known: Known::Nothing } };
        let known = match peer.services.get(&of.service) {
            Some(imported) => Known::Imported(imported.clone(), peer.state),
            None => Known::Nothing,
        };
        Self { trust_domain: Some(peer.trust_domain.clone()), of, known }
    }

    /// Whether nothing can have changed between the two: the same values, not just equal ones.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let known = match (&self.known, &other.known) {
            (Known::Nothing, Known::Nothing) => true,
            (Known::Local(one), Known::Local(two)) => Arc::ptr_eq(&one.endpoints, &two.endpoints),
            (Known::Imported(one, before), Known::Imported(two, after)) => Arc::ptr_eq(one, two) && before == after,
            _ => false,
        };
        known && self.of == other.of && self.trust_domain == other.trust_domain
    }

    /// In the order of their ids.
    pub(super) fn endpoints(&self) -> &[Endpoint] {
        match &self.known {
            Known::Nothing => &[],
            Known::Local(local) => &local.endpoints,
            Known::Imported(imported, _) => &imported.endpoints,
        }
    }

    /// What the age of the peer's word makes of its endpoints. Nothing is ever withdrawn for it: a stale peer is demoted within
    /// its priority, not to another one, since the judge tells the arms apart by (cluster, priority).
    pub(super) fn standing(&self) -> Standing {
        match &self.known {
            Known::Imported(_, PeerState::Stale) => Standing::LastResort,
            Known::Imported(_, PeerState::Expired) => Standing::Unusable,
            _ => Standing::Full,
        }
    }

    /// Whom to accept there: all identities of the arm's endpoints if local, those the peer named if imported. Only ones of the
    /// arm's own trust domain: what a peer may say is pinned here once more, whoever admitted it.
    pub(super) fn accept(&self) -> Accept {
        let mut identities: BTreeSet<SpiffeId> = match &self.known {
            Known::Nothing => BTreeSet::new(),
            Known::Local(local) => local.endpoints.iter().map(|endpoint| endpoint.identity.clone()).collect(),
            Known::Imported(imported, _) => imported.identities.clone(),
        };
        identities.retain(|id| Some(id.trust_domain()) == self.trust_domain.as_ref());
        Accept {
            arm: self.of.to_string().into(),
            sni: self.of.service.as_str().into(),
            identities: identities.into_iter().collect(),
        }
    }
}

// === impl Standing ===

impl Standing {
    /// What both the arm's standing and the endpoint's own health allow.
    pub(super) fn of(self, health: Health) -> Self {
        match health {
            Health::Unknown | Health::Healthy => self,
            Health::Unhealthy | Health::Draining => Self::Unusable,
        }
    }
}
