//! Registration entries: which node may have which identity, for callers with which selectors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use symbolon_kit::octets;
use symbolon_proto::ids::{IdError, SpiffeId, TrustDomain};
use tokio::sync::{Mutex, watch};
use tracing::warn;

use crate::model::{NameError, NodeName};
use crate::store::{self, Committed, SharedStore, Txn, codec, keys};

/// The most selectors, and DNS names, of one entry.
const MAX_LIST: usize = 64;
/// The TTLs of an entry, in seconds: an SVID must outlive its own renewal, and no authority lives for ten years.
const TTL: std::ops::RangeInclusive<u64> = 2..=10 * 365 * 24 * 3600;

/// One registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: Arc<str>,
    pub spiffe_id: SpiffeId,
    /// The node that may have it.
    pub node: NodeName,
    /// `kind:name:value`; a caller must match them all. Never empty.
    pub selectors: Vec<String>,
    /// `None`: the control plane's default.
    pub ttl: Option<Duration>,
    pub dns_names: Vec<String>,
    pub hint: String,
}

/// All entries by id.
pub type Table = BTreeMap<Arc<str>, Arc<Entry>>;

/// Keeps entries: in the store, and whole in memory.
#[derive(Clone, Debug)]
pub struct Entries {
    trust_domain: TrustDomain,
    /// Proxies end their connections by this TTL; a shorter one would let traffic run on an expired SVID.
    shortest: Duration,
    store: SharedStore,
    table: Arc<watch::Sender<Arc<Table>>>,
    /// One writer at a time, so that the table never shows an order that the store does not have.
    writing: Arc<Mutex<()>>,
}

/// Why an entry was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0:?}: {1}")]
    Id(String, IdError),
    #[error("the node: {0}")]
    Node(#[from] NameError),
    #[error("{id} is not in trust domain {trust_domain}; only its own control plane can register it")]
    ForeignTrustDomain { id: SpiffeId, trust_domain: TrustDomain },
    #[error("{0} lies below /symbolon/, which is reserved for Symbolon's own processes")]
    Reserved(SpiffeId),
    #[error(
        "an entry needs 1 to {MAX_LIST} selectors, e.g. unix:uid:1000: without one, any process of the node could have it"
    )]
    Selectors,
    #[error(
        "{0:?} is not a selector: use unix:uid:N, unix:gid:N, unix:supplementary_gid:N, unix:path:P or unix:sha256:H"
    )]
    Selector(String),
    #[error("{0:?} is not a DNS name")]
    DnsName(String),
    #[error("the TTL must be from {} to {} seconds", TTL.start(), TTL.end())]
    Ttl,
    #[error(
        "the TTL must be at least identity.svidTtl, {} s: proxies end their connections by that one, and none may outlive its \
         certificate. Lower svidTtl instead", .0.as_secs()
    )]
    ShorterThanConnections(Duration),
    #[error("the same identity, node and selectors are registered already, as {0}")]
    Exists(Arc<str>),
    #[error(transparent)]
    Store(#[from] store::Error),
}

#[derive(Serialize, Deserialize)]
struct Record {
    spiffe_id: String,
    node: String,
    selectors: Vec<String>,
    ttl_seconds: Option<u64>,
    dns_names: Vec<String>,
    hint: String,
}

impl Entries {
    pub(super) async fn load(
        trust_domain: TrustDomain,
        shortest: Duration,
        store: SharedStore,
    ) -> Result<Self, store::Error> {
        let mut table = Table::new();
        for stored in store.range(keys::entries()).await?.0 {
            let record: Record = codec::decode("entry", &stored.value)?;
            match keys::entry_id(&stored.key).and_then(|id| record.parse(id)) {
                Some(entry) => drop(table.insert(entry.id.clone(), Arc::new(entry))),
                None => warn!(key = &*stored.key.0, "a stored entry cannot be read; nobody gets its identity"),
            }
        }
        let table = Arc::new(watch::Sender::new(Arc::new(table)));
        Ok(Self { trust_domain, shortest, store, table, writing: Arc::default() })
    }

