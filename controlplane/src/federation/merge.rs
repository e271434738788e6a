//! What a peer told us, by key, and what it adds up to, by service. Pure.
//!
//! Per key the newest revision counts, whatever order things arrive in. A resource that is refused is *quarantined*: its revision is
//! remembered, so that both sides agree on what was said, and the last good content under that key stays in force. Keys that a
//! snapshot no longer names, but that must not vanish for that alone, are *orphans*: in force, and not part of the digest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use symbolon_proto::federation as wire;
use symbolon_proto::federation::Reason;

use super::policy::{Admitted, Policy, Refused, Usage};
use super::resource::{SetDigest, content_hash, service_of};
use crate::model::{Endpoint, ImportedService, ServiceName};

/// Longer keys name nothing of ours.
const MAX_KEY_BYTES: usize = 256;

/// Everything imported from one peer.
#[derive(Clone, Debug, Default)]
pub struct Imports {
    items: BTreeMap<Arc<str>, Item>,
    digest: SetDigest,
    usage: Usage,
}

#[derive(Clone, Debug)]
struct Item {
    revision: u64,
    hash: [u8; 32],
    good: Option<Good>,
    quarantined: Option<Reason>,
    orphan: bool,
}

#[derive(Clone, Debug)]
struct Good {
    encoded: Vec<u8>,
    admitted: Admitted,
}

/// One key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub revision: u64,
    pub hash: [u8; 32],
    /// The content in force.
    pub resource: Option<Vec<u8>>,
}

/// What became of a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Put {
    /// Nothing new.
    Same,
    /// In force.
    Took(Admitted),
    Refused(Refused),
}

impl Imports {
    /// Takes one resource under `key` at `revision`.
    pub fn put(&mut self, policy: &Policy, key: &str, revision: u64, resource: &wire::Resource) -> Put {
        let encoded = resource.encode_to_vec();
        let hash = content_hash(&encoded);
        let known = self.items.get(key);
        match known {
            Some(known) if revision < known.revision => {
                let said = format!("revision {revision} is older than {}, which we hold", known.revision);
                return Put::Refused(Refused { reason: Reason::StaleRevision, detail: said });
            }
            Some(known) if revision == known.revision && hash == known.hash && known.quarantined.is_none() => {
                self.adopt(key);
                return Put::Same;
            }
            Some(known) if revision == known.revision && hash != known.hash => {
                self.adopt(key);
                self.quarantine(key, revision, Reason::StaleRevision);
                let said = format!("revision {revision} was seen with other content");
                return Put::Refused(Refused { reason: Reason::StaleRevision, detail: said });
            }
            None if key.len() > MAX_KEY_BYTES => {
                let said = format!("the key is longer than {MAX_KEY_BYTES} bytes");
                return Put::Refused(Refused { reason: Reason::Malformed, detail: said });
            }
            None if self.items.len() >= Self::most_keys(policy) => {
                return Put::Refused(Refused { reason: Reason::Quota, detail: "too many keys".into() });
            }
            _ => {}
        }
        let mine = known.map_or_else(Usage::default, Item::usage);
        let others =
            Usage { services: self.usage.services - mine.services, endpoints: self.usage.endpoints - mine.endpoints };
        let admitted = policy.admit(key, resource, others);
        self.replace(key, |before| match &admitted {
            Ok(admitted) => Item {
                revision,
                hash,
                good: Some(Good { encoded, admitted: admitted.clone() }),
                quarantined: None,
                orphan: false,
            },
            Err(refused) => Item {
                revision,
                hash,
                good: before.and_then(|item| item.good),
                quarantined: Some(refused.reason),
                orphan: false,
            },
        });
        admitted.map_or_else(Put::Refused, Put::Took)
    }

    /// Each shard holds at least one endpoint, each service adds its own key and its capacity.
    fn most_keys(policy: &Policy) -> usize {
        policy.quotas.endpoints + 2 * policy.quotas.services + 16
    }

    fn replace(&mut self, key: &str, with: impl FnOnce(Option<Item>) -> Item) {
        let (key, before) = match self.items.remove_entry(key) {
            Some((key, before)) => {
                self.forget(&key, &before);
                (key, Some(before))
            }
            None => (Arc::from(key), None),
        };
        let item = with(before);
        self.learn(&key, &item);
        self.items.insert(key, item);
    }

    fn learn(&mut self, key: &str, item: &Item) {
        if !item.orphan {
            self.digest.toggle(key, item.revision);
        }
        self.usage.services += item.usage().services;
        self.usage.endpoints += item.usage().endpoints;
    }

    fn forget(&mut self, key: &str, item: &Item) {
        if !item.orphan {
            self.digest.toggle(key, item.revision);
        }
        self.usage.services -= item.usage().services;
        self.usage.endpoints -= item.usage().endpoints;
    }

    /// The peer names this key again.
    fn adopt(&mut self, key: &str) {
        if self.items.get(key).is_some_and(|item| item.orphan) {
            self.set(key, |item| item.orphan = false);
        }
    }

