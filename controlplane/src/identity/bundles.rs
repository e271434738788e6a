//! Trust bundles: our own, written by the authority, and those of the peers, each admitted by its own sequence (invariant I4) and
//! never merged with another (invariant I2).
//!
//! Trust in a domain can be *ended*: its bundle is out of the table before anything is written, since a disk may be slow and a
//! stolen key is not, and nobody's offer brings it back, until the operator *allows* the domain again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::bundle::{Admission, Bundle, BundleError, Content, JwtAuthority};
use symbolon_proto::ids::TrustDomain;
use tokio::sync::{Mutex, watch};
use tracing::{error, info, warn};

use super::{Config, Error};
use crate::store::{self, SharedStore, Txn, codec, keys};

/// Every bundle we hold, by trust domain.
pub type Table = BTreeMap<TrustDomain, Arc<Bundle>>;

/// Where the bundle that is held came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Endpoint,
    #[default]
    Link,
    Operator,
}

/// Keeps bundles: in the store, and whole in memory.
#[derive(Clone, Debug)]
pub struct Bundles {
    own: TrustDomain,
    refresh_hint: Duration,
    store: SharedStore,
    clock: Clock,
    table: Arc<watch::Sender<Arc<Table>>>,
    marks: Arc<std::sync::Mutex<Marks>>,
    /// Held while the store is written, so that it says last what happened last.
    writing: Arc<Mutex<()>>,
}

/// What is known of trust domains beside their bundles. A std mutex guards it: nothing awaits while it is held.
#[derive(Debug, Default)]
struct Marks {
    sources: BTreeMap<TrustDomain, Source>,
    ended: BTreeSet<TrustDomain>,
}

/// Why an offered bundle was not taken; the one we hold stays.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0} is our own trust domain: nobody else speaks for it")]
    Ours(TrustDomain),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("it holds a root of trust domain {0}")]
    SharedRoot(TrustDomain),
    #[error("trust in {0} was ended here; `symbolon federation create` begins it anew")]
    Ended(TrustDomain),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("what an operator does must be recorded first, and it cannot be: {0}")]
    Unrecorded(super::audit::Error),
}

#[derive(Serialize, Deserialize)]
struct Record {
    trust_domain: String,
    jwks: String,
    #[serde(default)]
    source: Source,
}

#[derive(Serialize, Deserialize)]
struct EndedRecord {
    /// Unix seconds.
    ended_at: i64,
}

impl Bundles {
    pub(super) async fn load(config: &Config, store: SharedStore, clock: Clock) -> Result<Self, Error> {
        let (mut table, mut marks) = (Table::new(), Marks::default());
        for stored in store.range(keys::bundles()).await?.0 {
            let Some(trust_domain) = keys::domain_of_bundle(&stored.key) else { continue };
            let (bundle, source) = match decode(&trust_domain, &stored.value, clock.now()) {
                Ok(read) => read,
                Err(damaged) => match before(&store, &trust_domain, clock.now()).await? {
                    Some(read) => {
                        error!(%trust_domain, %damaged, sequence = read.0.sequence, "a stored bundle is damaged; the one before it is used");
                        read
                    }
                    None => {
                        error!(%trust_domain, %damaged, "a stored bundle is damaged, and so is the one before it; waiting for a new one");
                        continue;
                    }
                },
            };
            marks.sources.insert(trust_domain.clone(), source);
            table.insert(trust_domain, Arc::new(bundle));
        }
        for stored in store.range(keys::ended_domains()).await?.0 {
            let Some(trust_domain) = keys::domain_that_ended(&stored.key) else { continue };
            table.remove(&trust_domain);
            marks.ended.insert(trust_domain);
        }
        Ok(Self {
            own: config.trust_domain.clone(),
            refresh_hint: config.refresh_hint,
            store,
            clock,
            table: Arc::new(watch::Sender::new(Arc::new(table))),
            marks: Arc::new(std::sync::Mutex::new(marks)),
            writing: Arc::default(),
        })
    }

