//! ADS, relayed: one stream to the control plane per local client, so that node IDs, nonces, ACKs and tenancy stay per client.
//!
//! ```text
//!  Opening ──first message──► Held ──connected──► Relaying ──upstream ends──► UNAVAILABLE to the client
//!     │ refused                 │ client leaves        │ client leaves
//!     └──► status               └──► gone              └──► upstream stream reset
//! ```
//!
//! A held client waits without an error; what it sends meanwhile stays in its HTTP/2 window. When the upstream stream ends, the
//! client's ends too: only the client knows what it has, and says so on its next stream (`initial_resource_versions`).

use std::future::{Future, pending};
use std::sync::Arc;

use bytes::Bytes;
use symbolon_kit::supervise::OnExit;
use symbolon_proto::ads_raw::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient as Client;
use symbolon_proto::ads_raw::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer as Server,
};
use symbolon_proto::ids::SpiffeId;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};
use tracing::{debug, info};

use super::node::{self, Variant};
use super::{End, Refusal, Relay, read_error, unavailable};

/// Messages between the two streams, each way.
const BETWEEN: usize = 4;

/// The ADS server of the socket.
pub(super) struct Ads(Arc<Relay>);

pub(super) fn service(relay: &Arc<Relay>) -> Server<Ads> {
    Server::new(Ads(Arc::clone(relay))).max_decoding_message_size(relay.config.from_client)
}

type Answers = ReceiverStream<Result<Bytes, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Answers;
    type DeltaAggregatedResourcesStream = Answers;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Answers>, Status> {
        self.accept(request, Variant::Sotw)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Answers>, Status> {
        self.accept(request, Variant::Delta)
    }
}

impl Ads {
    /// Answers with headers at once; the rest is the stream's own task.
    fn accept(&self, request: Request<Streaming<Bytes>>, variant: Variant) -> Result<Response<Answers>, Status> {
        let permit = self.0.enter()?;
        let (to, answers) = mpsc::channel(BETWEEN);
        let relay = Arc::clone(&self.0);
        let (_, extensions, from) = request.into_parts();
        self.0.tasks.spawn("ads stream", OnExit::Log, async move {
            let end = tokio::select! {
                () = relay.drain.cancelled() => unavailable("the sidecar is stopping"),
                () = to.closed() => End::Gone,
                end = session(&relay, &extensions, variant, from, &to) => end,
            };
            relay.end("ads", end, &to).await;
            drop(permit);
            relay.count_streams();
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// One client's stream, from its first message to its end.
async fn session(
    relay: &Relay,
    caller: &Extensions,
    variant: Variant,
    mut from: Streaming<Bytes>,
    to: &mpsc::Sender<Result<Bytes, Status>>,
) -> End {
    let (id, first) = match opening(relay, caller, variant, &mut from).await {
        Ok(opened) => opened,
        Err(end) => return end,
    };
    let mut connected = relay.upstream.connected();
    if !*connected.borrow_and_update() {
        info!(proxy = %id, "holding a stream until the control plane can be reached");
        if connected.wait_for(|up| *up).await.is_err() {
            return unavailable("the sidecar is stopping");
        }
    }
    let (up, upward) = mpsc::channel(BETWEEN);
    if up.send(first).await.is_err() {
        return End::Gone; // cannot be: `upward` is right here
    }
    debug!(proxy = %id, ?variant, "relaying");
    let call = open(relay, variant, upward);
    tokio::select! {
        end = pump_up(from, up) => end,
        end = pump_down(relay, call, to) => end,
    }
}

/// Who the client is, and its first message for the control plane.
async fn opening(
    relay: &Relay,
    caller: &Extensions,
    variant: Variant,
    from: &mut Streaming<Bytes>,
) -> Result<(SpiffeId, Bytes), End> {
    let message = timeout(relay.config.first_message, from.message()).await.map_err(|_| Refusal::Late)?;
    let message = message.map_err(read_error)?.ok_or(End::Gone)?;
    let first = node::first(message, variant).map_err(Refusal::First)?;
    let id = relay.admit(caller, &first.node.id)?;
    Ok((id, first.forward))
}

async fn open(relay: &Relay, variant: Variant, upward: mpsc::Receiver<Bytes>) -> Result<Streaming<Bytes>, Status> {
    let mut client = Client::new(relay.upstream.channel()).max_decoding_message_size(relay.config.from_upstream);
    let upward = ReceiverStream::new(upward);
    let response = match variant {
        Variant::Delta => client.delta_aggregated_resources(upward).await,
        Variant::Sotw => client.stream_aggregated_resources(upward).await,
    };
    response.map(Response::into_inner)
}

async fn pump_up(mut from: Streaming<Bytes>, up: mpsc::Sender<Bytes>) -> End {
    loop {
        match from.message().await {
            Ok(Some(message)) => {
                if up.send(message).await.is_err() {
                    break; // the upstream stream is ending: the other direction knows why
                }
            }
            // The client has nothing more to say, but may go on listening.
            Ok(None) => break,
            Err(status) => return read_error(status),
        }
    }
    drop(up);
    pending().await
}

async fn pump_down(
    relay: &Relay,
    call: impl Future<Output = Result<Streaming<Bytes>, Status>>,
    to: &mpsc::Sender<Result<Bytes, Status>>,
) -> End {
    let ended = async {
        let mut stream = call.await?;
        while let Some(message) = stream.message().await? {
            if to.send(Ok(message)).await.is_err() {
                return Ok(End::Gone);
            }
        }
        Ok(unavailable("the control plane ended the stream"))
    };
    let status: Status = match ended.await {
        Ok(End::Gone) => return End::Gone,
        Ok(end) => {
            relay.metrics.ended.inc(&[("protocol", "ads"), ("status", "ok")]);
            return end;
        }
        Err(status) => status,
    };
    relay.metrics.ended.inc(&[("protocol", "ads"), ("status", word(status.code()))]);
    End::Told(downward(status))
}

/// What the client hears of an upstream error: a verdict on the client as it is, anything else as UNAVAILABLE.
fn downward(status: Status) -> Status {
    match status.code() {
        Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::Unimplemented => Status::new(status.code(), status.message()),
        _ => Status::unavailable(format!("the control plane went away: {}", status.message())),
    }
}

/// A bounded set of words for metrics.
pub(super) fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::InvalidArgument => "invalid_argument",
        Code::PermissionDenied => "permission_denied",
        Code::Unauthenticated => "unauthenticated",
        Code::FailedPrecondition => "failed_precondition",
        Code::ResourceExhausted => "resource_exhausted",
        Code::Unimplemented => "unimplemented",
        Code::Unavailable => "unavailable",
        _ => "other",
    }
}
