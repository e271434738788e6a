//! One turn of the engine: everything that has arrived is stepped through, committed in one transaction, told and answered. A
//! turn that cannot be committed has not happened.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use symbolon_kit::clock::unix_ms;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::counted::{Counted, Last};
use super::handle::{Outcome, Request};
use super::{Engine, Error, Id, KIND, Record, Rollout, VERSION, stored_rollouts};
use crate::model::{LoadSample, ProxyKey, Weight};
use crate::rollout::arms;
use crate::rollout::decide::{self, Effect, Event, HistoryItem, State};
use crate::rollout::judge::Reading;
use crate::rollout::status::Status;
use crate::store::{Committed, Txn, codec, keys};

/// What a turn is about to make durable.
#[derive(Debug, Default)]
struct Draft {
    states: BTreeMap<Id, State>,
    counted: BTreeMap<ProxyKey, Last>,
    gone: Vec<Id>,
    forgotten: Vec<ProxyKey>,
    decided: Vec<(Id, HistoryItem)>,
    replies: Vec<Reply>,
}

#[derive(Debug)]
enum Reply {
    Load(oneshot::Sender<Result<Outcome, Error>>, Outcome),
    Command(oneshot::Sender<Result<Arc<Status>, Error>>, Id, Option<Error>),
}

impl Engine {
    pub(super) async fn turn(&mut self, requests: Vec<Request>, ticked: bool) {
        let (view, acks) = (self.parts.view.borrow_and_update().clone(), self.parts.acks.borrow_and_update().clone());
        let now = u64::try_from(unix_ms(self.parts.clock.now())).unwrap_or(0);
        let mut draft = Draft {
            gone: self.facts.refresh(&view, &acks, self.parts.policy.max_endpoint_weight, now),
            ..Draft::default()
        };
        self.look(&mut draft, now);
        for request in requests {
            match request {
                Request::Load { sample, reply } => {
                    let outcome = self.load(&mut draft, &sample, now);
                    draft.replies.push(Reply::Load(reply, outcome));
                }
                Request::Command { service, peer, command, reply } => {
                    let id = (service, peer);
                    let refused = if self.facts.knows(&id) {
                        self.step(&mut draft, &id, Event::Command(command), now)
                    } else {
                        Some(Error::Unknown(id.0.clone(), id.1.clone()))
                    };
                    draft.replies.push(Reply::Command(reply, id, refused));
                }
            }
            self.look(&mut draft, now);
        }
        if ticked {
            for id in self.facts.ids() {
                self.step(&mut draft, &id, Event::Tick, now);
            }
            draft.forgotten = self.counted.surplus(&self.facts.callers());
            self.look(&mut draft, now);
        }
        self.finish(draft).await;
    }

    /// Shows every rollout the facts that it has not seen; a weight that one gives up or takes is the others' room.
    fn look(&self, draft: &mut Draft, now: u64) {
        for id in self.facts.ids() {
            let facts = self.facts.of(&id, |id| self.weight(draft, id));
            let state = self.state(draft, &id);
            if let Some(facts) = facts.filter(|facts| state.facts.as_ref() != Some(facts)) {
                self.step(draft, &id, Event::Facts(facts), now);
            }
        }
    }

    fn load(&self, draft: &mut Draft, sample: &LoadSample, now: u64) -> Outcome {
        let concerned = self.facts.concerned(&sample.proxy);
        if concerned.is_empty() {
            return Outcome::NotACaller;
        }
        let Some(fresh) = self.counted.fresh(&draft.counted, sample) else { return Outcome::Duplicate };
        for id in concerned {
            let peers = self.facts.peers(&id.0);
            let reading = Reading {
                begun_ms: fresh.begun_ms,
                in_force_ms: self.facts.in_force_ms(&id.0, &sample.proxy),
                ..arms::reading(sample, &id.0, &id.1, peers, fresh.received_ms)
            };
            self.step(draft, &id, Event::Load(reading), now);
        }
        draft.counted.insert(sample.proxy.clone(), fresh.last);
        Outcome::Counted
    }

    /// Steps one machine in the draft; the refusal, if it refused a command.
    fn step(&self, draft: &mut Draft, id: &Id, event: Event, now: u64) -> Option<Error> {
        let state = self.state(draft, id).into_owned();
        let (state, effects) = decide::step(&self.parts.policy, state, event, now);
        draft.states.insert(id.clone(), state);
        let mut refused = None;
        for effect in effects {
            match effect {
                Effect::Weight(_) => {} // told from the state, once that is durable
                Effect::Decided(item) => draft.decided.push((id.clone(), item)),
                Effect::Refused(refusal) => refused = Some(refusal.into()),
            }
        }
        refused
    }

