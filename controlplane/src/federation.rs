//! The link between two control planes that do not share an operator (spec/federation.md). One mTLS connection, dialled by the side
//! that accepted the invitation, carries a stream in each direction.
//!
//! ```text
//!   mesh ─► export ─► log ─► publication ──── stream ───► session ─► apply ─► Change::Import, store
//!           (offer)                         (streams)     (policy, merge, guard)   │
//!                     facts ◄── acks up to PROGRAMMED ◄─── programmed ◄────────────┘
//! ```
//!
//! Pure: [`resource`], [`range`], [`policy`], [`log`], [`offer`], [`merge`], [`guard`], [`session`], [`publication`], [`staleness`].
//! Tasks, per peer: export, apply, programmed, staleness, and the dialler ([`handle`] is their edge).
//!
//! What the peer says is admitted by our configuration alone; silence, errors and emptiness withdraw nothing (decisions 4 and 5).

mod apply;
pub mod config;
mod export;
pub mod guard;
pub mod handle;
pub mod invite;
mod link;
pub mod log;
pub mod merge;
pub mod offer;
mod peer;
mod persist;
pub mod policy;
mod programmed;
pub mod publication;
pub mod range;
pub mod resource;
pub mod server;
pub mod session;
pub mod staleness;
mod streams;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Metrics};
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_kit::tls;
use symbolon_proto::federation::federation_server::FederationServer;
use symbolon_proto::ids::TrustDomain;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::model::{AckTable, Change, MeshView, PeerName, PeerState};
use crate::store::{self, SharedStore, Txn};

pub use config::{Config, PeerConfig};
pub use handle::{Handle, Status};
pub use invite::{Invited, Refusal};
pub use persist::Role;
pub use policy::{Grants, Quotas};
pub use server::Service;
pub use staleness::Timing;

use peer::Peer;

/// The largest message that is read from a peer.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// What the apply task may have told the one that counts proxies.
const TOLD: usize = 64;

/// Every trust domain's bundle, kept by somebody else.
pub trait BundleBook: Send + Sync + std::fmt::Debug {
    /// Ours; `None` until it is published.
    fn own(&self) -> Option<Arc<Bundle>>;
    fn of(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>>;
    /// Yields whenever any bundle may have changed.
    fn changes(&self) -> BoxStream<'static, ()>;
    /// Takes a JWKS document as the bundle of `trust_domain`, if it is newer and well formed. Durable when it returns.
    fn offer<'a>(&'a self, trust_domain: &'a TrustDomain, jwks: &'a [u8]) -> BoxFuture<'a, Result<(), BundleRefused>>;
}

/// Why the book keeps the bundle that it has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleRefused {
    #[error("{0}")]
    Sequence(String),
    #[error("{0}")]
    Content(String),
    #[error("{0}")]
    Unavailable(String),
}

/// Why the link could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("peer {0} is configured twice")]
    Twice(PeerName),
    #[error("peers {0} and {1} have the same trust domain")]
    SameTrustDomain(PeerName, PeerName),
    #[error("peer {0} has our own trust domain")]
    OwnTrustDomain(PeerName),
    #[error("maxEndpointWeight must be at least 1")]
    ZeroWeight,
}

/// What every task of the link needs.
#[derive(Debug)]
struct Context {
    config: Config,
    store: SharedStore,
    clock: Clock,
    book: Arc<dyn BundleBook>,
    identity: tls::Identity,
    view: watch::Receiver<Arc<MeshView>>,
    acks: watch::Receiver<Arc<AckTable>>,
    changes: mpsc::Sender<Change>,
    tasks: Tasks,
    drain: Drain,
    counters: Counters,
    began: Instant,
}

#[derive(Clone, Debug)]
struct Counters {
    /// By peer and reason: resources, callers and tokens that we refused.
    refused: Counter,
    /// By peer and reason: resources of ours that a peer refused.
    nacks: Counter,
    /// By peer and reason: streams.
    ended: Counter,
    /// By peer and alarm.
    alarms: Counter,
}

