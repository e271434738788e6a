//! The subscriber's side of a session: frames in, effects out. Pure; [`super::apply`] performs the effects.
//!
//! ```text
//!              open: Subscribe(cursor)
//!   CLOSED ─────────────────────────────► OPENED ◄───────────────────────────────┐
//!                          Hello, resumed │   │ Hello                            │ resync: Subscribe()
//!                                         │   ▼                                  │ (beat's digest differs;
//!                                         │ GREETED ── SnapshotBegin ─► SNAPSHOT │  bounded by a backoff)
//!                                         ▼                                │     │
//!                                     FOLLOWING ◄─ SnapshotEnd, matches ───┘     │
//!                                         └──────────────────────────────────────┘
//! ```
//!
//! Services change only while FOLLOWING: a snapshot takes effect at its end, whole. A snapshot sweeps what it does not name only
//! if the publisher says that its own sources were complete, and count and digest match; an empty one sweeps nothing (decision 5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use symbolon_kit::text::shown;
use symbolon_proto::federation as wire;
use symbolon_proto::federation::Reason;
use symbolon_proto::federation::from_publisher::F;
use symbolon_proto::federation::tombstone::Why;

use super::guard::{Guard, explains};
use super::log::MAX_SEQUENCE;
use super::merge::{Imports, Put, Record};
use super::policy::{Admitted, Policy, Refused};
use super::resource::{BUNDLE, service_of};
use crate::model::{ImportedService, ServiceName};

const FIRST_RESYNC: Duration = Duration::from_secs(1);
const LONGEST_RESYNC: Duration = Duration::from_mins(1);

/// One peer's subscription; outlives its streams.
#[derive(Debug)]
pub struct Subscription {
    policy: Policy,
    imports: Imports,
    guard: Guard,
    in_force: BTreeMap<ServiceName, ImportedService>,
    /// How far we are; `None`: a snapshot is needed.
    cursor: Option<wire::Cursor>,
    phase: Phase,
    /// Services with changes that are not yet in force, and whether their losses are explained.
    touched: BTreeMap<ServiceName, bool>,
    /// Keys whose stored record is behind.
    dirty: BTreeSet<Arc<str>>,
    resync_at: Duration,
    resync_wait: Duration,
    peer_head: u64,
    /// The peer said that it is going: what vanishes now is explained.
    drained: bool,
}

#[derive(Debug)]
enum Phase {
    Closed,
    Opened,
    Greeted { epoch: Bytes },
    Snapshot { epoch: Bytes, seen: BTreeSet<Arc<str>> },
    Following,
}

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be judged by the bundle book before anything that may need it.
    pub bundle: Option<OfferedBundle>,
    pub publish: Vec<Published>,
    pub send: Vec<wire::FromSubscriber>,
    pub refused: Vec<(String, Refused)>,
    /// Endpoints that were dropped from an otherwise good shard.
    pub ignored: usize,
    pub alarms: Vec<Alarm>,
    pub close: Option<String>,
}

/// A bundle of the peer's that is to be offered to the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedBundle {
    pub seq: u64,
    pub revision: u64,
    pub jwks: Bytes,
}

/// A service as it is from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    pub service: ServiceName,
    pub imported: Option<ImportedService>,
    pub seq: u64,
}

/// What an operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    Held(ServiceName),
    EmptySnapshot { kept: usize },
    DigestMismatch,
}

impl Subscription {
    pub fn new(policy: Policy, hold: Duration) -> Self {
        Self {
            policy,
            imports: Imports::default(),
            guard: Guard::new(hold),
            in_force: BTreeMap::new(),
            cursor: None,
            phase: Phase::Closed,
            touched: BTreeMap::new(),
            dirty: BTreeSet::new(),
            resync_at: Duration::ZERO,
            resync_wait: FIRST_RESYNC,
            peer_head: 0,
            drained: false,
        }
    }

