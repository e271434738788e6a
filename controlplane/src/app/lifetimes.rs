//! From the registration entries to the mesh: how long the SVIDs of an identity live, so that its connections end before they do. A
//! shorter lifetime counts at once. A longer one counts when the SVIDs of the shorter have expired: until then some proxy may still
//! serve with one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use symbolon_kit::drain::Drain;
use symbolon_proto::ids::SpiffeId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::identity::entries::Entries;
use crate::model::Change;

/// Tells the state of lifetimes.
#[derive(Debug)]
pub(super) struct Lifetimes {
    entries: Entries,
    changes: mpsc::Sender<Change>,
    told: Told,
}

/// What the state was told, and what it is to be told later.
#[derive(Debug)]
struct Told {
    /// Of SVIDs whose entry names no TTL.
    usual: Duration,
    told: BTreeMap<SpiffeId, Duration>,
    later: BTreeMap<SpiffeId, (Option<Duration>, Instant)>,
}

impl Lifetimes {
    /// What the stored entries say, for the first mesh, and the task that follows them.
    pub(super) fn new(entries: Entries, usual: Duration, changes: mpsc::Sender<Change>) -> (Vec<Change>, Self) {
        let told: BTreeMap<_, _> = entries.lifetimes().into_iter().collect();
        let first = told.iter().map(|(identity, ttl)| Change::Lifetime { identity: identity.clone(), ttl: Some(*ttl) });
        let first = first.collect();
        (first, Self { entries, changes, told: Told { usual, told, later: BTreeMap::new() } })
    }

    pub(super) async fn run(mut self, drain: Drain) {
        loop {
            let now = tokio::select! {
                changed = self.entries.changed_lifetimes() => {
                    let now = Instant::now();
                    changed.into_iter().filter_map(|(id, ttl)| self.told.hear(id, ttl, now)).collect()
                }
                now = self.told.due() => now,
                () = drain.cancelled() => return,
            };
            for change in now {
                if self.changes.send(change).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Told {
    /// An identity's lifetime as the entries have it now; the change to tell at once, if any.
    fn hear(&mut self, identity: SpiffeId, ttl: Option<Duration>, now: Instant) -> Option<Change> {
        let before = self.told.get(&identity).copied().unwrap_or(self.usual);
        self.later.remove(&identity);
        if ttl.unwrap_or(self.usual) > before {
            self.later.insert(identity, (ttl, now + before));
            return None;
        }
        let differs = self.told.get(&identity).copied() != ttl;
        differs.then(|| self.tell(identity, ttl))
    }

    fn tell(&mut self, identity: SpiffeId, ttl: Option<Duration>) -> Change {
        match ttl {
            Some(ttl) => self.told.insert(identity.clone(), ttl),
            None => self.told.remove(&identity),
        };
        Change::Lifetime { identity, ttl }
    }

    /// The changes that were put off, when their time has come.
    async fn due(&mut self) -> Vec<Change> {
        match self.later.values().map(|(_, at)| *at).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        let now = Instant::now();
        let due: Vec<_> =
            self.later.iter().filter(|(_, (_, at))| *at <= now).map(|(id, (ttl, _))| (id.clone(), *ttl)).collect();
        self.later.retain(|_, (_, at)| *at > now);
        due.into_iter().map(|(id, ttl)| self.tell(id, ttl)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shorter_counts_at_once_and_longer_when_the_short_ones_have_expired() {
        let (hour, minute) = (Duration::from_hours(1), Duration::from_mins(1));
        let id: SpiffeId = "spiffe://a.example/shop".parse().unwrap();
        let mut told = Told { usual: hour, told: BTreeMap::new(), later: BTreeMap::new() };
        let told_now = |ttl| Some(Change::Lifetime { identity: id.clone(), ttl });
        let began = Instant::now();
        assert_eq!(told.hear(id.clone(), None, began), None, "nothing new");
        assert_eq!(told.hear(id.clone(), Some(minute), began), told_now(Some(minute)));
        assert_eq!(
            told.hear(id.clone(), Some(minute * 2), began),
            None,
            "an SVID of a minute may have just been issued"
        );
        assert_eq!(told.hear(id.clone(), None, began), None);
        assert_eq!(told.due().await, told_now(None).into_iter().collect::<Vec<_>>());
        assert_eq!(Instant::now() - began, minute);
        // What is put off is forgotten when it is taken back.
        assert_eq!(told.hear(id.clone(), Some(hour * 2), Instant::now()), None);
        assert_eq!(told.hear(id.clone(), Some(minute), Instant::now()), told_now(Some(minute)));
        assert!(told.later.is_empty());
    }
}
