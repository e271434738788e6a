//! Chains with the verdict that each deserves, one mutant at least for every line of X509-SVID.md that a chain can break. Our own tests
//! run them, `tests/data/svid-limbo.json` holds them for others, and the interoperability matrix shows them to foreign validators.

mod bad;
mod good;

use std::time::SystemTime;

use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, SanType};
use rustls_pki_types::CertificateDer;

use super::{Ca, der};
use crate::spiffe::svid::PrivateKey;

/// The trust domain whose bundle all cases are verified with.
pub const TRUST_DOMAIN: &str = "a.example";
/// What the good ones prove.
pub const ID: &str = "spiffe://a.example/shop";

/// A chain, and what a validator of X509-SVIDs has to say of it.
#[derive(Debug)]
pub struct Case {
    /// Begins with the line of the specification, or the row of bad input, that it is about: `x_1_two_ids`.
    pub name: &'static str,
    pub what: &'static str,
    pub accepted: bool,
    /// The whole bundle of [`TRUST_DOMAIN`].
    pub trusted: Vec<CertificateDer<'static>>,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's.
    pub key: PrivateKey,
}

impl Case {
    /// The line it is about, as the specifications' checklist spells it: `X-1`, `BAD-93`; `GOOD` for none.
    pub fn line(&self) -> String {
        let mut words = self.name.split('_');
        let family = words.next().unwrap_or_default().to_uppercase();
        match words.next().and_then(|number| number.parse::<u16>().ok()) {
            Some(number) => format!("{family}-{number}"),
            None => family,
        }
    }
}

/// All cases, for a verification at `now`.
pub fn cases(now: SystemTime) -> Vec<Case> {
    cases_below(Ca::at(now, TRUST_DOMAIN, KeyPair::generate().unwrap(), |_| {}))
}

/// The same below an authority that exists; some bring another one.
pub fn cases_below(root: Ca) -> Vec<Case> {
    let mut forge = Forge { now: root.now, root, key: KeyPair::generate().unwrap(), cases: Vec::new() };
    good::all(&mut forge);
    bad::all(&mut forge);
    forge.cases
}

type Params = CertificateParams;

struct Forge {
    now: SystemTime,
    root: Ca,
    /// Of every leaf, unless its case says otherwise.
    key: KeyPair,
    cases: Vec<Case>,
}

impl Forge {
    fn leaf(&self, issuer: &Ca, change: impl FnOnce(&mut Params)) -> CertificateDer<'static> {
        issuer.leaf_for(ID, &self.key, change)
    }

    /// Another root, with a key of its own.
    fn other_root(&self, trust_domain: &str, change: impl FnOnce(&mut Params)) -> Ca {
        Ca::at(self.now, trust_domain, KeyPair::generate().unwrap(), change)
    }

    fn push(&mut self, name: &'static str, what: &'static str, chain: Vec<CertificateDer<'static>>) -> &mut Case {
        self.push_with(name, what, vec![self.root.certificate()], chain)
    }

    fn push_with(
        &mut self,
        name: &'static str,
        what: &'static str,
        trusted: Vec<CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
    ) -> &mut Case {
        let (accepted, key) = (name.starts_with("good_"), PrivateKey::from_pkcs8(self.key.serialize_der()));
        self.cases.push(Case { name, what, accepted, trusted, chain, key });
        self.cases.last_mut().unwrap()
    }

    /// A leaf right below the root, good but for `change`.
    fn direct(&mut self, name: &'static str, what: &'static str, change: impl FnOnce(&mut Params)) {
        let leaf = self.leaf(&self.root, change);
        self.push(name, what, vec![leaf]);
    }

    fn named(&mut self, name: &'static str, what: &'static str, uris: &[&str]) {
        self.direct(name, what, |params| params.subject_alt_names = uris.iter().map(|text| uri(text)).collect());
    }

    /// A good leaf below an intermediate that is good but for `change`.
    fn below(&mut self, name: &'static str, what: &'static str, change: impl FnOnce(&mut Params)) {
        let issuer = self.root.intermediate(change);
        let leaf = self.leaf(&issuer, |_| {});
        self.push(name, what, vec![leaf, issuer.certificate()]);
    }

    /// A good leaf below a root that is good but for `change`.
    fn under(&mut self, name: &'static str, what: &'static str, change: impl FnOnce(&mut Params)) {
        let root = self.other_root(TRUST_DOMAIN, change);
        let leaf = self.leaf(&root, |_| {});
        self.push_with(name, what, vec![root.certificate()], vec![leaf]);
    }

    /// A good leaf with other bytes in its signed part.
    fn rewritten(&mut self, name: &'static str, what: &'static str, from: &[u8], to: &[u8]) {
        let leaf = self.root.signed_again(&self.leaf(&self.root, |_| {}), |signed| {
            let at = signed.windows(from.len()).position(|window| window == from).unwrap();
            signed[at..at + to.len()].copy_from_slice(to);
        });
        self.push(name, what, vec![leaf]);
    }

    /// An intermediate, as `change` says, and another one below it.
    fn two_levels(&self, change: impl FnOnce(&mut Params)) -> (Ca, Ca) {
        let upper = self.root.intermediate(change);
        let lower = upper.intermediate(|params| common_name(params, "lower"));
        (upper, lower)
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn extension(oid: &[u64], content: &[u8], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

fn unknown_extension(critical: bool) -> CustomExtension {
    extension(&[1, 3, 6, 1, 4, 1, 55555, 1], &[5, 0], critical)
}

/// URIs as they are given, whatever they are.
fn raw_uris(params: &mut Params, uris: &[&[u8]], critical: bool) {
    let names: Vec<u8> = uris.iter().flat_map(|uri| der(0x86, uri)).collect();
    params.subject_alt_names.clear();
    params.custom_extensions.push(extension(&[2, 5, 29, 17], &der(0x30, &names), critical));
}

/// A key usage that may be overlooked.
fn lax_key_usage(params: &mut Params, bits: &[u8]) {
    params.key_usages.clear();
    params.custom_extensions.push(extension(&[2, 5, 29, 15], bits, false));
}

/// A name constraint on URIs; rcgen has none.
fn constrain_uris(params: &mut Params, permitted: bool, host: &[u8]) {
    let subtrees = der(if permitted { 0xa0 } else { 0xa1 }, &der(0x30, &der(0x86, host)));
    params.custom_extensions.push(extension(&[2, 5, 29, 30], &der(0x30, &subtrees), true));
}

fn common_name(params: &mut Params, name: &str) {
    params.distinguished_name.push(DnType::CommonName, name);
}