    /// Takes back what was stored; what it adds up to is in force.
    pub fn restore(
        &mut self,
        records: impl IntoIterator<Item = (String, Record)>,
        cursor: Option<wire::Cursor>,
    ) -> (Vec<Published>, Vec<(String, Refused)>) {
        let mut refused = Vec::new();
        for (key, record) in records {
            if let Err(why) = self.imports.restore(&self.policy, &key, record) {
                refused.push((key, why));
            }
        }
        let (seq, most) = (cursor.as_ref().map_or(0, |cursor| cursor.seq), self.policy.max_endpoint_weight.get());
        // What was refused, then or now, is asked for again: grants may be others than they were.
        let whole = |cursor: &wire::Cursor| self.imports.digest().is(&cursor.set_digest) && !self.imports.has_refused();
        self.cursor = cursor.filter(|cursor| refused.is_empty() && whole(cursor));
        for service in self.imports.services() {
            if let Some(imported) = self.imports.service(&service, most) {
                self.in_force.insert(service, imported);
            }
        }
        let published = self.in_force.iter().map(|(service, imported)| Published {
            service: service.clone(),
            imported: Some(imported.clone()),
            seq,
        });
        (published.collect(), refused)
    }

    /// A new stream: what to say first.
    pub fn open(&mut self) -> wire::FromSubscriber {
        self.phase = Phase::Opened;
        self.drained = false;
        subscribe(self.cursor.clone())
    }

    /// Nothing that was said counts any more; which services go with it.
    pub fn forget(&mut self) -> Vec<ServiceName> {
        let fresh = Self::new(self.policy.clone(), self.guard.hold());
        let before = std::mem::replace(self, fresh);
        before.in_force.into_keys().collect()
    }

    /// The stream ended.
    pub fn close(&mut self) {
        self.phase = Phase::Closed;
    }

    /// Takes one frame of the current stream.
    pub fn take(&mut self, frame: wire::FromPublisher, now: Duration, effects: &mut Effects) {
        match frame.f {
            Some(F::Hello(hello)) => self.hello(hello, effects),
            Some(F::SnapBegin(_)) => match std::mem::replace(&mut self.phase, Phase::Opened) {
                Phase::Greeted { epoch } => self.phase = Phase::Snapshot { epoch, seen: BTreeSet::new() },
                _ => effects.close = Some("a snapshot began where none was due".into()),
            },
            Some(F::Change(change)) => self.change(change, effects),
            Some(F::SnapEnd(end)) => self.snapshot_end(&end, now, effects),
            Some(F::Beat(beat)) => self.beat(&beat, now, effects),
            Some(F::Drain(_)) => self.drained = true,
            Some(F::Terminated(terminated)) => {
                effects.close = Some(format!("the peer ended the stream: {}", shown(&terminated.reason, 200)));
            }
            // A frame of a later version (bad input 126).
            None => {}
        }
    }

    fn hello(&mut self, hello: wire::Hello, effects: &mut Effects) {
        if !matches!(self.phase, Phase::Opened) {
            effects.close = Some("the peer began anew in the middle of a stream".into());
            return;
        }
        self.peer_head = hello.head;
        let same_epoch = self.cursor.as_ref().is_some_and(|cursor| cursor.epoch == hello.epoch);
        match (hello.resumed, same_epoch) {
            (true, true) => self.phase = Phase::Following,
            (true, false) => effects.close = Some("the peer resumes what we never had".into()),
            (false, _) => self.phase = Phase::Greeted { epoch: hello.epoch },
        }
    }

    fn change(&mut self, change: wire::Change, effects: &mut Effects) {
        match &self.phase {
            // Still on its way when we asked to begin anew.
            Phase::Closed | Phase::Opened => return,
            Phase::Greeted { .. } => {
                effects.close = Some("a change came before any snapshot".into());
                return;
            }
            Phase::Following if self.cursor.as_ref().is_some_and(|cursor| change.seq <= cursor.seq) => return,
            Phase::Snapshot { .. } | Phase::Following => {}
        }
        if change.seq > MAX_SEQUENCE || change.revision > change.seq {
            effects.close = Some("a sequence or revision is out of range".into());
            return;
        }
        let key: Arc<str> = change.key.as_str().into();
        match change.op {
            Some(wire::change::Op::Put(resource)) => self.put(&key, change.seq, change.revision, &resource, effects),
            Some(wire::change::Op::Del(tombstone)) => self.gone(&key, &tombstone),
            None => self.refuse(change.seq, &key, unknown_operation(), effects),
        }
        match &mut self.phase {
            Phase::Snapshot { seen, .. } => {
                seen.insert(key);
            }
            _ => {
                let set_digest = self.imports.digest().bytes();
                if let Some(cursor) = &mut self.cursor {
                    (cursor.seq, cursor.set_digest) = (change.seq, set_digest);
                }
                self.peer_head = self.peer_head.max(change.seq);
            }
        }
    }

