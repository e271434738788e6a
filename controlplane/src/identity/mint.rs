//! Minting: who may have it, then signatures on a bounded pool, then the record, and only then the answer (I1, I11).
//!
//! ```text
//!  orders ──► rate ──► entries ──► pool: CSR verified, signed ──► audit log, durable ──► answer
//!             too many    │                │                          │
//!                         └── refused      └── refused, overloaded    └── refused: a credential without its record never leaves
//! ```
//!
//! A refused order refuses no other of its batch.

mod pool;
mod rate;

use std::time::Duration;

use bytes::Bytes;
use symbolon_kit::clock::unix_secs;
use symbolon_kit::octets;
use symbolon_proto::ids::SpiffeId;

use super::audit::{Kind, Record};
use super::entries::Entry;
use super::{Identity, Minted, Refusal, profile};
use crate::model::NodeName;

pub(super) use pool::Pool;
pub(super) use rate::Rate;

/// What the operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of JWT-SVIDs whose entry names no TTL.
    pub jwt_ttl: Duration,
    /// Of one node.
    pub signatures_per_second: u32,
}

/// What a node asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Empty: the node's own SVID.
    pub entry_id: String,
    pub csr: Bytes,
}

/// What an order gives: an identity, as whose, and for how long.
#[derive(Clone, Debug)]
struct Grant {
    id: SpiffeId,
    ttl: Duration,
    dns_names: Vec<String>,
    /// Of the registration, if there is one: its id and revision.
    entry: Option<(String, u64)>,
}

/// Something minted, and what is to be written down of it.
struct Outcome {
    minted: Minted,
    record: Record,
}

impl Default for Settings {
    fn default() -> Self {
        Self { jwt_ttl: Duration::from_mins(5), signatures_per_second: 1_000 }
    }
}

impl Identity {
    /// Mints for a node that came with the certificate `serial`: for its entries, or its own SVID again. Only the key is taken from
    /// each CSR; the ID, names and lifetime are the entry's. Answers are in the order of the orders.
    ///
    /// # Errors
    /// If nothing of the batch is looked at: [`Refusal::TooFast`], [`Refusal::Overloaded`].
    pub async fn mint_batch(
        &self,
        node: &NodeName,
        serial: &str,
        orders: Vec<Order>,
    ) -> Result<Vec<Result<Minted, Refusal>>, Refusal> {
        self.rate.spend(node, orders.len()).map_err(Refusal::TooFast)?;
        let granted: Vec<_> = orders.iter().map(|order| self.grant(node, &order.entry_id)).collect();
        let own: Vec<bool> = orders.iter().map(|order| order.entry_id.is_empty()).collect();
        let (identity, by) = (self.clone(), self.node_id(node));
        let signed = self.pool.run(move || identity.sign_all(by.as_str(), orders, granted)).await?;
        let mut outcomes = self.recorded(signed).await;
        for (outcome, _) in outcomes.iter_mut().zip(own).filter(|(_, own)| *own) {
            if let Ok(minted) = outcome {
                // A certificate that the node's tenure does not list is good for nothing: it must be kept before it leaves.
                let kept = self.nodes.renewed(node, serial, minted).await;
                kept.unwrap_or_else(|refusal| *outcome = Err(refusal));
            }
        }
        Ok(outcomes)
    }

    /// Mints for the control plane's own key.
    ///
    /// # Errors
    /// If the authority cannot sign, or the record cannot be written.
    pub async fn own_svid(&self, id: &SpiffeId, csr: Vec<u8>) -> Result<Minted, Refusal> {
        let grant = Grant { id: id.clone(), ttl: self.svid_ttl, dns_names: Vec::new(), entry: None };
        self.mint_alone(id.as_str(), move || profile::Request::parse(&csr), grant, Vec::new()).await
    }

    /// Mints for a node that has just proved who it is; `more` is recorded with it.
    pub(super) async fn mint_for_node(
        &self,
        node: &NodeName,
        request: profile::Request,
        more: Vec<Record>,
    ) -> Result<Minted, Refusal> {
        let grant = self.grant(node, "")?;
        let by = grant.id.clone();
        self.mint_alone(by.as_str(), move || Ok(request), grant, more).await
    }

