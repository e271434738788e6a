//! The nodes that have attested: who they are, by which evidence, and which of their certificates still count. A certificate that
//! verifies is not enough: its serial must be one of the node's tenure, which begins with an attestation and ends with the next
//! one, with an eviction or with a ban.
//!
//! ```text
//!              attest                      evict
//!   (unknown) ───────► Attested ─────────────────────► Evicted ──attest──► Attested
//!                        │  ▲ renew: one more serial      │
//!                        │  └── attest: a new tenure      │ ban
//!                        └──────── ban ──► Banned ◄───────┘
//!                                            │ unban
//!                                            └──────► Evicted        (a banned node cannot attest)
//! ```
//!
//! Whoever holds a connection of a tenure that ended is told by [`Tenure::ended`], without asking anything of the table.

mod record;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use symbolon_kit::clock::{Clock, unix_secs};
use symbolon_proto::selector::Selectors;
use tokio::sync::{Mutex as Turn, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Minted, Refusal};
use crate::model::NodeName;
use crate::store::{self, SharedStore, Txn, keys};

/// Serials of one tenure that are remembered; the oldest that nobody uses is forgotten first. A node renews twice a lifetime, so
/// this many are reached only by one that loses its answers.
const MAX_SERIALS: usize = 32;
/// Of a ban's reason.
const MAX_REASON: usize = 256;

/// One node, as the operator and the registration entries see it. Renewals do not change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: NodeName,
    /// The kind of its evidence, e.g. `join_token`; empty for one that was banned before it ever attested.
    pub attestor: Arc<str>,
    pub selectors: Selectors,
    /// Whether the same evidence will do again.
    pub can_reattest: bool,
    /// Unix seconds.
    pub attested_at: i64,
    pub standing: Standing,
}

/// Whether a node may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Attested,
    /// May attest again.
    Evicted,
    /// May not, until it is unbanned.
    Banned {
        reason: Arc<str>,
    },
}

/// All known nodes by name.
pub type Table = BTreeMap<NodeName, Arc<Node>>;

/// What an attestor proved of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    pub name: NodeName,
    pub selectors: Selectors,
    pub can_reattest: bool,
}

/// Keeps the nodes: in the store, and whole in memory; cheap to clone.
#[derive(Clone, Debug)]
pub struct Nodes {
    store: SharedStore,
    clock: Clock,
    table: Arc<watch::Sender<Arc<Table>>>,
    /// A std mutex: nothing awaits while it is held.
    seats: Arc<Mutex<BTreeMap<NodeName, Seat>>>,
    /// One writer at a time, so that the table never shows an order that the store does not have.
    writing: Arc<Turn<()>>,
}

/// What is known of a node's certificates and connections.
#[derive(Clone, Debug, Default)]
struct Seat {
    /// Of this tenure, oldest first; none of a node that may not call.
    serials: Vec<Serial>,
    gone: CancellationToken,
    connections: Arc<AtomicUsize>,
}

/// A certificate of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial {
    /// Lower-case hex.
    pub serial: Arc<str>,
    /// Unix seconds.
    pub expires_at: i64,
}

/// A node that calls, held by whoever serves it: it counts as connected meanwhile.
#[derive(Debug)]
pub struct Tenure {
    gone: CancellationToken,
    connections: Arc<AtomicUsize>,
}

/// Why a node is not changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("no node {0} has attested; see `symbolon node list`")]
    Unknown(NodeName),
    #[error("node {0} is banned; it is out already. `symbolon node unban` lets it attest again")]
    AlreadyBanned(NodeName),
    #[error("node {0} is not banned")]
    NotBanned(NodeName),
    #[error(transparent)]
    Store(#[from] store::Error),
}

// === impl Nodes ===

impl Nodes {
    pub(super) async fn load(store: SharedStore, clock: Clock) -> Result<Self, store::Error> {
        let (mut table, mut seats) = (Table::new(), BTreeMap::new());
        for stored in store.range(keys::attested_nodes()).await?.0 {
            match record::decode(&stored)? {
                Some((node, serials)) => {
                    seats.insert(node.name.clone(), Seat { serials, ..Seat::default() });
                    table.insert(node.name.clone(), Arc::new(node));
                }
                None => warn!(key = &*stored.key.0, "a stored node cannot be read; it must attest again"),
            }
        }
        let table = Arc::new(watch::Sender::new(Arc::new(table)));
        Ok(Self { store, clock, table, seats: Arc::new(Mutex::new(seats)), writing: Arc::default() })
    }

