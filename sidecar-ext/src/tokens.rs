//! JWT-SVIDs, and WIT-SVIDs with their keys ([`wit`]), as they are kept on this node: minted when a workload asks, and kept in
//! memory ([`store`]) for whoever of the same entry asks for the same audience. One that is past half its life is handed out while
//! the next is minted; one that nears its end is waited for, and handed out all the same if the control plane is away. A tainted
//! key's tokens are dropped at once.
//!
//! ```text
//!   asked ──► fresh ───────────────────────────────► handed out
//!         ├─► ageing (past half) ── in the background: mint ──► handed out
//!         └─► none, or ending ── wanted ──► one request for all that are wanted ──► handed out
//!                                                   └── failed: the old one, if it lives; else the reason
//! ```

mod store;
pub mod wit;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Metrics};
use symbolon_kit::spiffe::jwt::Token as Text;
use symbolon_kit::spiffe::svid::PrivateKey;
use symbolon_proto::ids::SpiffeId;
use symbolon_proto::node as wire;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;
use tracing::{debug, warn};

use crate::bundle::{Tainted, Trust};
use crate::identity::Entry;
use crate::upstream::{EntryList, Handle};
use store::{Age, Store};

/// Orders of one request.
const BATCH: usize = 100;
/// Callers that wait for a token; more are turned away.
const MAX_WAITING: usize = 2048;
/// Audiences of one token, and the bytes of each.
const MAX_AUDIENCES: usize = 32;
const MAX_AUDIENCE_BYTES: usize = 1024;
/// After a request that failed nothing is minted ahead of need for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// Tokens that have expired are forgotten this often.
const SWEEP: Duration = Duration::from_secs(30);

/// Has tokens of one kind minted; [`Handle`] has JWT-SVIDs minted in the product.
pub trait Minter: Send + Sync + 'static {
    /// One answer per order, in their order; with the key that it is bound to, if that is of its kind.
    fn mint(&self, orders: Vec<Order>) -> BoxFuture<'_, Result<Vec<Minted>, Status>>;
}

/// What is to be minted: for an entry, by its id, and for these audiences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub entry_id: String,
    pub audience: Vec<String>,
}

/// An answer, and the workload's key.
pub type Minted = (wire::MintedJwt, Option<PrivateKey>);

impl Minter for Handle {
    fn mint(&self, orders: Vec<Order>) -> BoxFuture<'_, Result<Vec<Minted>, Status>> {
        let order = |Order { entry_id, audience }| wire::JwtOrder { entry_id, audience };
        let orders = orders.into_iter().map(order).collect();
        Box::pin(async move { Ok(self.mint_jwt(orders).await?.into_iter().map(|minted| (minted, None)).collect()) })
    }
}

/// For whom a token is, in canonical form: sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audience(Arc<[String]>);

/// A token; a secret for as long as it lives.
#[derive(Debug)]
pub struct Token {
    pub spiffe_id: SpiffeId,
    pub text: Text,
    /// The workload's own, of a WIT-SVID.
    pub key: Option<PrivateKey>,
    /// Of the key that signed it.
    kid: String,
    issued_at: SystemTime,
    expires_at: SystemTime,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    #[error("the control plane refuses it: {0}")]
    Refused(String),
    #[error("the control plane does not answer: {0}")]
    Unanswered(String),
    #[error("too many callers wait for tokens")]
    Overloaded,
}

/// Why an audience is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    #[error("audience must name who the token is for")]
    Empty,
    #[error("a token may have {MAX_AUDIENCES} audiences of {MAX_AUDIENCE_BYTES} bytes each")]
    TooLarge,
}

/// Where tokens are asked for; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokens(mpsc::Sender<Ask>);

#[derive(Debug)]
struct Ask {
    entry: Arc<Entry>,
    audience: Audience,
    /// Whether one that is past half its life is waited to be renewed.
    fresh: bool,
    answer: Waiter,
}

type Waiter = oneshot::Sender<Result<Arc<Token>, NoToken>>;
/// The id of an entry, and an audience.
type Key = (Arc<str>, Audience);
type Answer = (Vec<Key>, Result<Vec<Minted>, Status>);

