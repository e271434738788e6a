//! Admission: what a peer may say, decided from local configuration alone. Every inbound resource passes, in this order: size and
//! schema → pinned trust domain → granted identities → granted names → granted addresses → quotas → clamps. A refusal is typed
//! and concerns one resource; what we held of it before stays (decision 5). Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use bytes::Bytes;
use prost::Message as _;
use symbolon_kit::text::shown;
use symbolon_proto::federation as wire;
use symbolon_proto::federation::Reason;
use symbolon_proto::ids::{SpiffeId, TrustDomain};

use super::range::{self, Range};
use super::resource::{SHARD_ENDPOINTS, key_of};
use crate::model::{Endpoint, Health, ServiceName};

/// A weight above this is no weight but an attack or an accident (bad input 123); below, it is clamped.
const MAX_CLAIMED_WEIGHT: u32 = 1_000_000;
const MAX_ENDPOINT_ID_BYTES: usize = 256;
const MAX_SHARDS: u32 = 10_000;
const MAX_IDENTITIES: usize = 1_000;

/// What a peer may assert to us.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grants {
    /// Patterns for `SpiffeId::matches`.
    pub identities: Vec<String>,
    pub names: Vec<NamePattern>,
    pub addresses: Vec<Range>,
}

/// `<svc>.<ns>`, or `*.<ns>`: every service of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePattern {
    Exact(ServiceName),
    Namespace(String),
}

/// Why a grant in the configuration is no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("{0:?} is not a SPIFFE ID pattern of {1}, the peer's trust domain")]
    Identity(String, TrustDomain),
    #[error("{0:?} is neither <service>.<namespace> nor *.<namespace>")]
    Name(String),
    #[error(transparent)]
    Address(#[from] range::RangeError),
}

/// How much a peer may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    pub services: usize,
    pub endpoints: usize,
    pub resource_bytes: usize,
    pub bundle_keys: usize,
}

/// How much of its quotas a peer uses without the resource in question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub services: usize,
    pub endpoints: usize,
}

/// Everything that decides over one peer's resources.
#[derive(Clone, Debug)]
pub struct Policy {
    pub trust_domain: TrustDomain,
    pub grants: Grants,
    pub quotas: Quotas,
    pub max_endpoint_weight: NonZeroU32,
}

/// A resource as admitted; cannot be wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Admitted {
    /// Its content is judged by the bundle book.
    Bundle(Bytes),
    Service {
        name: ServiceName,
        identities: BTreeSet<SpiffeId>,
    },
    Shard {
        service: ServiceName,
        endpoints: Vec<Endpoint>,
        ignored: usize,
    },
    Capacity {
        service: ServiceName,
        claim: u64,
    },
}

/// Why a resource was refused, as it is told to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: Reason,
    pub detail: String,
}

// === impl Policy ===

