//! The last changes, kept in memory for the watches: a ring bounded by count and bytes. A watch that falls behind it is told so
//! and reads the range again, so that a slow reader costs nobody memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use crate::store::{Error, Event, Prefix};

const MAX_EVENTS: usize = 16_384;
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// How many events a watch takes at once.
const CHUNK: usize = 256;

#[derive(Debug)]
pub(super) struct History {
    ring: Mutex<Ring>, // a std mutex: nothing awaits while it is held
    /// The newest revision whose events are in the ring; `None` once the store is closed.
    head: watch::Sender<Option<u64>>,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Event>,
    bytes: usize,
    /// Everything after this revision is here.
    kept_after: u64,
    head: u64,
}

impl History {
    pub(super) fn new(revision: u64) -> Self {
        let ring = Ring { events: VecDeque::new(), bytes: 0, kept_after: revision, head: revision };
        Self { ring: Mutex::new(ring), head: watch::Sender::new(Some(revision)) }
    }

    pub(super) fn head(&self) -> u64 {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).head
    }

    /// Appends the events of durable transactions, the oldest first, and wakes the watches.
    pub(super) fn append(&self, events: Vec<Event>, head: u64) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            ring.bytes += size(&event);
            ring.events.push_back(event);
        }
        while ring.events.len() > MAX_EVENTS || ring.bytes > MAX_BYTES {
            let Some(dropped) = ring.events.pop_front() else { break };
            ring.bytes -= size(&dropped);
            ring.kept_after = dropped.revision();
        }
        ring.head = head;
        drop(ring); // before the watches wake, or they would wait for it
        self.head.send_replace(Some(head));
    }

    pub(super) fn close(&self) {
        self.head.send_replace(None);
    }

    /// Events of `prefix` after `revision`, and up to which revision they are complete.
    fn after(&self, prefix: &Prefix, revision: u64) -> Result<(Vec<Event>, u64), Error> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if revision < ring.kept_after {
            return Err(Error::Compacted(revision));
        }
        let start = ring.events.partition_point(|event| event.revision() <= revision);
        let (mut found, mut upto) = (Vec::new(), ring.head.max(revision));
        for event in ring.events.range(start..).filter(|event| event.key().0.starts_with(&*prefix.0)) {
            // A chunk ends only between revisions: what is told is told whole.
            if found.len() >= CHUNK && found.last().map(Event::revision) != Some(event.revision()) {
                upto = event.revision() - 1;
                break;
            }
            found.push(event.clone());
        }
        Ok((found, upto))
    }
}

/// Every change of `prefix` after `revision`.
pub(super) fn watch(history: Arc<History>, prefix: Prefix, revision: u64) -> BoxStream<'static, Result<Event, Error>> {
    let head = history.head.subscribe();
    let chunks = stream::unfold(Some((history, prefix, revision, head)), |state| async {
        let (history, prefix, revision, mut head) = state?;
        loop {
            let closed = head.borrow_and_update().is_none();
            match history.after(&prefix, revision) {
                Err(error) => return Some((vec![Err(error)], None)),
                Ok((events, upto)) if !events.is_empty() => {
                    return Some((events.into_iter().map(Ok).collect(), Some((history, prefix, upto, head))));
                }
                Ok(_) if closed => return None,
                Ok((_, upto)) => {
                    if head.changed().await.is_err() {
                        return None;
                    }
                    if upto > revision {
                        // Nothing of ours happened up to here: without this, others' changes would compact us away.
                        return Some((Vec::new(), Some((history, prefix, upto, head))));
                    }
                }
            }
        }
    });
    chunks.flat_map(stream::iter).boxed()
}

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put(stored) => stored.modified,
            Self::Deleted { revision, .. } => *revision,
        }
    }

    /// What was changed.
    pub fn key(&self) -> &crate::store::Key {
        match self {
            Self::Put(stored) => &stored.key,
            Self::Deleted { key, .. } => key,
        }
    }
}

fn size(event: &Event) -> usize {
    let value = if let Event::Put(stored) = event { stored.value.len() } else { 0 };
    event.key().0.len() + value + 64
}