/// A token that is to be minted, or is being minted.
struct Wanted {
    entry: Arc<Entry>,
    waiting: Vec<Waiter>,
}

/// What is counted.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Tokens received.
    pub minted: Counter,
    /// Requests refused or lost, by reason.
    pub failed: Counter,
    /// Tokens handed out, by where they came from.
    pub served: Counter,
}

/// Keeps the tokens; one task.
pub struct Keeper<M> {
    minter: Arc<M>,
    clock: Clock,
    counts: Counts,
    asks: mpsc::Receiver<Ask>,
    trust: watch::Receiver<Arc<Trust>>,
    entries: watch::Receiver<Option<EntryList>>,
    store: Store,
    wanted: HashMap<Key, Wanted>,
    /// Of those wanted, the ones not asked for yet.
    queue: VecDeque<Key>,
    waiting: usize,
    /// Until then nothing is minted that nobody waits for.
    pause: Option<Instant>,
}

impl Counts {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            minted: metrics.counter("symbolon_sidecar_tokens_minted", "JWT-SVIDs and WIT-SVIDs received"),
            failed: metrics.counter("symbolon_sidecar_tokens_failed", "Tokens asked for and not received, by reason"),
            served: metrics.counter("symbolon_sidecar_tokens_served", "Tokens handed out, by source"),
        }
    }
}

// === impl Audience ===

impl Audience {
    /// # Errors
    /// If it names nobody (bad input 154), or more than a token can carry.
    pub fn parse(mut names: Vec<String>) -> Result<Self, AudienceError> {
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err(AudienceError::Empty);
        }
        names.sort();
        names.dedup();
        if names.len() > MAX_AUDIENCES || names.iter().any(|name| name.len() > MAX_AUDIENCE_BYTES) {
            return Err(AudienceError::TooLarge);
        }
        Ok(Self(names.into()))
    }

    /// Of a token that is for whoever sees the proof of its key.
    pub fn nobody() -> Self {
        Self(Arc::from([]))
    }
}

// === impl Token ===

impl Token {
    /// Takes what the control plane issued for `entry`.
    fn accept(issued: Issued, entry: &Entry, now: SystemTime) -> Result<Self, String> {
        let (issued, key) = issued;
        let text = Text::received(issued.token);
        if issued.spiffe_id != entry.spiffe_id.as_str() {
            return Err(format!("the token is for {}", issued.spiffe_id));
        }
        let at = |seconds: i64| {
            let since = Duration::from_secs(u64::try_from(seconds).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        let (Some(issued_at), Some(expires_at)) = (at(issued.issued_at), at(issued.expires_at)) else {
            return Err("the token's dates cannot be".into());
        };
        if expires_at <= now || expires_at <= issued_at {
            return Err("the token has expired already: do the clocks of node and control plane agree?".into());
        }
        let kid = store::kid(text.as_str()).ok_or("the token names no key (kid)")?;
        Ok(Self { spiffe_id: entry.spiffe_id.clone(), text, key, kid, issued_at, expires_at })
    }

    /// When the next is due.
    pub fn half_life(&self) -> SystemTime {
        self.issued_at + self.expires_at.duration_since(self.issued_at).unwrap_or_default() / 2
    }
}

// === impl NoToken ===

impl NoToken {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Unanswered(_) => "unanswered",
            Self::Overloaded => "overloaded",
        }
    }
}

// === impl Tokens ===

impl Tokens {
    /// A token for each entry, in their order. They are asked for together.
    ///
    /// # Errors
    /// Each on its own.
    pub async fn fetch(&self, entries: &[Arc<Entry>], audience: &Audience) -> Vec<Result<Arc<Token>, NoToken>> {
        self.ask(entries, audience, false).await
    }

    /// As [`Self::fetch`], for whoever holds one: what is due to be renewed is renewed, if it can be.
    ///
    /// # Errors
    /// Each on its own.
    pub async fn renew(&self, entries: &[Arc<Entry>], audience: &Audience) -> Vec<Result<Arc<Token>, NoToken>> {
        self.ask(entries, audience, true).await
    }

