//! The one task that owns what is imported from a peer: it takes the frames of the newest stream, performs what
//! [`super::session`] decides, and acknowledges only what is durable.
//!
//! The order of effects: the bundle is offered first, since endpoints may need it; then the services change; then everything is
//! stored, imports and cursor in one transaction; then the peer hears about it. A crash between the second and the third is
//! harmless: the cursor stands where it stood, and the peer says it all again.

use std::sync::Arc;
use std::time::Duration;

use symbolon_proto::federation as wire;
use symbolon_proto::federation::Reason;
use symbolon_proto::federation::ack::Level;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::peer::Peer;
use super::policy::Refused;
use super::session::{Alarm, Effects, Subscription};
use super::{BundleRefused, Context, persist, programmed};
use crate::model::Change;
use crate::store::Committed;

/// Frames taken in one go, so that a burst costs one flush.
const BATCH: usize = 256;
/// Frames that may wait to be applied; beyond that the reader lets the peer wait.
pub(super) const QUEUE: usize = 1024;
/// How long the peer may take to make room for an answer, before its stream is ended (bad input 127).
const PATIENCE: Duration = Duration::from_secs(10);

/// What a reader hands over.
#[derive(Debug)]
pub(super) enum Input {
    Opened {
        stream: u64,
        to_peer: mpsc::Sender<wire::FromSubscriber>,
        stop: CancellationToken,
    },
    Frame {
        stream: u64,
        frame: wire::FromPublisher,
    },
    Closed {
        stream: u64,
    },
    /// Trust in the peer was ended: nothing that it said counts any more.
    Ended {
        done: oneshot::Sender<()>,
    },
}

/// The task of one peer.
#[derive(Debug)]
pub(super) struct Apply {
    pub(super) context: Arc<Context>,
    pub(super) peer: Arc<Peer>,
    pub(super) subscription: Subscription,
    pub(super) programmed: mpsc::Sender<programmed::Told>,
    pub(super) stream: Option<Stream>,
    /// The cursor that is stored.
    pub(super) stored: Option<wire::Cursor>,
}

/// The newest stream.
#[derive(Debug)]
pub(super) struct Stream {
    number: u64,
    to_peer: mpsc::Sender<wire::FromSubscriber>,
    stop: CancellationToken,
}

