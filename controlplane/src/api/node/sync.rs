//! The node's standing conversation. Up: what runs on the node. Down: its entries and the trust bundles, each message the full
//! state of its kind, pushed at once and at every change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Counter;
use symbolon_kit::supervise::OnExit;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_report::Report;
use symbolon_proto::node::node_update::Update;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::{OUTBOX, Parts, Refused, malformed};
use crate::identity::entries::{Entry, Table};
use crate::identity::{Identity, bundles};
use crate::model::NodeName;

/// A node that does not read for this long has its stream ended; it comes back and gets the full state.
const PATIENCE: Duration = Duration::from_secs(30);

/// The stream that each node has open. A new one replaces the old: after a cut connection the old one may linger here.
#[derive(Debug, Default)]
pub(super) struct Conversations(Arc<Mutex<BTreeMap<NodeName, Drain>>>); // a std mutex: nothing awaits while it is held

impl Conversations {
    fn replace(&self, node: &NodeName, by: Drain) {
        let old = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node.clone(), by);
        if let Some(old) = old {
            old.start();
        }
    }
}

/// Starts the conversation; it ends with its stream, with the drain, or with the node's next one.
pub(super) fn start(
    parts: &Parts,
    conversations: &Conversations,
    refusals: &Counter,
    node: NodeName,
    reports: Streaming<wire::NodeReport>,
) -> ReceiverStream<Result<wire::NodeUpdate, Status>> {
    let (outbox, updates) = mpsc::channel(OUTBOX);
    let replaced = Drain::new();
    conversations.replace(&node, replaced.clone());
    let conversation = Conversation {
        parts: parts.clone(),
        refusals: refusals.clone(),
        node,
        outbox,
        entries: None,
        bundles: None,
        pending: None,
    };
    parts.tasks.spawn("node sync", OnExit::Log, conversation.run(reports, replaced));
    ReceiverStream::new(updates)
}

struct Conversation {
    parts: Parts,
    refusals: Counter,
    node: NodeName,
    outbox: mpsc::Sender<Result<wire::NodeUpdate, Status>>,
    /// What was sent last, to send only what differs.
    entries: Option<wire::Entries>,
    bundles: Option<wire::Bundles>,
    /// The node's last report, if part of it was refused: an entry made later may let it stand.
    pending: Option<wire::Workloads>,
}

/// The conversation is over; the reason was told, or there is nobody to tell.
struct Over;

impl Conversation {
    async fn run(mut self, mut reports: Streaming<wire::NodeReport>, replaced: Drain) {
        info!(node = %self.node, "node connected");
        let mut entries = self.parts.identity.entries.watch();
        let mut bundles = self.parts.identity.bundles.watch();
        let mut taints = self.parts.identity.authorities.taints();
        let drain = self.parts.drain.clone();
        entries.mark_changed();
        bundles.mark_changed();
        loop {
            let outcome = tokio::select! {
                changed = bundles.changed() => match changed {
                    Ok(()) => { let table = bundles.borrow_and_update().clone(); self.push_bundles(&table).await }
                    Err(_) => Err(Over),
                },
                // After the bundles: what replaces the tainted must be trusted before it is asked for.
                changed = taints.changed() => match changed {
                    Ok(()) => { let table = bundles.borrow_and_update().clone(); self.push_bundles(&table).await }
                    Err(_) => Err(Over),
                },
                changed = entries.changed() => match changed {
                    Ok(()) => { let table = entries.borrow_and_update().clone(); self.push_entries(&table).await }
                    Err(_) => Err(Over),
                },
                report = reports.message() => match report {
                    Ok(Some(report)) => self.take(report).await,
                    Ok(None) => Err(Over),
                    Err(status) => self.broke(&status),
                },
                () = replaced.cancelled() => self.end(&Refused::Replaced),
                () = drain.cancelled() => self.end(&Refused::Draining),
            };
            if outcome.is_err() {
                info!(node = %self.node, "node disconnected");
                return;
            }
        }
    }

