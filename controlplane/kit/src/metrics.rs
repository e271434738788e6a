//! Counters and gauges of one process, rendered as OpenMetrics text.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::{counter, family::Family, gauge};
use prometheus_client::registry::Registry;
use tracing::error;

type Labels = Vec<(String, String)>;

/// The most label sets of one family (bad input 161); what comes after is counted together, with every value [`OTHER`].
pub const MAX_LABEL_SETS: usize = 1_000;
/// The label value that stands for all that came after the cap.
pub const OTHER: &str = "other";
/// The longest label value, in characters.
const MAX_VALUE: usize = 256;

/// The registry; cheap to clone. Names are given without prefix or unit suffix rules: `counter("symbolon_svids_issued", ..)`; a
/// counter is shown with `_total` behind it. Who asks for a name twice gets the same family.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Families>>); // a std mutex: nothing awaits while it is held

#[derive(Debug, Default)]
struct Families {
    registry: Registry,
    counters: BTreeMap<String, Counter>,
    gauges: BTreeMap<String, Gauge>,
}

/// A counter by labels; labels must come from bounded sets.
#[derive(Clone, Debug, Default)]
pub struct Counter(Capped<counter::Counter>);

/// A gauge by labels.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Capped<gauge::Gauge>);

/// A family that grows to [`MAX_LABEL_SETS`].
#[derive(Clone, Debug)]
struct Capped<M> {
    family: Family<Labels, M>,
    sets: Arc<AtomicUsize>,
}

// === impl Metrics ===

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a counter.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let families = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = &mut families.counters;
        if let Some(known) = counters.get(name) {
            return known.clone();
        }
        let counter = Counter::default();
        families.registry.register(name, help, counter.0.family.clone());
        counters.insert(name.to_owned(), counter.clone());
        counter
    }

    /// Registers a gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let families = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gauges = &mut families.gauges;
        if let Some(known) = gauges.get(name) {
            return known.clone();
        }
        let gauge = Gauge::default();
        families.registry.register(name, help, gauge.0.family.clone());
        gauges.insert(name.to_owned(), gauge.clone());
        gauge
    }

    /// OpenMetrics text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if prometheus_client::encoding::text::encode(&mut text, &families.registry).is_err() {
            error!("metrics could not be rendered"); // only the formatter can fail, and a String's does not
        }
        text
    }
}

// === impl Counter ===

impl Counter {
    /// Counts one.
    pub fn inc(&self, labels: &[(&'static str, &str)]) {
        self.add(labels, 1);
    }

    /// Counts `by`.
    pub fn add(&self, labels: &[(&'static str, &str)], by: u64) {
        self.0.of(labels).inc_by(by);
    }

    /// What was counted under these labels.
    pub fn value(&self, labels: &[(&'static str, &str)]) -> u64 {
        self.0.family.get(&owned(labels)).map_or(0, |counter| counter.get())
    }
}

// === impl Gauge ===

impl Gauge {
    pub fn set(&self, labels: &[(&'static str, &str)], value: i64) {
        self.0.of(labels).set(value);
    }

    /// What was last set under these labels; 0 if nothing was.
    pub fn value(&self, labels: &[(&'static str, &str)]) -> i64 {
        self.0.family.get(&owned(labels)).map_or(0, |gauge| gauge.get())
    }

    /// Forgets these labels: what they named is gone.
    pub fn remove(&self, labels: &[(&'static str, &str)]) {
        if self.0.family.remove(&owned(labels)) {
            self.0.sets.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| ((*name).to_owned(), value.chars().take(MAX_VALUE).collect())).collect()
}

// === impl Capped ===

impl<M: Clone + Default> Capped<M> {
    fn of(&self, labels: &[(&'static str, &str)]) -> M {
        let set = owned(labels);
        if let Some(known) = self.family.get(&set) {
            return known.clone();
        }
        // Two threads may pass the cap by one each: it bounds memory, it is no exact count.
        if self.sets.fetch_add(1, Ordering::Relaxed) < MAX_LABEL_SETS {
            return self.family.get_or_create_owned(&set);
        }
        self.sets.fetch_sub(1, Ordering::Relaxed);
        self.family.get_or_create_owned(&set.into_iter().map(|(name, _)| (name, OTHER.to_owned())).collect())
    }
}

impl<M: Default> Default for Capped<M> {
    fn default() -> Self {
        Self { family: Family::new_with_constructor(M::default), sets: Arc::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_gauges_are_rendered_as_openmetrics() {
        let metrics = Metrics::new();
        let refused = metrics.counter("symbolon_refusals", "Refusals by reason");
        refused.inc(&[("reason", "bad_csr")]);
        metrics.counter("symbolon_refusals", "Refusals by reason").add(&[("reason", "bad_csr")], 2);
        metrics.gauge("symbolon_proxies", "Connected proxies").set(&[], -3);
        assert_eq!(refused.value(&[("reason", "bad_csr")]), 3);
        let text = metrics.render();
        assert!(text.contains("symbolon_refusals_total{reason=\"bad_csr\"} 3\n"), "{text}");
        assert!(text.contains("symbolon_proxies{} -3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn bad_161_a_label_explosion_is_capped() {
        let metrics = Metrics::new();
        let counter = metrics.counter("c", "");
        for i in 0..10_000 {
            counter.inc(&[("reason", &format!("r{i}"))]);
        }
        counter.inc(&[("reason", "r0")]);
        assert_eq!(counter.value(&[("reason", "r0")]), 2, "what was known before the cap is still counted apart");
        assert_eq!(counter.value(&[("reason", OTHER)]), 10_000 - MAX_LABEL_SETS as u64);
        assert!(metrics.render().lines().count() < MAX_LABEL_SETS + 10);
    }

    #[test]
    fn bad_161_label_values_are_bounded_and_escaped() {
        let metrics = Metrics::new();
        metrics.counter("c", "").inc(&[("reason", &"x\n\"".repeat(1_000))]);
        assert!(metrics.render().lines().all(|line| line.len() < 2 * MAX_VALUE + 40));
    }
}
