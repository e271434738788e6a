//! The link as the operator's edge sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use symbolon_proto::ids::TrustDomain;
use tokio::sync::oneshot;
use tracing::warn;

use super::apply::Input;
use super::invite::{self, Invited, Refusal};
use super::persist::Role;
use super::{Core, Peer};
use crate::model::{PeerName, PeerState};

const NOT_ESTABLISHED: &str =
    "no trust exchanged yet; run `symbolon peer invite` on one side and `symbolon peer accept` on the other";

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(pub(super) Arc<Core>);

/// One peer, as `peer list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub name: PeerName,
    pub trust_domain: TrustDomain,
    pub state: PeerState,
    /// `None` before trust was exchanged.
    pub role: Option<Role>,
    /// Where we dial it; empty for a listener.
    pub address: String,
    pub imported_services: usize,
    pub imported_endpoints: usize,
    pub exported_services: usize,
    /// Of the bundle that we hold of it.
    pub bundle_sequence: Option<u64>,
    /// How long ago; `None`: never since we started.
    pub last_heard: Option<Duration>,
    /// Of what we export to it, and how far its proxies use it.
    pub head_seq: u64,
    pub programmed_seq: u64,
    /// Proxies at the peer that use our newest programmed change, of how many that call it.
    pub proxies: (u32, u32),
    /// In words, with what to do; empty when all is well.
    pub last_error: String,
    pub refusals: BTreeMap<&'static str, u64>,
}

impl Handle {
    /// A one-time token for `peer accept` on the other side.
    ///
    /// # Errors
    /// A [`Refusal`] that says what to do.
    pub async fn invite(&self, peer: &PeerName, ttl: Duration) -> Result<Invited, Refusal> {
        invite::invite(&self.0, peer, ttl).await
    }

    /// Redeems a token of `peer`; afterwards we dial it.
    ///
    /// # Errors
    /// A [`Refusal`] that says what to do; nothing is kept then.
    pub async fn accept(&self, peer: &PeerName, token: &str) -> Result<Status, Refusal> {
        invite::accept(&self.0, peer, token).await.inspect_err(|refusal| {
            self.0.context.counters.refused.inc(&[("peer", ""), ("reason", refusal.label())]);
            warn!(%peer, %refusal, "a token was not redeemed");
        })?;
        self.peer(peer).ok_or_else(|| Refusal::UnknownPeer(peer.clone()))
    }

    /// Ends trust in the peer of this trust domain, if there is one: its streams, what was imported from it, and the right to call
    /// us. Whoever wants it back invites and accepts anew.
    pub async fn end(&self, trust_domain: &TrustDomain) {
        let context = &self.0.context;
        let Some(peer) = self.0.peers.values().find(|peer| peer.config.trust_domain == *trust_domain) else { return };
        peer.end(context.now());
        let (done, ended) = oneshot::channel();
        if peer.inbox.send(Input::Ended { done }).await.is_ok() {
            let _ = ended.await; // gone only when the link drains
        }
    }

    /// Every configured peer.
    pub fn list(&self) -> Vec<Status> {
        self.0.peers.values().map(|peer| self.status(peer)).collect()
    }

    /// One peer.
    pub fn peer(&self, name: &PeerName) -> Option<Status> {
        self.0.peers.get(name).map(|peer| self.status(peer))
    }

    fn status(&self, peer: &Peer) -> Status {
        let context = &self.0.context;
        let established = peer.established.borrow().clone();
        let heard = *peer.voice.borrow();
        let head_seq = peer.log().head();
        let bundle = context.book.of(&peer.config.trust_domain);
        let facts = peer.facts().clone();
        let addresses = established.as_ref().map(|with| with.addresses.join(",")).unwrap_or_default();
        let last_error = if established.is_none() && facts.last_error.is_empty() {
            NOT_ESTABLISHED.to_owned()
        } else if facts.last_error.is_empty() {
            facts.nacks.into_values().next().unwrap_or_default()
        } else {
            facts.last_error
        };
        Status {
            name: peer.config.name.clone(),
            trust_domain: peer.config.trust_domain.clone(),
            state: heard.state(&context.config.timing, context.now()).0,
            role: established.as_ref().map(|with| with.role),
            address: peer.config.address.clone().unwrap_or(addresses),
            imported_services: facts.imported_services,
            imported_endpoints: facts.imported_endpoints,
            exported_services: facts.exported_services,
            bundle_sequence: bundle.map(|bundle| bundle.sequence),
            last_heard: heard.last.map(|last| context.now().saturating_sub(last)),
            head_seq,
            programmed_seq: facts.programmed_seq,
            proxies: facts.proxies,
            last_error,
            refusals: facts.refusals,
        }
    }
}
