//! Which streams are open, and what they have acknowledged: [`AckTable`] for the rollout and the link, [`ProxyStatus`] for
//! operators. Several streams of one proxy are allowed (Envoy's hot restart); the newest owns the proxy's row, and when it ends,
//! the one before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Gauge;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::{AckTable, ProxyAck, ProxyKey};
use crate::snapshot::SnapshotSet;

use super::MAX_STREAMS_PER_PROXY;
use super::status::{ProxyStatus, TYPES, TypeStatus};
use super::wave::Wave;

/// A stream's machine; locked for single steps and by [`Registry::proxies`], never while anything is awaited.
pub(super) type SharedWave = Arc<Mutex<Wave>>;

#[derive(Debug)]
pub(super) struct Registry {
    open: Mutex<Open>,
    acks: watch::Sender<Arc<AckTable>>,
    streams: Gauge,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    count: i64,
    /// Oldest first.
    proxies: BTreeMap<ProxyKey, Vec<Stream>>,
}

#[derive(Debug)]
struct Stream {
    id: u64,
    version: String,
    since: Instant,
    wave: SharedWave,
    ack: ProxyAck,
    end: Drain,
}

/// One stream's place in the registry; dropping it gives the place up.
#[derive(Debug)]
pub(super) struct Seat {
    registry: Arc<Registry>,
    pub key: ProxyKey,
    id: u64,
    pub wave: SharedWave,
}

/// Nothing in here panics half-way through a change, so a poisoned lock still guards a whole value.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Registry ===

impl Registry {
    pub(super) fn new(streams: Gauge) -> Self {
        Self { open: Mutex::default(), acks: watch::Sender::default(), streams }
    }

    pub(super) fn acks(&self) -> watch::Receiver<Arc<AckTable>> {
        self.acks.subscribe()
    }

    /// Takes a place; the proxy counts as connected from here on. Beyond [`MAX_STREAMS_PER_PROXY`] the proxy's oldest stream is told
    /// to `end`: refusing the newest would lock out a proxy whose dead connections are not noticed yet.
    pub(super) fn enter(
        self: &Arc<Self>,
        key: ProxyKey,
        version: String,
        wave: Wave,
        end: Drain,
        now: Instant,
    ) -> Seat {
        let wave = Arc::new(Mutex::new(wave));
        let mut open = lock(&self.open);
        let id = open.last_id + 1;
        let streams = open.proxies.entry(key.clone()).or_default();
        if streams.len() >= MAX_STREAMS_PER_PROXY {
            streams.remove(0).end.start();
        }
        streams.push(Stream { id, version, since: now, wave: wave.clone(), ack: ProxyAck::default(), end });
        open.last_id = id;
        open.count += 1;
        self.streams.set(&[], open.count);
        self.publish(&key, Some(ProxyAck::default()));
        Seat { registry: self.clone(), key, id, wave }
    }

    /// Everyone who is connected, and everyone who should be.
    pub(super) fn proxies(&self, expected: &SnapshotSet, now: Instant) -> Vec<ProxyStatus> {
        let open = lock(&self.open);
        let mut all: BTreeMap<&ProxyKey, Option<&Stream>> = expected.proxies.keys().map(|key| (key, None)).collect();
        all.extend(open.proxies.iter().map(|(key, streams)| (key, streams.last())));
        all.into_iter()
            .map(|(key, stream)| ProxyStatus {
                key: key.clone(),
                version: stream.map_or_else(String::new, |stream| stream.version.clone()),
                connected_for: stream.map(|stream| now.saturating_duration_since(stream.since)),
                types: stream.map_or_else(
                    || TYPES.into_iter().map(TypeStatus::not_sent).collect(),
                    |stream| lock(&stream.wave).status(),
                ),
            })
            .collect()
    }

    /// Changes one row in place; the table is copied only while a reader holds the one before. Readers see the latest, however
    /// many there were. Called with `open` locked, so that rows change in the order of their causes.
    fn publish(&self, key: &ProxyKey, row: Option<ProxyAck>) {
        self.acks.send_modify(|table| {
            let rows = &mut Arc::make_mut(table).0;
            match row {
                Some(ack) => rows.insert(key.clone(), ack),
                None => rows.remove(key),
            };
        });
    }
}

// === impl Seat ===

impl Seat {
    /// Makes known what the stream has acknowledged.
    pub(super) fn acknowledge(&self, ack: ProxyAck) {
        let mut open = lock(&self.registry.open);
        let Some(streams) = open.proxies.get_mut(&self.key) else { return };
        let newest = streams.last().is_some_and(|stream| stream.id == self.id);
        let Some(own) = streams.iter_mut().find(|stream| stream.id == self.id) else { return };
        if own.ack == ack {
            return;
        }
        own.ack.clone_from(&ack);
        if newest {
            self.registry.publish(&self.key, Some(ack));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = lock(&self.registry.open);
        open.count -= 1;
        self.registry.streams.set(&[], open.count);
        let Some(streams) = open.proxies.get_mut(&self.key) else { return };
        let newest = streams.last().is_some_and(|stream| stream.id == self.id);
        streams.retain(|stream| stream.id != self.id);
        let heir = streams.last().map(|stream| stream.ack.clone());
        if streams.is_empty() {
            open.proxies.remove(&self.key);
        }
        if newest {
            self.registry.publish(&self.key, heir);
        }
    }
}
