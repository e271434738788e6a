//! The trust domains that this mesh federates with, as far as a registration entry may name them.

use std::collections::BTreeMap;

use symbolon_proto::ids::TrustDomain;

/// The operator's words for a relationship, e.g. `env: prod`.
pub type Labels = BTreeMap<String, String>;

/// Every relationship that is not terminated, with its labels.
pub type Relationships = BTreeMap<TrustDomain, Labels>;
