//! How the relationships that operators make are stored.

use serde::{Deserialize, Serialize};
use symbolon_proto::ids::TrustDomain;
use tracing::error;

use super::relationship::{Profile, Relationship};
use crate::model::Labels;
use crate::store::{self, SharedStore, Txn, codec, keys};

const KIND: &str = "relationship";

#[derive(Serialize, Deserialize)]
struct Record {
    trust_domain: String,
    profile: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    url: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    endpoint_id: String,
    #[serde(default)]
    labels: Labels,
}

/// Every one. Of what cannot be read the trust domain is left, whose bundle the operator then has to bring: an accident withdraws
/// nothing.
pub(super) async fn all(store: &SharedStore, own: &TrustDomain) -> Result<Vec<Relationship>, store::Error> {
    let mut all = Vec::new();
    for stored in store.range(keys::relationships()).await?.0 {
        let read = codec::decode::<Record>(KIND, &stored.value).map_err(|error| error.to_string()).and_then(|record| {
            let Record { trust_domain, profile, url, endpoint_id, labels } = record;
            Relationship::parse(own, &trust_domain, &profile, &url, &endpoint_id, labels).map_err(|e| e.to_string())
        });
        match read {
            Ok(one) => all.push(one),
            Err(why) => {
                error!(key = %stored.key.0, %why, "a stored relationship cannot be read; make it anew");
                let Some(trust_domain) = keys::domain_of_relationship(&stored.key) else { continue };
                all.push(Relationship { trust_domain, profile: Profile::Manual, labels: Labels::new() });
            }
        }
    }
    Ok(all)
}

pub(super) fn put(one: &Relationship) -> Result<Txn, store::Error> {
    let text = |part: Option<String>| part.unwrap_or_default();
    let record = Record {
        trust_domain: one.trust_domain.to_string(),
        profile: one.profile.label().to_owned(),
        url: text(one.profile.url().map(ToString::to_string)),
        endpoint_id: text(one.profile.endpoint_id().map(ToString::to_string)),
        labels: one.labels.clone(),
    };
    Ok(Txn::new().put(keys::relationship(&one.trust_domain), codec::encode(KIND, 1, &record)?))
}

pub(super) fn delete(trust_domain: &TrustDomain) -> Txn {
    Txn::new().delete(keys::relationship(trust_domain))
}
