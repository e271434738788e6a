//! Trust bundles: our own, written by the authority, and those of the peers, each admitted by its own sequence (invariant I4) and
//! never merged with another (invariant I2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::bundle::{Admission, Bundle, BundleError, JwtAuthority};
use symbolon_proto::ids::TrustDomain;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use super::{Config, Error};
use crate::store::{self, SharedStore, Txn, codec, keys};

/// Every bundle we hold, by trust domain.
pub type Table = BTreeMap<TrustDomain, Arc<Bundle>>;

/// Keeps bundles: in the store, and whole in memory.
#[derive(Clone, Debug)]
pub struct Bundles {
    own: TrustDomain,
    refresh_hint: Duration,
    store: SharedStore,
    clock: Clock,
    table: Arc<watch::Sender<Arc<Table>>>,
    writing: Arc<Mutex<()>>,
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
    #[error(transparent)]
    Store(#[from] store::Error),
}

#[derive(Serialize, Deserialize)]
struct Record {
    trust_domain: String,
    jwks: String,
}

impl Bundles {
    pub(super) async fn load(config: &Config, store: SharedStore, clock: Clock) -> Result<Self, Error> {
        let mut table = Table::new();
        for stored in store.range(keys::bundles()).await?.0 {
            let record: Record = codec::decode("bundle", &stored.value)?;
            let Ok(trust_domain) = record.trust_domain.parse::<TrustDomain>() else { continue };
            match Bundle::parse_jwks(&trust_domain, record.jwks.as_bytes(), clock.now()) {
                Ok(parsed) => {
                    table.insert(trust_domain, Arc::new(parsed.bundle));
                }
                Err(error) => warn!(%trust_domain, %error, "a stored bundle cannot be read; waiting for a new one"),
            }
        }
        Ok(Self {
            own: config.trust_domain.clone(),
            refresh_hint: config.refresh_hint,
            store,
            clock,
            table: Arc::new(watch::Sender::new(Arc::new(table))),
            writing: Arc::default(),
        })
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
        self.keep(Bundle { sequence: sequence.saturating_add(1).max(floor), ..bundle }).await
    }

    /// Admits a peer's bundle if it is well formed, newer, and shares no root with anybody else's.
    ///
    /// # Errors
    /// A [`Refused`]; what we hold stays as it was.
    pub async fn offer(&self, trust_domain: &TrustDomain, jwks: &[u8]) -> Result<(), Refused> {
        self.admit(trust_domain, jwks, false).await
    }

    /// The operator's own word on a peer's bundle. `force`: also if it is not newer than what we hold, so that a peer whose key was
    /// stolen and who published a high sequence can be corrected.
    ///
    /// # Errors
    /// A [`Refused`]; what we hold stays as it was.
    pub async fn set(&self, trust_domain: &TrustDomain, jwks: &[u8], force: bool) -> Result<(), Refused> {
        warn!(%trust_domain, force, "the operator sets a peer's bundle");
        self.admit(trust_domain, jwks, force).await
    }

    async fn admit(&self, trust_domain: &TrustDomain, jwks: &[u8], force: bool) -> Result<(), Refused> {
        if *trust_domain == self.own {
            return Err(Refused::Ours(trust_domain.clone()));
        }
        let parsed = Bundle::parse_jwks(trust_domain, jwks, self.clock.now())?;
        for warning in &parsed.warnings {
            warn!(%trust_domain, %warning, "part of a peer's bundle was ignored");
        }
        let _writing = self.writing.lock().await;
        let table = self.all();
        for (other, known) in table.iter().filter(|(other, _)| *other != trust_domain) {
            if known.shares_a_key_with(&parsed.bundle) {
                return Err(Refused::SharedRoot(other.clone()));
            }
        }
        let stored = table.get(trust_domain).map(Arc::as_ref);
        match Bundle::admit(stored, &parsed.bundle, self.clock.now()) {
            Ok(Admission::Unchanged) => Ok(()),
            Ok(Admission::Newer) => Ok(self.keep(parsed.bundle).await?),
            Err(_) if force => Ok(self.keep(parsed.bundle).await?),
            Err(refused) => Err(refused.into()),
        }
    }

    async fn keep(&self, bundle: Bundle) -> Result<(), store::Error> {
        let jwks = String::from_utf8_lossy(&bundle.to_jwks()).into_owned();
        let record = Record { trust_domain: bundle.trust_domain.to_string(), jwks };
        let value = codec::encode("bundle", 1, &record)?;
        self.store.commit(Txn::new().put(keys::bundle(&bundle.trust_domain), value)).await?;
        info!(trust_domain = %bundle.trust_domain, sequence = bundle.sequence, authorities = bundle.x509.len(), "bundle");
        let bundle = Arc::new(bundle);
        self.table.send_modify(|table| {
            Arc::make_mut(table).insert(bundle.trust_domain.clone(), bundle.clone());
        });
        Ok(())
    }

    /// When the last authority of this trust domain's bundle expires.
    pub fn trusted_until(&self, trust_domain: &TrustDomain) -> Option<SystemTime> {
        let bundle = self.table.borrow().get(trust_domain).cloned()?;
        bundle.x509.iter().filter_map(|root| symbolon_kit::spiffe::svid::validity(root).ok()).map(|(_, end)| end).max()
    }
}
