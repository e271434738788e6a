//! The node's standing conversation. Up: what runs on the node. Down: its entries, all of them first and then what changes, and the
//! trust bundles, each message all of them; pushed at once and at every change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Counter;
use symbolon_kit::supervise::OnExit;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_report::Report;
use symbolon_proto::node::node_update::Update;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::conversations::Question;
use super::{OUTBOX, Parts, Refused, malformed};
use crate::identity::authority::Taints;
use crate::identity::authority::Word;
use crate::identity::entries::{self, Delta, Entry, Feed};
use crate::identity::{Identity, bundles};
use crate::model::{NodeName, Relationships};

/// A node that does not read for this long has its stream ended; it comes back and gets the full state.
const PATIENCE: Duration = Duration::from_secs(30);

/// Questions to one node that wait for its answer.
const MAX_QUESTIONS: usize = 64;

/// Starts the conversation; it ends with its stream, with the drain, or with the node's next one.
pub(super) fn start(
    parts: &Parts,
    refusals: &Counter,
    node: NodeName,
    reports: Streaming<wire::NodeReport>,
) -> ReceiverStream<Result<wire::NodeUpdate, Status>> {
    let (outbox, updates) = mpsc::channel(OUTBOX);
    let replaced = Drain::new();
    let questions = parts.conversations.replace(&node, replaced.clone());
    let conversation = Conversation {
        parts: parts.clone(),
        refusals: refusals.clone(),
        node,
        outbox,
        relationships: Arc::default(),
        workloads: None,
        asked: BTreeMap::new(),
        next_question: 1,
    };
    let bulletin = bulletin(parts.identity.clone(), conversation.outbox.clone());
    let talk = conversation.run(reports, questions, replaced);
    parts.tasks.spawn("node sync", OnExit::Log, async {
        tokio::select! {
            () = talk => {}
            Over = bulletin => {}
        }
    });
    ReceiverStream::new(updates)
}

struct Conversation {
    parts: Parts,
    refusals: Counter,
    node: NodeName,
    outbox: mpsc::Sender<Result<wire::NodeUpdate, Status>>,
    /// By which the federation of the entries that were sent was resolved.
    relationships: Arc<Relationships>,
    /// The node's last report and whether part of it was refused: an entry that comes may let it stand, one that goes no longer.
    workloads: Option<(wire::Workloads, bool)>,
    /// Who waits for what the node says of a process.
    asked: BTreeMap<u64, oneshot::Sender<wire::Explained>>,
    next_question: u64,
}

/// The conversation is over; the reason was told, or there is nobody to tell.
struct Over;

impl Conversation {
    async fn run(
        mut self,
        mut reports: Streaming<wire::NodeReport>,
        mut questions: mpsc::Receiver<Question>,
        replaced: Drain,
    ) {
        info!(node = %self.node, "node connected");
        let mut feed = self.parts.identity.entries.feed(&self.node);
        let mut relationships = self.parts.relationships.clone();
        let drain = self.parts.drain.clone();
        self.relationships = relationships.borrow_and_update().clone();
        let mut outcome = self.push_all(&mut feed).await;
        while outcome.is_ok() {
            outcome = tokio::select! {
                delta = feed.next() => self.push(delta).await,
                changed = relationships.changed() => match changed {
                    Ok(()) => { let now = relationships.borrow_and_update().clone(); self.refederate(&feed, now).await }
                    Err(_) => Err(Over),
                },
                Some(question) = questions.recv() => self.ask(question).await,
                report = reports.message() => match report {
                    Ok(Some(report)) => self.take(report).await,
                    Ok(None) => Err(Over),
                    Err(status) => self.broke(&status),
                },
                () = replaced.cancelled() => self.end(&Refused::Replaced),
                () = drain.cancelled() => self.end(&Refused::Draining),
            };
        }
        info!(node = %self.node, "node disconnected");
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
            Some(Report::Explained(explained)) => {
                // An answer to nothing is one that came too late: whoever asked has gone.
                let asker = self.asked.remove(&explained.id);
                let _ = asker.map(|asker| asker.send(explained));
                Ok(())
            }
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
        self.workloads = Some((workloads, !refused.is_empty()));
        let refusals =
            refused.iter().map(|r| wire::Refusal { reason: r.label().to_owned(), detail: r.to_string() }).collect();
        self.send(Update::WorkloadsAck(wire::WorkloadsAck { revision, refusals })).await
    }

    async fn push_all(&mut self, feed: &mut Feed) -> Result<(), Over> {
        let entries = feed.all().iter().map(|entry| on_wire(entry, &self.relationships)).collect();
        self.send(Update::Entries(wire::Entries { entries, removed: Vec::new(), full: true })).await
    }

