//! The panic-empty guard: a live, authenticated peer that suddenly lists next to nothing is more often broken than empty. Without a
//! word of explanation (a tombstone that says why, or a drain), the loss of more than half of a service's endpoints, and at least
//! three, within ten seconds, or of the last one, is held: what vanished stays listed, as unhealthy, so that it gets traffic only
//! when nothing better is left. The hold ends by itself. One endpoint that comes and goes is never held. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::{Endpoint, Health, ImportedService, ServiceName};

/// Over which time losses are added up.
const WINDOW: Duration = Duration::from_secs(10);
/// Fewer losses than this are no panic.
const FEW: usize = 3;
/// Sizes remembered per service: newer peaks push out what they exceed, so this many falling sizes in a row are kept.
const SIZES: usize = 16;

/// The guard of one peer.
#[derive(Clone, Debug)]
pub struct Guard {
    hold: Duration,
    services: BTreeMap<ServiceName, Watched>,
}

#[derive(Clone, Debug, Default)]
struct Watched {
    /// Sizes within the window, falling: the first is the peak.
    sizes: VecDeque<(Duration, usize)>,
    held: Option<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    until: Duration,
    endpoints: Vec<Endpoint>,
    /// What the service was when its own resource vanished with its endpoints.
    service: ImportedService,
}

/// What the guard makes of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub imported: Option<ImportedService>,
    /// A hold began with this.
    pub began: bool,
}

impl Guard {
    pub fn new(hold: Duration) -> Self {
        Self { hold, services: BTreeMap::new() }
    }

    /// How long it keeps what vanished.
    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// `before` is what is in force, `after` what the peer says now; `explained` if it says why something is missing.
    pub fn judge(
        &mut self,
        service: &ServiceName,
        before: Option<&ImportedService>,
        after: Option<ImportedService>,
        explained: bool,
        now: Duration,
    ) -> Judged {
        let size = after.as_ref().map_or(0, |after| after.endpoints.len());
        let watched = self.services.entry(service.clone()).or_default();
        if watched.sizes.is_empty() {
            watched.saw(before.map_or(0, |before| before.endpoints.len()), now);
        }
        if explained {
            self.services.remove(service);
            return Judged { imported: after, began: false };
        }
        let peak = watched.peak(now);
        watched.saw(size, now);
        let lost = peak.saturating_sub(size);
        let panic = (size == 0 && lost > 0) || (lost >= FEW && lost * 2 > peak);
        let mut began = false;
        if let (true, Some(before)) = (panic, before) {
            let until = watched.held.as_ref().map_or(now + self.hold, |held| held.until);
            let known = watched.held.take().map(|held| held.endpoints).unwrap_or_default();
            let mut endpoints: BTreeMap<_, _> = known.into_iter().map(|e| (e.id.clone(), e)).collect();
            let vanished = before.endpoints.iter().map(|e| Endpoint { health: Health::Unhealthy, ..e.clone() });
            began = endpoints.is_empty();
            endpoints.extend(vanished.map(|e| (e.id.clone(), e)));
            watched.held = Some(Held { until, endpoints: endpoints.into_values().collect(), service: before.clone() });
        }
        Judged { imported: watched.in_force(after, now), began }
    }

    /// When the next hold ends.
    pub fn next_release(&self) -> Option<Duration> {
        self.services.values().filter_map(|watched| Some(watched.held.as_ref()?.until)).min()
    }

    /// The services whose hold has ended by `now`; they are to be judged again, as explained.
    pub fn released(&self, now: Duration) -> Vec<ServiceName> {
        let over = |watched: &Watched| watched.held.as_ref().is_some_and(|held| held.until <= now);
        self.services.iter().filter(|(_, watched)| over(watched)).map(|(name, _)| name.clone()).collect()
    }
}

impl Watched {
    fn saw(&mut self, size: usize, now: Duration) {
        while self.sizes.back().is_some_and(|(_, smaller)| *smaller <= size) {
            self.sizes.pop_back();
        }
        if self.sizes.len() < SIZES {
            self.sizes.push_back((now, size));
        }
    }

    /// The largest size within the window. The size that stands now was seen when it began, however long ago.
    fn peak(&mut self, now: Duration) -> usize {
        while self.sizes.len() > 1 && self.sizes.get(1).is_some_and(|(since, _)| *since + WINDOW < now) {
            self.sizes.pop_front();
        }
        self.sizes.front().map_or(0, |(_, size)| *size)
    }

    fn in_force(&mut self, after: Option<ImportedService>, now: Duration) -> Option<ImportedService> {
        let Some(held) = self.held.as_ref().filter(|held| held.until > now) else {
            self.held = None;
            return after;
        };
        let (mut whole, listed) = match after {
            Some(after) => (after.clone(), after.endpoints),
            None => (held.service.clone(), [].into()),
        };
        let mut all: BTreeMap<_, _> = held.endpoints.iter().map(|e| (e.id.clone(), e.clone())).collect();
        all.extend(listed.iter().map(|e| (e.id.clone(), e.clone())));
        whole.endpoints = all.into_values().collect();
        Some(whole)
    }
}

/// Whether a tombstone explains a loss.
pub fn explains(why: symbolon_proto::federation::tombstone::Why) -> bool {
    use symbolon_proto::federation::tombstone::Why;
    match why {
        Why::Unexported | Why::ScaledToZero | Why::Revoked => true,
        Why::Deleted => false,
    }
}

#[cfg(test)]
mod tests;
