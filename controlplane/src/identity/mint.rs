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

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rcgen::PublicKeyData as _;
use symbolon_kit::clock::unix_secs;
use symbolon_kit::octets;
use symbolon_kit::spiffe::token_key::TokenKey;
use symbolon_proto::ids::SpiffeId;

use super::audit::{Kind, Record};
use super::entries::Entry;
use super::issue::MintedToken;
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

/// An X.509-SVID that a node asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Empty: the node's own.
    pub entry_id: String,
    pub csr: Bytes,
}

/// A JWT-SVID that a node asks for.
#[derive(Clone, Debug)]
pub struct JwtOrder {
    pub entry_id: String,
    pub audience: Vec<String>,
}

/// A WIT-SVID that a node asks for, bound to the CSR's key.
#[derive(Clone, Debug)]
pub struct WitOrder {
    pub entry_id: String,
    pub csr: Bytes,
}

/// What an order gives: an identity, and for how long.
#[derive(Clone, Debug)]
struct Grant {
    id: SpiffeId,
    ttl: Duration,
    /// `None`: a node's own, or the control plane's.
    entry: Option<Arc<Entry>>,
}

/// Something minted, and what is to be written down of it.
struct Outcome<T> {
    minted: T,
    record: Record,
}

type Answers<T> = Vec<Result<T, Refusal>>;
/// Signs one order, for whom, as it was granted.
type Sign<Q, T> = fn(&Identity, &str, &Grant, &Q) -> Result<Outcome<T>, Refusal>;

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
    ) -> Result<Answers<Minted>, Refusal> {
        let own: Vec<bool> = orders.iter().map(|order| order.entry_id.is_empty()).collect();
        let granted = orders.into_iter().map(|order| (self.grant(node, &order.entry_id), order)).collect();
        let mut answers = self.batch(node, granted, Self::sign_x509).await?;
        for (answer, _) in answers.iter_mut().zip(own).filter(|(_, own)| *own) {
            if let Ok(minted) = answer {
                // A certificate that the node's tenure does not list is good for nothing: it must be kept before it leaves.
                let kept = self.nodes.renewed(node, serial, minted).await;
                kept.unwrap_or_else(|refusal| *answer = Err(refusal));
            }
        }
        Ok(answers)
    }

    /// Mints JWT-SVIDs for entries of a node.
    ///
    /// # Errors
    /// As [`Identity::mint_batch`].
    pub async fn mint_jwts(&self, node: &NodeName, orders: Vec<JwtOrder>) -> Result<Answers<MintedToken>, Refusal> {
        let usual = self.minting.jwt_ttl;
        let grant = |id: &str| self.grant_entry(node, id, |entry| entry.jwt_ttl.unwrap_or(usual));
        let granted = orders.into_iter().map(|order| (grant(&order.entry_id), order)).collect();
        self.batch(node, granted, Self::sign_jwt).await
    }

    /// Mints WIT-SVIDs for entries of a node. They are bound to a key, and live as long as X.509-SVIDs.
    ///
    /// # Errors
    /// As [`Identity::mint_batch`]; [`Refusal::Incubating`] if they are not switched on.
    pub async fn mint_wits(&self, node: &NodeName, orders: Vec<WitOrder>) -> Result<Answers<MintedToken>, Refusal> {
        if !self.issuer.has_wit() {
            return Err(Refusal::Incubating);
        }
        let grant = |id: &str| self.grant_entry(node, id, |entry| entry.ttl.unwrap_or(self.svid_ttl));
        let granted = orders.into_iter().map(|order| (grant(&order.entry_id), order)).collect();
        self.batch(node, granted, Self::sign_wit).await
    }

    /// Mints for the control plane's own key.
    ///
    /// # Errors
    /// If the authority cannot sign, or the record cannot be written.
    pub async fn own_svid(&self, id: &SpiffeId, csr: Vec<u8>) -> Result<Minted, Refusal> {
        let grant = Grant { id: id.clone(), ttl: self.svid_ttl, entry: None };
        self.mint_alone(move || profile::Request::parse(&csr), grant, Vec::new()).await
    }

    /// Mints for a node that has just proved who it is; `more` is recorded with it.
    pub(super) async fn mint_for_node(
        &self,
        node: &NodeName,
        request: profile::Request,
        more: Vec<Record>,
    ) -> Result<Minted, Refusal> {
        self.mint_alone(move || Ok(request), self.grant(node, "")?, more).await
    }

    async fn mint_alone(
        &self,
        request: impl FnOnce() -> Result<profile::Request, Refusal> + Send + 'static,
        grant: Grant,
        mut more: Vec<Record>,
    ) -> Result<Minted, Refusal> {
        let identity = self.clone();
        let sign = move || identity.sign_request(grant.id.as_str(), &grant, request()?);
        let Outcome { minted, record } = self.pool.run(sign).await??;
        more.push(record);
        self.audit.append_all(more).await.map_err(|_| Refusal::NotRecorded)?;
        Ok(minted)
    }

    /// What the node may have by this order (invariant I1).
    fn grant(&self, node: &NodeName, entry_id: &str) -> Result<Grant, Refusal> {
        if entry_id.is_empty() {
            return Ok(Grant { id: self.node_id(node), ttl: self.node_ttl, entry: None });
        }
        self.grant_entry(node, entry_id, |entry| entry.ttl.unwrap_or(self.svid_ttl))
    }

    fn grant_entry(
        &self,
        node: &NodeName,
        entry_id: &str,
        ttl: impl FnOnce(&Entry) -> Duration,
    ) -> Result<Grant, Refusal> {
        let entry = self.entries.granted(node, entry_id)?;
        let ttl = self.entries.cut(&entry, ttl(&entry));
        Ok(Grant { id: entry.spiffe_id.clone(), ttl, entry: Some(entry) })
    }

    /// Signs what was granted, on the pool; what was signed is in the log when this returns. Once the authority could not sign, it is
    /// not asked again for the same batch: a key that is out of reach costs its deadline once.
    async fn batch<Q: Send + 'static, T: Send + 'static>(
        &self,
        node: &NodeName,
        granted: Vec<(Result<Grant, Refusal>, Q)>,
        sign: Sign<Q, T>,
    ) -> Result<Answers<T>, Refusal> {
        self.rate.spend(node, granted.len()).map_err(Refusal::TooFast)?;
        let (identity, by) = (self.clone(), self.node_id(node));
        let sign_all = move || {
            let mut unavailable = false;
            let one = |(grant, asked): (Result<Grant, Refusal>, Q)| {
                let grant = grant?;
                if unavailable {
                    return Err(Refusal::Unavailable);
                }
                let signed = sign(&identity, by.as_str(), &grant, &asked);
                unavailable = matches!(signed, Err(Refusal::Unavailable));
                signed
            };
            granted.into_iter().map(one).collect()
        };
        let signed: Vec<Result<Outcome<T>, Refusal>> = self.pool.run(sign_all).await?;
        let (mut records, mut answers) = (Vec::with_capacity(signed.len()), Vec::with_capacity(signed.len()));
        for outcome in signed {
            answers.push(outcome.map(|outcome| {
                records.push(outcome.record);
                outcome.minted
            }));
        }
        if self.audit.append_all(records).await.is_ok() {
            return Ok(answers);
        }
        Ok(answers.into_iter().map(|answer| answer.and(Err(Refusal::NotRecorded))).collect())
    }

    fn sign_x509(&self, by: &str, grant: &Grant, order: &Order) -> Result<Outcome<Minted>, Refusal> {
        self.sign_request(by, grant, profile::Request::parse(&order.csr)?)
    }

    fn sign_request(&self, by: &str, grant: &Grant, request: profile::Request) -> Result<Outcome<Minted>, Refusal> {
        let key = octets::hex(&request.key_hash());
        let dns_names = grant.entry.as_ref().map_or(&[][..], |entry| &entry.dns_names);
        let spki = request.key_for(&grant.id, dns_names)?;
        let minted = self.issuer.mint(&spki, &grant.id, grant.ttl, dns_names)?;
        let mut record = grant
            .record(Kind::IssuedX509, by)
            .with("serial", minted.serial.as_str())
            .with("expires", unix_secs(minted.not_after))
            .with("key", key);
        if !dns_names.is_empty() {
            record = record.with("dns", dns_names.to_vec());
        }
        Ok(Outcome { minted, record })
    }

    fn sign_jwt(&self, by: &str, grant: &Grant, order: &JwtOrder) -> Result<Outcome<MintedToken>, Refusal> {
        let minted = self.issuer.mint_jwt(&grant.id, &order.audience, grant.ttl)?;
        let record = token_record(grant.record(Kind::IssuedJwt, by), &minted).with("audience", order.audience.clone());
        Ok(Outcome { minted, record })
    }

    fn sign_wit(&self, by: &str, grant: &Grant, order: &WitOrder) -> Result<Outcome<MintedToken>, Refusal> {
        let request = profile::Request::parse(&order.csr)?;
        let hash = octets::hex(&request.key_hash());
        let spki = request.key_for(&grant.id, &[])?.subject_public_key_info();
        let key = TokenKey::from_spki(&spki).map_err(|why| Refusal::WeakKey(why.to_string()))?;
        let minted = self.issuer.mint_wit(&grant.id, &key, grant.ttl)?;
        let record = token_record(grant.record(Kind::IssuedWit, by), &minted).with("key", hash);
        Ok(Outcome { minted, record })
    }
}

impl Grant {
    fn record(&self, kind: Kind, by: &str) -> Record {
        let record = Record::new(kind).with("by", by).with("id", self.id.as_str());
        match &self.entry {
            Some(entry) => record.with("entry", &*entry.id).with("revision", entry.revision),
            None => record,
        }
    }
}

/// Of the token itself nothing is written down.
fn token_record(record: Record, minted: &MintedToken) -> Record {
    record.with("jti", minted.jti.as_str()).with("kid", &*minted.kid).with("expires", unix_secs(minted.expires_at))
}

#[cfg(test)]
impl Identity {
    /// What an order is answered, without pool, record, and rate.
    pub(super) fn signed(&self, node: &NodeName, entry_id: &str, csr: &[u8]) -> Result<Minted, Refusal> {
        let grant = self.grant(node, entry_id)?;
        self.sign_request("a test", &grant, profile::Request::parse(csr)?).map(|outcome| outcome.minted)
    }
}

#[cfg(test)]
mod tests;
