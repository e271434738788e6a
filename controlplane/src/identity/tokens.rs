//! One-time join tokens: kept as hashes, spent by one compare-and-swap, so that two callers never both win (bad input 141).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use symbolon_kit::clock::{Clock, unix_secs};
use symbolon_kit::octets;

use super::Refusal;
use crate::model::NodeName;
use crate::store::{self, Committed, SharedStore, Txn, codec, keys};

/// The longest token text that is looked at.
const MAX_TOKEN_BYTES: usize = 256;

/// Makes and redeems join tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    store: SharedStore,
    clock: Clock,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    node: String,
    created_at: i64,
    expires_at: i64,
}

/// How far the clock may have gone back since a token was made, before we no longer believe that it has not expired.
const CLOCK_SLACK: i64 = 60;

/// A token as it is shown, once.
#[derive(Clone, Debug)]
pub struct Created {
    pub token: String,
    /// Unix seconds.
    pub expires_at: i64,
}

impl Tokens {
    pub(super) fn new(store: SharedStore, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// A token that yields the SVID of `node`, once, within `ttl`.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn create(&self, node: &NodeName, ttl: Duration) -> Result<Created, store::Error> {
        let token = octets::hex(&octets::random::<32>());
        let created_at = unix_secs(self.clock.now());
        let expires_at = created_at.saturating_add_unsigned(ttl.as_secs());
        let record = Record { node: node.to_string(), created_at, expires_at };
        let key = keys::token(&hash(&token));
        let made = Txn::new().absent(key.clone()).put(key, codec::encode("token", 1, &record)?);
        match self.store.commit(made).await? {
            Committed::Applied(_) => Ok(Created { token, expires_at }),
            Committed::Conflict { .. } => Err(store::Error::Io { doing: "keep a join token", why: "it exists".into() }),
        }
    }

    /// Spends the token; the node comes from the record, never from the token's text.
    ///
    /// # Errors
    /// If it is unknown, spent, or expired: the first two look the same.
    pub async fn redeem(&self, token: &str) -> Result<NodeName, Refusal> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::UnknownToken);
        }
        let key = keys::token(&hash(token));
        let stored = self.store.get(&key).await.map_err(|_| Refusal::Unavailable)?.ok_or(Refusal::UnknownToken)?;
        let record: Record = codec::decode("token", &stored.value).map_err(|_| Refusal::UnknownToken)?;
        let spend = Txn::new().modified_at(key.clone(), stored.modified).delete(key);
        match self.store.commit(spend).await {
            Ok(Committed::Applied(_)) => {}
            Ok(Committed::Conflict { .. }) => return Err(Refusal::UnknownToken),
            Err(_) => return Err(Refusal::Unavailable),
        }
        let now = unix_secs(self.clock.now());
        if now >= record.expires_at || now < record.created_at - CLOCK_SLACK {
            return Err(Refusal::ExpiredToken);
        }
        record.node.parse().map_err(|_| Refusal::UnknownToken)
    }
}

/// What is kept of a token: whoever reads the store cannot spend it.
fn hash(token: &str) -> String {
    octets::hex(&octets::sha256(token.as_bytes()))
}
