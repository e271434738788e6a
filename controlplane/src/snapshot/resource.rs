//! A snapshot: immutable resources, each encoded once and shared by every stream that needs it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use symbolon_kit::octets::{hex, sha256};

use crate::model::{ProxyKey, ResourceType};

/// Field 2, length-delimited: `resources` of both `DeltaDiscoveryResponse` and `DiscoveryResponse`.
const RESOURCES_FIELD: u8 = (2 << 3) | 2;

/// One xDS resource, ready for the wire in both protocol variants.
#[derive(Clone, PartialEq)]
pub struct Resource {
    pub name: Arc<str>,
    /// 128-bit content hash in hex, the same on every replica (xDS checklist 13).
    pub version: Arc<str>,
    /// The whole `resources` field of a `DeltaDiscoveryResponse`, key and length included.
    pub delta: Bytes,
    /// The whole `resources` field of a `DiscoveryResponse`.
    pub sotw: Bytes,
    /// Names of the resources that this one needs, by type: LDS→RDS→CDS→EDS.
    pub needs: Arc<[(ResourceType, Arc<str>)]>,
}

/// Resources of one type.
pub type ByName = BTreeMap<Arc<str>, Arc<Resource>>;

/// Resources of every type.
pub type Resources = BTreeMap<ResourceType, ByName>;

/// What one proxy is to have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The generation of the mesh that it was made from.
    pub generation: u64,
    /// The same `Arc` as in the snapshot before if nothing changed for this proxy but the generation.
    pub resources: Arc<Resources>,
}

/// What every proxy is to have; published whole.
#[derive(Clone, Debug, Default)]
pub struct SnapshotSet {
    pub generation: u64,
    pub proxies: BTreeMap<ProxyKey, Arc<Snapshot>>,
}

// === impl Resource ===

impl Resource {
    /// Encodes `message` once, for both variants. Deterministic as long as the message holds no map with more than one entry.
    pub fn encode<T: Message + Name>(name: &str, message: &T, needs: Vec<(ResourceType, Arc<str>)>) -> Self {
        let any = Any { type_url: T::type_url(), value: message.encode_to_vec() };
        let version = content_hash(&any.value);
        let sotw = field(&any);
        let resource = discovery::Resource {
            name: name.to_owned(),
            version: version.clone(),
            resource: Some(any),
            ..Default::default()
        };
        Self { name: name.into(), version: version.into(), delta: field(&resource), sotw, needs: needs.into() }
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// The resources of one type; empty if there are none.
    pub fn of(&self, kind: ResourceType) -> &ByName {
        static NONE: ByName = BTreeMap::new();
        self.resources.get(&kind).unwrap_or(&NONE)
    }
}

fn field(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(len + 1 + prost::length_delimiter_len(len));
    out.put_u8(RESOURCES_FIELD);
    message.encode_length_delimited(&mut out).expect("a BytesMut grows");
    out.freeze()
}

fn content_hash(bytes: &[u8]) -> String {
    hex(&sha256(bytes)[..16])
}
