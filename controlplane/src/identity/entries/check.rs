//! From what an operator asks for to an entry that cannot be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use symbolon_kit::text::shown;
use symbolon_proto::ids::{IdError, SpiffeId, TrustDomain};
use symbolon_proto::selector::{Selector, SelectorError, Selectors, Subject};

use super::{Entry, FederatesWith, Parent};
use crate::identity::audit;
use crate::model::NameError;
use crate::store;

/// The most selectors, DNS names, trust domains or labels of one entry.
const MAX_LIST: usize = 64;
/// The longest hint (Workload API §8, W-16).
const MAX_HINT_BYTES: usize = 1024;
/// The longest name or value of a label.
const MAX_LABEL_BYTES: usize = 253;
/// The shortest lifetime, in seconds: an SVID must outlive its own renewal.
const SHORTEST: u64 = 2;

/// An entry as an operator asks for it.
#[derive(Clone, Debug, Default)]
pub struct New {
    pub spiffe_id: String,
    /// The node that may have it; or empty, with `parent`.
    pub node: String,
    /// SPIFFE ID of a node, or of a node alias.
    pub parent: String,
    pub node_alias: bool,
    pub selectors: Vec<String>,
    pub ttl: Option<Duration>,
    pub jwt_ttl: Option<Duration>,
    pub dns_names: Vec<String>,
    pub hint: String,
    pub federates_with: Option<AskedFederation>,
    /// Unix seconds.
    pub expires_at: Option<i64>,
}

/// [`FederatesWith`] as an operator asks for it.
#[derive(Clone, Debug, Default)]
pub struct AskedFederation {
    pub trust_domains: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub all: bool,
    pub except: Vec<String>,
}

