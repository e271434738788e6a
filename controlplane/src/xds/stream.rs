//! One stream, of either variant: a thin loop around [`Wave`]. It runs inside the response stream itself, so a client that does
//! not read is not served: nothing queues, and when it reads again the machine compares what was sent with the latest.

use std::collections::VecDeque;
use std::sync::Arc;

use symbolon_kit::drain::Drain;
use symbolon_kit::text::shown;
use symbolon_proto::encoded::PreEncoded;
use symbolon_proto::ids::SpiffeId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use crate::model::{NodeName, ProxyKey};
use crate::snapshot::{Snapshot, SnapshotSet};

use super::ack::{Seat, lock};
use super::refusal::Refusal;
use super::server::Shared;
use super::wave::{Event, Wave};
use super::wire::{self, Wire};
use super::{FIRST_MESSAGE, MAX_STREAM_TURNS};

/// Before the first message, and after it.
enum Phase {
    Opening { node: NodeName },
    Open { seat: Seat },
    Ended,
}

pub(super) struct Stream<R> {
    shared: Arc<Shared>,
    inbound: Streaming<R>,
    snapshots: watch::Receiver<Arc<SnapshotSet>>,
    drain: Drain,
    phase: Phase,
    /// The content told last; most generations leave it as it is.
    told: Option<Arc<Snapshot>>,
    /// At most one response per type.
    outbox: VecDeque<PreEncoded>,
}

impl<R: Wire> Stream<R> {
    pub(super) fn new(shared: Arc<Shared>, inbound: Streaming<R>, node: NodeName) -> Self {
        let (snapshots, drain) = (shared.snapshots.clone(), shared.drain.clone());
        Self { shared, inbound, snapshots, drain, phase: Phase::Opening { node }, told: None, outbox: VecDeque::new() }
    }

    /// The next response; `None` ends the stream cleanly (42). An error is the last item.
    pub(super) async fn next(mut self) -> Option<(Result<PreEncoded, Status>, Self)> {
        let item = self.advance().await.transpose()?;
        if item.is_err() {
            self.phase = Phase::Ended;
        }
        Some((item, self))
    }

    async fn advance(&mut self) -> Result<Option<PreEncoded>, Status> {
        let mut turns = 0;
        loop {
            if let Some(response) = self.outbox.pop_front() {
                return Ok(Some(response));
            }
            // Requests that need no answer can come as fast as the network brings them; others get their turn.
            turns += 1;
            if turns % MAX_STREAM_TURNS == 0 {
                tokio::task::yield_now().await;
            }
            let more = match &self.phase {
                Phase::Ended => false,
                Phase::Opening { node } => {
                    let node = node.clone();
                    self.open(node).await?
                }
                Phase::Open { .. } => self.turn().await?,
            };
            if !more {
                self.phase = Phase::Ended;
                return Ok(None);
            }
        }
    }

    /// The first message says which proxy this is.
    async fn open(&mut self, node: NodeName) -> Result<bool, Status> {
        let first = tokio::select! {
            () = self.drain.cancelled() => return Ok(false),
            first = timeout(FIRST_MESSAGE, self.inbound.message()) => first,
        };
        let Ok(first) = first else { return Err(self.refuse(&Refusal::Silent)) };
        let Some(mut message) = self.received(first)? else { return Ok(false) };
        let Some(said) = message.take_node() else { return Err(self.refuse(&Refusal::NoNode)) };
        let identity = SpiffeId::workload(&said.id).map_err(|error| self.refuse(&Refusal::NodeId(error)))?;
        if !self.shared.admission.may_run(&node, &identity) {
            return Err(self.refuse(&Refusal::NotItsWorkload { node, identity }));
        }
        let (key, version) = (ProxyKey { node, identity }, wire::user_agent(&said));
        drop(said);
        info!(node = %key.node, proxy = %key.identity, %version, variant = ?R::VARIANT, "proxy connected");
        let wave = Wave::new(R::VARIANT, rand::random(), Instant::now());
        self.drain = self.drain.child();
        let seat = self.shared.registry.enter(key, version, wave, self.drain.clone(), Instant::now());
        self.phase = Phase::Open { seat };
        // The snapshot first: only with it can be told what a reconnecting client has already.
        self.snapshot()?;
        self.request(message)?;
        Ok(true)
    }