    /// All nodes, now.
    pub fn all(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// All nodes, now and after each attestation, eviction and ban.
    pub fn watch(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    /// Its newest certificate, and whether it is connected.
    pub fn seat(&self, name: &NodeName) -> (Option<Serial>, bool) {
        let seats = self.seats();
        let Some(seat) = seats.get(name) else { return (None, false) };
        (seat.serials.last().cloned(), seat.connections.load(Ordering::Relaxed) > 0)
    }

    /// Whether the node may call with the certificate of this serial.
    ///
    /// # Errors
    /// [`Refusal::NodeBanned`]; [`Refusal::NodeGone`] if it must attest again; [`Refusal::NodeSuperseded`] if it has, since.
    pub fn check(&self, name: &NodeName, serial: &str) -> Result<(), Refusal> {
        if self.seats().get(name).is_some_and(|seat| seat.knows(serial)) {
            return Ok(());
        }
        self.may_attest(name)?;
        Err(match self.table.borrow().get(name).map(|node| &node.standing) {
            None => Refusal::NodeGone("it is not known here"),
            Some(Standing::Attested) => Refusal::NodeSuperseded,
            Some(_) => Refusal::NodeGone("it was evicted"),
        })
    }

    /// Whether the node may attest.
    ///
    /// # Errors
    /// [`Refusal::NodeBanned`].
    pub fn may_attest(&self, name: &NodeName) -> Result<(), Refusal> {
        match self.table.borrow().get(name).map(|node| &node.standing) {
            Some(Standing::Banned { reason }) => Err(Refusal::NodeBanned(reason.clone())),
            _ => Ok(()),
        }
    }

    /// A hold on the tenure that this certificate belongs to; `None` if it belongs to none.
    pub fn tenure(&self, name: &NodeName, serial: &str) -> Option<Tenure> {
        let seats = self.seats();
        let seat = seats.get(name).filter(|seat| seat.knows(serial))?;
        seat.connections.fetch_add(1, Ordering::Relaxed);
        Some(Tenure { gone: seat.gone.clone(), connections: seat.connections.clone() })
    }

    /// Begins a tenure with the certificate that was just minted; durable when it returns, so the certificate may leave then.
    ///
    /// # Errors
    /// If the node is banned, or its name is held by a node of another kind of evidence.
    pub async fn admit(&self, attestor: &str, attested: Attested, minted: &Minted) -> Result<(), Refusal> {
        let _writing = self.writing.lock().await;
        self.may_attest(&attested.name)?;
        self.holds_no_other(attestor, &attested.name)?;
        let node = Node {
            name: attested.name,
            attestor: attestor.into(),
            selectors: attested.selectors,
            can_reattest: attested.can_reattest,
            attested_at: unix_secs(self.clock.now()),
            standing: Standing::Attested,
        };
        self.keep(node, vec![Serial::of(minted)]).await.map_err(unavailable)
    }

    /// Adds the certificate that was just minted to the tenure of `old`, with which the node called.
    ///
    /// # Errors
    /// If that tenure has ended meanwhile.
    pub async fn renewed(&self, name: &NodeName, old: &str, minted: &Minted) -> Result<(), Refusal> {
        let _writing = self.writing.lock().await;
        self.check(name, old)?;
        let node = self.table.borrow().get(name).cloned().ok_or(Refusal::NodeGone("it is not known here"))?;
        let (now, mut serials) = (unix_secs(self.clock.now()), self.serials_of(name));
        serials.retain(|known| known.expires_at > now || &*known.serial == old);
        serials.push(Serial::of(minted));
        while serials.len() > MAX_SERIALS {
            let oldest = serials.iter().position(|known| &*known.serial != old).unwrap_or(0);
            serials.remove(oldest);
        }
        let value = record::encode(&node, &serials).map_err(unavailable)?;
        self.store.commit(Txn::new().put(keys::attested_node(name), value)).await.map_err(unavailable)?;
        if let Some(seat) = self.seats().get_mut(name) {
            seat.serials = serials;
        }
        Ok(())
    }

    /// Whether another kind of attestor may not claim this name: else whoever can issue one kind of evidence could take over the
    /// nodes of another.
    ///
    /// # Errors
    /// [`Refusal::NameTaken`].
    pub fn holds_no_other(&self, attestor: &str, name: &NodeName) -> Result<(), Refusal> {
        match self.table.borrow().get(name) {
            Some(node) if node.standing == Standing::Attested && &*node.attestor != attestor => {
                Err(Refusal::NameTaken { node: name.clone(), attestor: node.attestor.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Ends the node's tenure; it may attest again. Its connections end at once.
    ///
    /// # Errors
    /// If there is nothing to end.
    pub async fn evict(&self, name: &NodeName) -> Result<Arc<Node>, Refused> {
        let _writing = self.writing.lock().await;
        let known = self.table.borrow().get(name).cloned().ok_or_else(|| Refused::Unknown(name.clone()))?;
        if matches!(known.standing, Standing::Banned { .. }) {
            return Err(Refused::AlreadyBanned(name.clone()));
        }
        self.change(Node { standing: Standing::Evicted, ..(*known).clone() }, "evicted").await
    }

    /// Ends the node's tenure, and lets it not attest; also a node that never has. Its connections end at once.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn ban(&self, name: &NodeName, reason: &str) -> Result<Arc<Node>, Refused> {
        let _writing = self.writing.lock().await;
        let known = self.table.borrow().get(name).map_or_else(|| Node::unknown(name.clone()), |node| (**node).clone());
        let reason = reason.chars().filter(|letter| !letter.is_control()).take(MAX_REASON).collect::<String>();
        self.change(Node { standing: Standing::Banned { reason: reason.into() }, ..known }, "banned").await
    }

    /// Lets a banned node attest again.
    ///
    /// # Errors
    /// If it is not banned.
    pub async fn unban(&self, name: &NodeName) -> Result<Arc<Node>, Refused> {
        let _writing = self.writing.lock().await;
        let known = self.table.borrow().get(name).cloned().ok_or_else(|| Refused::NotBanned(name.clone()))?;
        if !matches!(known.standing, Standing::Banned { .. }) {
            return Err(Refused::NotBanned(name.clone()));
        }
        self.change(Node { standing: Standing::Evicted, ..(*known).clone() }, "unbanned").await
    }

    async fn change(&self, node: Node, what: &'static str) -> Result<Arc<Node>, Refused> {
        let name = node.name.clone();
        self.keep(node.clone(), Vec::new()).await?; // no certificate of it counts any more
        info!(node = %name, "node {what}");
        Ok(Arc::new(node))
    }

    /// Stores the node, then ends the tenure that was, then shows it. Called by the one who writes.
    async fn keep(&self, node: Node, serials: Vec<Serial>) -> Result<(), store::Error> {
        let value = record::encode(&node, &serials)?;
        self.store.commit(Txn::new().put(keys::attested_node(&node.name), value)).await?;
        let before = {
            let mut seats = self.seats();
            let seat = seats.entry(node.name.clone()).or_default();
            seat.serials = serials;
            std::mem::take(&mut seat.gone)
        };
        self.table.send_modify(|table| {
            Arc::make_mut(table).insert(node.name.clone(), Arc::new(node));
        });
        before.cancel();
        Ok(())
    }

    fn serials_of(&self, name: &NodeName) -> Vec<Serial> {
        self.seats().get(name).map(|seat| seat.serials.clone()).unwrap_or_default()
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<NodeName, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unavailable(error: store::Error) -> Refusal {
    warn!(%error, "a node could not be written down");
    Refusal::Unavailable
}

// === impl Node, Seat, Serial, Tenure ===

impl Node {
    fn unknown(name: NodeName) -> Self {
        Self {
            name,
            attestor: "".into(),
            selectors: Selectors::new(),
            can_reattest: false,
            attested_at: 0,
            standing: Standing::Evicted,
        }
    }
}

impl Seat {
    fn knows(&self, serial: &str) -> bool {
        self.serials.iter().any(|known| &*known.serial == serial)
    }
}

impl Serial {
    fn of(minted: &Minted) -> Self {
        Self { serial: minted.serial.as_str().into(), expires_at: unix_secs(minted.not_after) }
    }
}

impl Tenure {
    /// Returns when the tenure has ended: the node was evicted or banned, or has attested anew.
    pub async fn ended(&self) {
        self.gone.cancelled().await;
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