/// The link as a whole.
#[derive(Debug)]
struct Core {
    context: Arc<Context>,
    peers: BTreeMap<PeerName, Arc<Peer>>,
}

/// Starts the link. The returned changes restore what was known of the peers and imported from them; they are to be folded before
/// anything is served.
///
/// # Errors
/// If the store cannot be read, or the configuration contradicts itself; nothing is changed then.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a part that only `app` can hand over; a struct would say no more"
)]
pub async fn start(
    config: Config,
    store: SharedStore,
    clock: Clock,
    book: Arc<dyn BundleBook>,
    identity: tls::Identity,
    view: watch::Receiver<Arc<MeshView>>,
    acks: watch::Receiver<Arc<AckTable>>,
    changes: mpsc::Sender<Change>,
    tasks: &Tasks,
    drain: Drain,
    metrics: &Metrics,
) -> Result<(FederationServer<Service>, Handle, Vec<Change>), Error> {
    let most = NonZeroU32::new(config.max_endpoint_weight).ok_or(Error::ZeroWeight)?;
    check(&config)?;
    let counters = Counters::new(metrics);
    let (tasks, began) = (tasks.clone(), Instant::now());
    let context =
        Arc::new(Context { config, store, clock, book, identity, view, acks, changes, tasks, drain, counters, began });
    let (mut peers, mut restored) = (BTreeMap::new(), Vec::new());
    for config in &context.config.peers {
        let policy = policy::Policy {
            trust_domain: config.trust_domain.clone(),
            grants: config.grants.clone(),
            quotas: config.quotas,
            max_endpoint_weight: most,
        };
        let peer = start_peer(&context, config, policy, &mut restored).await?;
        peers.insert(config.name.clone(), peer);
    }
    let core = Arc::new(Core { context, peers });
    let server = FederationServer::new(Service(core.clone())).max_decoding_message_size(MAX_FRAME_BYTES);
    Ok((server, Handle(core), restored))
}

fn check(config: &Config) -> Result<(), Error> {
    for (n, peer) in config.peers.iter().enumerate() {
        if peer.trust_domain == config.trust_domain {
            return Err(Error::OwnTrustDomain(peer.name.clone()));
        }
        for other in &config.peers[..n] {
            if other.name == peer.name {
                return Err(Error::Twice(peer.name.clone()));
            }
            if other.trust_domain == peer.trust_domain {
                return Err(Error::SameTrustDomain(other.name.clone(), peer.name.clone()));
            }
        }
    }
    Ok(())
}

/// Restores what is stored of one peer and starts its tasks.
async fn start_peer(
    context: &Arc<Context>,
    config: &PeerConfig,
    policy: policy::Policy,
    restored: &mut Vec<Change>,
) -> Result<Arc<Peer>, Error> {
    let name = &config.name;
    let established = persist::peer(&context.store, name).await?;
    let established = established.filter(|with| {
        let same = with.trust_domain == config.trust_domain;
        if !same {
            warn!(peer = %name, stored = %with.trust_domain, configured = %config.trust_domain,
                "the peer's trust domain changed in the configuration: trust must be exchanged anew");
        }
        same
    });
    // Without a bundle nothing of the peer can be verified: trust was ended, or its configuration was gone for a while.
    let established = match established {
        Some(_) if context.book.of(&config.trust_domain).is_none() => {
            warn!(peer = %name, trust_domain = %config.trust_domain, "no bundle of the peer is held: trust must be exchanged anew");
            persist::forget(&context.store, name).await?;
            None
        }
        established => established,
    };
    let mut subscription = session::Subscription::new(policy, context.config.timing.hold);
    let (inbox, received) = mpsc::channel(apply::QUEUE);
    let peer = Arc::new(Peer::new(config.clone(), established, inbox, context));
    let state = peer.facts().state;
    restored.push(Change::Peer { peer: name.clone(), trust_domain: config.trust_domain.clone(), state });
    if state != PeerState::Pending {
        let (records, cursor, unreadable) = persist::imports(&context.store, name).await?;
        if !unreadable.is_empty() {
            warn!(peer = %name, records = unreadable.len(), "stored imports cannot be read; the peer is asked for everything anew");
            context.store.commit(unreadable.into_iter().fold(Txn::new(), Txn::delete)).await?;
        }
        let (published, refused) = subscription.restore(records, cursor);
        for (key, refused) in refused {
            warn!(peer = %name, %key, reason = refused.label(), detail = %refused.detail, "a stored import is no longer granted");
        }
        info!(peer = %name, services = published.len(), "imports restored");
        let mut facts = peer.facts();
        facts.imported_services = subscription.in_force().len();
        facts.imported_endpoints = subscription.in_force().values().map(|one| one.endpoints.len()).sum();
        restored.extend(published.into_iter().map(|one| Change::Import {
            peer: name.clone(),
            service: one.service,
            imported: one.imported,
        }));
    }
    spawn(context, &peer, subscription, received);
    Ok(peer)
}

