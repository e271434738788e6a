//! One data stream, in either direction, whoever dialled: [`publish`] sends what the log says, [`subscribe`] hands frames to the
//! task that applies them. Reading never waits for writing. Beats travel on the data streams themselves, so that a dead one cannot
//! hide behind a live connection; whoever hears nothing for the time of three beats ends the stream.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use symbolon_kit::octets::random;
use symbolon_kit::text::shown;
use symbolon_proto::federation as wire;
use symbolon_proto::federation::ack::Level;
use symbolon_proto::federation::from_publisher::F;
use symbolon_proto::federation::{Reason, from_subscriber};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, timeout};
use tonic::Status;
use tracing::warn;

use super::apply::Input;
use super::peer::{Direction, Peer, beat};
use super::publication::{self, Publication, frame};
use super::{Context, policy};

/// Frames on their way to a peer; more wait in the log, where newer ones overtake them.
pub(super) const OUTBOUND: usize = 64;
/// How long a peer may leave no room for a frame (bad input 127).
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// How long a last word may take to leave.
pub(super) const FLUSH: Duration = Duration::from_millis(100);

/// Why a stream ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ended {
    #[error("we are shutting down")]
    Drained,
    #[error("a newer stream of the same peer took its place")]
    Fenced,
    #[error("what the peer sent could not be taken")]
    Stopped,
    #[error("the peer closed the stream")]
    Closed,
    #[error("the peer was not heard for {0:?}")]
    Silent(Duration),
    #[error("the peer does not read")]
    NotReading,
    #[error("the stream failed: {0}")]
    Failed(String),
}

/// What the publisher's reader tells its writer.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// Rises with each subscription.
    count: u64,
    resume: Option<wire::Cursor>,
    echo: Option<prost_types::Timestamp>,
}

/// Publishes to `peer` until the stream ends.
pub(super) async fn publish<S>(
    context: &Arc<Context>,
    peer: &Arc<Peer>,
    from_peer: S,
    to_peer: mpsc::Sender<wire::FromPublisher>,
) -> Ended
where
    S: Stream<Item = Result<wire::FromSubscriber, Status>> + Send + Unpin,
{
    let (_, newer) = peer.newest(Direction::Out);
    let (ask, asked) = watch::channel(Asked::default());
    let last = |reason: F| {
        let _ = to_peer.try_send(frame(reason));
    };
    tokio::select! {
        ended = read_subscriber(context, peer, from_peer, ask) => ended,
        ended = write(context, peer, asked, &to_peer) => ended,
        () = newer.cancelled() => {
            last(F::Terminated(wire::Terminated { reason: Ended::Fenced.to_string() }));
            Ended::Fenced
        }
        () = context.drain.cancelled() => {
            last(F::Drain(wire::Drain {}));
            tokio::time::sleep(FLUSH).await;
            Ended::Drained
        }
    }
}

async fn write(
    context: &Context,
    peer: &Peer,
    mut asked: watch::Receiver<Asked>,
    to_peer: &mpsc::Sender<wire::FromPublisher>,
) -> Ended {
    let mut head = peer.head.subscribe();
    let mut beats = tokio::time::interval(context.config.timing.beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut publication, mut answered) = (Publication::new(), 0);
    loop {
        let wanted = asked.borrow_and_update().clone();
        if wanted.count > answered && head.borrow_and_update().is_some() {
            answered = wanted.count;
            publication.subscribe(wanted.resume.as_ref(), &mut peer.log(), || random::<16>().to_vec().into());
            if publication.says_everything() {
                peer.facts().nacks.clear();
            }
        }
        loop {
            let Some(next) = publication.next(&peer.log()) else { break };
            if let Err(ended) = send(to_peer, next).await {
                return ended;
            }
        }
        tokio::select! {
            changed = head.changed() => if changed.is_err() { return Ended::Drained },
            changed = asked.changed() => if changed.is_err() { return Ended::Closed },
            _ = beats.tick() => {
                let beat = publication::beat(&peer.log(), context.clock.now(), asked.borrow().echo);
                if let Err(ended) = send(to_peer, beat).await {
                    return ended;
                }
            }
        }
    }
}

async fn send(to_peer: &mpsc::Sender<wire::FromPublisher>, frame: wire::FromPublisher) -> Result<(), Ended> {
    match to_peer.send_timeout(frame, WRITE_PATIENCE).await {
        Ok(()) => Ok(()),
        Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Ended::NotReading),
        Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(Ended::Closed),
    }
}

async fn read_subscriber<S>(context: &Context, peer: &Peer, mut from_peer: S, ask: watch::Sender<Asked>) -> Ended
where
    S: Stream<Item = Result<wire::FromSubscriber, Status>> + Send + Unpin,
{
    loop {
        let said = match next(context, &mut from_peer).await {
            Ok(said) => said,
            Err(ended) => return ended,
        };
        match said.f {
            Some(from_subscriber::F::Sub(sub)) => ask.send_modify(|asked| {
                asked.count += 1;
                asked.resume = sub.resume;
            }),
            Some(from_subscriber::F::Ack(ack)) => acknowledged(peer, &ack),
            Some(from_subscriber::F::Nack(nack)) => refused_by_peer(context, peer, &nack),
            // The writer looks at it with its next beat; it need not wake for it.
            Some(from_subscriber::F::Beat(beat)) => {
                ask.send_if_modified(|asked| {
                    asked.echo = beat.now;
                    false
                });
            }
            // Credits are a capability that neither side announces yet; unknown frames come from later versions.
            Some(from_subscriber::F::Credit(_)) | None => {}
        }
    }
}

