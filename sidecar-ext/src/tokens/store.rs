//! Which tokens are kept, and how old they are; pure. Bounded twice: in all, and per entry, so that one workload that asks for ever
//! new audiences pushes out its own tokens and nobody else's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use symbolon_proto::ids::SpiffeId;

use super::{Key, Token};
use crate::identity::Entry;

const MAX_TOKENS: usize = 10_000;
const MAX_OF_ENTRY: usize = 64;

/// The tokens, by when they were last used.
#[derive(Debug, Default)]
pub(super) struct Store {
    kept: HashMap<Key, Kept>,
    /// Key by time of use; the first was not used for the longest.
    by_use: BTreeMap<u64, Key>,
    of_entry: HashMap<Arc<str>, BTreeMap<u64, Key>>,
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    token: Arc<Token>,
    /// Of the entry, when it was minted: by other terms it is not the entry's token.
    terms: (SpiffeId, u32),
    used: u64,
}

/// How much of its life a token has behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// Less than half.
    Fresh,
    /// More than half: the next is due.
    Ageing,
    /// All but a tenth: of little use to whoever gets it.
    Ending,
}

impl Store {
    /// The token, if it lives.
    pub(super) fn get(&mut self, key: &Key, entry: &Entry, now: SystemTime) -> Option<(Arc<Token>, Age)> {
        let kept = self.kept.get_mut(key)?;
        if kept.token.expires_at <= now || kept.terms != terms(entry) {
            self.remove(key);
            return None;
        }
        let (token, used) = (kept.token.clone(), kept.used);
        self.uses += 1;
        kept.used = self.uses;
        self.forget_use(key, used);
        self.note_use(key.clone(), self.uses);
        let life = token.expires_at.duration_since(token.issued_at).unwrap_or_default();
        let left = token.expires_at.duration_since(now).unwrap_or_default();
        let age = match left {
            left if left > life / 2 => Age::Fresh,
            left if left > life / 10 => Age::Ageing,
            _ => Age::Ending,
        };
        Some((token, age))
    }

    pub(super) fn put(&mut self, key: Key, entry: &Entry, token: Arc<Token>) {
        self.remove(&key);
        while self.kept.len() >= MAX_TOKENS
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            self.remove(&oldest.clone());
        }
        while let Some(own) = self.of_entry.get(&key.0).filter(|own| own.len() >= MAX_OF_ENTRY)
            && let Some((_, oldest)) = own.first_key_value()
        {
            self.remove(&oldest.clone());
        }
        self.uses += 1;
        self.note_use(key.clone(), self.uses);
        self.kept.insert(key, Kept { token, terms: terms(entry), used: self.uses });
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Key, &Token) -> bool) {
        let gone: Vec<_> =
            self.kept.iter().filter(|(key, kept)| !keep(key, &kept.token)).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.forget_use(key, kept.used);
        }
    }

    fn note_use(&mut self, key: Key, used: u64) {
        self.of_entry.entry(key.0.clone()).or_default().insert(used, key.clone());
        self.by_use.insert(used, key);
    }

    fn forget_use(&mut self, key: &Key, used: u64) {
        self.by_use.remove(&used);
        if let Some(own) = self.of_entry.get_mut(&key.0) {
            own.remove(&used);
            if own.is_empty() {
                self.of_entry.remove(&key.0);
            }
        }
    }
}

fn terms(entry: &Entry) -> (SpiffeId, u32) {
    (entry.spiffe_id.clone(), entry.jwt_ttl_seconds)
}

/// The key that a token of our own control plane says it is signed with.
pub(super) fn kid(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Header {
        kid: String,
    }
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
    serde_json::from_slice::<Header>(&header).ok().map(|header| header.kid)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{entry, now};
    use crate::tokens::{Audience, Text};

    fn token(from: SystemTime, life: u64) -> Arc<Token> {
        Arc::new(Token {
            spiffe_id: "spiffe://a.example/w".parse().unwrap(),
            text: Text::received("t".into()),
            key: None,
            kid: "k".into(),
            issued_at: from,
            expires_at: from + Duration::from_secs(life),
        })
    }

    fn key(id: &str, audience: &str) -> Key {
        (id.into(), Audience::parse(vec![audience.into()]).unwrap())
    }

    #[test]
    fn a_token_ages_and_ends() {
        let web = entry("web", "spiffe://a.example/w", &["unix:uid:0"]);
        let mut store = Store::default();
        store.put(key("web", "db"), &web, token(now(), 100));
        let mut age = |after| {
            let at = now() + Duration::from_secs(after);
            store.get(&key("web", "db"), &web, at).map(|(_, age)| age)
        };
        assert_eq!(age(0), Some(Age::Fresh));
        assert_eq!(age(49), Some(Age::Fresh));
        assert_eq!(age(51), Some(Age::Ageing));
        assert_eq!(age(91), Some(Age::Ending));
        assert_eq!(age(100), None);
        assert_eq!(age(0), None, "forgotten");
    }

    #[test]
    fn by_other_terms_it_is_another_token() {
        let web = entry("web", "spiffe://a.example/w", &["unix:uid:0"]);
        let mut store = Store::default();
        store.put(key("web", "db"), &web, token(now(), 100));
        let shorter = Entry { jwt_ttl_seconds: 60, ..web };
        assert!(store.get(&key("web", "db"), &shorter, now()).is_none());
    }

    #[test]
    fn i_9_one_entry_pushes_out_its_own_tokens_first() {
        let (web, job) = (entry("web", "spiffe://a.example/w", &["x"]), entry("job", "spiffe://a.example/j", &["x"]));
        let mut store = Store::default();
        store.put(key("job", "db"), &job, token(now(), 100));
        for at in 0..MAX_OF_ENTRY + 10 {
            store.put(key("web", &at.to_string()), &web, token(now(), 100));
            assert!(store.get(&key("web", "0"), &web, now()).is_some(), "what is used stays");
        }
        assert_eq!(store.kept.len(), MAX_OF_ENTRY + 1);
        assert!(store.get(&key("job", "db"), &job, now()).is_some());
        assert!(store.get(&key("web", "1"), &web, now()).is_none());
        for at in 0..MAX_TOKENS {
            let name = format!("e{at}");
            store.put(key(&name, "db"), &entry(&name, "spiffe://a.example/w", &["x"]), token(now(), 100));
        }
        assert_eq!((store.kept.len(), store.by_use.len()), (MAX_TOKENS, MAX_TOKENS));
        store.retain(|_, _| false);
        assert!(store.by_use.is_empty() && store.of_entry.is_empty());
    }

    #[test]
    fn the_key_is_read_from_the_header() {
        let encoded = URL_SAFE_NO_PAD.encode(br#"{"alg":"ES256","kid":"k1"}"#);
        assert_eq!(kid(&format!("{encoded}.x.y")).as_deref(), Some("k1"));
        assert_eq!(kid("x.y.z"), None);
        assert_eq!(kid(""), None);
    }
}
