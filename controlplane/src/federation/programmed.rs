//! Tells the peer how far its changes are in use: a change is PROGRAMMED when every connected proxy that calls the service has
//! acknowledged a generation that carries it. Bundles are not counted: SDS ends at the sidecar.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use symbolon_proto::federation as wire;
use symbolon_proto::federation::ack::Level;
use tokio::sync::mpsc;

use super::Context;
use super::session::Published;
use crate::model::{AckTable, ImportedService, MeshView, PeerName, ProxyKey, ResourceType, ServiceName};

/// What the apply task says.
#[derive(Debug)]
pub(super) enum Told {
    Opened { seq: u64, to_peer: mpsc::Sender<wire::FromSubscriber> },
    Applied { seq: u64, published: Vec<Published> },
}

/// What is applied and not yet programmed. Pure.
#[derive(Debug, Default)]
struct Waiting {
    services: BTreeMap<ServiceName, Change>,
    applied: u64,
    acked: u64,
    proxies: (usize, usize),
}

#[derive(Debug)]
struct Change {
    /// The first of possibly several changes of the service that no proxy is known to have.
    since: u64,
    imported: Option<ImportedService>,
    /// The generation of the mesh that carries the newest.
    generation: Option<u64>,
}

pub(super) async fn run(context: Arc<Context>, peer: PeerName, mut told: mpsc::Receiver<Told>) {
    let (mut view, mut acks) = (context.view.clone(), context.acks.clone());
    let mut waiting = Waiting::default();
    let mut to_peer: Option<mpsc::Sender<wire::FromSubscriber>> = None;
    loop {
        let busy = !waiting.services.is_empty();
        tokio::select! {
            told = told.recv() => match told {
                None => return,
                Some(Told::Opened { seq, to_peer: newest }) => {
                    waiting.restart(seq);
                    to_peer = Some(newest);
                }
                Some(Told::Applied { seq, published }) => waiting.applied(seq, published),
            },
            Ok(()) = view.changed(), if busy => {}
            Ok(()) = acks.changed(), if busy => {}
            () = context.drain.cancelled() => return,
        }
        let mesh = view.borrow_and_update().clone();
        let table = acks.borrow_and_update().clone();
        if let (Some(ack), Some(to_peer)) = (waiting.step(&peer, &mesh, &table), &to_peer) {
            // A peer that has no room hears of the next one.
            let _ = to_peer.try_send(wire::FromSubscriber { f: Some(wire::from_subscriber::F::Ack(ack)) });
        }
    }
}

impl Waiting {
    /// A new stream may have another epoch, with other numbers.
    fn restart(&mut self, seq: u64) {
        (self.applied, self.acked) = (seq, 0);
        self.services.values_mut().for_each(|change| change.since = seq);
    }

    fn applied(&mut self, seq: u64, published: Vec<Published>) {
        self.applied = seq;
        for one in published {
            let since = self.services.get(&one.service).map_or(one.seq, |before| before.since);
            self.services.insert(one.service, Change { since, imported: one.imported, generation: None });
        }
    }

    /// The acknowledgement that is due, if any.
    fn step(&mut self, peer: &PeerName, view: &MeshView, acks: &AckTable) -> Option<wire::Ack> {
        for (service, change) in &mut self.services {
            if change.generation.is_none() && carries(view, peer, service, change.imported.as_ref()) {
                change.generation = Some(view.generation);
            }
        }
        let mut proxies = None;
        self.services.retain(|service, change| {
            let Some(generation) = change.generation else { return true };
            let callers = callers(view, peer, service);
            let (endpoints, total) = acks.count(&callers, ResourceType::Endpoint, generation);
            let (clusters, _) = acks.count(&callers, ResourceType::Cluster, generation);
            proxies = Some((endpoints.min(clusters), total));
            endpoints.min(clusters) < total
        });
        self.proxies = proxies.unwrap_or(self.proxies);
        let oldest = self.services.values().map(|change| change.since).min();
        let reached = oldest.map_or(self.applied, |oldest| oldest.saturating_sub(1)).min(self.applied);
        if reached <= self.acked {
            return None;
        }
        self.acked = reached;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Some(wire::Ack {
            seq: reached,
            level: Level::Programmed.into(),
            proxies_ok: count(self.proxies.0),
            proxies_total: count(self.proxies.1),
        })
    }
}

fn carries(view: &MeshView, peer: &PeerName, service: &ServiceName, imported: Option<&ImportedService>) -> bool {
    match (view.imported(peer, service), imported) {
        (None, None) => true,
        (Some(have), Some(want)) => {
            have.endpoints == want.endpoints && have.identities == want.identities && have.capacity == want.capacity
        }
        _ => false,
    }
}

/// The proxies that call the service at this peer: by the peer's name, or by a local name that is joined with it.
fn callers(view: &MeshView, peer: &PeerName, service: &ServiceName) -> BTreeSet<ProxyKey> {
    let joined = view.federated.get(service).is_some_and(|peers| peers.contains(peer));
    let calls = |upstream: &crate::model::ServiceRef| {
        upstream.service == *service && upstream.peer.as_ref().map_or(joined, |named| named == peer)
    };
    let proxies = view.proxies().into_iter();
    proxies.filter(|(_, all)| all.iter().any(|w| w.upstreams.iter().any(calls))).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests;