/// What an entry must fit.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) trust_domain: TrustDomain,
    /// No leaf outlives its authority (bad input 135).
    pub(super) longest: Duration,
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
    #[error("an entry needs one of node and parent: a node's name, or the SPIFFE ID of a node or of a node alias")]
    Parent,
    #[error(
        "a node alias is chosen by selectors of nodes: it has no node, parent, lifetime, DNS names, hint or federation"
    )]
    Alias,
    #[error(
        "an entry needs 1 to {MAX_LIST} selectors, e.g. unix:uid:1000: without one, any process of the node could have it"
    )]
    Selectors,
    #[error("{0:?} is not a selector: {1}")]
    Selector(String, SelectorError),
    #[error("{selector} does not speak of a {}, and that is what this entry chooses", .wanted.as_str())]
    WrongSubject { selector: Selector, wanted: Subject },
    #[error("{0:?} is not a DNS name")]
    DnsName(String),
    #[error("an entry has at most {MAX_LIST} DNS names")]
    DnsNames,
    #[error("{what} must be whole seconds, from {SHORTEST} to {} s: nothing outlives the authority that signs it", .longest.as_secs())]
    Ttl { what: &'static str, longest: Duration },
    #[error("a hint has at most {MAX_HINT_BYTES} bytes and no control characters")]
    Hint,
    #[error("federatesWith: {0}")]
    FederatesWith(String),
    #[error("it would expire in the past")]
    Expired,
    #[error("the same identity, parent and selectors are registered already, as {0}")]
    Exists(std::sync::Arc<str>),
    #[error("the same identity, parent and selectors stand in the request twice")]
    Twice,
    #[error("somebody else changed {0} meanwhile; try again")]
    Raced(std::sync::Arc<str>),
    #[error("there is no entry {0:?}")]
    Unknown(String),
    #[error("more than {0} entries of one parent: a sidecar holds no more")]
    TooMany(usize),
    #[error("this would delete every entry: it names none. Delete them one by one if that is meant")]
    PruneAll,
    #[error("entry {} ({spiffe_id}): {why}", .index + 1)]
    Item { index: usize, spiffe_id: String, why: Box<Refused> },
    #[error("nothing was done, since it cannot be written down: {0}")]
    Audit(#[from] audit::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl New {
    /// The entry that is asked for, with this id.
    pub(super) fn check(self, id: &str, bounds: &Bounds, now: i64) -> Result<Entry, Refused> {
        let spiffe_id = own_id(&self.spiffe_id, bounds)?;
        if spiffe_id.is_reserved() {
            return Err(Refused::Reserved(spiffe_id));
        }
        let parent = if self.node_alias {
            self.check_alias()?;
            Parent::ControlPlane
        } else {
            parent(&self.node, &self.parent, bounds)?
        };
        if self.expires_at.is_some_and(|at| at <= now) {
            return Err(Refused::Expired);
        }
        if self.hint.len() > MAX_HINT_BYTES || self.hint.chars().any(char::is_control) {
            return Err(Refused::Hint);
        }
        let federates_with = self.federates_with.map(|asked| asked.check(&bounds.trust_domain)).transpose()?;
        Ok(Entry {
            id: id.into(),
            spiffe_id,
            selectors: selectors(&self.selectors, if self.node_alias { Subject::Node } else { Subject::Workload })?,
            parent,
            ttl: ttl("the TTL", self.ttl, bounds)?,
            jwt_ttl: ttl("the TTL of JWT-SVIDs", self.jwt_ttl, bounds)?,
            dns_names: dns_names(self.dns_names)?,
            hint: self.hint,
            federates_with,
            expires_at: self.expires_at,
            revision: 0,
        })
    }

    fn check_alias(&self) -> Result<(), Refused> {
        let plain = self.node.is_empty()
            && self.parent.is_empty()
            && self.ttl.is_none()
            && self.jwt_ttl.is_none()
            && self.dns_names.is_empty()
            && self.hint.is_empty()
            && self.federates_with.is_none();
        if plain { Ok(()) } else { Err(Refused::Alias) }
    }
}

/// An ID with a path, in our trust domain (invariant I1).
fn own_id(text: &str, bounds: &Bounds) -> Result<SpiffeId, Refused> {
    let id = SpiffeId::workload(text).map_err(|e| Refused::Id(shown(text, 80), e))?;
    if *id.trust_domain() == bounds.trust_domain {
        Ok(id)
    } else {
        Err(Refused::ForeignTrustDomain { id, trust_domain: bounds.trust_domain.clone() })
    }
}

fn parent(node: &str, parent: &str, bounds: &Bounds) -> Result<Parent, Refused> {
    match (node, parent) {
        ("", "") => Err(Refused::Parent),
        (node, "") => Ok(Parent::Node(node.parse()?)),
        ("", parent) => {
            let id = own_id(parent, bounds)?;
            match id.path().strip_prefix("/symbolon/node/") {
                Some(node) => Ok(Parent::Node(node.parse()?)),
                None if id.is_reserved() => Err(Refused::Reserved(id)),
                None => Ok(Parent::Alias(id)),
            }
        }
        _ => Err(Refused::Parent),
    }
}

fn selectors(asked: &[String], wanted: Subject) -> Result<Selectors, Refused> {
    let mut selectors = Selectors::new();
    for text in asked {
        let selector: Selector = text.parse().map_err(|e| Refused::Selector(shown(text, 80), e))?;
        if selector.subject() != Some(wanted) {
            return Err(Refused::WrongSubject { selector, wanted });
        }
        selectors.insert(selector);
    }
    if selectors.is_empty() || selectors.len() > MAX_LIST {
        return Err(Refused::Selectors);
    }
    Ok(selectors)
}

fn ttl(what: &'static str, asked: Option<Duration>, bounds: &Bounds) -> Result<Option<Duration>, Refused> {
    let fits = RangeInclusive::new(Duration::from_secs(SHORTEST), bounds.longest);
    match asked {
        Some(ttl) if !fits.contains(&ttl) || ttl.subsec_nanos() != 0 => {
            Err(Refused::Ttl { what, longest: bounds.longest })
        }
        ttl => Ok(ttl),
    }
}

fn dns_names(asked: Vec<String>) -> Result<Vec<String>, Refused> {
    if asked.len() > MAX_LIST {
        return Err(Refused::DnsNames);
    }
    match asked.iter().find(|name| !is_dns_name(name)) {
        Some(bad) => Err(Refused::DnsName(shown(bad, 80))),
        None => Ok(asked),
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

impl AskedFederation {
    fn check(self, own: &TrustDomain) -> Result<FederatesWith, Refused> {
        let refused = |why: String| Refused::FederatesWith(why);
        let domains = |names: &[String]| -> Result<BTreeSet<TrustDomain>, Refused> {
            let parse = |name: &String| name.parse().map_err(|e| refused(format!("{:?}: {e}", shown(name, 80))));
            names.iter().map(parse).collect()
        };
        let (trust_domains, except) = (domains(&self.trust_domains)?, domains(&self.except)?);
        if trust_domains.contains(own) || except.contains(own) {
            return Err(refused(format!("{own} is our own trust domain, which every workload verifies")));
        }
        if let Some(both) = trust_domains.intersection(&except).next() {
            return Err(refused(format!("{both} is named and excepted")));
        }
        if !except.is_empty() && !self.all && self.labels.is_empty() {
            return Err(refused("an exception needs what it is excepted from: all, or labels".into()));
        }
        let counts = [trust_domains.len(), except.len(), self.labels.len()];
        if counts.into_iter().any(|count| count > MAX_LIST) {
            return Err(refused(format!("at most {MAX_LIST} names, labels or exceptions")));
        }
        let bad = |text: &String| text.len() > MAX_LABEL_BYTES || text.chars().any(char::is_control);
        if self.labels.iter().any(|(name, value)| name.is_empty() || bad(name) || bad(value)) {
            return Err(refused(format!("a label is at most {MAX_LABEL_BYTES} printable bytes")));
        }
        Ok(FederatesWith { trust_domains, labels: self.labels, all: self.all, except })
    }
}

impl Refused {
    /// Whether it is the store or the audit log that failed, and not what was asked.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Store(_) | Self::Audit(_) => true,
            Self::Item { why, .. } => why.is_ours(),
            _ => false,
        }
    }
}
