//! An entry as it is stored. Fields that came later have defaults, so that what an older program wrote can be read.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use symbolon_proto::ids::SpiffeId;
use symbolon_proto::selector::Selector;

use super::{Entry, FederatesWith, Parent};

#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    spiffe_id: String,
    /// Empty: `parent` says it, or it is a node alias.
    #[serde(default)]
    node: String,
    #[serde(default)]
    parent: String,
    selectors: Vec<String>,
    ttl_seconds: Option<u64>,
    #[serde(default)]
    jwt_ttl_seconds: Option<u64>,
    dns_names: Vec<String>,
    hint: String,
    #[serde(default)]
    federates_with: Option<Federates>,
    #[serde(default)]
    expires_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct Federates {
    trust_domains: Vec<String>,
    labels: BTreeMap<String, String>,
    all: bool,
    except: Vec<String>,
}

impl Record {
    pub(super) fn of(entry: &Entry) -> Self {
        let (node, parent) = match &entry.parent {
            Parent::Node(node) => (node.to_string(), String::new()),
            Parent::Alias(alias) => (String::new(), alias.to_string()),
            Parent::ControlPlane => (String::new(), String::new()),
        };
        Self {
            spiffe_id: entry.spiffe_id.to_string(),
            node,
            parent,
            selectors: entry.selectors.iter().map(ToString::to_string).collect(),
            ttl_seconds: entry.ttl.map(|ttl| ttl.as_secs()),
            jwt_ttl_seconds: entry.jwt_ttl.map(|ttl| ttl.as_secs()),
            dns_names: entry.dns_names.clone(),
            hint: entry.hint.clone(),
            federates_with: entry.federates_with.as_ref().map(Federates::of),
            expires_at: entry.expires_at,
        }
    }

    /// `None` if it is no entry. `revision` is the store's, of its last write.
    pub(super) fn parse(self, id: &str, revision: u64) -> Option<Entry> {
        let parent = match (self.node.as_str(), self.parent.as_str()) {
            ("", "") => Parent::ControlPlane,
            ("", alias) => Parent::Alias(SpiffeId::workload(alias).ok()?),
            (node, _) => Parent::Node(node.parse().ok()?),
        };
        Some(Entry {
            id: id.into(),
            spiffe_id: SpiffeId::workload(&self.spiffe_id).ok()?,
            parent,
            // One that no attestor knows any more stays a demand that nobody meets.
            selectors: self.selectors.iter().map(|text| Selector::demanded(text)).collect(),
            ttl: self.ttl_seconds.map(Duration::from_secs),
            jwt_ttl: self.jwt_ttl_seconds.map(Duration::from_secs),
            dns_names: self.dns_names,
            hint: self.hint,
            federates_with: match self.federates_with {
                Some(stored) => Some(stored.parse()?),
                None => None,
            },
            expires_at: self.expires_at,
            revision,
        })
    }
}

impl Federates {
    fn of(said: &FederatesWith) -> Self {
        Self {
            trust_domains: said.trust_domains.iter().map(ToString::to_string).collect(),
            labels: said.labels.clone(),
            all: said.all,
            except: said.except.iter().map(ToString::to_string).collect(),
        }
    }

    fn parse(self) -> Option<FederatesWith> {
        Some(FederatesWith {
            trust_domains: self.trust_domains.iter().map(|name| name.parse().ok()).collect::<Option<_>>()?,
            labels: self.labels,
            all: self.all,
            except: self.except.iter().map(|name| name.parse().ok()).collect::<Option<_>>()?,
        })
    }
}
