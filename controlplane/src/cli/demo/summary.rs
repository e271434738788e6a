//! The demo's result, and whether it is good, purely: what the promise says, checked line by line.

use serde::Serialize;

/// `target/demo/summary.json`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub pass: bool,
    /// Why it did not pass; empty if it did.
    pub problems: Vec<String>,
    pub fault: String,
    pub failed_requests: u64,
    pub requests: u64,
    pub duration_s: f64,
    pub envoy: String,
    pub longest_pause_ms: u64,
    pub latency_ms: Latency,
    pub propagation_ms: Propagation,
    pub steps: Vec<StepResult>,
    pub rollback: Option<Rollback>,
    pub partition: Option<Partition>,
    pub rotation: Rotation,
    pub restart: Restart,
    pub processes: Vec<Process>,
    pub upstream_rq_retry: u64,
}

/// From the moment a request was due.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// From B's changed file to A's Envoy.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Propagation {
    pub samples: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct StepResult {
    /// `ramp`, or `recover` after the rollback.
    pub phase: &'static str,
    pub weight: u32,
    pub wanted_share: f64,
    pub envoy_weights: Vec<u32>,
    pub observed_share: f64,
    pub requests: u64,
    pub failed_requests: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Rollback {
    pub at_weight: u32,
    pub reason: String,
    pub fault_to_decision_ms: u64,
    pub decision_to_zero_ms: u64,
    /// From the fault to the last request that B answered.
    pub fault_to_zero_share_ms: u64,
    pub evidence: EvidenceResult,
}

/// Logarithms of the e-values, and of the threshold that both must reach.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct EvidenceResult {
    pub relative: f64,
    pub absolute: f64,
    pub threshold: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Partition {
    pub phase_while_away: String,
    pub peer_while_away: String,
    pub weights_before: Vec<u32>,
    pub weights_while_away: Vec<u32>,
    pub hosts_kept: bool,
    pub healed: bool,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Rotation {
    pub serials_before: Vec<String>,
    pub serials_after: Vec<String>,
    /// Envoys, and clusters that carry traffic, that have not taken a new certificate into use.
    pub stale: Vec<String>,
    pub failed_requests: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Restart {
    pub steps_lost: usize,
    pub steps_doubled: usize,
    pub failed_requests: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Process {
    pub name: String,
    pub pid: i32,
    pub exe: String,
}

/// The fewest requests over which a share is judged.
const LEAST_REQUESTS: u64 = 8_000;
/// Two-sided 1 − 10⁻⁵ of the normal distribution.
const Z: f64 = 4.42;
/// From B's changed file to A's Envoy, and from the fault to the last request there.
const PROPAGATION_MS: f64 = 200.0;
const ZERO_SHARE_MS: u64 = 5_000;

/// Whether `observed` of `n` requests is what a coin of probability `wanted` gives, but for one time in 10⁵.
#[expect(clippy::cast_precision_loss, reason = "request counts are far below 2^52")]
pub fn is_binomial(observed: f64, wanted: f64, n: u64) -> bool {
    n > 0 && (observed - wanted).abs() <= Z * (wanted * (1.0 - wanted) / n as f64).sqrt()
}

impl Summary {
    /// Fills in `pass` and appends to `problems` what is not as promised. `wanted` are the weights that each step must have had, per
    /// step; the machine's longest pause is taken off absolute limits.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of one pause")]
    pub fn judge(&mut self, wanted: &[Vec<u32>]) {
        let mut problems = Vec::new();
        if self.failed_requests > 0 {
            problems.push(format!("{} requests failed", self.failed_requests));
        }
        for (step, wanted) in self.steps.iter().zip(wanted) {
            problems.extend(step.problems(wanted));
        }
        let p99 = self.propagation_ms.p99 - self.longest_pause_ms as f64;
        if self.propagation_ms.samples < 200 {
            problems.push(format!("only {} propagation samples", self.propagation_ms.samples));
        } else if p99 >= PROPAGATION_MS {
            problems.push(format!("propagation p99 is {p99:.0} ms (pause taken off), not below {PROPAGATION_MS} ms"));
        }
        if let Some(rollback) = &self.rollback {
            let took = rollback.fault_to_zero_share_ms.saturating_sub(self.longest_pause_ms);
            if took > ZERO_SHARE_MS {
                problems.push(format!("B still answered {took} ms after the fault (pause taken off)"));
            }
        }
        for stale in &self.rotation.stale {
            problems.push(format!("not rotated: {stale}"));
        }
        let repeated =
            self.rotation.serials_after.iter().filter(|serial| self.rotation.serials_before.contains(serial));
        let repeated = repeated.count();
        if repeated > 0 || self.rotation.serials_after.is_empty() {
            problems.push(format!("{repeated} of the certificates at the end are those of the beginning"));
        }
        if (self.restart.steps_lost, self.restart.steps_doubled) != (0, 0) {
            problems.push(format!("{} steps lost, {} doubled", self.restart.steps_lost, self.restart.steps_doubled));
        }
        self.problems.append(&mut problems);
        self.pass = self.problems.is_empty();
    }
}

impl StepResult {
    fn problems(&self, wanted: &[u32]) -> Vec<String> {
        let name = format!("{} step {} %", self.phase, self.weight);
        let mut problems = Vec::new();
        if self.envoy_weights != wanted {
            problems.push(format!("{name}: Envoy has weights {:?}, wanted {wanted:?}", self.envoy_weights));
        }
        if self.requests < LEAST_REQUESTS {
            problems
                .push(format!("{name}: only {} requests, {LEAST_REQUESTS} are needed to judge a share", self.requests));
        } else if !is_binomial(self.observed_share, self.wanted_share, self.requests) {
            let (have, want) = (self.observed_share * 100.0, self.wanted_share * 100.0);
            problems.push(format!("{name}: observed share {have:.2} %, wanted {want:.2} %"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Summary {
        Summary {
            requests: 95_000,
            propagation_ms: Propagation { samples: 200, p50: 20.0, p99: 40.0, max: 60.0 },
            steps: vec![StepResult {
                phase: "ramp",
                weight: 5,
                wanted_share: 0.025,
                envoy_weights: vec![9750, 250],
                observed_share: 0.0249,
                requests: 12_000,
                failed_requests: 0,
            }],
            rollback: Some(Rollback { fault_to_zero_share_ms: 1500, ..Default::default() }),
            rotation: Rotation {
                serials_before: vec!["1".into()],
                serials_after: vec!["2".into()],
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn passes_only_if_everything_is_as_promised() {
        let check = |spoil: &dyn Fn(&mut Summary), complaint: &str| {
            let mut summary = good();
            spoil(&mut summary);
            summary.judge(&[vec![9750, 250]]);
            assert_eq!(summary.pass, complaint.is_empty(), "{:?}", summary.problems);
            assert!(summary.problems.iter().all(|problem| problem.contains(complaint)), "{:?}", summary.problems);
        };
        check(&|_| (), "");
        check(&|s| s.failed_requests = 1, "1 requests failed");
        check(&|s| s.steps[0].envoy_weights = vec![9751, 249], "Envoy has weights");
        check(&|s| s.steps[0].observed_share = 0.032, "observed share");
        check(&|s| s.steps[0].requests = 7_999, "only 7999 requests");
        check(&|s| s.propagation_ms.samples = 199, "propagation samples");
        check(&|s| s.propagation_ms.p99 = 200.0, "propagation p99");
        check(&|s| (s.propagation_ms.p99, s.longest_pause_ms) = (210.0, 30), "");
        check(&|s| s.rollback = Some(Rollback { fault_to_zero_share_ms: 5_001, ..Default::default() }), "5001 ms");
        check(&|s| s.rotation.stale = vec!["envoy a-checkout".into()], "not rotated");
        check(&|s| s.rotation.serials_after = vec!["1".into()], "those of the beginning");
        check(&|s| s.rotation.serials_after = vec![], "those of the beginning");
        check(&|s| s.restart.steps_doubled = 1, "1 doubled");
        check(&|s| s.problems.push("an act failed".into()), "an act failed");
    }

    #[test]
    fn the_binomial_interval() {
        assert!(is_binomial(0.025, 0.025, 8_000));
        assert!(is_binomial(0.5 + 0.0245, 0.5, 8_100));
        assert!(!is_binomial(0.5 + 0.0248, 0.5, 8_000));
        assert!(!is_binomial(0.0, 0.0, 0));
    }
}
