//! What the tasks of one peer share. Each fact has one writer, named beside it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use symbolon_kit::clock::unix_ms;
use symbolon_kit::octets::random;
use symbolon_proto::federation as wire;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::config::PeerConfig;
use super::log::{Log, TOMBSTONES};
use super::persist::Established;
use super::staleness::{Heard, Timing};
use super::{Context, apply};
use crate::model::PeerState;

/// One configured peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) config: PeerConfig,
    /// What we offer it. Written by the export task, which also says in `head` when it has. A std mutex: nothing awaits while it
    /// is held.
    log: Mutex<Log>,
    /// The log's head; `None` until the first offer is whole.
    pub(super) head: watch::Sender<Option<u64>>,
    /// Written by invitation and acceptance.
    pub(super) established: watch::Sender<Option<Established>>,
    /// Written by the reader of the newest subscription; tells only when the peer's state may be another.
    pub(super) voice: watch::Sender<Heard>,
    /// To the task that applies.
    pub(super) inbox: mpsc::Sender<apply::Input>,
    streams: Mutex<Streams>,
    facts: Mutex<Facts>,
}

/// The newest stream in each direction; an older one is told to stop.
#[derive(Debug, Default)]
struct Streams {
    count: u64,
    pulled: CancellationToken,
    pushed: CancellationToken,
}

/// What `peer list` shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// By the staleness task.
    pub(super) state: PeerState,
    /// By the export task.
    pub(super) exported_services: usize,
    /// By the apply task.
    pub(super) imported_services: usize,
    pub(super) imported_endpoints: usize,
    pub(super) refusals: BTreeMap<&'static str, u64>,
    /// By the publishing session: what the peer says that its proxies use.
    pub(super) programmed_seq: u64,
    pub(super) proxies: (u32, u32),
    /// By whoever failed last; cleared when the link works again.
    pub(super) last_error: String,
    /// By the publishing session: what the peer refused of ours, by reason; cleared when everything is said anew.
    pub(super) nacks: BTreeMap<&'static str, String>,
}

/// A direction of data, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// We publish.
    Out,
    /// We subscribe.
    In,
}

impl Peer {
    pub(super) fn new(
        config: PeerConfig,
        established: Option<Established>,
        inbox: mpsc::Sender<apply::Input>,
        context: &Context,
    ) -> Self {
        let base = u64::try_from(unix_ms(context.clock.now())).unwrap_or(0);
        let heard = Heard { established: established.is_some(), last: None, since: context.now() };
        let state = heard.state(&context.config.timing, context.now()).0;
        Self {
            config,
            log: Mutex::new(Log::new(random::<16>().to_vec().into(), base, TOMBSTONES)),
            head: watch::Sender::new(None),
            established: watch::Sender::new(established),
            voice: watch::Sender::new(heard),
            inbox,
            streams: Mutex::default(),
            facts: Mutex::new(Facts { state, ..Facts::default() }),
        }
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a new stream, and the word that a newer one has taken its place; the older stream hears it now.
    pub(super) fn newest(&self, direction: Direction) -> (u64, CancellationToken) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.count += 1;
        let fresh = CancellationToken::new();
        let older = match direction {
            Direction::Out => std::mem::replace(&mut streams.pushed, fresh.clone()),
            Direction::In => std::mem::replace(&mut streams.pulled, fresh.clone()),
        };
        older.cancel();
        (streams.count, fresh)
    }

    /// Whether the stream that was told to stop has a newer one in its place; else we stopped it ourselves.
    pub(super) fn is_fenced(&self, direction: Direction) -> bool {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match direction {
            Direction::Out => !streams.pushed.is_cancelled(),
            Direction::In => !streams.pulled.is_cancelled(),
        }
    }

    /// The peer was heard.
    pub(super) fn heard(&self, timing: &Timing, now: Duration) {
        self.voice.send_if_modified(|heard| {
            let before = heard.state(timing, now).0;
            heard.last = Some(now);
            before != PeerState::Live
        });
    }

    /// Trust was exchanged.
    pub(super) fn establish(&self, with: Established, now: Duration) {
        self.established.send_replace(Some(with));
        self.voice.send_modify(|heard| *heard = Heard { established: true, last: None, since: now });
    }

    /// Trust was ended: whoever speaks on a stream is told to stop, and nobody is dialled.
    pub(super) fn end(&self, now: Duration) {
        self.established.send_replace(None);
        self.voice.send_modify(|heard| *heard = Heard { established: false, last: None, since: now });
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.pushed.cancel();
        streams.pulled.cancel();
    }

    pub(super) fn refused(&self, label: &'static str) {
        *self.facts().refusals.entry(label).or_default() += 1;
    }
}

/// A beat of the subscriber's role.
pub(super) fn beat(context: &Context, echo: Option<prost_types::Timestamp>) -> wire::FromSubscriber {
    let beat = wire::Beat { now: Some(context.clock.now().into()), echo, ..wire::Beat::default() };
    wire::FromSubscriber { f: Some(wire::from_subscriber::F::Beat(beat)) }
}
