//! The node's conversation with its control plane, over one mTLS connection: join once by a token ([`join`]), then a standing
//! stream ([`sync`]) that brings entries and bundles down and takes workloads and acknowledgements up. What was heard is kept on
//! disk, so that a restarted sidecar serves before the control plane is reachable; a lost connection withdraws nothing.

pub mod join;
pub mod node;
pub mod reports;
pub mod sync;

use std::sync::Arc;

use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use tokio::sync::watch;
use tonic::transport::Channel;

pub use reports::Reports;

/// What other parts of the sidecar need of the control plane; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    channel: Channel,
    reports: Reports,
    connected: watch::Receiver<bool>,
    heard: Heard,
}

/// What the control plane last said, each the full state of its kind; `None` until it, or the copy on disk, was heard.
#[derive(Clone, Debug)]
pub struct Heard {
    pub entries: watch::Receiver<Option<Arc<wire::Entries>>>,
    pub bundles: watch::Receiver<Option<Arc<wire::Bundles>>>,
    pub workloads_ack: watch::Receiver<Option<Arc<wire::WorkloadsAck>>>,
}

// === impl Handle ===

impl Handle {
    pub fn new(channel: Channel, reports: Reports, connected: watch::Receiver<bool>, heard: Heard) -> Self {
        Self { channel, reports, connected, heard }
    }

    /// The one connection to the control plane, for the ADS relay and `ReportLoad`; reconnects by itself.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A client of the node API on that connection.
    pub fn client(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel())
    }

    /// Whether the standing stream is open.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// All workloads of this node, as they are now: sent at once, and again after each reconnect. Only the last call counts.
    pub fn report_workloads(&self, workloads: wire::Workloads) {
        self.reports.workloads(workloads);
    }

    /// The control plane's last answer to [`Self::report_workloads`].
    pub fn workloads_ack(&self) -> watch::Receiver<Option<Arc<wire::WorkloadsAck>>> {
        self.heard.workloads_ack.clone()
    }

    /// What an Envoy of this node has acknowledged by SDS; per proxy only the last counts.
    pub fn secret_ack(&self, ack: wire::SecretAck) {
        self.reports.secret_ack(ack);
    }

    /// What the control plane last said.
    pub fn heard(&self) -> &Heard {
        &self.heard
    }
}

#[cfg(test)]
pub(crate) mod tests;
