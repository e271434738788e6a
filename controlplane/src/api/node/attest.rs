//! Node attestation: evidence, challenges if its kind has any, and the node's SVID.

use symbolon_kit::clock::unix_secs;
use symbolon_proto::node as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};
use tracing::info;
use wire::{attest_request, attest_response, evidence};

use super::{Node, Refused, chain, malformed};
use crate::identity::Refusal;

pub(super) async fn run(
    node: &Node,
    caller: String,
    mut requests: Streaming<wire::AttestRequest>,
) -> Result<Response<ReceiverStream<Result<wire::AttestResponse, Status>>>, Status> {
    let first = requests.message().await.map_err(|broken| match malformed(&broken) {
        Some(refused) => node.refuse(&caller, &refused),
        None => broken,
    })?;
    let Some(attest_request::Step::Evidence(evidence)) = first.and_then(|first| first.step) else {
        return Err(node.refuse(&caller, &Refused::Malformed("the first message must bring evidence".into())));
    };
    let identity = &node.parts.identity;
    let attested = match &evidence.kind {
        Some(evidence::Kind::JoinToken(token)) => identity.attest_node(token, &evidence.csr).await,
        _ => return Err(node.refuse(&caller, &Refused::Malformed("an unknown kind of evidence".into()))),
    };
    let minted = attested.map_err(|refusal| node.refuse(&caller, &Refused::Identity(refusal)))?;
    let own = identity.bundles.own().ok_or_else(|| node.refuse(&caller, &Refused::Identity(Refusal::Unavailable)))?;
    info!(caller, node = %minted.id, serial = minted.serial, "node attested");
    let attested = wire::Attested {
        spiffe_id: minted.id.to_string(),
        expires_at: unix_secs(minted.not_after),
        chain: chain(minted),
        bundle: own.to_jwks().into(),
        can_reattest: false,
    };
    let (outbox, answers) = mpsc::channel(1);
    let answer = wire::AttestResponse { step: Some(attest_response::Step::Attested(attested)) };
    let _ = outbox.try_send(Ok(answer)); // the channel is new and has room
    Ok(Response::new(ReceiverStream::new(answers)))
}
