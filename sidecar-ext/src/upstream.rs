//! The node's conversation with its control plane, over one mTLS connection: attest ([`join`]), keep the node's SVID
//! valid (`node`), then a standing stream (`sync`) that brings entries and bundles down and takes workloads and acknowledgements
//! up (`reports`). What was heard is kept on disk, so that a restarted sidecar serves before the control plane is reachable; a
//! lost connection withdraws nothing.

mod entries;
pub mod join;
mod node;
mod reports;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::net;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_kit::tls::Identity;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::transport::Channel;

use crate::bundle::{Book, Trust};
use crate::config::Evidence;
use crate::keep::{Keep, KeepError};
pub use entries::EntryList;
pub use node::FILE as NODE_FILE;
use node::Tenure;
pub use reports::Reports;

/// For one batch of CSRs.
const MINT_TIMEOUT: Duration = Duration::from_secs(10);

/// For one batch of JWT-SVIDs: somebody waits.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the conversation needs to know.
#[derive(Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    /// Replicas, `host:port`.
    pub control_plane: Vec<String>,
    /// The own trust domain's, as the operator gave it.
    pub bootstrap: Bundle,
    pub evidence: Evidence,
    pub keep: Keep,
    pub clock: Clock,
    /// Of jitter.
    pub seed: u64,
    pub explainer: Arc<dyn Explainer>,
}

/// Says who a process of this node is, as selectors, or why that cannot be said. Blocks. The workload attestors, in the product.
pub trait Explainer: std::fmt::Debug + Send + Sync + 'static {
    /// # Errors
    /// In words for whoever asked.
    fn explain(&self, pid: i32) -> Result<Vec<String>, String>;
}

/// What other parts of the sidecar need of the control plane; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    channel: Channel,
    reports: Reports,
    joined: watch::Receiver<bool>,
    connected: watch::Receiver<bool>,
    heard: Heard,
}

/// What the control plane last said, each the full state of its kind.
#[derive(Clone, Debug)]
pub struct Heard {
    /// `None` until the control plane, or the copy on disk, was heard.
    pub entries: watch::Receiver<Option<EntryList>>,
    pub trust: watch::Receiver<Arc<Trust>>,
    pub workloads_ack: watch::Receiver<Option<Arc<wire::WorkloadsAck>>>,
}

/// Starts the conversation: takes what a former run left, then talks for as long as the sidecar runs. Nothing here waits for the
/// control plane.
///
/// # Errors
/// If a file that a former run left may not be used.
pub fn start(config: Config, tasks: &Tasks, drain: &Drain, metrics: &Metrics) -> Result<Handle, KeepError> {
    let identity = Identity::new(config.clock.clone());
    let anonymous = Identity::new(config.clock.clone());
    let channel =
        net::channel(config.control_plane.clone(), &identity, join::expect_control_plane(&config.trust_domain));
    let reports = Reports::default();
    let (joined_tx, joined) = watch::channel(false);
    let (connected_tx, connected) = watch::channel(false);
    let (offer, offered) = mpsc::channel(4);
    let tenure = Tenure::default();
    let (entries_tx, entries_rx) = watch::channel(None);
    let (trust_tx, trust) = watch::channel(Arc::default());
    let (ack_tx, workloads_ack) = watch::channel(None);

    let mut fold = sync::Sync {
        keep: config.keep.clone(),
        clock: config.clock.clone(),
        book: Book::new(config.bootstrap),
        identities: [identity.clone(), anonymous.clone()],
        entries: entries_tx,
        trust: trust_tx,
        workloads_ack: ack_tx,
        rejected: metrics
            .counter("symbolon_sidecar_upstream_rejected", "Statements of the control plane not taken, by reason"),
        explaining: sync::Explaining::new(config.explainer, reports.clone(), tasks.clone()),
        said: entries::Entries::new(config.trust_domain.clone()),
        journal: entries::Journal::new(config.keep.clone()),
        full: false,
    };
    fold.restore()?;
    let keeper = node::Keeper {
        trust_domain: config.trust_domain,
        addresses: config.control_plane,
        evidence: config.evidence,
        keep: config.keep,
        clock: config.clock,
        identity,
        anonymous,
        channel: channel.clone(),
        bundles: offer,
        trust: trust.clone(),
        joined: joined_tx,
        tenure: tenure.clone(),
        skew: metrics.gauge(
            "symbolon_sidecar_clock_skew_seconds",
            "This machine's clock less the control plane's, when last seen",
        ),
        failures: metrics
            .counter("symbolon_sidecar_node_failures", "Failed attempts at the node's own SVID, by reason"),
        seed: config.seed,
    };
    let restored = keeper.restore()?;
    let line = sync::Line {
        channel: channel.clone(),
        reports: reports.clone(),
        joined: joined.clone(),
        connected: connected_tx,
        tenure,
        offered,
        seed: config.seed.wrapping_add(1),
    };
    tasks.spawn("node-identity", OnExit::Shutdown, keeper.run(restored, drain.clone()));
    tasks.spawn("upstream", OnExit::Shutdown, line.run(fold, drain.clone()));
    Ok(Handle { channel, reports, joined, connected, heard: Heard { entries: entries_rx, trust, workloads_ack } })
}