    /// By the clock of the control plane.
    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Every bundle, now and after each change.
    pub fn watch(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    /// Every bundle, now.
    pub fn all(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// Our own bundle, once the authority has published.
    pub fn own(&self) -> Option<Arc<Bundle>> {
        self.table.borrow().get(&self.own).cloned()
    }

    /// Publishes our own authorities; the sequence rises by one if they differ from what is published.
    pub(super) async fn publish_own(
        &self,
        x509: Vec<CertificateDer<'static>>,
        jwt: Vec<JwtAuthority>,
        wit: Vec<JwtAuthority>,
    ) -> Result<(), store::Error> {
        let _writing = self.writing.lock().await;
        let before = self.own();
        let sequence = before.as_ref().map_or(0, |bundle| bundle.sequence);
        let bundle = Bundle::new(self.own.clone(), sequence, self.refresh_hint, x509).with_tokens(jwt, wit);
        if before.as_deref() == Some(&bundle) {
            return Ok(());
        }
        // A store that was lost or restored must not make the sequence fall behind what peers saw: the clock keeps it rising.
        let floor = u64::try_from(symbolon_kit::clock::unix_secs(self.clock.now())).unwrap_or(1);
        self.keep(Bundle { sequence: sequence.saturating_add(1).max(floor), ..bundle }, Source::Operator).await
    }

    /// Admits a peer's bundle if it is well formed, newer, and shares no root with anybody else's.
    ///
    /// # Errors
    /// A [`Refused`]; what we hold stays as it was.
    pub async fn offer(&self, trust_domain: &TrustDomain, jwks: &[u8], source: Source) -> Result<(), Refused> {
        self.admit(trust_domain, jwks, source, false).await
    }

    /// The operator's own word on a peer's bundle. `force`: also if it is not newer than what we hold, so that a peer whose key was
    /// stolen and who published a high sequence can be corrected.
    ///
    /// # Errors
    /// A [`Refused`]; what we hold stays as it was.
    pub async fn set(&self, trust_domain: &TrustDomain, jwks: &[u8], force: bool) -> Result<(), Refused> {
        warn!(%trust_domain, force, "the operator sets a peer's bundle");
        self.admit(trust_domain, jwks, Source::Operator, force).await
    }

    async fn admit(&self, trust_domain: &TrustDomain, jwks: &[u8], source: Source, force: bool) -> Result<(), Refused> {
        if *trust_domain == self.own {
            return Err(Refused::Ours(trust_domain.clone()));
        }
        let parsed = Bundle::parse_jwks(trust_domain, jwks, self.clock.now())?;
        for warning in &parsed.warnings {
            warn!(%trust_domain, %warning, "part of a peer's bundle was ignored");
        }
        let _writing = self.writing.lock().await;
        if self.marks().ended.contains(trust_domain) {
            return Err(Refused::Ended(trust_domain.clone()));
        }
        let table = self.all();
        for (other, known) in table.iter().filter(|(other, _)| *other != trust_domain) {
            if known.shares_a_key_with(&parsed.bundle) {
                return Err(Refused::SharedRoot(other.clone()));
            }
        }
        let stored = table.get(trust_domain).map(Arc::as_ref);
        let all_expired = parsed.content == Content::Authorities && parsed.bundle.x509.is_empty();
        match Bundle::admit(stored, &parsed.bundle, self.clock.now()) {
            Ok(Admission::Unchanged) => Ok(()),
            // Nobody means to withdraw everything by letting it grow old.
            Ok(Admission::Newer) if all_expired && !force => {
                Err(BundleError::Unusable("every authority in it has expired".into()).into())
            }
            Ok(Admission::Newer) => Ok(self.keep(parsed.bundle, source).await?),
            // F-4: where a publisher gives no sequence at all, the newest fetch counts.
            Err(BundleError::SameSequence(0)) if source == Source::Endpoint && !all_expired => {
                Ok(self.keep(parsed.bundle, source).await?)
            }
            Err(_) if force => Ok(self.keep(parsed.bundle, source).await?),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Whether this document would withdraw every X.509 authority that we hold of `trust_domain`.
    pub fn would_withdraw(&self, trust_domain: &TrustDomain, content: Content) -> bool {
        content.withdraws_x509() && self.table.borrow().get(trust_domain).is_some_and(|held| !held.x509.is_empty())
    }

    async fn keep(&self, bundle: Bundle, source: Source) -> Result<(), store::Error> {
        let trust_domain = bundle.trust_domain.clone();
        let mut txn = Txn::new().put(keys::bundle(&trust_domain), encode(&bundle, source)?);
        // The one before stays beside it: should a bit flip in the new one, there is a good one to go on from (fault 46).
        if let Some(replaced) = self.all().get(&trust_domain) {
            txn = txn.put(keys::bundle_before(&trust_domain), encode(replaced, self.source(&trust_domain))?);
        }
        self.store.commit(txn).await?;
        info!(%trust_domain, sequence = bundle.sequence, authorities = bundle.x509.len(), source = source.label(), "bundle");
        self.table.send_if_modified(|table| {
            let mut marks = self.marks();
            if marks.ended.contains(&trust_domain) {
                return false; // ended while this was being written; `end` removes the record, too
            }
            marks.sources.insert(trust_domain.clone(), source);
            Arc::make_mut(table).insert(trust_domain.clone(), Arc::new(bundle));
            true
        });
        Ok(())
    }

    /// Ends trust in `trust_domain`: everybody who watches the table loses its bundle now, and no offer brings it back. It is
    /// durable when this returns.
    ///
    /// # Errors
    /// If that it ended cannot be stored: it has ended, and would come back with a restart.
    pub async fn end(&self, trust_domain: &TrustDomain) -> Result<(), store::Error> {
        if *trust_domain == self.own {
            return Ok(()); // we cannot end trust in ourselves
        }
        self.marks().ended.insert(trust_domain.clone());
        self.take_out(trust_domain);
        warn!(%trust_domain, "trust ended");
        let _writing = self.writing.lock().await;
        let record = EndedRecord { ended_at: symbolon_kit::clock::unix_secs(self.clock.now()) };
        let txn = without(trust_domain).put(keys::ended_domain(trust_domain), codec::encode("ended", 1, &record)?);
        self.store.commit(txn).await.map(drop)
    }

    /// Drops what is held of a trust domain with which there is no relationship; should there be one again, it is offered anew.
    ///
    /// # Errors
    /// If that cannot be stored.
    pub async fn forget(&self, trust_domain: &TrustDomain) -> Result<(), store::Error> {
        if *trust_domain == self.own {
            return Ok(());
        }
        self.take_out(trust_domain);
        let _writing = self.writing.lock().await;
        self.store.commit(without(trust_domain)).await.map(drop)
    }

    /// Lets bundles of `trust_domain` in again.
    ///
    /// # Errors
    /// If that cannot be stored; trust stays ended then.
    pub async fn allow(&self, trust_domain: &TrustDomain) -> Result<(), store::Error> {
        let _writing = self.writing.lock().await;
        if !self.marks().ended.contains(trust_domain) {
            return Ok(());
        }
        self.store.commit(Txn::new().delete(keys::ended_domain(trust_domain))).await?;
        self.marks().ended.remove(trust_domain);
        info!(%trust_domain, "trust may begin anew");
        Ok(())
    }

    /// The trust domains in which trust was ended.
    pub fn ended(&self) -> BTreeSet<TrustDomain> {
        self.marks().ended.clone()
    }

    /// Where the bundle that is held of `trust_domain` came from.
    pub fn source(&self, trust_domain: &TrustDomain) -> Source {
        self.marks().sources.get(trust_domain).copied().unwrap_or_default()
    }

    fn take_out(&self, trust_domain: &TrustDomain) {
        self.table.send_if_modified(|table| {
            table.contains_key(trust_domain) && Arc::make_mut(table).remove(trust_domain).is_some()
        });
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// When the last authority of this trust domain's bundle expires.
    pub fn trusted_until(&self, trust_domain: &TrustDomain) -> Option<SystemTime> {
        let bundle = self.table.borrow().get(trust_domain).cloned()?;
        bundle.x509.iter().filter_map(|root| symbolon_kit::spiffe::svid::validity(root).ok()).map(|(_, end)| end).max()
    }
}

// === how they are stored ===

fn encode(bundle: &Bundle, source: Source) -> Result<Vec<u8>, store::Error> {
    let jwks = String::from_utf8_lossy(&bundle.to_jwks()).into_owned();
    codec::encode("bundle", 1, &Record { trust_domain: bundle.trust_domain.to_string(), jwks, source })
}

fn decode(trust_domain: &TrustDomain, value: &[u8], now: SystemTime) -> Result<(Bundle, Source), Refused> {
    let record: Record = codec::decode("bundle", value)?;
    Ok((Bundle::parse_jwks(trust_domain, record.jwks.as_bytes(), now)?.bundle, record.source))
}

async fn before(
    store: &SharedStore,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Option<(Bundle, Source)>, store::Error> {
    let stored = store.get(&keys::bundle_before(trust_domain)).await?;
    Ok(stored.and_then(|stored| decode(trust_domain, &stored.value, now).ok()))
}

fn without(trust_domain: &TrustDomain) -> Txn {
    Txn::new().delete(keys::bundle(trust_domain)).delete(keys::bundle_before(trust_domain))
}

impl Source {
    /// The word for it, to operators and in answers.
    pub fn label(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Link => "link",
            Self::Operator => "operator",
        }
    }
}

impl Refused {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Ours(_) => "ours",
            Self::Bundle(error) => error.label(),
            Self::SharedRoot(_) => "shared_root",
            Self::Ended(_) => "ended",
            Self::Store(_) => "store",
            Self::Unrecorded(_) => "unrecorded",
        }
    }

    /// Our own trouble, and not that of what was offered.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Unrecorded(_))
    }
}
