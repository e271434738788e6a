//! Which samples were counted, so that each is counted once, and what their order tells of when their intervals began.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use symbolon_kit::clock::unix_ms;

use super::Error;
use crate::model::{LoadSample, ProxyKey};
use crate::store::{SharedStore, Txn, codec, keys};

const KIND: &str = "counted load";
const VERSION: u16 = 1;
/// Runs of one sidecar that are remembered: a sample of the run before may still be on its way.
const BOOTS: usize = 4;
/// The longest name of a run that is taken.
const LONGEST_BOOT: usize = 64;
/// Proxies that are remembered; beyond it those that were silent for longest are forgotten.
const PROXIES: usize = 50_000;

/// By proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted(BTreeMap<ProxyKey, Last>);

/// What was counted last of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Last {
    /// Newest last.
    boots: Vec<(Vec<u8>, u64)>,
    received_ms: u64,
}

/// A sample that is new.
#[derive(Debug, PartialEq)]
pub(super) struct Fresh {
    pub(super) received_ms: u64,
    pub(super) begun_ms: Option<u64>,
    pub(super) last: Last,
}

impl Counted {
    pub(super) async fn load(store: &SharedStore) -> Result<Self, Error> {
        let (all, _) = store.range(keys::counted_loads()).await?;
        let mut counted = BTreeMap::new();
        for stored in all {
            if let Some(proxy) = keys::proxy_of_counted_load(&stored.key) {
                counted.insert(proxy, codec::decode(KIND, &stored.value)?);
            }
        }
        Ok(Self(counted))
    }

    /// `None` if `sample` was counted before, here or in `batch`.
    pub(super) fn fresh(&self, batch: &BTreeMap<ProxyKey, Last>, sample: &LoadSample) -> Option<Fresh> {
        let known = batch.get(&sample.proxy).or_else(|| self.0.get(&sample.proxy));
        let mut last = known.cloned().unwrap_or_default();
        let boot = &sample.boot[..sample.boot.len().min(LONGEST_BOOT)];
        let at = last.boots.iter().position(|(known, _)| known == boot);
        let before = at.map(|at| last.boots.remove(at).1);
        if before.is_some_and(|before| sample.sequence <= before) {
            return None;
        }
        last.boots.push((boot.to_vec(), sample.sequence));
        if last.boots.len() > BOOTS {
            last.boots.remove(0);
        }
        let received_ms = u64::try_from(unix_ms(sample.received)).unwrap_or(0);
        let begun_ms = begun(sample, before, last.received_ms, received_ms);
        last.received_ms = received_ms;
        Some(Fresh { received_ms, begun_ms, last })
    }

    pub(super) fn put(txn: Txn, batch: &BTreeMap<ProxyKey, Last>) -> Result<Txn, Error> {
        batch.iter().try_fold(txn, |txn, (proxy, last)| {
            Ok(txn.put(keys::counted_load(proxy), codec::encode(KIND, VERSION, last)?))
        })
    }

    pub(super) fn absorb(&mut self, batch: BTreeMap<ProxyKey, Last>) {
        self.0.extend(batch);
    }

    /// Those to forget, never one of `callers`.
    pub(super) fn surplus(&self, callers: &BTreeSet<ProxyKey>) -> Vec<ProxyKey> {
        let mut idle: Vec<_> = self.0.iter().filter(|(proxy, _)| !callers.contains(proxy)).collect();
        idle.sort_by_key(|(_, last)| last.received_ms);
        let surplus = self.0.len().saturating_sub(PROXIES);
        idle.into_iter().take(surplus).map(|(proxy, _)| proxy.clone()).collect()
    }

    pub(super) fn forget(&mut self, proxies: &[ProxyKey]) {
        for proxy in proxies {
            self.0.remove(proxy);
        }
    }
}

/// When the sample's interval began at the earliest. Samples carry no wall time of their own, so this is known only of one that
/// follows its predecessor in the rhythm of reporting; of a backlog it is not, since those come all at once, long after.
fn begun(sample: &LoadSample, before: Option<u64>, heard_ms: u64, received_ms: u64) -> Option<u64> {
    let interval = u64::try_from(sample.interval.as_millis()).unwrap_or(u64::MAX);
    let follows = before.is_some_and(|before| before.checked_add(1) == Some(sample.sequence));
    let in_rhythm = received_ms.saturating_sub(heard_ms) >= interval.saturating_div(2);
    (follows && in_rhythm && !sample.gap).then(|| received_ms.saturating_sub(interval))
}