impl Apply {
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Input>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let release = self.subscription.next_release();
            tokio::select! {
                received = inbox.recv_many(&mut batch, BATCH) => if received == 0 { return },
                () = self.context.sleep_until(release) => {}
                () = self.context.drain.cancelled() => return,
            }
            let mut effects = Effects::default();
            for input in batch.drain(..) {
                match input {
                    Input::Frame { stream, frame } if self.is_newest(stream) && effects.close.is_none() => {
                        self.subscription.take(frame, self.context.now(), &mut effects);
                    }
                    Input::Frame { .. } => {}
                    Input::Opened { stream, to_peer, stop } => {
                        self.settle(std::mem::take(&mut effects)).await;
                        self.open(Stream { number: stream, to_peer, stop }).await;
                    }
                    Input::Closed { stream } => {
                        self.settle(std::mem::take(&mut effects)).await;
                        if self.is_newest(stream) {
                            self.stream = None;
                            self.subscription.close();
                        }
                    }
                    Input::Ended { done } => {
                        effects = Effects::default();
                        self.forget().await;
                        let _ = done.send(()); // whoever asked may have given up
                    }
                }
            }
            self.settle(effects).await;
        }
    }

    /// Withdraws everything that the peer said, from the mesh first and from the store then.
    async fn forget(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.stop.cancel();
        }
        let name = &self.peer.config.name;
        let withdrawn = self.subscription.forget();
        info!(peer = %name, services = withdrawn.len(), "trust ended: imports withdrawn");
        for service in withdrawn {
            let change = Change::Import { peer: name.clone(), service, imported: None };
            let _ = self.context.changes.send(change).await; // the state task ends with the process
        }
        {
            let mut facts = self.peer.facts();
            (facts.imported_services, facts.imported_endpoints) = (0, 0);
        }
        self.stored = None;
        if let Err(why) = persist::forget(&self.context.store, name).await {
            // Without its bundle nothing of it is taken back at the next start, either.
            error!(peer = %name, %why, "what the peer said cannot be removed from the store");
        }
    }

    fn is_newest(&self, stream: u64) -> bool {
        self.stream.as_ref().is_some_and(|newest| newest.number == stream)
    }

    /// An older stream that opens late is not the newest, whatever the order of arrival.
    async fn open(&mut self, stream: Stream) {
        if self.stream.as_ref().is_some_and(|newest| newest.number > stream.number) {
            return;
        }
        // It was let in just before trust was ended.
        if self.peer.established.borrow().is_none() {
            return stream.stop.cancel();
        }
        let seq = self.subscription.cursor().map_or(0, |cursor| cursor.seq);
        let told = programmed::Told::Opened { seq, to_peer: stream.to_peer.clone() };
        self.stream = Some(stream);
        let subscribe = self.subscription.open();
        self.send(vec![subscribe]).await;
        let _ = self.programmed.send(told).await; // gone only when the link drains
    }

    async fn settle(&mut self, mut effects: Effects) {
        let now = self.context.now();
        if let Some(offered) = effects.bundle.take() {
            let book = &self.context.book;
            if let Err(refused) = book.offer(&self.peer.config.trust_domain, &offered.jwks).await {
                self.subscription.refuse_bundle(&offered, refused.into(), &mut effects);
            }
        }
        self.subscription.release(now, &mut effects);
        self.subscription.settle(now, &mut effects);
        self.report(&effects);
        for published in &effects.publish {
            let change = Change::Import {
                peer: self.peer.config.name.clone(),
                service: published.service.clone(),
                imported: published.imported.clone(),
            };
            let _ = self.context.changes.send(change).await; // the state task ends with the process
        }
        let mut answers = std::mem::take(&mut effects.send);
        match self.store().await {
            Ok(true) => {
                if let Some(seq) = self.stored.as_ref().map(|c| c.seq).filter(|_| self.subscription.is_following()) {
                    answers.push(applied(seq));
                    let told = programmed::Told::Applied { seq, published: effects.publish };
                    let _ = self.programmed.send(told).await;
                }
            }
            Ok(false) => {}
            Err(why) => {
                error!(peer = %self.peer.config.name, %why, "imports cannot be stored");
                effects.close = Some(format!("imports cannot be stored: {why}"));
            }
        }
        self.send(answers).await;
        if let Some(reason) = effects.close {
            warn!(peer = %self.peer.config.name, %reason, "stream ended");
            self.peer.facts().last_error = reason;
            self.subscription.close();
            if let Some(stream) = self.stream.take() {
                stream.stop.cancel();
            }
        }
    }

    /// Whether anything was behind; it is durable now.
    async fn store(&mut self) -> Result<bool, String> {
        let unstored = self.subscription.unstored();
        if unstored.is_empty() && self.subscription.cursor() == self.stored.as_ref() {
            return Ok(false);
        }
        let cursor = self.subscription.cursor().cloned();
        let txn = persist::progress(&self.peer.config.name, &unstored, cursor.as_ref());
        let txn = txn.map_err(|error| error.to_string())?;
        match self.context.store.commit(txn).await {
            Ok(Committed::Applied(_)) => {
                self.subscription.stored();
                self.stored = cursor;
                Ok(true)
            }
            Ok(Committed::Conflict { key }) => Err(format!("a conflict at {}", key.0)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// An answer that finds no room for so long that the peer cannot be reading ends the stream.
    async fn send(&mut self, answers: Vec<wire::FromSubscriber>) {
        let Some(stream) = &self.stream else { return };
        for answer in answers {
            if stream.to_peer.send_timeout(answer, PATIENCE).await.is_err() {
                stream.stop.cancel();
                return;
            }
        }
    }

    fn report(&self, effects: &Effects) {
        let name = &self.peer.config.name;
        for (key, refused) in &effects.refused {
            let first = !self.peer.facts().refusals.contains_key(refused.label());
            self.peer.refused(refused.label());
            self.context.counters.refused.inc(&[("peer", name.as_str()), ("reason", refused.label())]);
            // Once per reason and peer: a peer that errs would otherwise fill the log. The counter and `peer list` have the rest.
            if first {
                warn!(peer = %name, %key, reason = refused.label(), detail = %refused.detail, "a peer's resource was refused");
            }
        }
        if effects.ignored > 0 {
            self.peer.refused("ignored_endpoint");
            self.context.counters.refused.inc(&[("peer", name.as_str()), ("reason", "ignored_endpoint")]);
            warn!(peer = %name, endpoints = effects.ignored, "endpoints without a usable port, or listed twice, were ignored");
        }
        for alarm in &effects.alarms {
            self.context.counters.alarms.inc(&[("peer", name.as_str()), ("alarm", alarm.label())]);
            match alarm {
                Alarm::Held(service) => {
                    warn!(peer = %name, %service, "endpoints vanished without a word: kept, as unhealthy")
                }
                Alarm::EmptySnapshot { kept } => {
                    warn!(peer = %name, kept, "the peer's snapshot is empty: nothing withdrawn")
                }
                Alarm::DigestMismatch => warn!(peer = %name, "what we hold is not what the peer says that it sent"),
            }
        }
        let in_force = self.subscription.in_force();
        let mut facts = self.peer.facts();
        facts.imported_services = in_force.len();
        facts.imported_endpoints = in_force.values().map(|imported| imported.endpoints.len()).sum();
        drop(facts);
        for published in &effects.publish {
            let endpoints = published.imported.as_ref().map(|imported| imported.endpoints.len());
            info!(peer = %name, service = %published.service, ?endpoints, seq = published.seq, "import");
        }
    }
}

fn applied(seq: u64) -> wire::FromSubscriber {
    let ack = wire::Ack { seq, level: Level::Applied.into(), proxies_ok: 0, proxies_total: 0 };
    wire::FromSubscriber { f: Some(wire::from_subscriber::F::Ack(ack)) }
}

impl From<BundleRefused> for Refused {
    fn from(refused: BundleRefused) -> Self {
        let reason = match &refused {
            BundleRefused::Sequence(_) => Reason::BundleSequence,
            BundleRefused::Content(_) | BundleRefused::Unavailable(_) => Reason::BundleContent,
        };
        Self { reason, detail: refused.to_string() }
    }
}

impl Alarm {
    fn label(&self) -> &'static str {
        match self {
            Self::Held(_) => "held",
            Self::EmptySnapshot { .. } => "empty_snapshot",
            Self::DigestMismatch => "digest_mismatch",
        }
    }
}
