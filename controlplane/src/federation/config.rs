//! What the link needs to know: who we are, how patient we are, and what each peer may say. Parsed by `app` from the
//! configuration file; nothing of it is ever taken from the wire (decision 4).

use std::sync::Arc;

use symbolon_proto::ids::{SpiffeId, TrustDomain};
use tokio::sync::watch;

use super::policy::{Grants, Quotas};
use super::staleness::Timing;
use crate::model::PeerName;

/// The link's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    /// Our control plane's own ID, `spiffe://<td>/symbolon/controlplane/<replica>`.
    pub own_id: SpiffeId,
    /// What an invitation tells the peer to dial, `host:port`.
    pub advertise: Vec<String>,
    pub timing: Timing,
    /// The most that one remote endpoint counts for, whatever weight the peer claims.
    pub max_endpoint_weight: u32,
    /// True once the mesh holds what was stored: before that nothing is published, so that a half-loaded mesh is never taken
    /// for the truth. `app` owns the sender.
    pub synced: watch::Receiver<bool>,
    pub peers: Vec<PeerConfig>,
}

/// One peer, as the operator wrote it down.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    pub name: PeerName,
    /// Pinned: a peer that proves another one is somebody else.
    pub trust_domain: TrustDomain,
    /// Dialled instead of what the token said.
    pub address: Option<String>,
    pub grants: Grants,
    pub quotas: Quotas,
}

/// The IDs that a trust domain's control planes carry, as a pattern for `SpiffeId::matches`.
pub(super) fn control_planes_of(trust_domain: &TrustDomain) -> Arc<str> {
    format!("spiffe://{trust_domain}/symbolon/controlplane/*").into()
}
