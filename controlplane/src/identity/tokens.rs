//! One-time join tokens: kept as hashes, spent by one compare-and-swap, so that two callers never both win (bad input 141). Spending
//! binds a token to the key that it certified: whoever lost the answer may ask again with that key for some minutes, and nobody else
//! ever. What is looked up is a hash of what was sent, so how long a refusal takes says nothing of any token (bad input 144).
//!
//! ```text
//!   Unspent ──redeem by key K──► Spent(K) ──redeem by K, within [`AGAIN`]──► Spent(K)
//!      │                            └── any other key; or later ──► refused
//!      └── expired: refused, gone
//! ```
//!
//! Time for tokens never runs backward ([`Time`]), and a store that is older than the last spending gives no token back ([`Fence`]).

mod fence;
mod time;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use symbolon_kit::clock::{Clock, unix_secs};
use symbolon_kit::drain::Drain;
use symbolon_kit::octets;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::Refusal;
use crate::model::NodeName;
use crate::store::{self, Committed, SharedStore, Stored, Txn, codec, keys};
use fence::Fence;
use time::Time;

/// The longest token text that is looked at.
const MAX_TOKEN_BYTES: usize = 256;
/// How far the clock may have gone back since a token was made, before we no longer believe that it has not expired.
const CLOCK_SLACK: i64 = 60;
/// How long the key that spent a token may fetch the answer again.
pub const AGAIN: Duration = Duration::from_mins(10);
/// How much of the passed time a crash may forget.
const KEEP_TIME_EVERY: Duration = Duration::from_mins(1);
/// Between two looks for tokens that are of no use any more.
const PRUNE_EVERY: i64 = 600;

/// Makes and redeems join tokens; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokens {
    store: SharedStore,
    clock: Clock,
    /// One at a time: a token is a rare thing, and the state is written with it.
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    time: Time,
    fence: Fence,
    /// Tokens spent so far.
    spent: u64,
    pruned_at: i64,
}

/// What is stored beside the tokens.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ledger {
    spent: u64,
    /// The latest time seen.
    latest: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    node: String,
    created_at: i64,
    expires_at: i64,
    #[serde(default)]
    spent: Option<Spent>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Spent {
    /// SHA-256 of the key that was certified, in hex.
    key: String,
    at: i64,
}

/// A token as it is shown, once.
#[derive(Clone, Debug)]
pub struct Created {
    pub token: String,
    /// Unix seconds.
    pub expires_at: i64,
}

impl Tokens {
    /// `fence` is a file beside the store, not in it.
    pub(super) async fn load(store: SharedStore, clock: Clock, fence: &Path) -> Result<Self, super::Error> {
        let ledger = match store.get(&keys::token_ledger()).await? {
            Some(stored) => codec::decode::<Ledger>("token ledger", &stored.value)?,
            None => Ledger::default(),
        };
        let (fence, restored) = Fence::open(fence, ledger.spent)?;
        let time = Time::new(&clock, ledger.latest);
        let state = State { time, spent: fence.spent().max(ledger.spent), fence, pruned_at: i64::MIN };
        let tokens = Self { store, clock, state: Arc::new(Mutex::new(state)) };
        if restored {
            let dropped = tokens.drop_all().await?;
            warn!(
                dropped,
                "this store is older than the last token that was spent: a backup, most likely. No join token of it is good any more"
            );
            let mut state = tokens.state.lock().await;
            let spent = state.spent;
            state.fence.raise(spent)?;
        }
        Ok(tokens)
    }

