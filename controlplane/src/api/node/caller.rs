//! Who calls: the node named in the certificate, and nobody else.

use symbolon_kit::net::PeerIdentity;

use super::Refused;
use crate::identity::Identity;
use crate::model::NodeName;

/// The node whose SVID came with the connection. Only Attest is open to others.
pub(super) fn node(identity: &Identity, peer: Option<&PeerIdentity>) -> Result<NodeName, Refused> {
    let id = peer.and_then(|peer| peer.id.as_ref()).ok_or(Refused::Anonymous)?;
    identity.node_of(id).ok_or_else(|| Refused::NotANode(id.clone()))
}

/// The caller as the log names it.
pub(super) fn shown(peer: Option<&PeerIdentity>) -> String {
    match peer {
        Some(PeerIdentity { id: Some(id), .. }) => id.to_string(),
        Some(PeerIdentity { id: None, address, .. }) => format!("anonymous at {address}"),
        None => "unknown".to_owned(),
    }
}
