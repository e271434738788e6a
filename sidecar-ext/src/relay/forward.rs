//! Carries batches of load to the control plane on one stream for all proxies of the node, and its wishes back.
//!
//! ```text
//!  Down ──connected──► Opening ──headers──► Open ──acks──► Open
//!   ▲                     │                  │
//!   └──── backoff ◄───────┴── ended, or no acknowledgement in time
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use symbolon_kit::backoff::Backoff;
use symbolon_kit::drain::Drain;
use symbolon_proto::ids::SpiffeId;
use symbolon_proto::node::node_client::NodeClient;
use symbolon_proto::node::{LoadAck, LoadBatch};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use super::Relay;
use super::accumulate::{Event, Ledger, MAX_PROXIES};
use super::ads::word;

/// What the control plane may ask for.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(300);
/// Refusals in a row, without an acknowledgement, after which what is in flight is given up.
const REFUSALS: u32 = 5;

pub(super) struct Forward {
    relay: Arc<Relay>,
    ledger: Ledger,
    link: Link,
    backoff: Backoff,
    every: watch::Sender<Duration>,
    refusals: u32,
    /// Since when the oldest batch in flight waits.
    waiting: Option<Instant>,
}

type Opened = Result<Box<Streaming<LoadAck>>, Status>;

enum Link {
    Down { retry: Pin<Box<Sleep>>, connected: watch::Receiver<bool> },
    Opening { up: mpsc::Sender<LoadBatch>, call: Pin<Box<dyn Future<Output = Opened> + Send>> },
    Open { up: mpsc::Sender<LoadBatch>, acks: Box<Streaming<LoadAck>> },
}

/// What happens to the link.
enum Happened {
    Connected,
    Opened(Opened),
    Acked(LoadAck),
    Lost(Status),
    /// The upstream is gone for good: the process stops.
    Never,
}

// === impl Forward ===