    fn put(&mut self, key: &Arc<str>, seq: u64, revision: u64, resource: &wire::Resource, effects: &mut Effects) {
        match self.imports.put(&self.policy, key, revision, resource) {
            Put::Same => {}
            Put::Refused(refused) => {
                self.dirty.insert(key.clone());
                self.refuse(seq, key, refused, effects);
            }
            Put::Took(admitted) => {
                self.dirty.insert(key.clone());
                match admitted {
                    Admitted::Bundle(jwks) => effects.bundle = Some(OfferedBundle { seq, revision, jwks }),
                    Admitted::Shard { ignored, .. } => effects.ignored += ignored,
                    Admitted::Service { .. } | Admitted::Capacity { .. } => {}
                }
                self.touch(key, false);
            }
        }
    }

    /// A bundle is never withdrawn by a tombstone: trust ends by its own clock, or by an empty key set that the book admits.
    fn gone(&mut self, key: &Arc<str>, tombstone: &wire::Tombstone) {
        if self.imports.remove(key) {
            self.dirty.insert(key.clone());
            self.touch(key, Why::try_from(tombstone.why).is_ok_and(explains));
        }
    }

    fn touch(&mut self, key: &str, explained: bool) {
        if let Some(service) = service_of(key) {
            *self.touched.entry(service).or_default() |= explained;
        }
    }

    fn refuse(&self, seq: u64, key: &str, refused: Refused, effects: &mut Effects) {
        let cut: String = key.chars().take(256).collect();
        let nack = wire::Nack { seq, key: cut, reason: refused.reason.into(), detail: refused.detail.clone() };
        effects.send.push(wire::FromSubscriber { f: Some(wire::from_subscriber::F::Nack(nack)) });
        effects.refused.push((shown(key, 256), refused));
    }

    /// The book refused a bundle; the one it holds stays.
    pub fn refuse_bundle(&mut self, offered: &OfferedBundle, refused: Refused, effects: &mut Effects) {
        self.imports.quarantine(BUNDLE, offered.revision, refused.reason);
        self.refuse(offered.seq, BUNDLE, refused, effects);
    }

    fn snapshot_end(&mut self, end: &wire::SnapshotEnd, now: Duration, effects: &mut Effects) {
        let (epoch, seen) = match std::mem::replace(&mut self.phase, Phase::Opened) {
            Phase::Snapshot { epoch, seen } => (epoch, seen),
            // Still on its way when we asked to begin anew.
            Phase::Opened => return,
            _ => {
                effects.close = Some("a snapshot ended that had not begun".into());
                return;
            }
        };
        let matches = usize::try_from(end.count) == Ok(seen.len())
            && self.imports.digest_of(&seen).is(&end.set_digest)
            && end.seq <= MAX_SEQUENCE;
        if !matches {
            self.resync(now, effects);
            return;
        }
        self.sweep(&seen, end.source_synced, effects);
        self.cursor = Some(wire::Cursor { epoch, seq: end.seq, set_digest: self.imports.digest().bytes() });
        self.peer_head = self.peer_head.max(end.seq);
        self.phase = Phase::Following;
    }

    /// What the snapshot does not name is dropped, and the guard asked about each service, if the peer knows what it says.
    fn sweep(&mut self, seen: &BTreeSet<Arc<str>>, source_synced: bool, effects: &mut Effects) {
        let unnamed: Vec<Arc<str>> = self.imports.keys().filter(|key| !seen.contains(*key)).cloned().collect();
        let names_a_service = seen.iter().any(|key| key.starts_with("service/"));
        let kept = unnamed.iter().filter(|key| service_of(key).is_some()).count();
        if source_synced && !names_a_service && kept > 0 {
            effects.alarms.push(Alarm::EmptySnapshot { kept });
        }
        for key in unnamed {
            if source_synced && names_a_service && service_of(&key).is_some() {
                self.imports.remove(&key);
                self.dirty.insert(key.clone());
                self.touch(&key, false);
            } else {
                self.imports.orphan(&key);
            }
        }
    }