    /// The peer no longer names this key, and that is not enough to drop it.
    pub fn orphan(&mut self, key: &str) {
        self.set(key, |item| item.orphan = true);
    }

    /// Refuses what was taken at `revision`; used for bundles, whose content others judge.
    pub fn quarantine(&mut self, key: &str, revision: u64, reason: Reason) {
        if self.items.get(key).is_some_and(|item| item.revision == revision) {
            self.set(key, |item| item.quarantined = Some(reason));
        }
    }

    fn set(&mut self, key: &str, change: impl FnOnce(&mut Item)) {
        if let Some((key, mut item)) = self.items.remove_entry(key) {
            self.forget(&key, &item);
            change(&mut item);
            self.learn(&key, &item);
            self.items.insert(key, item);
        }
    }

    /// Forgets `key`, on the peer's word. Whether there was anything.
    pub fn remove(&mut self, key: &str) -> bool {
        let Some((key, item)) = self.items.remove_entry(key) else { return false };
        self.forget(&key, &item);
        true
    }

    /// What it adds up to for `service`; `None` if the peer does not offer it.
    pub fn service(&self, service: &ServiceName, max_weight: u32) -> Option<ImportedService> {
        let Admitted::Service { identities, .. } = self.good(&super::resource::service_key(service))? else {
            return None;
        };
        let prefix = format!("shard/{service}/");
        let mut all: BTreeMap<Arc<str>, Endpoint> = BTreeMap::new();
        let shards =
            self.items.range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded));
        for (_, item) in shards.take_while(|(key, _)| key.starts_with(&prefix)) {
            if let Some(Good { admitted: Admitted::Shard { endpoints, .. }, .. }) = &item.good {
                for endpoint in endpoints {
                    all.entry(endpoint.id.clone()).or_insert_with(|| endpoint.clone());
                }
            }
        }
        let most = (all.len() as u64).saturating_mul(max_weight.into());
        let capacity = match self.good(&super::resource::capacity_key(service)) {
            Some(Admitted::Capacity { claim, .. }) => Some((*claim).min(most)),
            _ => None,
        };
        Some(ImportedService {
            endpoints: all.into_values().collect(),
            identities: identities.clone(),
            capacity,
            since: 0,
        })
    }

    fn good(&self, key: &str) -> Option<&Admitted> {
        Some(&self.items.get(key)?.good.as_ref()?.admitted)
    }

    /// Whether anything that the peer said is not in force: after a restart with other grants it is worth asking again.
    pub fn has_refused(&self) -> bool {
        self.items.values().any(|item| item.good.as_ref().is_none_or(|good| content_hash(&good.encoded) != item.hash))
    }

    /// Every service that any key speaks of.
    pub fn services(&self) -> BTreeSet<ServiceName> {
        self.items.keys().filter_map(|key| service_of(key)).collect()
    }

    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.items.keys()
    }

    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Of all that the peer names.
    pub fn digest(&self) -> SetDigest {
        self.digest
    }

    /// Of `keys` alone.
    pub fn digest_of<'a>(&self, keys: impl IntoIterator<Item = &'a Arc<str>>) -> SetDigest {
        let mut digest = SetDigest::default();
        for key in keys {
            if let Some(item) = self.items.get(key) {
                digest.toggle(key, item.revision);
            }
        }
        digest
    }

    /// The key as it is to be stored; `None` if it is to be deleted.
    pub fn record(&self, key: &str) -> Option<Record> {
        let item = self.items.get(key)?;
        let resource = item.good.as_ref().map(|good| good.encoded.clone());
        Some(Record { revision: item.revision, hash: item.hash, resource })
    }

    /// Takes back what was stored. Grants may have been narrowed since: what they no longer cover is not in force.
    pub fn restore(&mut self, policy: &Policy, key: &str, record: Record) -> Result<(), Refused> {
        let malformed = |error: prost::DecodeError| Refused { reason: Reason::Malformed, detail: error.to_string() };
        let admitted = match record.resource {
            None => Ok(None),
            Some(encoded) => wire::Resource::decode(encoded.as_slice())
                .map_err(malformed)
                .and_then(|resource| policy.admit(key, &resource, self.usage))
                .map(|admitted| Some(Good { encoded, admitted })),
        };
        let (good, refused) = admitted.map_or_else(|refused| (None, Some(refused)), |good| (good, None));
        let quarantined = refused.as_ref().map(|refused| refused.reason);
        let (revision, hash) = (record.revision, record.hash);
        self.replace(key, |_| Item { revision, hash, good, quarantined, orphan: false });
        refused.map_or(Ok(()), Err)
    }
}

impl Item {
    fn usage(&self) -> Usage {
        match self.good.as_ref().map(|good| &good.admitted) {
            Some(Admitted::Service { .. }) => Usage { services: 1, endpoints: 0 },
            Some(Admitted::Shard { endpoints, .. }) => Usage { services: 0, endpoints: endpoints.len() },
            _ => Usage::default(),
        }
    }
}

#[cfg(test)]
mod tests;