fn acknowledged(peer: &Peer, ack: &wire::Ack) {
    if Level::try_from(ack.level) == Ok(Level::Programmed) {
        let head = peer.log().head();
        let mut facts = peer.facts();
        facts.programmed_seq = ack.seq.min(head);
        facts.proxies = (ack.proxies_ok, ack.proxies_total);
    }
}

fn refused_by_peer(context: &Context, peer: &Peer, nack: &wire::Nack) {
    let reason = Reason::try_from(nack.reason).map_or("unknown", policy::label);
    let name = peer.config.name.as_str();
    context.counters.nacks.inc(&[("peer", name), ("reason", reason)]);
    let (key, detail) = (shown(&nack.key, 256), shown(&nack.detail, 300));
    let words = format!(
        "the peer refuses {key}: {detail} ({reason}); its operator must grant this to us, or we must not export it"
    );
    // Once per reason: a peer that refuses everything would otherwise fill the log.
    if peer.facts().nacks.insert(reason, words).is_none() {
        warn!(peer = %name, %key, reason, %detail, "the peer refused a resource of ours");
    }
}

/// Subscribes to `peer` until the stream ends.
pub(super) async fn subscribe<S>(
    context: &Arc<Context>,
    peer: &Arc<Peer>,
    from_peer: S,
    to_peer: mpsc::Sender<wire::FromSubscriber>,
) -> Ended
where
    S: Stream<Item = Result<wire::FromPublisher, Status>> + Send + Unpin,
{
    let (stream, stop) = peer.newest(Direction::In);
    let opened = Input::Opened { stream, to_peer: to_peer.clone(), stop: stop.clone() };
    if peer.inbox.send(opened).await.is_err() {
        return Ended::Drained;
    }
    let (echo, echoed) = watch::channel(None);
    let ended = tokio::select! {
        ended = read_publisher(context, peer, stream, from_peer, &echo) => ended,
        ended = beats(context, &to_peer, echoed) => ended,
        () = stop.cancelled() => if peer.is_fenced(Direction::In) { Ended::Fenced } else { Ended::Stopped },
        () = context.drain.cancelled() => {
            // The other stream of this connection has a goodbye to flush.
            tokio::time::sleep(FLUSH * 2).await;
            Ended::Drained
        }
    };
    let _ = peer.inbox.send(Input::Closed { stream }).await; // the apply task is gone only when the link drains
    ended
}

async fn read_publisher<S>(
    context: &Context,
    peer: &Peer,
    stream: u64,
    mut from_peer: S,
    echo: &watch::Sender<Option<prost_types::Timestamp>>,
) -> Ended
where
    S: Stream<Item = Result<wire::FromPublisher, Status>> + Send + Unpin,
{
    loop {
        let frame = match next(context, &mut from_peer).await {
            Ok(frame) => frame,
            Err(ended) => return ended,
        };
        peer.heard(&context.config.timing, context.now());
        let drains = matches!(frame.f, Some(F::Drain(_)));
        if let Some(F::Beat(beat)) = &frame.f {
            echo.send_replace(beat.now);
        }
        if peer.inbox.send(Input::Frame { stream, frame }).await.is_err() {
            return Ended::Drained;
        }
        if drains {
            return Ended::Closed;
        }
    }
}

/// The subscriber's beats. One that finds no room is left out: the apply task ends a stream that takes nothing.
async fn beats(
    context: &Context,
    to_peer: &mpsc::Sender<wire::FromSubscriber>,
    echo: watch::Receiver<Option<prost_types::Timestamp>>,
) -> Ended {
    let mut beats = tokio::time::interval(context.config.timing.beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        let echo = *echo.borrow();
        if let Err(mpsc::error::TrySendError::Closed(_)) = to_peer.try_send(beat(context, echo)) {
            return Ended::Closed;
        }
    }
}

/// The next message, whole, within the time of three beats (bad input 128).
async fn next<S, T>(context: &Context, from_peer: &mut S) -> Result<T, Ended>
where
    S: Stream<Item = Result<T, Status>> + Send + Unpin,
{
    let patience = context.config.timing.suspect_after.max(context.config.timing.beat * 3);
    match timeout(patience, from_peer.next()).await {
        Ok(Some(Ok(message))) => Ok(message),
        Ok(Some(Err(status))) => Err(Ended::Failed(explain(&status))),
        Ok(None) => Err(Ended::Closed),
        Err(_) => Err(Ended::Silent(patience)),
    }
}

/// What a status means, in words that fit a log line: the peer's own, or why the connection broke. What lies between the status and
/// that cause says only that something broke, each layer in its own words, and rustls adds an address of its manual.
pub(super) fn explain(status: &Status) -> String {
    use std::error::Error as _;
    let Some(mut cause) = status.source() else {
        let words = status.message().chars().take(400).collect::<String>();
        return format!("{:?}: {}", status.code(), words.escape_debug());
    };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let words = cause.to_string();
    let words = words.split(": https://").next().unwrap_or_default();
    format!("{:?}: {}", status.code(), words.chars().take(400).collect::<String>().escape_debug())
}

impl Ended {
    /// A stable word for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Fenced => "fenced",
            Self::Stopped => "stopped",
            Self::Closed => "closed",
            Self::Silent(_) => "silent",
            Self::NotReading => "not_reading",
            Self::Failed(_) => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_is_explained_by_its_cause() {
        let cause = std::io::Error::other("peer closed connection: https://docs.rs/rustls");
        let broken = Status::from_error(Box::new(Status::from_error(Box::new(cause))));
        let words = explain(&broken);
        assert!(words.ends_with(": peer closed connection"), "{words}");
        assert_eq!(explain(&Status::not_found("no\nsuch")), "NotFound: no\\nsuch");
    }
}
