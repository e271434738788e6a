//! Workloads as the sidecars register them: parsed, checked against what the node may run, made durable, then told to the
//! state. What was acknowledged survives a restart, and a node that falls silent withdraws nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use prost::Message;
use symbolon_kit::text::shown;
use symbolon_proto::ids::SpiffeId;
use symbolon_proto::node as wire;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::model::{Change, Health, NodeName, Workload};
use crate::store::{self, SharedStore, Txn, keys};

/// The most workloads one node may register.
pub const MAX_WORKLOADS: usize = 1_000;
/// The most upstreams one workload may declare.
pub const MAX_UPSTREAMS: usize = 1_000;

/// Whether a node may run a workload of this identity: it has an entry for it.
pub trait Entitlements: Send + Sync {
    fn may_run(&self, node: &NodeName, identity: &SpiffeId) -> bool;
}

/// Takes registrations.
#[derive(Clone)]
pub struct Handle {
    store: SharedStore,
    changes: mpsc::Sender<Change>,
    entitlements: Arc<dyn Entitlements>,
}

/// Why one workload was refused; the others of the same report stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0}: more than {MAX_WORKLOADS} workloads on one node")]
    TooMany(String),
    #[error("{0}: another workload of this node has the same name")]
    Duplicate(String),
    #[error("{0}: {1}")]
    Malformed(String, String),
    #[error("{name}: no entry lets this node run {identity}; create one with `symbolon identity create`")]
    NotEntitled { name: String, identity: String },
    #[error("{name}: {identity} may offer services of namespace {namespace:?} only")]
    Namespace { name: String, identity: String, namespace: String },
}

/// The report could not be kept at all; nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the store refused the registration: {0}")]
    Store(#[from] store::Error),
    #[error("the control plane is stopping")]
    Stopping,
}

// === impl Handle ===

impl Handle {
    pub fn new(store: SharedStore, changes: mpsc::Sender<Change>, entitlements: Arc<dyn Entitlements>) -> Self {
        Self { store, changes, entitlements }
    }

    /// Every registration that was ever acknowledged and not replaced, for the first mesh of this process.
    ///
    /// # Errors
    /// If the store cannot be read. A record that does not decode is reported and left out.
    pub async fn restore(&self) -> Result<Vec<Change>, Error> {
        let (records, _) = self.store.range(keys::nodes()).await?;
        let mut restored = Vec::new();
        for record in records {
            let Some(node) = keys::node_of_workloads(&record.key) else { continue };
            let decoded = store::codec::decode::<Vec<u8>>("workloads", &record.value)
                .map_err(|e| e.to_string())
                .and_then(|bytes| wire::Workloads::decode(bytes.as_slice()).map_err(|e| e.to_string()));
            match decoded {
                Ok(report) => {
                    let (workloads, _) = self.parse(&node, &report);
                    restored.push(Change::Workloads { node, workloads });
                }
                Err(error) => warn!(%node, error, "a stored registration cannot be read; waiting for the node itself"),
            }
        }
        Ok(restored)
    }

    /// Replaces the registration of `node`. When it returns, what was accepted is durable and told to the state; what was
    /// refused is listed.
    ///
    /// # Errors
    /// If nothing could be kept.
    pub async fn report(&self, node: &NodeName, report: &wire::Workloads) -> Result<Vec<Refused>, Error> {
        let (workloads, refused) = self.parse(node, report);
        for refusal in &refused {
            info!(%node, reason = refusal.label(), %refusal, "workload refused");
        }
        let value = store::codec::encode("workloads", 1, &report.encode_to_vec())?;
        self.store.commit(Txn::new().put(keys::node_workloads(node), value)).await?;
        self.changes.send(Change::Workloads { node: node.clone(), workloads }).await.map_err(|_| Error::Stopping)?;
        Ok(refused)
    }

    fn parse(&self, node: &NodeName, report: &wire::Workloads) -> (Vec<Workload>, Vec<Refused>) {
        let (mut accepted, mut refused, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
        for one in &report.workloads {
            let parsed = if accepted.len() >= MAX_WORKLOADS {
                Err(Refused::TooMany(shown(&one.name, 80)))
            } else if !names.insert(one.name.as_str()) {
                Err(Refused::Duplicate(shown(&one.name, 80)))
            } else {
                workload(one).and_then(|parsed| self.allowed(node, parsed))
            };
            match parsed {
                Ok(workload) => accepted.push(workload),
                Err(refusal) => refused.push(refusal),
            }
        }
        (accepted, refused)
    }

    fn allowed(&self, node: &NodeName, workload: Workload) -> Result<Workload, Refused> {
        let (name, identity) = (workload.name.to_string(), workload.identity.to_string());
        if !self.entitlements.may_run(node, &workload.identity) {
            return Err(Refused::NotEntitled { name, identity });
        }
        // `/ns/<ns>/sa/<name>` says where the workload lives: it cannot offer another namespace's services.
        let namespace = workload.identity.path().strip_prefix("/ns/").and_then(|rest| rest.split('/').next());
        match (&workload.service, namespace) {
            (Some(service), Some(namespace)) if service.namespace() != namespace => {
                Err(Refused::Namespace { name, identity, namespace: namespace.to_owned() })
            }
            _ => Ok(workload),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("nodes::Handle").finish_non_exhaustive()
    }
}

// === impl Refused ===

impl Refused {
    /// A stable word for metrics and answers.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooMany(_) => "too_many_workloads",
            Self::Duplicate(_) => "duplicate_workload",
            Self::Malformed(..) => "malformed_workload",
            Self::NotEntitled { .. } => "identity_not_entitled",
            Self::Namespace { .. } => "foreign_namespace",
        }
    }
}

/// Parses one workload at the edge; [`Refused::Malformed`] names the field.
fn workload(one: &wire::Workload) -> Result<Workload, Refused> {
    let bad = |field: &str, why: &dyn fmt::Display| Refused::Malformed(shown(&one.name, 80), format!("{field}: {why}"));
    let optional = |field: &str, text: &str| match text {
        "" => Ok(None),
        _ => address(text).map(Some).map_err(|why| bad(field, &why)),
    };
    if one.name.is_empty() || one.name.len() > 253 || one.name.contains('/') {
        return Err(bad("name", &"must be 1 to 253 bytes without '/'"));
    }
    if one.upstreams.len() > MAX_UPSTREAMS {
        return Err(bad("upstreams", &"more than 1,000"));
    }
    let service =
        if one.service.is_empty() { None } else { Some(one.service.parse().map_err(|e| bad("service", &e))?) };
    Ok(Workload {
        name: one.name.as_str().into(),
        identity: SpiffeId::workload(&one.identity).map_err(|e| bad("identity", &e))?,
        service,
        address: optional("address", &one.address)?,
        inbound: optional("inbound", &one.inbound)?,
        outbound: optional("outbound", &one.outbound)?,
        upstreams: one
            .upstreams
            .iter()
            .map(|name| name.parse().map_err(|e| bad("upstreams", &e)))
            .collect::<Result<_, _>>()?,
        health: match one.health() {
            wire::workload::Health::Unknown => Health::Unknown,
            wire::workload::Health::Healthy => Health::Healthy,
            wire::workload::Health::Unhealthy => Health::Unhealthy,
        },
        weight: NonZeroU32::new(one.weight.min(1_000_000)).unwrap_or(NonZeroU32::MIN),
    })
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("{:?} is not ip:port", shown(text, 80)))?;
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(format!("{address} cannot be reached: give an address and a port that others can connect to"));
    }
    Ok(address)
}
