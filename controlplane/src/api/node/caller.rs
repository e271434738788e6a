//! Who calls: the node named in the certificate, and nobody else.

use std::sync::Arc;

use symbolon_kit::net::PeerIdentity;

use super::Refused;
use crate::identity::Identity;
use crate::model::NodeName;

/// A node that may call.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) name: NodeName,
    /// Of the certificate that it came with.
    pub(super) serial: Arc<str>,
}

/// The node whose SVID came with the connection, if that still counts. Only Attest is open to others.
pub(super) fn node(identity: &Identity, peer: Option<&PeerIdentity>) -> Result<Caller, Refused> {
    let (id, serial) = peer.and_then(|peer| Some((peer.id.as_ref()?, &peer.serial))).ok_or(Refused::Anonymous)?;
    let name = identity.node_of(id).ok_or_else(|| Refused::NotANode(id.clone()))?;
    identity.nodes.check(&name, serial).map_err(Refused::Identity)?;
    Ok(Caller { name, serial: serial.clone() })
}

/// The caller as the log names it.
pub(super) fn shown(peer: Option<&PeerIdentity>) -> String {
    match peer {
        Some(PeerIdentity { id: Some(id), .. }) => id.to_string(),
        Some(PeerIdentity { id: None, address, .. }) => format!("anonymous at {address}"),
        None => "unknown".to_owned(),
    }
}
