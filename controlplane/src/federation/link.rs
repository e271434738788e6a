//! The dialling side: one connection per peer, with both streams on it, dialled again with backoff when either ends.

use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::backoff::Backoff;
use symbolon_kit::net;
use symbolon_kit::octets::random;
use symbolon_kit::tls::Expect;
use symbolon_proto::federation::federation_client::FederationClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::config::control_planes_of;
use super::peer::Peer;
use super::persist::{Established, Role};
use super::streams::{self, Ended, FLUSH, OUTBOUND, explain};
use super::{Context, MAX_FRAME_BYTES};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long a dial may take.
const DIAL: Duration = Duration::from_secs(10);
/// A link that lived this long was good: the next dial follows at once.
const GOOD: Duration = Duration::from_secs(5);

/// Keeps the link to `peer` up, as long as we are its dialler.
pub(super) async fn run(context: Arc<Context>, peer: Arc<Peer>) {
    let mut established = peer.established.subscribe();
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT, u64::from_le_bytes(random()));
    loop {
        let dialled = established.borrow_and_update().clone().filter(|with| with.role == Role::Dialer);
        let Some(with) = dialled else {
            tokio::select! {
                changed = established.changed() => if changed.is_err() { return },
                () = context.drain.cancelled() => return,
            }
            continue;
        };
        let began = context.now();
        tokio::select! {
            ended = dial(&context, &peer, &with) => report(&context, &peer, &ended),
            // Trust was exchanged anew: with other addresses, perhaps.
            Ok(()) = established.changed() => { established.mark_changed(); }
            () = drained(&context) => return,
        }
        if context.drain.is_draining() {
            return;
        }
        if context.now().saturating_sub(began) >= GOOD {
            // Connections end with the SVIDs that opened them: that is no trouble, and nothing to wait for.
            backoff.reset();
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = context.drain.cancelled() => return,
        }
    }
}

/// After the word to stop, once the streams had time to say goodbye.
async fn drained(context: &Context) {
    context.drain.cancelled().await;
    tokio::time::sleep(FLUSH * 3).await;
}

async fn dial(context: &Arc<Context>, peer: &Arc<Peer>, with: &Established) -> Ended {
    let addresses = peer.config.address.clone().map_or_else(|| with.addresses.clone(), |address| vec![address]);
    let expect = Expect::Pattern(control_planes_of(&peer.config.trust_domain));
    let channel = net::channel(addresses, &context.identity, expect);
    serve(context, peer, channel).await
}

/// Runs both streams on one connection until one of them ends.
pub(super) async fn serve(context: &Arc<Context>, peer: &Arc<Peer>, channel: Channel) -> Ended {
    let client = FederationClient::new(channel).max_decoding_message_size(MAX_FRAME_BYTES);
    tokio::select! {
        ended = pull(context, peer, client.clone()) => ended,
        ended = push(context, peer, client) => ended,
    }
}

async fn pull(context: &Arc<Context>, peer: &Arc<Peer>, mut client: FederationClient<Channel>) -> Ended {
    let (to_peer, outbound) = mpsc::channel(OUTBOUND);
    match timeout(DIAL, client.pull(ReceiverStream::new(outbound))).await {
        Err(_) => Ended::Silent(DIAL),
        Ok(Err(status)) => Ended::Failed(explain(&status)),
        Ok(Ok(answer)) => {
            connected(peer);
            streams::subscribe(context, peer, answer.into_inner(), to_peer).await
        }
    }
}

async fn push(context: &Arc<Context>, peer: &Arc<Peer>, mut client: FederationClient<Channel>) -> Ended {
    let (to_peer, outbound) = mpsc::channel(OUTBOUND);
    match timeout(DIAL, client.push(ReceiverStream::new(outbound))).await {
        Err(_) => Ended::Silent(DIAL),
        Ok(Err(status)) => Ended::Failed(explain(&status)),
        Ok(Ok(answer)) => streams::publish(context, peer, answer.into_inner(), to_peer).await,
    }
}

fn connected(peer: &Peer) {
    info!(peer = %peer.config.name, "link is up");
    peer.facts().last_error.clear();
}

fn report(context: &Context, peer: &Peer, ended: &Ended) {
    let name = &peer.config.name;
    context.counters.ended.inc(&[("peer", name.as_str()), ("reason", ended.label())]);
    // The task that stopped it has said why.
    if *ended == Ended::Stopped {
        return;
    }
    let words = ended.to_string();
    let mut facts = peer.facts();
    // Said once per kind of trouble, not once per dial.
    if facts.last_error != words {
        warn!(peer = %name, why = %words, "link is down; dialling again");
        facts.last_error = words;
    }
}
