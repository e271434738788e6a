//! How the authorities come to life: what is stored and what keys there are must fit, or the start is refused. A new authority in
//! place of one that was lost is made only if the operator says so: everybody trusts the lost one.

use std::collections::BTreeSet;

use super::*;
use crate::store::{Key, keys as stored};

/// Where a kind's journal lies.
pub(super) fn journal_key(kind: Kind) -> Key {
    match kind {
        Kind::X509 => stored::authority(),
        Kind::Jwt | Kind::Wit => stored::token_authority(kind.word()),
    }
}

impl Authority {
    /// Reads the journals, or makes the first authorities. The issuer is ready when this returns.
    pub(in crate::identity) async fn load_or_create(
        config: &Config,
        store: SharedStore,
        clock: Clock,
        bundles: Bundles,
        audit: Audit,
        metrics: &Metrics,
    ) -> Result<(Self, Authorities, Issuer), Error> {
        let place = config.authority.keys.clone();
        let (folder, trust_domain) = (config.key_dir.clone(), config.trust_domain.clone());
        let keys = blocking(move || Ok(place.open(&folder, &trust_domain)?)).await?;
        Self::with_keys(config, store, clock, bundles, audit, metrics, keys).await
    }

    /// As [`Self::load_or_create`], with the key manager given.
    pub(in crate::identity) async fn with_keys(
        config: &Config,
        store: SharedStore,
        clock: Clock,
        bundles: Bundles,
        audit: Audit,
        metrics: &Metrics,
        keys: Arc<dyn KeyManager>,
    ) -> Result<(Self, Authorities, Issuer), Error> {
        let settings = &config.authority;
        let issuer = Issuer::new(config.trust_domain.clone(), clock.clone());
        let (handle, ends) = Authorities::new();
        let mut authority = Self {
            trust_domain: config.trust_domain.clone(),
            lanes: BTreeMap::new(),
            keys,
            upstream: settings.upstream.clone(),
            above: None,
            above_fails: None,
            pace: (clock.now(), clock.passed()),
            store,
            clock,
            bundles,
            audit,
            asked: false,
            issuer: issuer.clone(),
            ends,
            meters: Meters::new(metrics),
        };
        authority.read_upstream().await?;
        let existing = authority.existing_keys().await?;
        let mut lost = BTreeMap::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Wit || settings.wit) {
            let ttl = if kind == Kind::X509 { config.ca_ttl } else { settings.jwt_ttl.unwrap_or(config.ca_ttl) };
            let policy = settings.policy(ttl, config.refresh_hint);
            let slots = authority.read_journal(kind, &existing).await?;
            lost.insert(kind, authority.lost_keys(&slots, settings.replace_lost_keys).await?);
            authority.lanes.insert(kind, Lane { slots, policy });
        }
        // Only now: the bundle is written with all kinds in it, or one would withdraw the others.
        for (kind, lost) in lost {
            authority.drive(kind, Event::Started { lost }).await.map_err(Stop::into_error)?;
        }
        Ok((authority, handle, issuer))
    }

    async fn existing_keys(&self) -> Result<Vec<String>, Error> {
        let keys = self.keys.clone();
        blocking(move || Ok(keys.names()?)).await
    }

    async fn read_journal(&self, kind: Kind, existing: &[String]) -> Result<Slots<Material>, Error> {
        let prefix = format!("{}-", kind.word());
        let ours = existing.iter().filter(|name| name.starts_with(&prefix)).cloned();
        let Some(value) = self.store.get(&journal_key(kind)).await? else {
            let names: Vec<_> = ours.collect();
            return if names.is_empty() { Ok(Slots::default()) } else { Err(Error::LostStore { names }) };
        };
        let slots = journal::decode(kind, &self.trust_domain, &value.value)?;
        let named: BTreeSet<&str> = slots
            .slots
            .iter()
            .filter_map(|slot| slot.key.as_deref())
            .chain(slots.making.as_deref())
            .chain(slots.doomed.iter().map(AsRef::as_ref))
            .collect();
        for name in ours.filter(|name| !named.contains(name.as_str())) {
            warn!(
                name,
                "a key that no authority of the journal has: the store may be older than it; it is left where it is"
            );
        }
        Ok(slots)
    }

    /// The keys that are gone, if that may be: with those in memory it always is. Whatever else is wrong with a key stops the start.
    async fn lost_keys(&self, slots: &Slots<Material>, replace: bool) -> Result<BTreeSet<Arc<str>>, Error> {
        let mut lost = BTreeSet::new();
        for slot in &slots.slots {
            let Some(name) = slot.key.clone() else { continue };
            let (keys, wanted) = (self.keys.clone(), name.clone());
            let found = blocking(move || Ok(keys.load(&wanted).map(|key| key.public_key().to_vec()))).await?;
            match found {
                Ok(public_key) if slot.material.is_of(&public_key) => {}
                Ok(_) => return Err(Error::Sign(format!("the key {name} is not the one of authority {}", slot.id))),
                Err(error @ keys::KeyError::Missing { .. }) => {
                    let needed = !matches!(slot.state, State::Old | State::Tainted { .. } | State::Revoked);
                    if needed && !replace && !self.keys.is_volatile() {
                        return Err(Error::LostKey { error });
                    }
                    warn!(%error, id = %slot.id, "an authority without its key signs no more");
                    lost.insert(name);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(lost)
    }
}

impl Meters {
    fn new(metrics: &Metrics) -> Self {
        Self {
            expires: metrics.gauge(
                "symbolon_authority_expires_seconds",
                "Unix time at which the authority that signs ends, by kind; upstream: the first end above ours",
            ),
            steps: metrics.counter("symbolon_authority_steps", "Steps that operators asked for, by outcome"),
            failures: metrics
                .counter("symbolon_authority_failures", "What kept an authority's schedule from being followed"),
        }
    }
}
