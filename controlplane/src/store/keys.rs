//! The key space, in one place: which fact lives where.

use symbolon_proto::ids::TrustDomain;

use super::{Key, Prefix};
use crate::model::{NodeName, PeerName, ProxyKey, ServiceName};

fn key(text: String) -> Key {
    Key(text.into())
}

/// The X.509 authority's journal.
pub fn authority() -> Key {
    key("identity/authority".into())
}

/// How far the audit log goes.
pub fn audit_head() -> Key {
    key("identity/audit/head".into())
}

/// The journal of the authority of a kind of tokens.
pub fn token_authority(kind: &str) -> Key {
    key(format!("identity/authority/{kind}"))
}

/// A join token, by the SHA-256 of its text in hex.
pub fn token(hash: &str) -> Key {
    key(format!("identity/tokens/{hash}"))
}

/// What is known of join tokens beyond each of them.
pub fn token_ledger() -> Key {
    key("identity/token-ledger".into())
}

/// All join tokens.
pub fn tokens() -> Prefix {
    Prefix("identity/tokens/".into())
}

/// A registration entry.
pub fn entry(id: &str) -> Key {
    key(format!("identity/entries/{id}"))
}

/// All registration entries.
pub fn entries() -> Prefix {
    Prefix("identity/entries/".into())
}

/// The id in an [`entry`] key.
pub fn entry_id(key: &Key) -> Option<&str> {
    key.0.strip_prefix("identity/entries/")
}

/// The bundle of a trust domain, ours included.
pub fn bundle(trust_domain: &TrustDomain) -> Key {
    key(format!("identity/bundles/{trust_domain}"))
}

/// All bundles.
pub fn bundles() -> Prefix {
    Prefix("identity/bundles/".into())
}

/// The trust domain in a [`bundle`] key.
pub fn domain_of_bundle(key: &Key) -> Option<TrustDomain> {
    key.0.strip_prefix("identity/bundles/")?.parse().ok()
}

/// The bundle of a trust domain that the one in force replaced.
pub fn bundle_before(trust_domain: &TrustDomain) -> Key {
    key(format!("identity/bundles-before/{trust_domain}"))
}

/// That trust in a domain was ended.
pub fn ended_domain(trust_domain: &TrustDomain) -> Key {
    key(format!("identity/ended/{trust_domain}"))
}

/// All trust domains in which trust was ended.
pub fn ended_domains() -> Prefix {
    Prefix("identity/ended/".into())
}

/// The trust domain in an [`ended_domain`] key.
pub fn domain_that_ended(key: &Key) -> Option<TrustDomain> {
    key.0.strip_prefix("identity/ended/")?.parse().ok()
}

/// A relationship that an operator made, not the configuration file.
pub fn relationship(trust_domain: &TrustDomain) -> Key {
    key(format!("trust/relationships/{trust_domain}"))
}

/// All relationships that operators made.
pub fn relationships() -> Prefix {
    Prefix("trust/relationships/".into())
}

/// The trust domain in a [`relationship`] key.
pub fn domain_of_relationship(key: &Key) -> Option<TrustDomain> {
    key.0.strip_prefix("trust/relationships/")?.parse().ok()
}

/// A node that has attested, or is banned.
pub fn attested_node(node: &NodeName) -> Key {
    key(format!("identity/nodes/{node}"))
}

/// All nodes that have attested, or are banned.
pub fn attested_nodes() -> Prefix {
    Prefix("identity/nodes/".into())
}

/// The node in an [`attested_node`] key.
pub fn name_of_attested_node(key: &Key) -> Option<NodeName> {
    key.0.strip_prefix("identity/nodes/")?.parse().ok()
}

/// What a node registered last.
pub fn node_workloads(node: &NodeName) -> Key {
    key(format!("nodes/{node}/workloads"))
}

/// All nodes' registrations.
pub fn nodes() -> Prefix {
    Prefix("nodes/".into())
}

/// The node in a [`node_workloads`] key.
pub fn node_of_workloads(key: &Key) -> Option<NodeName> {
    key.0.strip_prefix("nodes/")?.strip_suffix("/workloads")?.parse().ok()
}

/// What is known of a peer beyond its configuration: its control plane's ID, addresses, role.
pub fn peer(peer: &PeerName) -> Key {
    key(format!("federation/peers/{peer}"))
}

/// An unredeemed invitation, by the SHA-256 of its secret in hex.
pub fn invitation(hash: &str) -> Key {
    key(format!("federation/invitations/{hash}"))
}

/// How far a peer's stream was applied.
pub fn cursor(peer: &PeerName) -> Key {
    key(format!("federation/cursors/{peer}"))
}

/// One resource imported from a peer, under the key that the peer gave it.
pub fn import(peer: &PeerName, resource: &str) -> Key {
    key(format!("federation/imports/{peer}/{resource}"))
}

/// All that is imported from a peer.
pub fn imports(peer: &PeerName) -> Prefix {
    Prefix(format!("federation/imports/{peer}/").into())
}

/// The rollout of a federated service towards a peer.
pub fn rollout(service: &ServiceName, peer: &PeerName) -> Key {
    key(format!("rollouts/{service}/{peer}"))
}

/// All rollouts.
pub fn rollouts() -> Prefix {
    Prefix("rollouts/".into())
}

/// Which load sample of a proxy was counted last.
pub fn counted_load(proxy: &ProxyKey) -> Key {
    key(format!("loads/{}/{}", proxy.node, proxy.identity))
}

/// All proxies' counted samples.
pub fn counted_loads() -> Prefix {
    Prefix("loads/".into())
}

/// The proxy in a [`counted_load`] key.
pub fn proxy_of_counted_load(key: &Key) -> Option<ProxyKey> {
    let (node, identity) = key.0.strip_prefix("loads/")?.split_once('/')?;
    Some(ProxyKey { node: node.parse().ok()?, identity: identity.parse().ok()? })
}

/// The service and peer in a [`rollout`] key.
pub fn pair_of_rollout(key: &Key) -> Option<(ServiceName, PeerName)> {
    let (service, peer) = key.0.strip_prefix("rollouts/")?.split_once('/')?;
    Some((service.parse().ok()?, peer.parse().ok()?))
}