    fn state<'a>(&'a self, draft: &'a Draft, id: &Id) -> Cow<'a, State> {
        let known = draft.states.get(id).or_else(|| self.rollouts.get(id).map(|rollout| &rollout.state));
        known.map_or_else(|| Cow::Owned(State::default()), Cow::Borrowed)
    }

    fn weight(&self, draft: &Draft, id: &Id) -> Weight {
        self.state(draft, id).weight
    }

    async fn finish(&mut self, mut draft: Draft) {
        let replies = std::mem::take(&mut draft.replies);
        let decided = std::mem::take(&mut draft.decided);
        let outcome = self.commit(draft).await;
        match &outcome {
            Ok(()) => self.report(&decided),
            Err(error) => error!(%error, "a turn of the rollouts is not durable, so it has not happened"),
        }
        self.tell().await;
        self.publish();
        for reply in replies {
            self.answer(reply, outcome.clone());
        }
    }

    /// Makes the draft durable and takes it over, or leaves everything as it was.
    async fn commit(&mut self, draft: Draft) -> Result<(), Error> {
        let mut txn = Txn::new();
        let mut records = BTreeMap::new();
        for (id, state) in &draft.states {
            let bytes = codec::encode(KIND, VERSION, state)?;
            let stored = self.rollouts.get(id).and_then(|rollout| rollout.stored.as_ref());
            if stored.is_some_and(|stored| stored.bytes == bytes) {
                continue; // nothing but facts
            }
            let key = keys::rollout(&id.0, &id.1);
            txn = match stored {
                Some(stored) => txn.modified_at(key.clone(), stored.modified),
                None => txn.absent(key.clone()),
            };
            txn = txn.put(key, bytes.clone());
            records.insert(id.clone(), bytes);
        }
        txn = Counted::put(txn, &draft.counted)?;
        for id in &draft.gone {
            txn = txn.delete(keys::rollout(&id.0, &id.1));
        }
        for proxy in &draft.forgotten {
            txn = txn.delete(keys::counted_load(proxy));
        }
        if !txn.operations.is_empty() {
            match self.parts.store.commit(txn).await? {
                Committed::Applied(revision) => self.keep(records, revision),
                Committed::Conflict { key } => {
                    warn!(key = %key.0, "another replica decided in between; reading its decision");
                    self.rollouts = stored_rollouts(&self.parts.store).await?;
                    self.counted = Counted::load(&self.parts.store).await?;
                    return Err(Error::Conflict);
                }
            }
        }
        for (id, state) in draft.states {
            self.rollouts.entry(id).or_default().state = state;
        }
        for id in draft.gone {
            self.rollouts.remove(&id);
            self.sent.remove(&id.0);
        }
        self.counted.absorb(draft.counted);
        self.counted.forget(&draft.forgotten);
        Ok(())
    }

    fn keep(&mut self, records: BTreeMap<Id, Vec<u8>>, modified: u64) {
        for (id, bytes) in records {
            let rollout: &mut Rollout = self.rollouts.entry(id).or_default();
            rollout.stored = Some(Record { bytes, modified });
        }
    }

    fn report(&self, decided: &[(Id, HistoryItem)]) {
        for ((service, peer), item) in decided {
            info!(%service, %peer, decision = item.decision, from = item.from, to = item.to, weight = %item.weight, reason = item.reason, "rollout");
            let labels = [("service", service.as_str()), ("peer", peer.as_str()), ("to", item.to.as_str())];
            self.meters.decisions.inc(&labels);
        }
    }

    fn answer(&self, reply: Reply, outcome: Result<(), Error>) {
        // Whoever asked may have gone; then nobody needs the answer.
        match reply {
            Reply::Load(reply, what) => {
                let label = outcome.as_ref().map_or_else(Error::label, |()| what.label());
                self.meters.samples.inc(&[("outcome", label)]);
                let _ = reply.send(outcome.map(|()| what));
            }
            Reply::Command(reply, id, refused) => {
                let status = || {
                    let rollout = self.rollouts.get(&id).cloned().unwrap_or_default();
                    Arc::new(Status::of(id.0.clone(), id.1.clone(), &rollout.state, &self.parts.policy))
                };
                let _ = reply.send(match refused {
                    Some(refusal) => Err(refusal),
                    None => outcome.map(|()| status()),
                });
            }
        }
    }
}