    /// Waits for one event, and takes it.
    async fn turn(&mut self) -> Result<bool, Status> {
        let wake_at = match &self.phase {
            Phase::Open { seat } => lock(&seat.wave).wake_at(),
            Phase::Opening { .. } | Phase::Ended => None,
        };
        let wake = async {
            match wake_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.drain.cancelled() => Ok(false),
            changed = self.snapshots.changed() => {
                if changed.is_err() {
                    return Ok(false);
                }
                self.snapshot()?;
                Ok(true)
            }
            message = self.inbound.message() => {
                let Some(mut message) = self.received(message)? else { return Ok(false) };
                if let (Some(said), Phase::Open { seat }) = (message.take_node(), &self.phase)
                    && SpiffeId::workload(&said.id).as_ref() != Ok(&seat.key.identity)
                {
                    return Err(self.refuse(&Refusal::NodeChanged));
                }
                self.request(message)?;
                Ok(true)
            }
            () = wake => {
                self.step(Event::Tick)?;
                Ok(true)
            }
        }
    }

    /// A client that goes away is no refusal; one that does not speak the protocol is.
    fn received(&self, message: Result<Option<R>, Status>) -> Result<Option<R>, Status> {
        match message {
            Ok(message) => Ok(message),
            Err(status) if matches!(status.code(), Code::Internal | Code::OutOfRange | Code::InvalidArgument) => {
                Err(self.refuse(&Refusal::Malformed(shown(status.message(), 200))))
            }
            Err(status) => {
                debug!(%status, "stream broke");
                Ok(None)
            }
        }
    }

    fn request(&mut self, message: R) -> Result<(), Status> {
        match message.parse() {
            Ok(request) => self.step(Event::Request(request)),
            // That type alone goes unanswered (bad 101); the stream serves the others.
            Err(refusal @ Refusal::UnknownType) => {
                self.shared.refused.inc(&[("reason", refusal.label())]);
                Ok(())
            }
            Err(refusal) => Err(self.refuse(&refusal)),
        }
    }

    fn snapshot(&mut self) -> Result<(), Status> {
        let Phase::Open { seat } = &self.phase else { return Ok(()) };
        let set = self.snapshots.borrow_and_update().clone();
        // A proxy that is no longer expected keeps what it has: absence withdraws nothing.
        let Some(snapshot) = set.proxies.get(&seat.key).cloned().or_else(|| self.told.clone()) else { return Ok(()) };
        self.told = Some(snapshot.clone());
        self.step(Event::Snapshot { snapshot, generation: set.generation })
    }

    fn step(&mut self, event: Event) -> Result<(), Status> {
        let Phase::Open { seat } = &self.phase else { return Ok(()) };
        let (stepped, acks) = {
            let mut wave = lock(&seat.wave);
            (wave.step(event, Instant::now()), wave.acks())
        };
        let effects = stepped.map_err(|refusal| self.refuse(&refusal))?;
        if let Some(kind) = effects.nack {
            warn!(node = %seat.key.node, proxy = %seat.key.identity, kind = kind.label(), "proxy rejected configuration");
            self.shared.nacks.inc(&[("type", kind.label())]);
        }
        for response in &effects.responses {
            self.shared.pushes.inc(&[("type", response.kind.label())]);
            self.outbox.push_back(wire::encode(R::VARIANT, response));
        }
        seat.acknowledge(acks);
        Ok(())
    }

    fn refuse(&self, refusal: &Refusal) -> Status {
        self.shared.refused(refusal)
    }
}
