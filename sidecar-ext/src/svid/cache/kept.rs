//! One entry with its slot, and the request under way for it.

use std::sync::Arc;
use std::time::SystemTime;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use symbolon_kit::octets;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid};
use symbolon_proto::node as wire;

use crate::identity::{Entry, Held, Holding};
use crate::svid::slot::{Effect, Event, Slot};
use crate::upstream::join;

pub(super) struct Kept {
    pub entry: Arc<Entry>,
    pub slot: Slot,
    /// Of the request under way; an answer to an earlier one is dropped.
    pub key: Option<PrivateKey>,
}

impl Kept {
    pub(super) fn wanted(entry: Arc<Entry>, now: SystemTime) -> Self {
        Self { entry, slot: Slot::wanted(now), key: None }
    }

    pub(super) fn step(&mut self, event: Event, now: SystemTime, rng: &mut StdRng) -> Vec<Effect> {
        let slot = std::mem::replace(&mut self.slot, Slot::wanted(now));
        let (slot, effects) = slot.step(event, now, rng);
        self.slot = slot;
        effects
    }

    /// Asked by its machine, and no request under way.
    pub(super) fn wants(&self) -> bool {
        self.key.is_none() && matches!(self.slot, Slot::Requested { .. } | Slot::Renewing { .. })
    }

    /// The same identity by other terms: what is held is served until the new one is there.
    pub(super) fn change(&mut self, entry: Arc<Entry>, now: SystemTime) {
        // Selectors, hint, federation and the terms of tokens are not in the certificate. An end that moved is: it bounds it.
        let same_terms = self.entry.ttl_seconds == entry.ttl_seconds
            && self.entry.dns_names == entry.dns_names
            && self.entry.expires_at == entry.expires_at;
        self.entry = entry;
        if !same_terms {
            self.step(Event::Changed, now, &mut StdRng::seed_from_u64(0)); // draws nothing
            self.key = None;
        }
    }

    pub(super) fn held(&self) -> Held {
        let holding = match self.slot.svid() {
            Some(svid) => Holding::Valid(svid.clone()),
            None if self.slot.failures() == 0 => Holding::Pending,
            None => Holding::Failed,
        };
        Held { entry: self.entry.clone(), holding }
    }
}

pub(super) fn outcome(minted: wire::Minted) -> Result<wire::Svid, String> {
    match minted.outcome {
        Some(wire::minted::Outcome::Svid(svid)) => Ok(svid),
        Some(wire::minted::Outcome::Refusal(refusal)) => Err(format!("{}: {}", refusal.reason, refusal.detail)),
        None => Err("an empty answer".into()),
    }
}

pub(super) fn accept(svid: wire::Svid, key: PrivateKey, entry: &Entry) -> Result<Svid, String> {
    let svid = join::svid_of(svid.chain, key).map_err(|why| why.to_string())?;
    if svid.id == entry.spiffe_id { Ok(svid) } else { Err(format!("the certificate is for {}", svid.id)) }
}

/// Entry ids are the control plane's words: they name no path here.
pub(super) fn file_name(entry_id: &str) -> String {
    octets::hex(&octets::sha256(entry_id.as_bytes())[..16]) + ".pem"
}
