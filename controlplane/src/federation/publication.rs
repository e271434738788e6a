//! The publisher's side of a session: which frame is next. Pure; [`super::streams::publish`] sends it.
//!
//! ```text
//!              Subscribe, cursor in the log
//!   WAITING ──────────────────────────────────► FOLLOWING ◄── SnapshotEnd ── SNAPSHOT
//!      │                                            │                            ▲
//!      └───────── Subscribe, else: Hello, SnapshotBegin ─────────────────────────┘
//! ```
//!
//! Between two frames the log may move on: the next frame is always the oldest statement that still stands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use symbolon_proto::federation as wire;
use symbolon_proto::federation::from_publisher::F;

use super::log::{Entry, Log};

/// One stream's place in the log.
#[derive(Debug)]
pub struct Publication {
    /// Frames that come before anything else.
    first: VecDeque<F>,
    snapshot: VecDeque<Arc<Entry>>,
    end: Option<wire::SnapshotEnd>,
    /// Everything up to here was sent; `None` until there is a subscription.
    sent: Option<u64>,
}

impl Default for Publication {
    fn default() -> Self {
        Self::new()
    }
}

impl Publication {
    pub fn new() -> Self {
        Self { first: VecDeque::new(), snapshot: VecDeque::new(), end: None, sent: None }
    }

    /// The subscriber asks to begin, or to begin anew.
    pub fn subscribe(&mut self, resume: Option<&wire::Cursor>, log: &mut Log, new_epoch: impl FnOnce() -> Bytes) {
        *self = Self::new();
        if let Some(cursor) = resume {
            log.adopt(cursor, new_epoch);
        }
        let resumed = resume.filter(|cursor| log.can_resume(cursor));
        self.first.push_back(F::Hello(wire::Hello {
            epoch: log.epoch().clone(),
            resumed: resumed.is_some(),
            source_synced: true,
            head: log.head(),
        }));
        self.sent = Some(resumed.map_or_else(|| log.head(), |cursor| cursor.seq));
        if resumed.is_none() {
            self.first.push_back(F::SnapBegin(wire::SnapshotBegin { seq: log.head() }));
            self.snapshot = log.snapshot().into();
            self.end = Some(wire::SnapshotEnd {
                seq: log.head(),
                count: u32::try_from(self.snapshot.len()).unwrap_or(u32::MAX),
                set_digest: log.digest().bytes(),
                source_synced: true,
            });
        }
    }

    /// Whether what is to be said is everything, and not only what is new.
    pub fn says_everything(&self) -> bool {
        self.end.is_some()
    }

    /// The next frame; `None` when there is nothing to say.
    pub fn next(&mut self, log: &Log) -> Option<wire::FromPublisher> {
        let sent = self.sent?;
        if let Some(first) = self.first.pop_front() {
            return Some(frame(first));
        }
        if let Some(entry) = self.snapshot.pop_front() {
            return Some(frame(F::Change(entry.to_wire())));
        }
        if let Some(end) = self.end.take() {
            return Some(frame(F::SnapEnd(end)));
        }
        let entry = log.after(sent)?;
        self.sent = Some(entry.revision);
        Some(frame(F::Change(entry.to_wire())))
    }
}

/// A beat; the digest is of the log's head, which a subscriber compares once it is there itself.
pub fn beat(log: &Log, now: SystemTime, echo: Option<prost_types::Timestamp>) -> wire::FromPublisher {
    frame(F::Beat(wire::Beat {
        epoch: log.epoch().clone(),
        head: log.head(),
        set_digest: log.digest().bytes(),
        now: Some(now.into()),
        echo,
    }))
}

/// Wraps a frame for the wire.
pub fn frame(f: F) -> wire::FromPublisher {
    wire::FromPublisher { f: Some(f) }
}

#[cfg(test)]
mod tests;
