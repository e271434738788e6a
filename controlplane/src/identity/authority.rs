//! The X.509 authority: its slots in the store, their keys in files, and the task that follows the schedule.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::octets;
use symbolon_kit::spiffe::svid::validity;
use symbolon_proto::ids::TrustDomain;
use tracing::{error, info};

use super::bundles::Bundles;
use super::issue::{Issuer, Signer};
use super::keys::disk::Disk;
use super::keys::{KeyManager as _, RcgenKey};
use super::schedule::{self, Due, SlotState};
use super::{Config, Error, profile};
use crate::store::{SharedStore, Txn, codec, keys};

/// The longest that the task sleeps: a clock that is set forward is noticed within this.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The authority's lifecycle; owned by its task.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    keys: Disk,
    ca_ttl: Duration,
    store: SharedStore,
    clock: Clock,
    bundles: Bundles,
    issuer: Issuer,
    slots: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    name: String,
    state: SlotState,
    certificate: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// The journal: every slot, written before anything it says takes effect.
#[derive(Serialize, Deserialize)]
struct Journal {
    trust_domain: String,
    slots: Vec<SlotRecord>,
}

#[derive(Serialize, Deserialize)]
struct SlotRecord {
    name: String,
    state: String,
    certificate: Vec<u8>,
}

impl Authority {
    /// Reads the journal, or makes the first authority. The issuer is ready when this returns.
    pub(super) async fn load_or_create(
        config: &Config,
        store: SharedStore,
        clock: Clock,
        bundles: Bundles,
    ) -> Result<(Self, Issuer), Error> {
        let issuer = Issuer::new(config.trust_domain.clone(), clock.clone());
        let mut authority = Self {
            trust_domain: config.trust_domain.clone(),
            keys: Disk::open(&config.key_dir)?,
            ca_ttl: config.ca_ttl,
            slots: Vec::new(),
            store,
            clock,
            bundles,
            issuer: issuer.clone(),
        };
        authority.read_journal().await?;
        if let Some(active) = authority.slots.iter().find(|slot| slot.state == SlotState::Active) {
            issuer.activate(authority.signer(active)?);
        }
        authority.catch_up().await?;
        Ok((authority, issuer))
    }

    /// Follows the schedule until drained. A step that fails is tried again at the next tick: the active authority goes on.
    pub(super) async fn run(mut self, drain: Drain) {
        loop {
            let wait = match self.due() {
                Due::Wait(until) => until.duration_since(self.clock.now()).unwrap_or_default().min(LONGEST_WAIT),
                _ => Duration::from_secs(1),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = drain.cancelled() => return,
            }
            if let Err(error) = self.catch_up().await {
                error!(%error, "the authority's schedule is behind; the active authority goes on");
            }
        }
    }

    fn due(&self) -> Due {
        let slots: Vec<_> = self
            .slots
            .iter()
            .map(|slot| schedule::Slot { state: slot.state, not_before: slot.not_before, not_after: slot.not_after })
            .collect();
        schedule::due(&slots, self.clock.now())
    }

    /// Does all that is due. Order matters at each step: key on disk, journal, bundle, and only then signatures (I8).
    pub(super) async fn catch_up(&mut self) -> Result<(), Error> {
        loop {
            match self.due() {
                Due::Wait(_) => return self.publish().await,
                Due::Prepare { then_activate } => {
                    let slot = self.make_slot()?;
                    info!(slot = slot.name, "authority prepared");
                    let slots = self.slots.iter().cloned().chain([slot]).collect();
                    self.write_journal(slots).await?;
                    self.publish().await?;
                    if then_activate {
                        self.activate(self.slots.len() - 1).await?;
                    }
                }
                Due::Activate(index) => {
                    self.publish().await?;
                    self.activate(index).await?;
                }
                Due::Drop(index) => {
                    let mut slots = self.slots.clone();
                    let slot = slots.remove(index);
                    info!(slot = slot.name, "authority expired");
                    self.write_journal(slots).await?;
                    self.publish().await?;
                    self.keys.remove(&key_name(&slot.name))?; // the journal no longer names it
                }
            }
        }
    }

