//! The keys under which resources travel, the order in which they depend on each other, and the digest of a set of them. Pure;
//! both roles of a session use it, so that they cannot differ.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use symbolon_proto::federation as wire;

use crate::model::ServiceName;

/// The key of our own trust bundle.
pub const BUNDLE: &str = "bundle";
/// The most endpoints in one shard: one changed endpoint resends at most its shard.
pub const SHARD_ENDPOINTS: usize = 100;

/// `service/<svc>.<ns>`.
pub fn service_key(service: &ServiceName) -> String {
    format!("service/{service}")
}

/// `capacity/<svc>.<ns>`.
pub fn capacity_key(service: &ServiceName) -> String {
    format!("capacity/{service}")
}

/// `shard/<svc>.<ns>/<number>`.
pub fn shard_key(service: &ServiceName, shard: u32) -> String {
    format!("shard/{service}/{shard}")
}

/// The key that a resource must travel under; `None` for a type that this version does not know.
pub fn key_of(resource: &wire::Resource) -> Option<String> {
    match resource.r.as_ref()? {
        wire::resource::R::Bundle(_) => Some(BUNDLE.to_owned()),
        wire::resource::R::Service(service) => Some(format!("service/{}", service.name)),
        wire::resource::R::Shard(shard) => Some(format!("shard/{}/{}", shard.service, shard.shard)),
        wire::resource::R::Capacity(capacity) => Some(format!("capacity/{}", capacity.service)),
        wire::resource::R::Gateway(_) | wire::resource::R::Feedback(_) => None,
    }
}

/// The service that a key speaks of.
pub fn service_of(key: &str) -> Option<ServiceName> {
    let (_, rest) = key.split_once('/')?;
    rest.split('/').next()?.parse().ok()
}

/// Where a key stands in a snapshot: what others need comes first.
pub fn class(key: &str) -> u8 {
    match key.split('/').next() {
        Some(BUNDLE) => 0,
        Some("service") => 1,
        Some("capacity") => 2,
        _ => 3,
    }
}

/// The digest of a set of (key, revision), whatever order it was gathered in. It is told against accidents, not against the
/// peer, who is authenticated and could as well lie about the resources; it leaves the content out, so that a peer with a newer
/// schema, whose unknown fields we drop, does not differ for ever.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct SetDigest([u8; 32]);

impl SetDigest {
    /// Adds the pair, or takes it out again.
    pub fn toggle(&mut self, key: &str, revision: u64) {
        let mut context = Context::new(&SHA256);
        context.update(key.as_bytes());
        context.update(&[0]);
        context.update(&revision.to_le_bytes());
        for (sum, byte) in self.0.iter_mut().zip(context.finish().as_ref()) {
            *sum ^= byte;
        }
    }

    /// As it travels.
    pub fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// Whether this is what the other side says.
    pub fn is(&self, said: &[u8]) -> bool {
        self.0 == *said
    }
}

impl fmt::Debug for SetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// SHA-256 of a resource as we understand it.
pub fn content_hash(encoded: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&SHA256, encoded).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_digest_forgets_the_order(mut pairs in prop::collection::btree_map("[a-z]{1,8}", 0u64..100, 0..20), seed in any::<u64>()) {
            let sum = |pairs: &[(String, u64)]| pairs.iter().fold(SetDigest::default(), |mut sum, (key, revision)| {
                sum.toggle(key, *revision);
                sum
            });
            let forward: Vec<_> = pairs.clone().into_iter().collect();
            let mut other = forward.clone();
            other.reverse();
            let by = usize::try_from(seed).unwrap_or(0) % other.len().max(1);
            other.rotate_left(by);
            prop_assert_eq!(sum(&forward), sum(&other));
            if let Some((key, revision)) = pairs.pop_first() {
                let mut without = sum(&forward);
                prop_assert_ne!(without, sum(&pairs.clone().into_iter().collect::<Vec<_>>()));
                without.toggle(&key, revision);
                prop_assert_eq!(without, sum(&pairs.into_iter().collect::<Vec<_>>()));
            }
        }
    }

    #[test]
    fn keys_name_their_service() {
        let payments: ServiceName = "payments.shop".parse().expect("a name");
        for key in [service_key(&payments), capacity_key(&payments), shard_key(&payments, 7)] {
            assert_eq!(service_of(&key), Some(payments.clone()), "{key}");
        }
        assert_eq!(service_of(BUNDLE), None);
        assert!(class(BUNDLE) < class(&service_key(&payments)));
        assert!(class(&service_key(&payments)) < class(&shard_key(&payments, 0)));
    }
}