impl Forward {
    pub(super) fn new(relay: Arc<Relay>, every: watch::Sender<Duration>) -> Self {
        let boot = Bytes::copy_from_slice(&rand::random::<[u8; 16]>());
        let link = Link::Down { retry: Box::pin(sleep(Duration::ZERO)), connected: relay.upstream.connected() };
        Self {
            ledger: Ledger::new(boot),
            link,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5), rand::random()),
            every,
            refusals: 0,
            waiting: None,
            relay,
        }
    }

    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>, drain: Drain) {
        loop {
            let deadline = self.waiting.map(|since| since + self.relay.config.ack_within);
            tokio::select! {
                () = drain.cancelled() => return,
                event = events.recv() => match event {
                    Some(event) => self.step(event),
                    None => return,
                },
                happened = self.link.next(deadline) => match happened {
                    Happened::Never => return,
                    happened => self.happened(happened),
                },
            }
        }
    }

    fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Never => {}
            Happened::Connected => {
                // One batch per proxy at most is in flight, so this never fills.
                let (up, upward) = mpsc::channel(2 * MAX_PROXIES);
                let mut client = NodeClient::new(self.relay.upstream.channel());
                let call = Box::pin(async move {
                    let acks = client.report_load(ReceiverStream::new(upward)).await?;
                    Ok(Box::new(acks.into_inner()))
                });
                self.link = Link::Opening { up, call };
                // Batches go at once: the server's headers may wait for the first.
                self.step(Event::Opened);
            }
            Happened::Opened(Ok(acks)) => {
                let down = self.down(Duration::ZERO);
                let link = std::mem::replace(&mut self.link, down);
                if let Link::Opening { up, .. } = link {
                    debug!("load reports flow");
                    self.link = Link::Open { up, acks };
                }
            }
            Happened::Opened(Err(status)) | Happened::Lost(status) => self.lost(&status),
            Happened::Acked(ack) => self.acked(ack),
        }
    }

    fn acked(&mut self, ack: LoadAck) {
        self.backoff.reset();
        self.refusals = 0;
        if ack.report_every_ms > 0 {
            let wanted = Duration::from_millis(ack.report_every_ms).clamp(SHORTEST, LONGEST);
            let changed = self.every.send_if_modified(|every| std::mem::replace(every, wanted) != wanted);
            if changed {
                info!(every = ?wanted, "the control plane wants load reports at another interval");
            }
        }
        match SpiffeId::workload(&ack.proxy) {
            Ok(proxy) => {
                self.relay.metrics.batches.inc(&[("result", "acknowledged")]);
                self.waiting = None; // begins anew if something is in flight still
                self.step(Event::Acked { proxy, sequence: ack.sequence });
            }
            Err(_) => self.relay.metrics.batches.inc(&[("result", "unknown_ack")]),
        }
    }

    fn lost(&mut self, status: &Status) {
        self.relay.metrics.ended.inc(&[("protocol", "load"), ("status", word(status.code()))]);
        self.step(Event::Closed);
        self.waiting = None;
        if is_refusal(status.code()) {
            self.refusals += 1;
            warn!(%status, "the control plane refused load reports");
            if self.refusals >= REFUSALS {
                self.refusals = 0;
                self.relay.metrics.batches.inc(&[("result", "given_up")]);
                self.step(Event::Refused);
            }
        } else {
            info!(%status, "load reports wait for the control plane");
        }
        let wait = self.backoff.next_wait();
        self.link = self.down(wait);
    }

    fn down(&self, wait: Duration) -> Link {
        Link::Down { retry: Box::pin(sleep(wait)), connected: self.relay.upstream.connected() }
    }

    fn step(&mut self, event: Event) {
        let outcome = self.ledger.step(event);
        let metrics = &self.relay.metrics;
        if outcome.lost > 0 {
            metrics.reports.inc(&[("result", "lost")]);
            warn!(arms = outcome.lost, "load reports lost");
        }
        if outcome.merged {
            metrics.reports.inc(&[("result", "merged")]);
        }
        if let Link::Opening { up, .. } | Link::Open { up, .. } = &self.link {
            for batch in outcome.send {
                metrics.batches.inc(&[("result", "sent")]);
                // Should it fail, the stream is ending, and the batch is sent again on the next.
                let _ = up.try_send(batch);
            }
        }
        let (reports, in_flight) = self.ledger.unacknowledged();
        metrics.unacknowledged.set(&[], i64::try_from(reports).unwrap_or(i64::MAX));
        if in_flight && !matches!(self.link, Link::Down { .. }) {
            self.waiting.get_or_insert_with(Instant::now);
        }
    }
}

// === impl Link ===

impl Link {
    /// What happens next; may be dropped and called again.
    async fn next(&mut self, deadline: Option<Instant>) -> Happened {
        let silent = || Status::deadline_exceeded("no acknowledgement in time");
        let far = || Instant::now() + Duration::from_secs(86_400);
        match self {
            Self::Down { retry, connected } => {
                retry.as_mut().await;
                match connected.wait_for(|up| *up).await {
                    Ok(_) => Happened::Connected,
                    Err(_) => Happened::Never,
                }
            }
            Self::Opening { call, .. } => match timeout_at(deadline.unwrap_or_else(far), call).await {
                Ok(opened) => Happened::Opened(opened),
                Err(_) => Happened::Lost(silent()),
            },
            Self::Open { acks, .. } => match timeout_at(deadline.unwrap_or_else(far), acks.message()).await {
                Ok(Ok(Some(ack))) => Happened::Acked(ack),
                Ok(Ok(None)) => Happened::Lost(Status::unavailable("the control plane ended the stream")),
                Ok(Err(status)) => Happened::Lost(status),
                Err(_) => Happened::Lost(silent()),
            },
        }
    }
}

/// Verdicts on what was sent, as opposed to a connection that broke.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::ResourceExhausted
    )
}