    async fn mint_alone(
        &self,
        by: &str,
        request: impl FnOnce() -> Result<profile::Request, Refusal> + Send + 'static,
        grant: Grant,
        mut more: Vec<Record>,
    ) -> Result<Minted, Refusal> {
        let (identity, by) = (self.clone(), by.to_owned());
        let Outcome { minted, record } = self.pool.run(move || identity.sign(&by, request()?, &grant)).await??;
        more.push(record);
        self.audit.append_all(more).await.map_err(|_| Refusal::NotRecorded)?;
        Ok(minted)
    }

    /// What the node may have by this order (invariant I1).
    fn grant(&self, node: &NodeName, entry_id: &str) -> Result<Grant, Refusal> {
        if entry_id.is_empty() {
            return Ok(Grant { id: self.node_id(node), ttl: self.node_ttl, dns_names: Vec::new(), entry: None });
        }
        let entry = self.entries.granted(node, entry_id)?;
        let ttl = self.entries.cut(&entry, entry.ttl.unwrap_or(self.svid_ttl));
        let Entry { id, spiffe_id, dns_names, revision, .. } = &*entry;
        let (id, entry) = (spiffe_id.clone(), Some((id.to_string(), *revision)));
        Ok(Grant { id, ttl, dns_names: dns_names.clone(), entry })
    }

    /// Blocks. Once the authority could not sign, it is not asked again for the same batch: a key that is out of reach costs its
    /// deadline once.
    fn sign_all(
        &self,
        by: &str,
        orders: Vec<Order>,
        granted: Vec<Result<Grant, Refusal>>,
    ) -> Vec<Result<Outcome, Refusal>> {
        let mut unavailable = false;
        let one = |(order, grant): (Order, Result<Grant, Refusal>)| {
            let grant = grant?;
            if unavailable {
                return Err(Refusal::Unavailable);
            }
            let signed = self.sign(by, profile::Request::parse(&order.csr)?, &grant);
            unavailable = matches!(signed, Err(Refusal::Unavailable));
            signed
        };
        orders.into_iter().zip(granted).map(one).collect()
    }

    fn sign(&self, by: &str, request: profile::Request, grant: &Grant) -> Result<Outcome, Refusal> {
        let key = octets::hex(&request.key_hash());
        let minted =
            self.issuer.mint(&request.key_for(&grant.id, &grant.dns_names)?, &grant.id, grant.ttl, &grant.dns_names)?;
        let mut record = Record::new(Kind::IssuedX509)
            .with("by", by)
            .with("id", minted.id.as_str())
            .with("serial", minted.serial.as_str())
            .with("expires", unix_secs(minted.not_after))
            .with("key", key);
        if let Some((entry, revision)) = &grant.entry {
            record = record.with("entry", entry.as_str()).with("revision", *revision);
        }
        if !grant.dns_names.is_empty() {
            record = record.with("dns", grant.dns_names.clone());
        }
        Ok(Outcome { minted, record })
    }

    /// The outcomes, once all that was signed is in the log.
    async fn recorded(&self, signed: Vec<Result<Outcome, Refusal>>) -> Vec<Result<Minted, Refusal>> {
        let (mut records, mut outcomes) = (Vec::with_capacity(signed.len()), Vec::with_capacity(signed.len()));
        for outcome in signed {
            outcomes.push(outcome.map(|outcome| {
                records.push(outcome.record);
                outcome.minted
            }));
        }
        if self.audit.append_all(records).await.is_ok() {
            return outcomes;
        }
        outcomes.into_iter().map(|outcome| outcome.and(Err(Refusal::NotRecorded))).collect()
    }
}

#[cfg(test)]
impl Identity {
    /// What an order is answered, without pool, record, and rate.
    pub(super) fn signed(&self, node: &NodeName, entry_id: &str, csr: &[u8]) -> Result<Minted, Refusal> {
        let grant = self.grant(node, entry_id)?;
        self.sign("a test", profile::Request::parse(csr)?, &grant).map(|outcome| outcome.minted)
    }
}

#[cfg(test)]
mod tests;
