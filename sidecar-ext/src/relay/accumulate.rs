//! Load reports on their way to the control plane, each delivered once. Pure; `forward` performs the effects.
//!
//! Per proxy, a batch is *in flight* under its number until it is acknowledged: a lost stream sends it again with the same number
//! and content, so the control plane counts it once. What is reported meanwhile waits:
//!
//! ```text
//!  report ──► queue: one batch per report ──► in flight (number n) ──ack n──► gone, n+1 next
//!                │ full                          ▲        │ stream lost
//!                ▼                               └────────┘ the same batch again
//!             merged into the last one
//! ```
//!
//! Batches keep the granularity of Envoy's reports while acknowledgements come, since the judge leaves out intervals that contain a
//! change of weights; only an absence merges them. Memory is bounded whatever happens: [`QUEUE`] batches per proxy,
//! [`MAX_ARMS`] arms per batch.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use symbolon_proto::ids::SpiffeId;
use symbolon_proto::node::{ClusterLoad, LoadBatch, LocalityLoad};
use tokio::time::Instant;

/// Batches that wait per proxy before they are merged.
pub(super) const QUEUE: usize = 8;
/// Arms (cluster, priority, region) in one batch; what comes beyond is lost and marked as a gap.
pub(super) const MAX_ARMS: usize = 20_000;
/// What reports may be delayed on their way here without being taken for a gap.
const SLACK: Duration = Duration::from_millis(250);
/// Proxies of one node.
pub(super) const MAX_PROXIES: usize = 1024;

/// One report of one Envoy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) interval: Duration,
    pub(super) arms: BTreeMap<Arm, Counts>,
    /// Requests dropped by Envoy itself, by cluster.
    pub(super) dropped: BTreeMap<String, u64>,
}

/// Where requests went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arm {
    pub(super) cluster: String,
    pub(super) priority: u32,
    pub(super) region: String,
}

/// What became of them. `in_progress` is a level, the others are sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) success: u64,
    pub(super) error: u64,
    pub(super) in_progress: u64,
    pub(super) issued: u64,
}

/// What happens to the ledger.
#[derive(Debug)]
pub(super) enum Event {
    /// An Envoy reported.
    Reported { proxy: SpiffeId, report: Report, at: Instant },
    /// An Envoy's stream ended. Envoy 1.40 tells on its next stream what it counted meanwhile; one that restarted cannot.
    Broke { proxy: SpiffeId },
    /// A stream to the control plane is open.
    Opened,
    /// It ended.
    Closed,
    /// The control plane counted this batch.
    Acked { proxy: SpiffeId, sequence: u64 },
    /// The control plane refuses what is in flight, again and again: give it up rather than block what follows.
    Refused,
}

/// What became of an event.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Batches to send now, on the open stream.
    pub(super) send: Vec<LoadBatch>,
    /// Arms that found no room.
    pub(super) lost: u64,
    /// Whether reports were merged.
    pub(super) merged: bool,
}

/// All proxies of this node.
#[derive(Debug)]
pub(super) struct Ledger {
    boot: Bytes,
    open: bool,
    proxies: BTreeMap<SpiffeId, Proxy>,
}

#[derive(Debug, Default)]
struct Proxy {
    /// The number of the last batch that was put in flight.
    sequence: u64,
    in_flight: Option<LoadBatch>,
    queue: VecDeque<Waiting>,
    /// The next report follows a loss.
    gap: bool,
    /// When the last report came, and whether its stream has broken since.
    last: Option<Instant>,
    broke: bool,
}

#[derive(Debug)]
struct Waiting {
    report: Report,
    gap: bool,
}

// === impl Ledger ===

impl Ledger {
    /// `boot` names this run of the sidecar; the control plane numbers batches within it.
    pub(super) fn new(boot: Bytes) -> Self {
        Self { boot, open: false, proxies: BTreeMap::new() }
    }

    pub(super) fn step(&mut self, event: Event) -> Outcome {
        let mut outcome = Outcome::default();
        match event {
            Event::Reported { proxy, report, at } => self.reported(proxy, report, at, &mut outcome),
            Event::Broke { proxy } => {
                if let Some(proxy) = self.proxies.get_mut(&proxy) {
                    proxy.broke = true;
                }
            }
            Event::Opened => {
                self.open = true;
                let boot = &self.boot;
                outcome.send.extend(self.proxies.iter_mut().filter_map(|(id, proxy)| proxy.again(id, boot)));
            }
            Event::Closed => self.open = false,
            Event::Refused => {
                for proxy in self.proxies.values_mut().filter(|proxy| proxy.in_flight.is_some()) {
                    let batch = proxy.in_flight.take();
                    outcome.lost += batch.map_or(0, |batch| batch.clusters.len() as u64);
                    match proxy.queue.front_mut() {
                        Some(next) => next.gap = true,
                        None => proxy.gap = true,
                    }
                }
            }
            Event::Acked { proxy: id, sequence } => {
                let Some(proxy) = self.proxies.get_mut(&id) else { return outcome };
                if proxy.in_flight.as_ref().is_some_and(|batch| batch.sequence == sequence) {
                    proxy.in_flight = None;
                    if self.open {
                        outcome.send.extend(proxy.launch(&id, &self.boot));
                    }
                }
            }
        }
        outcome
    }

