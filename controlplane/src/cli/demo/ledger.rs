//! What the client counted, by the moment at which each request was due; read from the load program's lines.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Every request so far.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    buckets: BTreeMap<u64, Bucket>,
}

#[derive(Clone, Debug, Deserialize)]
struct Bucket {
    t: u64,
    ok: BTreeMap<String, u64>,
    injected: BTreeMap<String, u64>,
    failed: Vec<String>,
    latency_us: Vec<u64>,
}

/// The requests of a span of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    pub requests: u64,
    /// Answered by A's workloads, and by B's: the injected errors included.
    pub local: u64,
    pub remote: u64,
    pub injected: u64,
    pub failed: u64,
}

impl Ledger {
    /// Adds one line of the load program.
    ///
    /// # Errors
    /// If it is none.
    pub fn add(&mut self, line: &str) -> serde_json::Result<()> {
        let bucket: Bucket = serde_json::from_str(line)?;
        self.buckets.insert(bucket.t, bucket);
        Ok(())
    }

    /// Requests that were due from `from` to before `to`, in Unix milliseconds.
    pub fn between(&self, from: u64, to: u64) -> Counts {
        let mut counts = Counts::default();
        if from >= to {
            return counts;
        }
        for bucket in self.buckets.range(from..to).map(|(_, bucket)| bucket) {
            counts.failed += bucket.failed.len() as u64;
            for (answers, injected) in [(&bucket.ok, false), (&bucket.injected, true)] {
                for (workload, count) in answers {
                    if workload.starts_with("b-") {
                        counts.remote += count;
                    } else {
                        counts.local += count;
                    }
                    counts.injected += if injected { *count } else { 0 };
                }
            }
        }
        counts.requests = counts.local + counts.remote + counts.failed;
        counts
    }

    /// All requests.
    pub fn total(&self) -> Counts {
        self.between(0, u64::MAX)
    }

    /// The newest due time of which something is known; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.buckets.last_key_value().map_or(0, |(t, _)| *t)
    }

    /// The last due time from `from` on of a request that B answered.
    pub fn last_remote(&self, from: u64, to: u64) -> Option<u64> {
        let remote =
            |bucket: &Bucket| bucket.ok.keys().chain(bucket.injected.keys()).any(|name| name.starts_with("b-"));
        self.buckets.range(from..to).rev().find(|(_, bucket)| remote(bucket)).map(|(t, _)| *t)
    }

    /// What was said of failures, with how often, the most frequent first.
    pub fn failures(&self) -> Vec<(String, u64)> {
        let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
        for why in self.buckets.values().flat_map(|bucket| &bucket.failed) {
            *counted.entry(why).or_default() += 1;
        }
        let mut all: Vec<_> = counted.into_iter().map(|(why, count)| (why.to_owned(), count)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }

    /// Nearest-rank percentile of the latency since `from`, in milliseconds; 0 when there is none.
    pub fn latency_ms(&self, from: u64, percent: f64) -> f64 {
        let mut all: Vec<f64> = self
            .buckets
            .range(from..)
            .flat_map(|(_, bucket)| &bucket.latency_us)
            .map(|us| std::time::Duration::from_micros(*us).as_secs_f64() * 1e3)
            .collect();
        nearest_rank(&mut all, percent)
    }
}

/// The smallest value that `percent` of the values do not exceed; 0 when there are none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "counts are small"
)]
pub fn nearest_rank(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_due_time_and_side() {
        let mut ledger = Ledger::default();
        for line in [
            r#"{"t":1000,"ok":{"a-payments-1":6,"b-payments-1":3},"injected":{"b-payments-1":1},"failed":[],"latency_us":[1000]}"#,
            r#"{"t":1010,"ok":{"a-payments-1":9},"injected":{},"failed":["status 503"],"latency_us":[9000]}"#,
        ] {
            ledger.add(line).unwrap();
        }
        let whole = ledger.total();
        assert_eq!((whole.requests, whole.local, whole.remote, whole.injected, whole.failed), (20, 15, 4, 1, 1));
        assert_eq!(ledger.between(1010, 1020).remote, 0);
        assert_eq!(ledger.between(1020, 1010), Counts::default());
        assert_eq!(ledger.last_remote(0, u64::MAX), Some(1000));
        assert_eq!(ledger.failures(), [("status 503".to_owned(), 1)]);
        assert!(ledger.add("no line").is_err());
    }

    #[test]
    fn nearest_rank_is_a_value_that_was_seen() {
        let mut values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(nearest_rank(&mut values, 99.0), 198.0);
        assert_eq!(nearest_rank(&mut values, 50.0), 100.0);
        assert_eq!(nearest_rank(&mut [], 50.0), 0.0);
    }
}
