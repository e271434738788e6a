//! The standing stream: kept open with backoff, each message folded into what is held and written down before it is passed on.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use prost::Message as _;
use symbolon_kit::backoff::Backoff;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Counter;
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_kit::tls::Identity;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use symbolon_proto::node::node_update::Update;
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::Status;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::entries::{Entries, EntryList, Journal, Refused};
use super::node::Tenure;
use super::{Explainer, Reports};
use crate::bundle::{Book, Trust};
use crate::keep::{Keep, KeepError};

const BUNDLES_FILE: &str = "bundles.pb";
/// For the stream to be accepted.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest message from the control plane: all entries of a node, or all bundles of a mesh.
const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Processes that are looked at side by side for `symbolon identity explain`; more are turned away.
const EXPLANATIONS: usize = 4;
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Folds what the control plane says; one task.
pub(super) struct Sync {
    pub keep: Keep,
    pub clock: Clock,
    pub book: Book,
    /// Verify the control plane by the book's own bundle, both.
    pub identities: [Identity; 2],
    pub entries: watch::Sender<Option<EntryList>>,
    pub trust: watch::Sender<Arc<Trust>>,
    pub workloads_ack: watch::Sender<Option<Arc<wire::WorkloadsAck>>>,
    pub rejected: Counter,
    pub explaining: Explaining,
    pub said: Entries,
    pub journal: Journal,
    /// Whether this stream has said all entries: before that it may not say changes.
    pub full: bool,
}

/// Answers who a process is.
pub(super) struct Explaining {
    pub explainer: Arc<dyn Explainer>,
    pub reports: Reports,
    pub places: Arc<Semaphore>,
    pub tasks: Tasks,
}

/// What keeps the stream open.
pub(super) struct Line {
    pub channel: Channel,
    pub reports: Reports,
    pub joined: watch::Receiver<bool>,
    pub connected: watch::Sender<bool>,
    pub tenure: Tenure,
    /// Bundles that came with the node's SVID.
    pub offered: mpsc::Receiver<Vec<u8>>,
    pub seed: u64,
}

// === impl Line ===

impl Line {
    pub(super) async fn run(mut self, mut fold: Sync, drain: Drain) {
        tokio::select! {
            () = drain.cancelled() => {}
            () = self.hold(&mut fold) => {}
        }
        self.connected.send_replace(false);
    }

    async fn hold(&mut self, fold: &mut Sync) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10), self.seed);
        loop {
            tokio::select! {
                joined = self.joined.wait_for(|joined| *joined) => {
                    if joined.is_err() { return }
                }
                Some(jwks) = self.offered.recv() => {
                    fold.offered(&jwks);
                    continue;
                }
            }
            while let Ok(jwks) = self.offered.try_recv() {
                fold.offered(&jwks);
            }
            let epoch = self.tenure.epoch();
            match self.converse(fold, &mut backoff).await {
                Ok(()) => info!("the control plane ended the stream"),
                Err(why) => {
                    warn!(code = ?why.code(), why = why.message(), "no stream to the control plane");
                    self.tenure.heard(&why, epoch);
                }
            }
            self.connected.send_replace(false);
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// One stream, until it ends.
    async fn converse(&mut self, fold: &mut Sync, backoff: &mut Backoff) -> Result<(), Status> {
        self.reports.restart();
        fold.full = false;
        let reports = stream::unfold(self.reports.clone(), |reports| async { Some((reports.next().await, reports)) });
        let mut client = NodeClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let opening = tokio::time::timeout(OPEN_TIMEOUT, client.sync(reports));
        let mut updates = opening.await.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
        while let Some(update) = updates.message().await? {
            if !*self.connected.borrow() {
                info!("connected to the control plane");
                self.connected.send_replace(true);
                backoff.reset();
            }
            if let Some(update) = update.update {
                // A change that cannot be taken leaves us behind: the next stream begins with all of it.
                fold.apply(update).map_err(|why| Status::failed_precondition(why.to_string()))?;
            }
        }
        Ok(())
    }
}

// === impl Sync ===

impl Sync {
    /// Takes what a former run wrote down.
    ///
    /// # Errors
    /// If a file is there and may not be used; what is merely unusable is as good as absent.
    pub(super) fn restore(&mut self) -> Result<(), KeepError> {
        if let Some(bundles) = self.load::<wire::Bundles>(BUNDLES_FILE)? {
            self.book_apply(&bundles);
        }
        if self.journal.restore(&mut self.said)? {
            self.entries.send_replace(Some(self.said.list()));
        }
        self.publish_bundles();
        Ok(())
    }

    fn load<M: prost::Message + Default>(&self, name: &str) -> Result<Option<M>, KeepError> {
        let Some(content) = self.keep.load(name)? else { return Ok(None) };
        Ok(M::decode(content.as_slice())
            .inspect_err(|why| warn!(name, %why, "last-known-good state is not usable"))
            .ok())
    }