// === impl Handle ===

impl Handle {
    /// The one connection to the control plane, for the ADS relay and `ReportLoad`; reconnects by itself. To be used only once the
    /// node has [joined](Self::joined): an earlier connection would carry no certificate, and keep carrying none.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Returns when the node has a valid SVID to connect with; never, if the sidecar stops first.
    pub async fn joined(&self) {
        let mut joined = self.joined.clone();
        if joined.wait_for(|joined| *joined).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the node has a valid SVID to connect with.
    pub fn is_joined(&self) -> bool {
        *self.joined.borrow()
    }

    /// Whether the standing stream is open. It is only ever opened when the node has joined.
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

    /// Has SVIDs minted for entries of this node; waits until it has joined. One answer per CSR, in their order.
    ///
    /// # Errors
    /// If the whole batch failed.
    pub async fn mint(&self, csrs: Vec<wire::Csr>) -> Result<Vec<wire::Minted>, Status> {
        let asked = csrs.len();
        self.joined().await;
        let mut client = NodeClient::new(self.channel());
        let answer = within(MINT_TIMEOUT, client.mint(wire::MintRequest { csrs })).await?;
        all_answered(asked, answer.results)
    }

    /// Has JWT-SVIDs minted for entries of this node, for callers who wait. One answer per order, in their order.
    ///
    /// # Errors
    /// If the whole batch failed.
    pub async fn mint_jwt(&self, orders: Vec<wire::JwtOrder>) -> Result<Vec<wire::MintedJwt>, Status> {
        let asked = orders.len();
        let mut client = NodeClient::new(self.channel());
        let answer = within(TOKEN_TIMEOUT, async {
            self.joined().await;
            client.mint_jwt(wire::MintJwtRequest { orders }).await
        });
        all_answered(asked, answer.await?.results)
    }

    /// Has WIT-SVIDs minted, as [`Self::mint_jwt`] does others.
    ///
    /// # Errors
    /// If the whole batch failed.
    pub async fn mint_wit(&self, orders: Vec<wire::WitOrder>) -> Result<Vec<wire::MintedJwt>, Status> {
        let asked = orders.len();
        let mut client = NodeClient::new(self.channel());
        let answer = within(TOKEN_TIMEOUT, async {
            self.joined().await;
            client.mint_wit(wire::MintWitRequest { orders }).await
        });
        all_answered(asked, answer.await?.results)
    }
}

async fn within<T>(
    time: Duration,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    let answer = tokio::time::timeout(time, answer).await;
    Ok(answer.map_err(|_| Status::deadline_exceeded(format!("no answer within {time:?}")))??.into_inner())
}

fn all_answered<T>(asked: usize, results: Vec<T>) -> Result<Vec<T>, Status> {
    if results.len() == asked {
        Ok(results)
    } else {
        Err(Status::internal(format!("{asked} requests were answered by {} results", results.len())))
    }
}

#[cfg(test)]
pub(crate) mod tests;
