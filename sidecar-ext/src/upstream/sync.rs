//! The standing stream: kept open with backoff, each message folded into what is held and written down before it is passed on.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use prost::Message as _;
use symbolon_kit::backoff::Backoff;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Counter;
use symbolon_kit::spiffe::verify::BundleTable;
use symbolon_kit::tls::Identity;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use symbolon_proto::node::node_update::Update;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::Reports;
use super::node::Tenure;
use crate::bundle::Book;
use crate::identity::Entry;
use crate::keep::{Keep, KeepError};

const ENTRIES_FILE: &str = "entries.pb";
const BUNDLES_FILE: &str = "bundles.pb";
/// For the stream to be accepted.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest message from the control plane: all entries of a node, or all bundles of a mesh.
const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Entries of one node.
const MAX_ENTRIES: usize = 20_000;

/// All entries of this node, in the control plane's order.
pub type EntryList = Arc<[Arc<Entry>]>;

/// Folds what the control plane says; one task.
pub(super) struct Sync {
    pub trust_domain: TrustDomain,
    pub keep: Keep,
    pub clock: Clock,
    pub book: Book,
    /// Verify the control plane by the book's own bundle, both.
    pub identities: [Identity; 2],
    pub entries: watch::Sender<Option<EntryList>>,
    pub bundles: watch::Sender<Arc<BundleTable>>,
    pub workloads_ack: watch::Sender<Option<Arc<wire::WorkloadsAck>>>,
    pub rejected: Counter,
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
                fold.apply(update);
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
        if let Some(entries) = self.load::<wire::Entries>(ENTRIES_FILE)? {
            self.publish_entries(entries);
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

    fn apply(&mut self, update: Update) {
        match update {
            Update::Entries(entries) => self.entries(entries),
            Update::Bundles(bundles) => self.bundles(&bundles),
            Update::Explain(_) => {}
            Update::WorkloadsAck(ack) => {
                for refusal in &ack.refusals {
                    self.rejected.inc(&[("reason", "workload")]);
                    warn!(reason = refusal.reason, detail = refusal.detail, "the control plane refuses a workload");
                }
                self.workloads_ack.send_replace(Some(Arc::new(ack)));
            }
        }
    }

    fn entries(&mut self, entries: wire::Entries) {
        if entries.entries.len() > MAX_ENTRIES {
            self.rejected.inc(&[("reason", "too_many_entries")]);
            warn!(count = entries.entries.len(), MAX_ENTRIES, "too many entries for one node; those held are kept");
            return;
        }
        self.write_down(ENTRIES_FILE, &entries.encode_to_vec());
        self.publish_entries(entries);
    }

    fn publish_entries(&self, entries: wire::Entries) {
        let mut parsed = Vec::with_capacity(entries.entries.len());
        for entry in entries.entries {
            let (id, spiffe_id) = (entry.entry_id.clone(), entry.spiffe_id.clone());
            if let Some(entry) = Entry::parse(entry, &self.trust_domain) {
                parsed.push(Arc::new(entry));
            } else {
                self.rejected.inc(&[("reason", "entry")]);
                warn!(
                    id,
                    spiffe_id, "an entry without selectors, or with an ID that is not for workloads here, is ignored"
                );
            }
        }
        let parsed: EntryList = parsed.into();
        self.entries.send_if_modified(|held| {
            let news = held.as_ref() != Some(&parsed);
            if news {
                *held = Some(parsed);
            }
            news
        });
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
        self.bundles.send_replace(self.book.table().clone());
    }

    /// What cannot be written down is served all the same; only a restart will miss it.
    fn write_down(&self, name: &str, content: &[u8]) {
        if let Err(why) = self.keep.save(name, content) {
            warn!(%why, "last-known-good state could not be written down");
        }
    }
}
