//! The one writer: takes what has arrived, makes it durable in one flush, answers; and lets leases expire.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redb::Database;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info};

use super::history::History;
use super::table::{Batch, Lease};
use crate::store::{Committed, Error, Event, LeaseId, Txn};

/// The most commands in one flush: bounds what one failure spoils.
const BATCH: usize = 512;

pub(super) type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// What the writer is asked.
pub(super) struct Command(pub(super) Work);

pub(super) enum Work {
    Commit(Txn, Answer<Committed>),
    Grant(Duration, Answer<LeaseId>),
    KeepAlive(LeaseId, Answer<()>),
    /// Of the writer itself.
    Expire(LeaseId),
}

/// What became of a command, told to its caller once the batch is durable.
enum Done {
    Commit(Answer<Committed>, Result<Committed, Error>),
    Grant(Answer<LeaseId>, LeaseId, Duration),
    Expired(LeaseId),
}

/// A batch that is durable.
struct Durable {
    done: Vec<Done>,
    events: Vec<Event>,
    revision: u64,
}

/// The leases that live, each with its time and its deadline. After a restart each has its full time: its owner may have been
/// unable to reach us.
struct Leases(HashMap<LeaseId, (Duration, Instant)>);

pub(super) async fn run(
    database: Arc<Database>,
    history: Arc<History>,
    mut inbox: mpsc::Receiver<Command>,
    leases: Vec<Lease>,
) {
    let now = Instant::now();
    let mut leases = Leases(leases.into_iter().map(|(id, ttl)| (id, (ttl, now + ttl))).collect());
    let mut commands = Vec::new();
    loop {
        tokio::select! {
            received = inbox.recv_many(&mut commands, BATCH) => if received == 0 { return },
            () = leases.next_expiry() => {}
        }
        let mut work: Vec<Work> = leases.expired(Instant::now());
        work.extend(commands.drain(..).filter_map(|Command(work)| leases.keep_alive(work)));
        if work.is_empty() {
            continue;
        }
        let database = database.clone();
        match tokio::task::spawn_blocking(move || write(&database, work)).await {
            Ok(Ok(durable)) => tell(durable, &history, &mut leases),
            // Whoever asked hears that the answer was dropped; what the disk holds is what it held before.
            Ok(Err(error)) => error!(%error, "the store cannot write; nothing of this batch was done"),
            Err(panic) => {
                error!(%panic, "the store's writer panicked; it stops");
                return;
            }
        }
    }
}

/// One redb transaction and one flush for all of `work`.
fn write(database: &Database, work: Vec<Work>) -> Result<Durable, redb::Error> {
    let txn = database.begin_write()?;
    let mut done = Vec::with_capacity(work.len());
    let mut batch = Batch::begin(&txn)?;
    for one in work {
        match one {
            Work::Commit(txn, answer) => done.push(Done::Commit(answer, batch.apply(txn)?)),
            Work::Grant(ttl, answer) => done.push(Done::Grant(answer, batch.grant(ttl)?, ttl)),
            Work::Expire(lease) => {
                batch.expire(lease)?;
                done.push(Done::Expired(lease));
            }
            Work::KeepAlive(..) => {} // answered from memory
        }
    }
    let (revision, events) = batch.finish()?;
    txn.commit()?;
    Ok(Durable { done, events, revision })
}

/// The history first, then the answers: who was answered finds its change in a watch.
fn tell(durable: Durable, history: &History, leases: &mut Leases) {
    if !durable.events.is_empty() {
        history.append(durable.events, durable.revision);
    }
    for done in durable.done {
        match done {
            // A caller that no longer listens has its change nevertheless.
            Done::Commit(answer, outcome) => drop(answer.send(outcome)),
            Done::Grant(answer, id, ttl) => {
                leases.0.insert(id, (ttl, Instant::now() + ttl));
                let _ = answer.send(Ok(id));
            }
            Done::Expired(lease) => {
                leases.0.remove(&lease);
                info!(lease = lease.0, "lease expired");
            }
        }
    }
}

// === impl Leases ===

impl Leases {
    async fn next_expiry(&self) {
        match self.0.values().map(|(_, deadline)| *deadline).min() {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }

    fn expired(&self, now: Instant) -> Vec<Work> {
        self.0.iter().filter(|(_, (_, deadline))| *deadline <= now).map(|(id, _)| Work::Expire(*id)).collect()
    }

    /// Answers a renewal at once; gives back everything else. A lease past its deadline is not renewed: its end is under way.
    fn keep_alive(&mut self, work: Work) -> Option<Work> {
        let Work::KeepAlive(lease, answer) = work else { return Some(work) };
        let now = Instant::now();
        let outcome = match self.0.get_mut(&lease) {
            Some((ttl, deadline)) if *deadline > now => {
                *deadline = now + *ttl;
                Ok(())
            }
            _ => Err(Error::LeaseExpired),
        };
        let _ = answer.send(outcome);
        None
    }
}
