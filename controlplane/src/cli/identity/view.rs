//! An identity as it is printed, and as a file names it: the same form, so that a listing can be applied.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use symbolon_proto::admin as wire;

use crate::cli::output::{self, Table};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Identity {
    /// In a file: the entry that is meant, if there is one with this id.
    #[serde(default)]
    pub(super) entry_id: String,
    pub(super) spiffe_id: String,
    #[serde(default)]
    pub(super) node: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) parent: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) node_alias: bool,
    pub(super) selectors: Vec<String>,
    /// `null`: the control plane's default.
    #[serde(default)]
    pub(super) ttl_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) jwt_ttl_seconds: Option<u32>,
    #[serde(default)]
    pub(super) dns_names: Vec<String>,
    #[serde(default)]
    pub(super) hint: String,
    /// Left out: every relationship. An empty one: none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub(super) federates_with: Option<FederatesWith>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "moment")]
    pub(super) expires_at: Option<i64>,
    /// In a file it says nothing.
    #[serde(default)]
    pub(super) revision: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct FederatesWith {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) trust_domains: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) all: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) except: Vec<String>,
}

/// `null` is neither everybody nor nobody.
fn not_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<FederatesWith>, D::Error> {
    FederatesWith::deserialize(from).map(Some)
}

/// RFC 3339, in UTC.
mod moment {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::cli::output;

    #[expect(clippy::ref_option, reason = "serde's own shape")]
    pub(super) fn serialize<S: Serializer>(at: &Option<i64>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&at.map(output::moment).unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
        super::parse_moment(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
    }
}

/// Unix seconds of an RFC 3339 moment.
pub(super) fn parse_moment(text: &str) -> Result<i64, String> {
    let at: jiff::Timestamp = text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        format!("{shown:?} is not a moment: write e.g. 2027-01-31T00:00:00Z")
    })?;
    Ok(at.as_second())
}

impl From<wire::Identity> for Identity {
    fn from(identity: wire::Identity) -> Self {
        let seconds = |seconds: u32| (seconds > 0).then_some(seconds);
        Self {
            entry_id: identity.entry_id,
            spiffe_id: identity.spiffe_id,
            node: identity.node,
            parent: identity.parent,
            node_alias: identity.node_alias,
            selectors: identity.selectors,
            ttl_seconds: seconds(identity.ttl_seconds),
            jwt_ttl_seconds: seconds(identity.jwt_ttl_seconds),
            dns_names: identity.dns_names,
            hint: identity.hint,
            federates_with: identity.federates_with.map(|said| FederatesWith {
                trust_domains: said.trust_domains,
                labels: said.labels.into_iter().collect(),
                all: said.all,
                except: said.except,
            }),
            expires_at: (identity.expires_at != 0).then_some(identity.expires_at),
            revision: identity.revision,
        }
    }
}

impl From<Identity> for wire::Identity {
    fn from(identity: Identity) -> Self {
        Self {
            entry_id: identity.entry_id,
            spiffe_id: identity.spiffe_id,
            node: identity.node,
            parent: identity.parent,
            node_alias: identity.node_alias,
            selectors: identity.selectors,
            ttl_seconds: identity.ttl_seconds.unwrap_or(0),
            jwt_ttl_seconds: identity.jwt_ttl_seconds.unwrap_or(0),
            dns_names: identity.dns_names,
            hint: identity.hint,
            federates_with: identity.federates_with.map(|said| wire::FederatesWith {
                trust_domains: said.trust_domains,
                labels: said.labels.into_iter().collect(),
                all: said.all,
                except: said.except,
            }),
            expires_at: identity.expires_at.unwrap_or(0),
            revision: 0,
        }
    }
}

impl Identity {
    /// Who may have it, in one cell.
    pub(super) fn held_by(&self) -> String {
        match (self.node_alias, self.node.as_str(), self.parent.as_str()) {
            (true, ..) => "(node alias)".to_owned(),
            (false, "", parent) => parent.to_owned(),
            (false, node, _) => node.to_owned(),
        }
    }
}

impl FederatesWith {
    /// In one cell.
    fn shown(&self) -> String {
        let mut words = self.trust_domains.clone();
        words.extend(self.labels.iter().map(|(name, value)| format!("{name}={value}")));
        words.extend(self.all.then(|| "all".to_owned()));
        words.extend(self.except.iter().map(|domain| format!("!{domain}")));
        if words.is_empty() { "none".to_owned() } else { words.join(",") }
    }
}

pub(super) fn table(identities: &[Identity]) -> String {
    let header = ["ENTRY", "SPIFFE ID", "NODE", "SELECTORS", "TTL", "DNS NAMES", "FEDERATES WITH", "EXPIRES"];
    let mut table = Table::new(header);
    for one in identities {
        let ttl = one.ttl_seconds.map_or_else(|| "default".to_owned(), |s| output::span(Duration::from_secs(s.into())));
        table.row([
            one.entry_id.clone(),
            one.spiffe_id.clone(),
            one.held_by(),
            output::joined(&one.selectors),
            ttl,
            output::joined(&one.dns_names),
            one.federates_with.as_ref().map_or_else(|| "all".to_owned(), FederatesWith::shown),
            one.expires_at.map_or_else(|| "never".to_owned(), output::moment),
        ]);
    }
    table.to_string()
}
