//! What the proxies have acknowledged. Written by the xDS server, read by the rollout engine (are the weights in force?) and by
//! the link (acks up to PROGRAMMED).

use std::collections::BTreeMap;

use super::ProxyKey;

/// The discovery types that are acknowledged per generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    Cluster,
    Endpoint,
    Listener,
    Route,
    Runtime,
}

/// Every connected proxy's acknowledgements.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AckTable(pub BTreeMap<ProxyKey, ProxyAck>);

/// One proxy's acknowledgements, by type: everything it was to have of that type at this generation, it has acknowledged. A
/// rejected (NACKed) resource holds its type's generation back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyAck {
    pub generations: BTreeMap<ResourceType, u64>,
}

impl AckTable {
    /// Of `proxies`, how many are connected, and how many of those have acknowledged `generation` of type `of`.
    pub fn count<'a>(
        &self,
        proxies: impl IntoIterator<Item = &'a ProxyKey>,
        of: ResourceType,
        generation: u64,
    ) -> (usize, usize) {
        let connected = proxies.into_iter().filter_map(|proxy| self.0.get(proxy));
        connected.fold((0, 0), |(acked, total), ack| {
            let reached = ack.generations.get(&of).is_some_and(|have| *have >= generation);
            (acked + usize::from(reached), total + 1)
        })
    }
}