    fn broke(&self, status: &Status) -> Result<(), Over> {
        match malformed(status) {
            Some(refused) => self.end(&refused),
            None => {
                debug!(node = %self.node, %status, "the node's stream broke");
                Err(Over)
            }
        }
    }

    async fn take(&mut self, report: wire::NodeReport) -> Result<(), Over> {
        match report.report {
            Some(Report::Workloads(workloads)) => self.register(workloads).await,
            Some(Report::SecretAck(ack)) => {
                debug!(node = %self.node, proxy = ?ack.proxy, serial = ?ack.svid_serial, "secret in use");
                Ok(())
            }
            Some(Report::Explained(_)) => Ok(()),
            None => self.end(&Refused::Malformed("a report of no kind; is this control plane too old for it?".into())),
        }
    }

    /// Keeps the report, then acknowledges it with what was refused.
    async fn register(&mut self, workloads: wire::Workloads) -> Result<(), Over> {
        let refused = match self.parts.registrations.report(&self.node, &workloads).await {
            Ok(refused) => refused,
            Err(error) => return self.end(&error.into()),
        };
        for refusal in &refused {
            self.refusals.inc(&[("reason", refusal.label())]);
        }
        let revision = workloads.revision;
        self.pending = (!refused.is_empty()).then_some(workloads);
        let refusals =
            refused.iter().map(|r| wire::Refusal { reason: r.label().to_owned(), detail: r.to_string() }).collect();
        self.send(Update::WorkloadsAck(wire::WorkloadsAck { revision, refusals })).await
    }

    async fn push_entries(&mut self, table: &Table) -> Result<(), Over> {
        let of_node = table.values().filter(|entry| entry.node == self.node);
        let entries =
            wire::Entries { entries: of_node.map(|entry| on_wire(entry)).collect(), removed: Vec::new(), full: true };
        if self.entries.as_ref() == Some(&entries) {
            return Ok(());
        }
        self.entries = Some(entries.clone());
        self.send(Update::Entries(entries)).await?;
        match self.pending.take() {
            Some(workloads) => self.register(workloads).await,
            None => Ok(()),
        }
    }

    async fn push_bundles(&mut self, table: &bundles::Table) -> Result<(), Over> {
        let bundles = all_bundles(&self.parts.identity, table);
        if self.bundles.as_ref() == Some(&bundles) {
            return Ok(());
        }
        self.bundles = Some(bundles.clone());
        self.send(Update::Bundles(bundles)).await
    }

    async fn send(&mut self, update: Update) -> Result<(), Over> {
        let update = wire::NodeUpdate { update: Some(update) };
        self.outbox.send_timeout(Ok(update), PATIENCE).await.map_err(|_| Over)
    }

    fn end(&self, why: &Refused) -> Result<(), Over> {
        self.refusals.inc(&[("reason", why.label())]);
        info!(node = %self.node, %why, "ending the node's stream");
        let _ = self.outbox.try_send(Err(why.status())); // a node that is gone or does not read needs no reason
        Err(Over)
    }
}

fn on_wire(entry: &Entry) -> wire::Entry {
    wire::Entry {
        entry_id: entry.id.to_string(),
        spiffe_id: entry.spiffe_id.to_string(),
        selectors: entry.selectors.clone(),
        ttl_seconds: entry.ttl.map_or(0, |ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)),
        dns_names: entry.dns_names.clone(),
        hint: entry.hint.clone(),
        ..wire::Entry::default()
    }
}

fn all_bundles(identity: &Identity, table: &bundles::Table) -> wire::Bundles {
    let taints = identity.authorities.taints().borrow().clone();
    let ids = |ids: &BTreeSet<Arc<str>>| ids.iter().map(ToString::to_string).collect();
    wire::Bundles {
        tainted_x509: ids(&taints.x509),
        tainted_jwt: ids(&taints.jwt),
        trust_domain: identity.trust_domain.to_string(),
        bundles: table.iter().map(|(domain, bundle)| (domain.to_string(), bundle.to_jwks().into())).collect(),
        ..wire::Bundles::default()
    }
}