impl Policy {
    /// Parses and judges `resource`, which came under `key`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn admit(&self, key: &str, resource: &wire::Resource, usage: Usage) -> Result<Admitted, Refused> {
        let bytes = resource.encoded_len();
        if bytes > self.quotas.resource_bytes {
            return Err(refused(
                Reason::TooLarge,
                format!("{bytes} bytes; {} are granted", self.quotas.resource_bytes),
            ));
        }
        match key_of(resource) {
            None => return Err(refused(Reason::UnknownType, "this version does not know that type of resource")),
            Some(proper) if proper != key => {
                return Err(refused(Reason::Malformed, format!("the key is not {}", shown(&proper, 120))));
            }
            Some(_) => {}
        }
        match &resource.r {
            Some(wire::resource::R::Bundle(bundle)) => self.bundle(bundle),
            Some(wire::resource::R::Service(service)) => self.service(service, usage),
            Some(wire::resource::R::Shard(shard)) => self.shard(shard, usage),
            Some(wire::resource::R::Capacity(capacity)) => {
                Ok(Admitted::Capacity { service: self.name(&capacity.service)?, claim: capacity.capacity })
            }
            Some(wire::resource::R::Gateway(_) | wire::resource::R::Feedback(_)) | None => {
                Err(refused(Reason::UnknownType, "this version does not know that type of resource"))
            }
        }
    }

    fn bundle(&self, bundle: &wire::TrustBundle) -> Result<Admitted, Refused> {
        match bundle.trust_domain.parse::<TrustDomain>() {
            Ok(claimed) if claimed == self.trust_domain => {}
            Ok(claimed) => return Err(self.foreign(&claimed)),
            Err(error) => return Err(refused(Reason::Malformed, format!("trust domain: {error}"))),
        }
        let keys = serde_json::from_slice::<serde_json::Value>(&bundle.jwks)
            .map_err(|_| refused(Reason::Malformed, "the bundle is not JSON"))?;
        let keys = keys.get("keys").and_then(serde_json::Value::as_array).map_or(0, Vec::len);
        if keys > self.quotas.bundle_keys {
            return Err(refused(Reason::Quota, format!("{keys} keys; {} are granted", self.quotas.bundle_keys)));
        }
        Ok(Admitted::Bundle(bundle.jwks.clone()))
    }

    fn service(&self, service: &wire::Service, usage: Usage) -> Result<Admitted, Refused> {
        if service.identities.len() > MAX_IDENTITIES {
            return Err(refused(Reason::TooLarge, format!("more than {MAX_IDENTITIES} identities")));
        }
        let identities = service.identities.iter().map(|id| self.identity(id)).collect::<Result<_, _>>()?;
        let name = self.name(&service.name)?;
        if usage.services >= self.quotas.services {
            return Err(refused(Reason::Quota, format!("more than the {} services granted", self.quotas.services)));
        }
        Ok(Admitted::Service { name, identities })
    }

    /// Endpoints with port 0 or 65536 and more, and the second of two with one id, are ignored (bad input 125); an endpoint
    /// that claims what was not granted condemns the shard.
    fn shard(&self, shard: &wire::EndpointShard, usage: Usage) -> Result<Admitted, Refused> {
        if shard.endpoints.len() > SHARD_ENDPOINTS {
            return Err(refused(Reason::TooLarge, format!("more than {SHARD_ENDPOINTS} endpoints in a shard")));
        }
        if shard.shard >= MAX_SHARDS {
            return Err(refused(Reason::TooLarge, format!("more than {MAX_SHARDS} shards")));
        }
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(shard.endpoints.len());
        for claimed in &shard.endpoints {
            if let Some(endpoint) = self.endpoint(claimed)? {
                endpoints.push(endpoint);
            }
        }
        let service = self.name(&shard.service)?;
        let outside = endpoints.iter().find(|e| !range::is_granted(&self.grants.addresses, e.address.ip()));
        if let Some(endpoint) = outside {
            let said = format!("{} of {} is outside the ranges granted", endpoint.address.ip(), endpoint.id);
            return Err(refused(Reason::AddressNotGranted, said));
        }
        endpoints.sort_by(|a, b| a.id.cmp(&b.id));
        endpoints.dedup_by(|again, first| again.id == first.id);
        if usage.endpoints + endpoints.len() > self.quotas.endpoints {
            return Err(refused(Reason::Quota, format!("more than the {} endpoints granted", self.quotas.endpoints)));
        }
        let ignored = shard.endpoints.len() - endpoints.len();
        Ok(Admitted::Shard { service, endpoints, ignored })
    }

    fn endpoint(&self, claimed: &wire::Endpoint) -> Result<Option<Endpoint>, Refused> {
        let malformed =
            |what: &str| refused(Reason::Malformed, format!("endpoint {}: {what}", shown(&claimed.id, 120)));
        let good_id =
            (1..=MAX_ENDPOINT_ID_BYTES).contains(&claimed.id.len()) && claimed.id.bytes().all(|b| b.is_ascii_graphic());
        if !good_id {
            return Err(malformed("its id is not 1 to 256 printable ASCII characters"));
        }
        let ip: IpAddr = claimed.address.parse().map_err(|_| malformed("its address is not an IP address"))?;
        let weight = NonZeroU32::new(claimed.weight).filter(|weight| weight.get() <= MAX_CLAIMED_WEIGHT);
        let weight = weight.ok_or_else(|| malformed("its weight is not 1 to 1,000,000"))?;
        let identity = self.identity(&claimed.identity)?;
        let Ok(port @ 1..) = u16::try_from(claimed.port) else { return Ok(None) };
        Ok(Some(Endpoint {
            id: claimed.id.as_str().into(),
            address: SocketAddr::new(ip.to_canonical(), port),
            identity,
            health: health(claimed.health),
            weight: weight.min(self.max_endpoint_weight),
        }))
    }

    fn identity(&self, text: &str) -> Result<SpiffeId, Refused> {
        let id = SpiffeId::workload(text)
            .map_err(|error| refused(Reason::Malformed, format!("identity {}: {error}", shown(text, 120))))?;
        if *id.trust_domain() != self.trust_domain {
            return Err(self.foreign(id.trust_domain()));
        }
        if id.is_reserved() || !self.grants.identities.iter().any(|pattern| id.matches(pattern)) {
            return Err(refused(Reason::IdentityNotGranted, format!("{id} is outside the identities granted")));
        }
        Ok(id)
    }

    fn name(&self, text: &str) -> Result<ServiceName, Refused> {
        let name: ServiceName =
            text.parse().map_err(|error: crate::model::NameError| refused(Reason::Malformed, error.to_string()))?;
        if self.grants.names.iter().any(|pattern| pattern.matches(&name)) {
            Ok(name)
        } else {
            Err(refused(Reason::NameNotGranted, format!("{name} is outside the names granted")))
        }
    }

    fn foreign(&self, claimed: &TrustDomain) -> Refused {
        refused(
            Reason::ForeignTrustDomain,
            format!("{claimed} is not {}, which is all you speak for", self.trust_domain),
        )
    }
}