    /// All entries, now.
    pub fn all(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// All entries, now and after each change.
    pub fn watch(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    /// The entry with this id.
    pub fn by_id(&self, id: &str) -> Option<Arc<Entry>> {
        self.table.borrow().get(id).cloned()
    }

    /// Registers an entry; durable when it returns.
    ///
    /// # Errors
    /// A [`Refused`] that says what to change.
    pub async fn create(&self, entry: New) -> Result<Arc<Entry>, Refused> {
        let entry = entry.check(&self.trust_domain)?;
        if entry.ttl.is_some_and(|ttl| ttl < self.shortest) {
            return Err(Refused::ShorterThanConnections(self.shortest));
        }
        let _writing = self.writing.lock().await;
        let same = |known: &&Arc<Entry>| {
            known.spiffe_id == entry.spiffe_id && known.node == entry.node && known.selectors == entry.selectors
        };
        if let Some(known) = self.table.borrow().values().find(same) {
            return Err(Refused::Exists(known.id.clone()));
        }
        let key = keys::entry(&entry.id);
        let value = codec::encode("entry", 1, &Record::of(&entry))?;
        if let Committed::Conflict { .. } = self.store.commit(Txn::new().absent(key.clone()).put(key, value)).await? {
            return Err(Refused::Exists(entry.id)); // 64 random bits: somebody else's by the same accident
        }
        let entry = Arc::new(entry);
        self.table.send_modify(|table| {
            Arc::make_mut(table).insert(entry.id.clone(), entry.clone());
        });
        Ok(entry)
    }
}

/// An entry as an operator asks for it.
#[derive(Clone, Debug, Default)]
pub struct New {
    pub spiffe_id: String,
    pub node: String,
    pub selectors: Vec<String>,
    pub ttl: Option<Duration>,
    pub dns_names: Vec<String>,
    pub hint: String,
}

impl New {
    fn check(self, trust_domain: &TrustDomain) -> Result<Entry, Refused> {
        let parsed = SpiffeId::workload(&self.spiffe_id);
        let spiffe_id = parsed.map_err(|e| Refused::Id(self.spiffe_id.chars().take(80).collect(), e))?;
        if spiffe_id.trust_domain() != trust_domain {
            return Err(Refused::ForeignTrustDomain { id: spiffe_id, trust_domain: trust_domain.clone() });
        }
        if spiffe_id.is_reserved() {
            return Err(Refused::Reserved(spiffe_id));
        }
        if self.ttl.is_some_and(|ttl| !TTL.contains(&ttl.as_secs())) {
            return Err(Refused::Ttl);
        }
        let node = self.node.parse()?;
        let mut selectors = self.selectors;
        selectors.sort();
        selectors.dedup();
        if selectors.is_empty() || selectors.len() > MAX_LIST {
            return Err(Refused::Selectors);
        }
        if let Some(bad) = selectors.iter().find(|selector| !is_selector(selector)) {
            return Err(Refused::Selector(bad.chars().take(80).collect()));
        }
        if let Some(bad) =
            self.dns_names.iter().find(|name| !is_dns_name(name)).or_else(|| self.dns_names.get(MAX_LIST))
        {
            return Err(Refused::DnsName(bad.chars().take(80).collect()));
        }
        let (dns_names, hint) = (self.dns_names, self.hint.chars().take(1024).collect());
        Ok(Entry {
            id: octets::hex(&octets::random::<8>()).into(),
            spiffe_id,
            node,
            selectors,
            ttl: self.ttl,
            dns_names,
            hint,
        })
    }
}

impl Record {
    fn of(entry: &Entry) -> Self {
        Self {
            spiffe_id: entry.spiffe_id.to_string(),
            node: entry.node.to_string(),
            selectors: entry.selectors.clone(),
            ttl_seconds: entry.ttl.map(|ttl| ttl.as_secs()),
            dns_names: entry.dns_names.clone(),
            hint: entry.hint.clone(),
        }
    }

    fn parse(self, id: &str) -> Option<Entry> {
        Some(Entry {
            id: id.into(),
            spiffe_id: SpiffeId::workload(&self.spiffe_id).ok()?,
            node: self.node.parse().ok()?,
            selectors: self.selectors,
            ttl: self.ttl_seconds.map(Duration::from_secs),
            dns_names: self.dns_names,
            hint: self.hint,
        })
    }
}

/// `kind:name:value` of a kind that some attestor produces.
fn is_selector(text: &str) -> bool {
    let mut parts = text.splitn(3, ':');
    let (Some("unix"), Some(name), Some(value)) = (parts.next(), parts.next(), parts.next()) else { return false };
    match name {
        "uid" | "gid" | "supplementary_gid" => value.parse::<u32>().is_ok(),
        "path" => value.starts_with('/') && value.len() <= 4096 && !value.contains('\0'),
        "sha256" => value.len() == 64 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
        _ => false,
    }
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}