    async fn push(&mut self, delta: Delta) -> Result<(), Over> {
        let entries = delta.changed.iter().map(|entry| on_wire(entry, &self.relationships)).collect();
        let removed: Vec<_> = delta.removed.iter().map(ToString::to_string).collect();
        let fewer = !removed.is_empty();
        self.send(Update::Entries(wire::Entries { entries, removed, full: false })).await?;
        match self.workloads.take() {
            Some((workloads, refused)) if refused || fewer => self.register(workloads).await,
            kept => {
                self.workloads = kept;
                Ok(())
            }
        }
    }

    /// Sends the entries again that another set of relationships makes different.
    async fn refederate(&mut self, feed: &Feed, now: Arc<Relationships>) -> Result<(), Over> {
        let before = std::mem::replace(&mut self.relationships, now);
        let differs = |entry: &Arc<Entry>| federated(entry, &before) != federated(entry, &self.relationships);
        let changed: Vec<_> = feed.told().into_iter().filter(differs).collect();
        if changed.is_empty() { Ok(()) } else { self.push(Delta { changed, removed: Vec::new() }).await }
    }

    async fn ask(&mut self, question: Question) -> Result<(), Over> {
        self.asked.retain(|_, asker| !asker.is_closed());
        if self.asked.len() >= MAX_QUESTIONS {
            return Ok(()); // the asker sees that its question was dropped
        }
        let id = self.next_question;
        self.next_question += 1;
        self.asked.insert(id, question.answer);
        self.send(Update::Explain(wire::Explain { id, pid: question.pid })).await
    }

    async fn send(&mut self, update: Update) -> Result<(), Over> {
        send(&self.outbox, update).await
    }

    fn end(&self, why: &Refused) -> Result<(), Over> {
        self.refusals.inc(&[("reason", why.label())]);
        info!(node = %self.node, %why, "ending the node's stream");
        let _ = self.outbox.try_send(Err(why.status())); // a node that is gone or does not read needs no reason
        Err(Over)
    }
}

/// Tells the bundles, now and at each change, beside the conversation: whatever that waits for, a slow disk say, trust that ends does
/// not wait with it.
async fn bulletin(identity: Identity, outbox: mpsc::Sender<Result<wire::NodeUpdate, Status>>) -> Over {
    let mut table = identity.bundles.watch();
    let mut taints = identity.authorities.taints();
    let mut last = None;
    loop {
        // The taints first: what replaces the tainted is then in the table that is read after them.
        let tainted = taints.borrow_and_update().clone();
        let bundles = all_bundles(&identity, &tainted, &table.borrow_and_update().clone());
        if last.as_ref() != Some(&bundles) {
            last = Some(bundles.clone());
            if send(&outbox, Update::Bundles(bundles)).await.is_err() {
                return Over;
            }
        }
        let changed = tokio::select! {
            changed = table.changed() => changed,
            changed = taints.changed() => changed,
        };
        if changed.is_err() {
            return Over;
        }
    }
}

async fn send(outbox: &mpsc::Sender<Result<wire::NodeUpdate, Status>>, update: Update) -> Result<(), Over> {
    let update = wire::NodeUpdate { update: Some(update) };
    outbox.send_timeout(Ok(update), PATIENCE).await.map_err(|_| Over)
}

fn federated(entry: &Entry, relationships: &Relationships) -> Vec<String> {
    let domains = entries::resolve(entry.federates_with.as_ref(), relationships);
    domains.iter().map(ToString::to_string).collect()
}

fn on_wire(entry: &Entry, relationships: &Relationships) -> wire::Entry {
    let seconds = |ttl: Option<Duration>| ttl.map_or(0, |ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX));
    wire::Entry {
        entry_id: entry.id.to_string(),
        spiffe_id: entry.spiffe_id.to_string(),
        selectors: entry.selectors.iter().map(ToString::to_string).collect(),
        ttl_seconds: seconds(entry.ttl),
        dns_names: entry.dns_names.clone(),
        hint: entry.hint.clone(),
        jwt_ttl_seconds: seconds(entry.jwt_ttl),
        federates_with: federated(entry, relationships),
        expires_at: entry.expires_at.unwrap_or(0),
        revision: entry.revision,
    }
}

fn all_bundles(identity: &Identity, taints: &Taints, table: &bundles::Table) -> wire::Bundles {
    let ids = |ids: &BTreeSet<Arc<str>>| ids.iter().map(ToString::to_string).collect();
    wire::Bundles {
        tainted_x509: ids(&taints.x509),
        tainted_jwt: ids(&taints.jwt),
        incubating: identity.authorities.has(Word::Wit),
        trust_domain: identity.trust_domain.to_string(),
        bundles: table.iter().map(|(domain, bundle)| (domain.to_string(), bundle.to_jwks().into())).collect(),
    }
}
