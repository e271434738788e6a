//! Bundles as they are handed out: per set of trust domains that a caller may see, each form made once however many streams ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use symbolon_kit::spiffe::bundle::{Bundle, Use};
use symbolon_kit::spiffe::verify::BundleTable;
use symbolon_proto::ids::TrustDomain;

/// Sets that are remembered.
const MAX_SETS: usize = 4096;

/// All bundles of the node at one time.
#[derive(Debug, Default)]
pub struct Shelf {
    own: Option<TrustDomain>,
    table: Arc<BundleTable>,
    /// By the federated trust domains that are let through; made on demand.
    seen: Mutex<BTreeMap<BTreeSet<TrustDomain>, Arc<Seen>>>, // a std mutex: nothing awaits while it is held
}

/// The part of it that one caller may see. Two callers that may see the same share one, so that a pointer tells whether it changed.
#[derive(Debug)]
pub struct Seen {
    /// The node's own, if it is here.
    pub own: Option<Arc<Bundle>>,
    pub table: BundleTable,
    x509: OnceLock<BTreeMap<String, Bytes>>,
    jwt: OnceLock<BTreeMap<String, Bytes>>,
    wit: OnceLock<BTreeMap<String, String>>,
}

impl Shelf {
    pub fn new(own: TrustDomain, table: Arc<BundleTable>) -> Self {
        Self { own: Some(own), table, seen: Mutex::default() }
    }

    /// Everything that is held.
    pub fn table(&self) -> &Arc<BundleTable> {
        &self.table
    }

    /// What a caller sees that is federated with `federated`: those of them that are here, and its own trust domain.
    pub fn seen_by(&self, federated: &BTreeSet<TrustDomain>) -> Arc<Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = seen.get(federated) {
            return found.clone();
        }
        let own = self.own.as_ref().and_then(|own| self.table.get(own)).cloned();
        let named = federated.iter().chain(&self.own);
        let table = named.filter_map(|name| Some((name.clone(), self.table.get(name)?.clone()))).collect();
        let made = Arc::new(Seen { own, table, x509: OnceLock::new(), jwt: OnceLock::new(), wit: OnceLock::new() });
        if seen.len() < MAX_SETS {
            seen.insert(federated.clone(), made.clone());
        }
        made
    }
}

impl Seen {
    /// X.509 authorities by the ID of their trust domain, as the Workload API carries them (W-7, W-8): DER, one after the other. A
    /// trust domain that has none has no place here.
    pub fn x509(&self) -> &BTreeMap<String, Bytes> {
        self.x509.get_or_init(|| {
            let usable = self.table.iter().filter(|(_, held)| !held.x509.is_empty());
            usable.map(|(name, held)| (name.id().to_string(), der(held))).collect()
        })
    }

    /// The keys of JWT-SVIDs by the ID of their trust domain, as JWKS (W-12). The own trust domain is always among them; another has
    /// its place if it has such keys.
    pub fn jwt(&self) -> &BTreeMap<String, Bytes> {
        self.jwt.get_or_init(|| {
            self.jwks(Use::Jwt, |held| held.jwt.is_empty()).map(|(id, jwks)| (id, jwks.into())).collect()
        })
    }

    /// The keys of WIT-SVIDs, likewise.
    pub fn wit(&self) -> &BTreeMap<String, String> {
        self.wit.get_or_init(|| {
            let text = |jwks: Vec<u8>| String::from_utf8_lossy(&jwks).into_owned(); // JSON is UTF-8
            self.jwks(Use::Wit, |held| held.wit.is_empty()).map(|(id, jwks)| (id, text(jwks))).collect()
        })
    }

    fn jwks(&self, only: Use, has_none: fn(&Bundle) -> bool) -> impl Iterator<Item = (String, Vec<u8>)> {
        let own = |name: &TrustDomain| self.own.as_ref().is_some_and(|own| own.trust_domain == *name);
        let usable = self.table.iter().filter(move |(name, held)| !has_none(held) || own(name));
        usable.map(move |(name, held)| (name.id().to_string(), held.to_jwks_of(only)))
    }
}

/// The X.509 authorities of one bundle: DER, one after the other (W-7).
fn der(bundle: &Bundle) -> Bytes {
    let mut der = BytesMut::new();
    for certificate in &bundle.x509 {
        der.extend_from_slice(certificate);
    }
    der.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ca;

    fn shelf(cas: &[&Ca]) -> Shelf {
        let table = cas.iter().map(|ca| (ca.trust_domain.clone(), Arc::new(ca.bundle()))).collect();
        Shelf::new(cas[0].trust_domain.clone(), Arc::new(table))
    }

    #[test]
    fn w_7_authorities_are_der_one_after_the_other() {
        let (one, two) = (Ca::new("a.example").bundle().x509[0].clone(), Ca::new("a.example").bundle().x509[0].clone());
        let bundle = Bundle { x509: vec![one.clone(), two.clone()], ..Ca::new("a.example").bundle() };
        assert_eq!(der(&bundle), [&one[..], &two[..]].concat());
    }

    #[test]
    fn a_caller_sees_its_own_trust_domain_and_those_it_is_federated_with() {
        let (a, b, c) = (Ca::new("a.example"), Ca::new("b.example"), Ca::new("c.example"));
        let shelf = shelf(&[&a, &b, &c]);
        let names = |federated: &[&str]| {
            let federated = federated.iter().map(|name| name.parse().unwrap()).collect();
            shelf.seen_by(&federated).x509().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["spiffe://a.example"]);
        assert_eq!(names(&["b.example"]), ["spiffe://a.example", "spiffe://b.example"]);
        assert_eq!(names(&["a.example", "d.example"]), ["spiffe://a.example"], "what is not here is not made up");
        let set = BTreeSet::from(["b.example".parse().unwrap()]);
        assert!(Arc::ptr_eq(&shelf.seen_by(&set), &shelf.seen_by(&set)));
    }
}