    async fn activate(&mut self, index: usize) -> Result<(), Error> {
        let mut slots = self.slots.clone();
        for slot in slots.iter_mut().filter(|slot| slot.state == SlotState::Active) {
            slot.state = SlotState::Retired;
        }
        slots[index].state = SlotState::Active;
        let signer = self.signer(&slots[index])?; // before the journal says that it signs
        self.write_journal(slots).await?;
        self.issuer.activate(signer);
        info!(slot = self.slots[index].name, "authority active");
        Ok(())
    }

    fn signer(&self, slot: &Slot) -> Result<Signer, Error> {
        let key = self.keys.load(&key_name(&slot.name))?;
        let (public_key, slow) = (key.public_key().to_vec(), key.is_slow());
        let issuer = rcgen::Issuer::from_ca_cert_der(&slot.certificate, RcgenKey(key));
        Ok(Signer {
            issuer: issuer.map_err(|e| Error::Sign(e.to_string()))?,
            public_key,
            not_after: slot.not_after,
            certificate: slot.certificate.clone(),
            intermediates: Vec::new(),
            slow,
        })
    }

    async fn publish(&self) -> Result<(), Error> {
        Ok(self.bundles.publish_own(self.slots.iter().map(|slot| slot.certificate.clone()).collect()).await?)
    }

    fn make_slot(&self) -> Result<Slot, Error> {
        let name = octets::hex(&octets::random::<4>());
        let key = RcgenKey(self.keys.generate(&key_name(&name))?);
        let common_name = format!("{} authority {name}", self.trust_domain);
        let params = profile::authority(&self.trust_domain, &common_name, self.clock.now(), self.ca_ttl);
        let certificate = params.self_signed(&key).map_err(|e| Error::Sign(e.to_string()))?.der().clone();
        slot(name, SlotState::Prepared, certificate)
    }

    async fn read_journal(&mut self) -> Result<(), Error> {
        let Some(stored) = self.store.get(&keys::authority()).await? else { return Ok(()) };
        let journal: Journal = codec::decode("authority", &stored.value)?;
        if journal.trust_domain != self.trust_domain.as_str() {
            let configured = self.trust_domain.clone();
            let stored = journal.trust_domain.parse().map_err(|_| Error::Sign("the journal is damaged".into()))?;
            return Err(Error::OtherTrustDomain { stored, configured });
        }
        for record in journal.slots {
            let state = match record.state.as_str() {
                "active" => SlotState::Active,
                "retired" => SlotState::Retired,
                _ => SlotState::Prepared,
            };
            self.keys.load(&key_name(&record.name))?;
            self.slots.push(slot(record.name, state, record.certificate.into())?);
        }
        Ok(())
    }

    /// Writes `slots`, and only then takes them over: what the journal does not say has not happened.
    async fn write_journal(&mut self, slots: Vec<Slot>) -> Result<(), Error> {
        let records = slots.iter().map(|slot| SlotRecord {
            name: slot.name.clone(),
            state: match slot.state {
                SlotState::Prepared => "prepared",
                SlotState::Active => "active",
                SlotState::Retired => "retired",
            }
            .to_owned(),
            certificate: slot.certificate.to_vec(),
        });
        let journal = Journal { trust_domain: self.trust_domain.to_string(), slots: records.collect() };
        self.store.commit(Txn::new().put(keys::authority(), codec::encode("authority", 1, &journal)?)).await?;
        self.slots = slots;
        Ok(())
    }
}

fn slot(name: String, state: SlotState, certificate: CertificateDer<'static>) -> Result<Slot, Error> {
    let (not_before, not_after) = validity(&certificate).map_err(|e| Error::Sign(e.to_string()))?;
    Ok(Slot { name, state, certificate, not_before, not_after })
}

fn key_name(slot: &str) -> String {
    format!("x509-{slot}")
}