fn health(said: i32) -> Health {
    match wire::endpoint::Health::try_from(said) {
        Ok(wire::endpoint::Health::Healthy) => Health::Healthy,
        Ok(wire::endpoint::Health::Unhealthy) => Health::Unhealthy,
        Ok(wire::endpoint::Health::Draining) => Health::Draining,
        // A word of a later version is no news to us (bad input 126).
        Ok(wire::endpoint::Health::Unknown) | Err(_) => Health::Unknown,
    }
}

fn refused(reason: Reason, detail: impl Into<String>) -> Refused {
    Refused { reason, detail: detail.into() }
}

// === impl Grants, Quotas, Refused ===

impl Grants {
    /// Parses what the operator granted to a peer of `trust_domain`.
    ///
    /// # Errors
    /// The first that is no grant.
    pub fn parse(
        trust_domain: &TrustDomain,
        identities: &[String],
        names: &[String],
        addresses: &[String],
    ) -> Result<Self, GrantError> {
        let prefix = format!("spiffe://{trust_domain}/");
        let good = |pattern: &String| pattern.strip_prefix(&prefix).is_some_and(is_pattern);
        if let Some(bad) = identities.iter().find(|pattern| !good(pattern)) {
            return Err(GrantError::Identity(bad.clone(), trust_domain.clone()));
        }
        let names = names.iter().map(|name| NamePattern::parse(name)).collect::<Result<_, _>>()?;
        let addresses = addresses.iter().map(|range| range.parse()).collect::<Result<_, _>>()?;
        Ok(Self { identities: identities.to_vec(), names, addresses })
    }
}

/// Whether a pattern's path can match anything: segments of an ID, `*`, and `**` as the last. Another would grant nothing, silently.
fn is_pattern(path: &str) -> bool {
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let literal = || format!("spiffe://any.example/{segment}").parse::<SpiffeId>().is_ok();
        let good = match segment {
            "*" => true,
            "**" => segments.peek().is_none(),
            _ => literal(),
        };
        if !good {
            return false;
        }
    }
    true
}

impl NamePattern {
    fn parse(text: &str) -> Result<Self, GrantError> {
        let bad = || GrantError::Name(text.chars().take(80).collect());
        match text.strip_prefix("*.") {
            // Any name will do to prove that the namespace is a label.
            Some(namespace) => {
                format!("any.{namespace}").parse::<ServiceName>().map_err(|_| bad())?;
                Ok(Self::Namespace(namespace.to_owned()))
            }
            None => Ok(Self::Exact(text.parse().map_err(|_| bad())?)),
        }
    }

    /// Whether the name is granted.
    pub fn matches(&self, name: &ServiceName) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Namespace(namespace) => name.namespace() == namespace,
        }
    }
}

impl Default for Quotas {
    fn default() -> Self {
        Self { services: 1_000, endpoints: 100_000, resource_bytes: 256 * 1024, bundle_keys: 32 }
    }
}

impl Refused {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        label(self.reason)
    }
}

/// A stable word for each reason.
pub fn label(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "unspecified",
        Reason::Malformed => "malformed",
        Reason::TooLarge => "too_large",
        Reason::ForeignTrustDomain => "foreign_trust_domain",
        Reason::IdentityNotGranted => "identity_not_granted",
        Reason::NameNotGranted => "name_not_granted",
        Reason::AddressNotGranted => "address_not_granted",
        Reason::Quota => "quota",
        Reason::StaleRevision => "stale_revision",
        Reason::BundleSequence => "bundle_sequence",
        Reason::BundleContent => "bundle_content",
        Reason::UnknownType => "unknown_type",
    }
}

#[cfg(test)]
mod tests;