    async fn ask(&self, entries: &[Arc<Entry>], audience: &Audience, fresh: bool) -> Vec<Result<Arc<Token>, NoToken>> {
        let ask = |entry: &Arc<Entry>| {
            let (answer, answered) = oneshot::channel();
            let ask = Ask { entry: entry.clone(), audience: audience.clone(), fresh, answer };
            self.0.try_send(ask).map(|()| answered).map_err(|_| NoToken::Overloaded)
        };
        let asked: Vec<_> = entries.iter().map(ask).collect();
        let wait = async |answered: Result<oneshot::Receiver<_>, NoToken>| match answered?.await {
            Ok(answer) => answer,
            Err(_) => Err(NoToken::Unanswered("the sidecar is stopping".into())),
        };
        futures::future::join_all(asked.into_iter().map(wait)).await
    }
}

// === impl Keeper ===

impl<M: Minter> Keeper<M> {
    pub fn new(
        minter: Arc<M>,
        clock: Clock,
        counts: Counts,
        trust: watch::Receiver<Arc<Trust>>,
        entries: watch::Receiver<Option<EntryList>>,
    ) -> (Tokens, Self) {
        let (tx, asks) = mpsc::channel(1024);
        let keeper = Self {
            minter,
            clock,
            counts,
            asks,
            trust,
            entries,
            store: Store::default(),
            wanted: HashMap::new(),
            queue: VecDeque::new(),
            waiting: 0,
            pause: None,
        };
        (Tokens(tx), keeper)
    }