    /// # Errors
    /// If what is held cannot be what the control plane means any more.
    fn apply(&mut self, update: Update) -> Result<(), Refused> {
        match update {
            Update::Entries(said) => return self.entries(said),
            Update::Bundles(said) => self.bundles(&said),
            Update::Explain(asked) => self.explaining.answer(asked),
            Update::WorkloadsAck(ack) => {
                for refusal in &ack.refusals {
                    self.rejected.inc(&[("reason", "workload")]);
                    warn!(reason = refusal.reason, detail = refusal.detail, "the control plane refuses a workload");
                }
                self.workloads_ack.send_replace(Some(Arc::new(ack)));
            }
        }
        Ok(())
    }

    fn entries(&mut self, said: wire::Entries) -> Result<(), Refused> {
        let is_full = said.full;
        if let Err(why) = self.take_entries(said) {
            self.rejected.inc(&[("reason", why.label())]);
            warn!(%why, "entries are not taken");
            // Another stream would say the same full state; a change that is missed must not be.
            return if is_full { Ok(()) } else { Err(why) };
        }
        self.full |= is_full;
        Ok(())
    }

    fn take_entries(&mut self, said: wire::Entries) -> Result<(), Refused> {
        if !said.full && !self.full {
            return Err(Refused::NoFull);
        }
        let bytes = said.encode_length_delimited_to_vec();
        let taken = self.said.take(said)?;
        for (id, spiffe_id) in taken.ignored {
            self.rejected.inc(&[("reason", "entry")]);
            warn!(
                id,
                spiffe_id, "an entry without selectors, or with an ID that is not for workloads here, is ignored"
            );
        }
        let first = self.entries.borrow().is_none();
        if taken.changed || first {
            if let Err(why) = self.journal.write(&bytes, &self.said) {
                warn!(%why, "last-known-good entries could not be written down");
            }
            self.entries.send_replace(Some(self.said.list()));
        }
        Ok(())
    }

    fn bundles(&mut self, said: &wire::Bundles) {
        if self.book_apply(said) {
            self.write_down(BUNDLES_FILE, &self.book.to_wire().encode_to_vec());
            self.publish_bundles();
        }
    }

    /// The own bundle as it came with the node's SVID; other trust domains are not spoken of.
    fn offered(&mut self, jwks: &[u8]) {
        let mut said = self.book.to_wire();
        said.bundles.insert(said.trust_domain.clone(), bytes::Bytes::copy_from_slice(jwks));
        self.bundles(&said);
    }

    fn book_apply(&mut self, said: &wire::Bundles) -> bool {
        let (changed, rejected) = self.book.apply(said, self.clock.now());
        for why in rejected {
            self.rejected.inc(&[("reason", why.label())]);
            warn!(%why, "a bundle is not taken; the one held stays");
        }
        changed
    }

    fn publish_bundles(&self) {
        let own = self.book.own_only();
        self.identities.iter().for_each(|identity| identity.set_bundles(&own));
        self.trust.send_replace(Arc::new(self.book.trust().clone()));
    }

    /// What cannot be written down is served all the same; only a restart will miss it.
    fn write_down(&self, name: &str, content: &[u8]) {
        if let Err(why) = self.keep.save(name, content) {
            warn!(%why, "last-known-good state could not be written down");
        }
    }
}

// === impl Explaining ===

impl Explaining {
    pub(super) fn new(explainer: Arc<dyn Explainer>, reports: Reports, tasks: Tasks) -> Self {
        Self { explainer, reports, places: Arc::new(Semaphore::new(EXPLANATIONS)), tasks }
    }

    /// Looks beside the stream, which goes on meanwhile; the answer is one of its reports.
    fn answer(&self, asked: wire::Explain) {
        let reports = self.reports.clone();
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            reports.explained(failed(asked.id, "this node is looking at other processes: ask again"));
            return;
        };
        let explainer = self.explainer.clone();
        self.tasks.spawn("explain", OnExit::Log, async move {
            // The place goes with the reading, which a timeout does not interrupt.
            let reading = tokio::task::spawn_blocking(move || {
                let _place = place;
                explainer.explain(asked.pid)
            });
            let answer = match tokio::time::timeout(EXPLAIN_TIMEOUT, reading).await {
                Ok(Ok(Ok(selectors))) => wire::Explained { id: asked.id, selectors, error: String::new() },
                Ok(Ok(Err(why))) => failed(asked.id, &why),
                Ok(Err(_)) => failed(asked.id, "the process could not be looked at"),
                Err(_) => failed(asked.id, "looking at the process took too long"),
            };
            reports.explained(answer);
        });
    }
}

fn failed(id: u64, why: &str) -> wire::Explained {
    wire::Explained { id, selectors: Vec::new(), error: why.to_owned() }
}
