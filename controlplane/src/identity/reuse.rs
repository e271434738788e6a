//! One key, one identity (bad input 7): who has a key of somebody else's certificate is somebody else, or has a broken random source.
//!
//! Kept in memory, for as long as the certificates live. After a restart, and beyond [`GENERATION`] younger keys, a second use is not
//! noticed: the audit log has them all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use std::sync::Mutex;
use symbolon_proto::ids::SpiffeId;

/// How many keys are remembered at least, and half of how many at most.
const GENERATION: usize = 128 * 1024;

/// The keys that living certificates speak for; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(Arc<Mutex<Generations>>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<[u8; 32], Use>,
    old: HashMap<[u8; 32], Use>,
}

#[derive(Clone, Debug)]
struct Use {
    id: SpiffeId,
    until: SystemTime,
}

impl Keys {
    /// Notes that a certificate until `until` says that `key` is `id`'s. False if a living certificate says that it is another's.
    pub(super) fn claim(&self, key: &[u8], id: &SpiffeId, now: SystemTime, until: SystemTime) -> bool {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.claim(hash, Use { id: id.clone(), until }, now, GENERATION)
    }
}

impl Generations {
    fn claim(&mut self, key: [u8; 32], mut claimed: Use, now: SystemTime, most: usize) -> bool {
        if let Some(before) = self.young.get(&key).or_else(|| self.old.get(&key)).filter(|before| before.until >= now) {
            if before.id != claimed.id {
                return false;
            }
            claimed.until = claimed.until.max(before.until);
        }
        if self.young.len() >= most && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, claimed);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn bad_007_memory_is_bounded_and_forgets_the_oldest() {
        let (now, hour) = (SystemTime::UNIX_EPOCH, Duration::from_secs(3600));
        let id = |name: &str| format!("spiffe://a.example/{name}").parse::<SpiffeId>().unwrap();
        let claim = |known: &mut Generations, key: u8, name: &str| {
            known.claim([key; 32], Use { id: id(name), until: now + hour }, now, 3)
        };
        let mut known = Generations::default();
        for key in 0..6 {
            assert!(claim(&mut known, key, "shop"));
            assert!(claim(&mut known, key, "shop"), "again, by the same");
            assert!(!claim(&mut known, key, "bank"));
            assert!(known.young.len() <= 3 && known.old.len() <= 3);
        }
        assert!(!claim(&mut known, 0, "bank"), "of the older half, and still known");
        for key in 6..9 {
            assert!(claim(&mut known, key, "shop"));
        }
        assert!(claim(&mut known, 0, "bank"), "forgotten");
        let later = now + hour + Duration::from_secs(1);
        assert!(known.claim([8; 32], Use { id: id("bank"), until: later }, later, 3), "its certificate has expired");
    }

    #[test]
    fn a_shorter_certificate_does_not_free_the_key_of_a_longer_one() {
        let (now, hour) = (SystemTime::UNIX_EPOCH, Duration::from_secs(3600));
        let (shop, bank): (SpiffeId, SpiffeId) =
            ("spiffe://a.example/shop".parse().unwrap(), "spiffe://a.example/bank".parse().unwrap());
        let keys = Keys::default();
        assert!(keys.claim(b"key", &shop, now, now + 2 * hour));
        assert!(keys.claim(b"key", &shop, now, now + hour));
        assert!(!keys.claim(b"key", &bank, now + hour + hour / 2, now + 3 * hour));
        assert!(keys.claim(b"other key", &bank, now, now + hour));
    }
}