    pub async fn run(mut self, drain: Drain) {
        let mut minting: Option<BoxFuture<'static, Answer>> = None;
        let mut asks = Vec::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            if minting.is_none() {
                minting = self.order();
            }
            tokio::select! {
                () = drain.cancelled() => return,
                asked = self.asks.recv_many(&mut asks, BATCH) => {
                    if asked == 0 { return }
                    asks.drain(..).for_each(|ask| self.take(ask));
                }
                answer = pending(&mut minting) => {
                    minting = None;
                    self.answered(answer);
                }
                Ok(()) = self.trust.changed() => {
                    let tainted = self.trust.borrow_and_update().tainted.clone();
                    self.store.retain(|_, token| !is_tainted(token, &tainted));
                }
                Ok(()) = self.entries.changed() => self.forget_gone(),
                _ = sweep.tick() => {
                    let now = self.clock.now();
                    self.store.retain(|_, token| token.expires_at > now);
                }
            }
        }
    }

    fn take(&mut self, ask: Ask) {
        let key = (ask.entry.id.clone(), ask.audience);
        let kept = self.store.get(&key, &ask.entry, self.clock.now());
        let kept = kept.filter(|(token, _)| !is_tainted(token, &self.trust.borrow().tainted));
        match kept {
            Some((token, Age::Fresh)) => self.hand_out(ask.answer, Ok(token), "kept"),
            Some((token, Age::Ageing)) if !ask.fresh => {
                self.hand_out(ask.answer, Ok(token), "kept");
                if self.pause.is_none_or(|until| until <= Instant::now()) {
                    self.want(key, ask.entry, None);
                }
            }
            Some(_) | None => self.want(key, ask.entry, Some(ask.answer)),
        }
    }

    fn want(&mut self, key: Key, entry: Arc<Entry>, waiter: Option<Waiter>) {
        if self.waiting >= MAX_WAITING {
            if let Some(waiter) = waiter {
                self.hand_out(waiter, Err(NoToken::Overloaded), "");
            }
            return;
        }
        let wanted = self.wanted.entry(key.clone()).or_insert_with(|| {
            self.queue.push_back(key);
            Wanted { entry, waiting: Vec::new() }
        });
        self.waiting += usize::from(waiter.is_some());
        wanted.waiting.extend(waiter);
    }

    /// Starts a request for what is wanted; what is wanted meanwhile waits for the next.
    fn order(&mut self) -> Option<BoxFuture<'static, Answer>> {
        let keys: Vec<_> = self.queue.drain(..self.queue.len().min(BATCH)).collect();
        if keys.is_empty() {
            return None;
        }
        debug!(orders = keys.len(), "asking for tokens");
        let order = |(id, audience): &Key| Order { entry_id: id.to_string(), audience: audience.0.to_vec() };
        let orders = keys.iter().map(order).collect();
        let minter = self.minter.clone();
        Some(Box::pin(async move {
            let answer = minter.mint(orders).await;
            (keys, answer)
        }))
    }

    fn answered(&mut self, (keys, answer): Answer) {
        self.pause = answer.is_err().then(|| Instant::now() + PAUSE);
        let outcomes: Vec<Result<Issued, NoToken>> = match answer {
            Ok(results) => results.into_iter().map(outcome).collect(),
            Err(status) => {
                warn!(code = ?status.code(), why = status.message(), tokens = keys.len(), "no answer to a request for tokens");
                let why = NoToken::Unanswered(format!("{:?}: {}", status.code(), status.message()));
                keys.iter().map(|_| Err(why.clone())).collect()
            }
        };
        for (key, outcome) in keys.into_iter().zip(outcomes) {
            self.settle(key, outcome);
        }
    }

    fn settle(&mut self, key: Key, outcome: Result<Issued, NoToken>) {
        let Some(Wanted { entry, waiting }) = self.wanted.remove(&key) else { return };
        self.waiting = self.waiting.saturating_sub(waiting.len());
        let now = self.clock.now();
        let accepted = outcome.and_then(|svid| Token::accept(svid, &entry, now).map_err(NoToken::Refused));
        let answer = match accepted {
            Ok(token) => {
                self.counts.minted.inc(&[]);
                let token = Arc::new(token);
                // One of a tainted key is handed out, since there is no other; it is not kept.
                if !is_tainted(&token, &self.trust.borrow().tainted) {
                    self.store.put(key, &entry, token.clone());
                }
                Ok(token)
            }
            Err(why) => {
                self.counts.failed.inc(&[("reason", why.label())]);
                if matches!(why, NoToken::Refused(_)) {
                    warn!(id = %entry.spiffe_id, %why, "no token");
                }
                // What is left of the old one is better than nothing.
                self.store.get(&key, &entry, now).map(|(token, _)| token).ok_or(why)
            }
        };
        for waiter in waiting {
            self.hand_out(waiter, answer.clone(), "minted");
        }
    }

    fn hand_out(&self, waiter: Waiter, answer: Result<Arc<Token>, NoToken>, source: &'static str) {
        if answer.is_ok() {
            self.counts.served.inc(&[("source", source)]);
        }
        let _ = waiter.send(answer); // who asked may have left
    }

    fn forget_gone(&mut self) {
        let entries = self.entries.borrow_and_update().clone();
        let ids: std::collections::HashSet<_> = entries.iter().flat_map(|list| list.iter()).map(|e| &e.id).collect();
        self.store.retain(|(id, _), _| ids.contains(id));
    }
}

fn is_tainted(token: &Token, tainted: &Tainted) -> bool {
    tainted.jwt.contains(&token.kid)
}

/// A token that was issued, and the key that it is bound to.
type Issued = (wire::JwtSvid, Option<PrivateKey>);

fn outcome((minted, key): Minted) -> Result<Issued, NoToken> {
    match minted.outcome {
        Some(wire::minted_jwt::Outcome::Svid(svid)) => Ok((svid, key)),
        Some(wire::minted_jwt::Outcome::Refusal(refusal)) => {
            Err(NoToken::Refused(format!("{}: {}", refusal.reason, refusal.detail)))
        }
        None => Err(NoToken::Unanswered("an empty answer".into())),
    }
}

async fn pending(minting: &mut Option<BoxFuture<'static, Answer>>) -> Answer {
    match minting {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}

impl<M> std::fmt::Debug for Keeper<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("wanted", &self.wanted.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