    /// A token that yields the SVID of `node`, once, within `ttl`.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn create(&self, node: &NodeName, ttl: Duration) -> Result<Created, store::Error> {
        let mut state = self.state.lock().await;
        let now = state.time.look(&self.clock);
        self.prune(&mut state, now).await?;
        let token = octets::hex(&octets::random::<32>());
        let expires_at = now.saturating_add_unsigned(ttl.as_secs());
        let created_at = unix_secs(self.clock.now());
        let record = Record { node: node.to_string(), created_at, expires_at, spent: None };
        let key = keys::token(&hash(&token));
        let made = Txn::new().absent(key.clone()).put(key, codec::encode("token", 1, &record)?);
        match self.store.commit(made.put(keys::token_ledger(), state.ledger(now)?)).await? {
            Committed::Applied(_) => Ok(Created { token, expires_at }),
            Committed::Conflict { .. } => Err(store::Error::Io { doing: "keep a join token", why: "it exists".into() }),
        }
    }

    /// Spends the token for this key, if its node is `allowed`; the node comes from the record, never from the token's text.
    ///
    /// # Errors
    /// If it is unknown, spent by another key, or expired: the first two look the same. If its node is not allowed, it stays unspent.
    pub async fn redeem(
        &self,
        token: &str,
        key_hash: &[u8; 32],
        allowed: impl Fn(&NodeName) -> Result<(), Refusal>,
    ) -> Result<NodeName, Refusal> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::UnknownToken);
        }
        let mut state = self.state.lock().await;
        let key = keys::token(&hash(token));
        let stored = self.store.get(&key).await.map_err(unavailable)?.ok_or(Refusal::UnknownToken)?;
        let mut record: Record = codec::decode("token", &stored.value).map_err(|_| Refusal::UnknownToken)?;
        let node = record.node.parse().map_err(|_| Refusal::UnknownToken)?;
        let (now, wall) = (state.time.look(&self.clock), unix_secs(self.clock.now()));
        let by = octets::hex(key_hash);
        if let Some(spent) = &record.spent {
            let again = spent.key == by && now < spent.at.saturating_add_unsigned(AGAIN.as_secs());
            allowed(&node)?;
            return if again { Ok(node) } else { Err(Refusal::UnknownToken) };
        }
        if now >= record.expires_at || wall < record.created_at - CLOCK_SLACK {
            let ledger = state.ledger(now).map_err(unavailable)?;
            let gone = Txn::new().delete(key).put(keys::token_ledger(), ledger);
            self.store.commit(gone).await.map_err(unavailable)?;
            return Err(Refusal::ExpiredToken);
        }
        allowed(&node)?;
        record.spent = Some(Spent { key: by, at: now });
        self.spend(&mut state, &stored, &record, now).await?;
        Ok(node)
    }

    /// Remembers the time, so that a clock that is set back while nobody joins revives no token either.
    pub(super) async fn keep_time(self, drain: Drain) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(KEEP_TIME_EVERY) => {}
                () = drain.cancelled() => return,
            }
            let mut state = self.state.lock().await;
            let now = state.time.look(&self.clock);
            let kept = match state.ledger(now) {
                Ok(ledger) => self.store.commit(Txn::new().put(keys::token_ledger(), ledger)).await.map(|_| ()),
                Err(error) => Err(error),
            };
            if let Err(error) = kept {
                warn!(%error, "the time could not be written down");
            }
        }
    }

    async fn spend(&self, state: &mut State, stored: &Stored, record: &Record, now: i64) -> Result<(), Refusal> {
        state.spent += 1;
        let ledger = state.ledger(now).map_err(unavailable)?;
        let value = codec::encode("token", 1, record).map_err(unavailable)?;
        let key = stored.key.clone();
        let spend = Txn::new().modified_at(key.clone(), stored.modified).put(key, value);
        match self.store.commit(spend.put(keys::token_ledger(), ledger)).await {
            Ok(Committed::Applied(_)) => {}
            Ok(Committed::Conflict { .. }) => return Err(Refusal::UnknownToken),
            Err(error) => return Err(unavailable(error)),
        }
        // After the store: a crash between the two leaves the file behind, which is no sign of a restored store.
        if let Err(error) = state.fence.raise(state.spent) {
            warn!(%error, "that a token was spent is kept in the store only; a restored backup could bring it back");
        }
        Ok(())
    }

    /// Forgets tokens that nobody can use any more.
    async fn prune(&self, state: &mut State, now: i64) -> Result<(), store::Error> {
        if now < state.pruned_at.saturating_add(PRUNE_EVERY) {
            return Ok(());
        }
        state.pruned_at = now;
        let mut txn = Txn::new();
        for stored in self.store.range(keys::tokens()).await?.0 {
            if codec::decode("token", &stored.value).is_ok_and(|record: Record| record.is_useless(now)) {
                txn = txn.delete(stored.key);
            }
        }
        if !txn.operations.is_empty() {
            info!(tokens = txn.operations.len(), "join tokens that expired or were spent are forgotten");
            self.store.commit(txn).await?;
        }
        Ok(())
    }

    async fn drop_all(&self) -> Result<usize, store::Error> {
        let tokens = self.store.range(keys::tokens()).await?.0;
        let dropped = tokens.len();
        let state = self.state.lock().await;
        let ledger = state.ledger(state.time.now(&self.clock))?;
        let txn = tokens.into_iter().fold(Txn::new(), |txn, stored| txn.delete(stored.key));
        self.store.commit(txn.put(keys::token_ledger(), ledger)).await?;
        Ok(dropped)
    }
}

impl State {
    fn ledger(&self, now: i64) -> Result<Vec<u8>, store::Error> {
        codec::encode("token ledger", 1, &Ledger { spent: self.spent, latest: now })
    }
}

impl Record {
    fn is_useless(&self, now: i64) -> bool {
        match &self.spent {
            Some(spent) => now >= spent.at.saturating_add_unsigned(AGAIN.as_secs()),
            None => now >= self.expires_at,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unavailable(error: store::Error) -> Refusal {
    warn!(%error, "a join token could not be looked at or spent");
    Refusal::Unavailable
}

/// What is kept of a token: whoever reads the store cannot spend it.
fn hash(token: &str) -> String {
    octets::hex(&octets::sha256(token.as_bytes()))
}
