//! What an operator sees of a proxy (`symbolon proxy list`).

use std::time::Duration;

use crate::model::{ProxyKey, ResourceType};

/// One proxy: connected, or expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyStatus {
    pub key: ProxyKey,
    /// What the proxy says it is, e.g. `envoy 1.40.0`; empty while it is not connected.
    pub version: String,
    /// `None`: not connected.
    pub connected_for: Option<Duration>,
    /// One row for each of [`ResourceType`].
    pub types: Vec<TypeStatus>,
}

/// How far one type has come at one proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeStatus {
    pub kind: ResourceType,
    pub state: TypeState,
    /// How many resources the proxy has accepted.
    pub resources: u32,
    /// What the proxy said of the rejected ones, cut and escaped; `None` unless [`TypeState::Rejected`].
    pub error: Option<String>,
}

/// Where one type of one proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeState {
    /// All of it is acknowledged.
    Synced,
    /// Something is in flight, or waits for what it depends on.
    Stale,
    /// Never asked for, or nothing to answer with yet.
    NotSent,
    /// The proxy refused at least one resource; it keeps the version before.
    Rejected,
}

impl TypeState {
    /// As the command line prints it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::NotSent => "NOT SENT",
            Self::Rejected => "REJECTED",
        }
    }
}

impl TypeStatus {
    /// As operators call the type: `CDS`, `EDS`, …
    pub fn label(&self) -> &'static str {
        super::kind::Kind::from(self.kind).label()
    }

    pub(super) fn not_sent(kind: ResourceType) -> Self {
        Self { kind, state: TypeState::NotSent, resources: 0, error: None }
    }
}

/// Every [`ResourceType`], in sending order.
pub(super) const TYPES: [ResourceType; 5] =
    [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route, ResourceType::Runtime];