    fn beat(&mut self, beat: &wire::Beat, now: Duration, effects: &mut Effects) {
        let (Phase::Following, Some(cursor)) = (&self.phase, &self.cursor) else { return };
        if beat.epoch != cursor.epoch {
            effects.close = Some("the peer changed its epoch in the middle of a stream".into());
            return;
        }
        self.peer_head = self.peer_head.max(beat.head);
        if beat.head != cursor.seq {
            return;
        }
        if self.imports.digest().is(&beat.set_digest) {
            self.resync_wait = FIRST_RESYNC;
        } else if now >= self.resync_at {
            self.resync(now, effects);
        }
    }

    /// Asks for everything anew. What is in force stays.
    fn resync(&mut self, now: Duration, effects: &mut Effects) {
        effects.alarms.push(Alarm::DigestMismatch);
        self.cursor = None;
        if now < self.resync_at {
            effects.close = Some("what the peer sent does not add up to its own digest".into());
            return;
        }
        self.resync_at = now + self.resync_wait;
        self.resync_wait = (self.resync_wait * 2).min(LONGEST_RESYNC);
        self.phase = Phase::Opened;
        effects.send.push(subscribe(None));
    }

    /// Puts in force what is whole.
    pub fn settle(&mut self, now: Duration, effects: &mut Effects) {
        if matches!(self.phase, Phase::Following) {
            for (service, explained) in std::mem::take(&mut self.touched) {
                self.judge(service, explained || self.drained, now, effects);
            }
        }
    }

    /// Ends the holds that are over.
    pub fn release(&mut self, now: Duration, effects: &mut Effects) {
        for service in self.guard.released(now) {
            self.judge(service, true, now, effects);
        }
    }

    fn judge(&mut self, service: ServiceName, explained: bool, now: Duration, effects: &mut Effects) {
        let before = self.in_force.get(&service);
        let after = self.imports.service(&service, self.policy.max_endpoint_weight.get());
        let judged = self.guard.judge(&service, before, after, explained, now);
        if judged.began {
            effects.alarms.push(Alarm::Held(service.clone()));
        }
        if judged.imported.as_ref() == before {
            return;
        }
        match &judged.imported {
            Some(imported) => self.in_force.insert(service.clone(), imported.clone()),
            None => self.in_force.remove(&service),
        };
        let seq = self.cursor.as_ref().map_or(0, |cursor| cursor.seq);
        effects.publish.push(Published { service, imported: judged.imported, seq });
    }

    /// When a hold ends next.
    pub fn next_release(&self) -> Option<Duration> {
        self.guard.next_release()
    }

    /// The records that are behind, `None` for a deleted one; remembered until [`Self::stored`].
    pub fn unstored(&self) -> Vec<(Arc<str>, Option<Record>)> {
        self.dirty.iter().map(|key| (key.clone(), self.imports.record(key))).collect()
    }

    /// Everything that was unstored is durable now.
    pub fn stored(&mut self) {
        self.dirty.clear();
    }

    pub fn cursor(&self) -> Option<&wire::Cursor> {
        self.cursor.as_ref()
    }

    /// Whether the subscription is whole and follows the peer.
    pub fn is_following(&self) -> bool {
        matches!(self.phase, Phase::Following)
    }

    /// The peer's newest sequence.
    pub fn peer_head(&self) -> u64 {
        self.peer_head
    }

    pub fn in_force(&self) -> &BTreeMap<ServiceName, ImportedService> {
        &self.in_force
    }
}

fn unknown_operation() -> Refused {
    Refused { reason: Reason::UnknownType, detail: "this version does not know that operation".into() }
}

fn subscribe(resume: Option<wire::Cursor>) -> wire::FromSubscriber {
    let sub = wire::Subscribe { capabilities: Vec::new(), types: Vec::new(), resume };
    wire::FromSubscriber { f: Some(wire::from_subscriber::F::Sub(sub)) }
}

#[cfg(test)]
mod tests;