fn spawn(
    context: &Arc<Context>,
    peer: &Arc<Peer>,
    subscription: session::Subscription,
    inbox: mpsc::Receiver<apply::Input>,
) {
    let (programmed, told) = mpsc::channel(TOLD);
    let stored = subscription.cursor().cloned();
    let apply =
        apply::Apply { context: context.clone(), peer: peer.clone(), subscription, programmed, stream: None, stored };
    let tasks = &context.tasks;
    tasks.spawn("federation-apply", OnExit::Shutdown, apply.run(inbox));
    let name = peer.config.name.clone();
    tasks.spawn("federation-programmed", OnExit::Shutdown, programmed::run(context.clone(), name, told));
    tasks.spawn("federation-export", OnExit::Shutdown, export::run(context.clone(), peer.clone()));
    tasks.spawn("federation-staleness", OnExit::Shutdown, watch_staleness(context.clone(), peer.clone()));
    tasks.spawn("federation-dial", OnExit::Shutdown, link::run(context.clone(), peer.clone()));
}

/// Tells the mesh when a peer's word is worth more or less than before.
async fn watch_staleness(context: Arc<Context>, peer: Arc<Peer>) {
    let mut voice = peer.voice.subscribe();
    loop {
        let heard = *voice.borrow_and_update();
        let (state, due) = heard.state(&context.config.timing, context.now());
        let before = std::mem::replace(&mut peer.facts().state, state);
        if state != before {
            info!(peer = %peer.config.name, ?before, now = ?state, "peer");
            let (name, trust_domain) = (peer.config.name.clone(), peer.config.trust_domain.clone());
            // The state task ends with the process.
            let _ = context.changes.send(Change::Peer { peer: name, trust_domain, state }).await;
        }
        tokio::select! {
            changed = voice.changed() => if changed.is_err() { return },
            () = context.sleep_until(due) => {}
            () = context.drain.cancelled() => return,
        }
    }
}

impl Context {
    /// Time since the link started, which is what the pure parts reckon in.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns at `due`; never, without one.
    async fn sleep_until(&self, due: Option<Duration>) {
        match due {
            Some(due) => tokio::time::sleep_until(self.began + due).await,
            None => std::future::pending().await,
        }
    }
}

impl Counters {
    fn new(metrics: &Metrics) -> Self {
        Self {
            refused: metrics
                .counter("symbolon_federation_refused", "What peers said or asked and was refused, by reason"),
            nacks: metrics.counter("symbolon_federation_nacks", "Resources of ours that a peer refused, by reason"),
            ended: metrics.counter("symbolon_federation_streams_ended", "Streams that ended, by reason"),
            alarms: metrics.counter("symbolon_federation_alarms", "What an operator should look at"),
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