    /// Reports not yet acknowledged, and whether any is in flight.
    pub(super) fn unacknowledged(&self) -> (usize, bool) {
        let waiting = |proxy: &Proxy| proxy.queue.len() + usize::from(proxy.in_flight.is_some());
        (self.proxies.values().map(waiting).sum(), self.proxies.values().any(|proxy| proxy.in_flight.is_some()))
    }

    fn reported(&mut self, id: SpiffeId, mut report: Report, at: Instant, outcome: &mut Outcome) {
        if self.proxies.len() >= MAX_PROXIES && !self.proxies.contains_key(&id) {
            outcome.lost += report.arms.len() as u64;
            return;
        }
        let proxy = self.proxies.entry(id.clone()).or_default();
        let gap = proxy.follows_a_loss(report.interval, at);
        let mut lost = shorten(&mut report);
        let full = proxy.queue.len() >= QUEUE;
        match proxy.queue.back_mut() {
            Some(last) if full => {
                lost += last.report.merge(report);
                last.gap |= gap | (lost > 0);
                outcome.merged = true;
            }
            _ => proxy.queue.push_back(Waiting { report, gap: gap | (lost > 0) }),
        }
        outcome.lost += lost;
        if self.open && proxy.in_flight.is_none() {
            outcome.send.extend(proxy.launch(&id, &self.boot));
        }
    }
}

// === impl Proxy ===

impl Proxy {
    /// Whether something before this report is lost: known already, or its interval does not reach back across a broken stream.
    fn follows_a_loss(&mut self, interval: Duration, at: Instant) -> bool {
        let broke = std::mem::take(&mut self.broke);
        let last = self.last.replace(at);
        let uncovered = last.map_or(Duration::ZERO, |last| at.saturating_duration_since(last).saturating_sub(interval));
        std::mem::take(&mut self.gap) | (broke && uncovered > SLACK)
    }

    /// Puts the next batch in flight.
    fn launch(&mut self, id: &SpiffeId, boot: &Bytes) -> Option<LoadBatch> {
        let Waiting { report, gap } = self.queue.pop_front()?;
        self.sequence += 1;
        let batch = LoadBatch {
            proxy: id.to_string(),
            boot: boot.clone(),
            sequence: self.sequence,
            interval_ms: u64::try_from(report.interval.as_millis()).unwrap_or(u64::MAX),
            clusters: clusters(report),
            gap,
        };
        self.in_flight = Some(batch.clone());
        Some(batch)
    }

    /// On a new stream: the batch in flight as it was, else the next.
    fn again(&mut self, id: &SpiffeId, boot: &Bytes) -> Option<LoadBatch> {
        self.in_flight.clone().or_else(|| self.launch(id, boot))
    }
}

// === impl Report ===

impl Report {
    /// Whether anything was counted.
    pub(super) fn says_something(&self) -> bool {
        !self.arms.is_empty() || !self.dropped.is_empty()
    }

    /// Adds a later report; returns how many of its arms found no room.
    fn merge(&mut self, later: Self) -> u64 {
        self.interval = self.interval.saturating_add(later.interval);
        let mut lost = 0;
        // The level is what the later report says; an arm that it does not name has nothing in progress.
        self.arms.values_mut().for_each(|counts| counts.in_progress = 0);
        for (arm, counts) in later.arms {
            let full = self.arms.len() >= MAX_ARMS;
            match self.arms.entry(arm) {
                Entry::Occupied(mut known) => known.get_mut().follow(counts),
                Entry::Vacant(_) if full => lost += 1,
                Entry::Vacant(free) => _ = free.insert(counts),
            }
        }
        for (cluster, dropped) in later.dropped {
            let full = self.dropped.len() >= MAX_ARMS;
            match self.dropped.entry(cluster) {
                Entry::Occupied(mut known) => *known.get_mut() = known.get().saturating_add(dropped),
                Entry::Vacant(_) if full => lost += 1,
                Entry::Vacant(free) => _ = free.insert(dropped),
            }
        }
        lost
    }
}

// === impl Counts ===

impl Counts {
    /// Adds what was counted later at the same place.
    fn follow(&mut self, later: Self) {
        self.in_progress = 0;
        self.join(later);
    }

    /// Adds what was counted at the same time at another place.
    pub(super) fn join(&mut self, other: Self) {
        self.success = self.success.saturating_add(other.success);
        self.error = self.error.saturating_add(other.error);
        self.issued = self.issued.saturating_add(other.issued);
        self.in_progress = self.in_progress.saturating_add(other.in_progress);
    }
}

/// Cuts a report to its bounds; returns how many arms were lost.
fn shorten(report: &mut Report) -> u64 {
    let before = report.arms.len() + report.dropped.len();
    while report.arms.len() > MAX_ARMS {
        report.arms.pop_last();
    }
    while report.dropped.len() > MAX_ARMS {
        report.dropped.pop_last();
    }
    (before - report.arms.len() - report.dropped.len()) as u64
}

fn clusters(report: Report) -> Vec<ClusterLoad> {
    let mut clusters = BTreeMap::<String, ClusterLoad>::new();
    for (Arm { cluster, priority, region }, Counts { success, error, in_progress, issued }) in report.arms {
        let load = clusters.entry(cluster).or_default();
        load.localities.push(LocalityLoad { priority, region, success, error, in_progress, issued });
    }
    for (cluster, dropped) in report.dropped {
        clusters.entry(cluster).or_default().dropped = dropped;
    }
    clusters.into_iter().map(|(cluster, load)| ClusterLoad { cluster, ..load }).collect()
}

#[cfg(test)]
mod tests;
