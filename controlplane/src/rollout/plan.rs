//! What the operator wants of a ramp, and how much traffic that comes to: the policy, the fair share by capacity (decision 10), the
//! weight of a step. Pure.

use std::time::Duration;

use crate::model::Weight;

/// The most steps that a policy may have.
const MOST_STEPS: usize = 100;
/// The most that the remote arm's error rate may be allowed over the local one's: beyond it the judge would be silenced.
const MOST_RHO: f64 = 3.0;

/// How a federated service is ramped.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// In rising order of weight, at least one.
    pub steps: Vec<Step>,
    /// How long the peer's offer must have stood still before a run begins: a scale-out rarely comes in one piece, and the first
    /// step is a share of the whole.
    pub initial_delay: Duration,
    /// How often the machine looks at the clock; load reports are judged when they come.
    pub interval: Duration,
    /// How often proxies are asked to report their load.
    pub report_every: Duration,
    /// Wait after the first rollback; doubles with each further one.
    pub backoff: Duration,
    pub max_backoff: Duration,
    /// How long a step may lack a verdict before a person is asked.
    pub max_hold: Duration,
    pub shift: Shift,
    /// Percent of the traffic that always stays local while there is a healthy local endpoint.
    pub holdback: u32,
    /// Percent of the traffic that the remote arm never exceeds, if set.
    pub max_weight: Option<u32>,
    /// Share of failing requests that is never a reason to roll back.
    pub error_tolerance: f64,
    /// A step passes only if the upper confidence bound of the remote arm's error rate lies below this; `None`: not asked for.
    /// Default 5 %: met by 52 requests without an error, and never met while every arm of the service fails, so that a shared
    /// outage holds a ramp instead of advancing it.
    pub slo_ceiling: Option<f64>,
    /// How many times the local error rate the remote one may be.
    pub rho: f64,
    /// The chance of a false rollback per step.
    pub alpha: f64,
    /// Once converged: evaluations per false alarm that is tolerated.
    pub evaluations_per_alarm: f64,
    /// The most that one remote endpoint counts for, whatever weight the peer claims.
    pub max_endpoint_weight: u32,
}

/// One step of the ramp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Percent of the fair share, 1 to 100.
    pub weight: u32,
    /// Time with evidence, from the acknowledgement of the weights.
    pub min_duration: Duration,
    /// Requests that the remote arm must have completed.
    pub min_requests: u64,
}

/// What 100 % means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shift {
    /// The remote arm's share of the capacity.
    #[default]
    FairShare,
    /// All traffic but the holdback: for those who migrate.
    All,
}

impl Shift {
    /// As operators write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FairShare => "fairShare",
            Self::All => "all",
        }
    }
}

/// Why a policy was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rolloutPolicy.{field}: {why}")]
pub struct PolicyError {
    pub field: &'static str,
    pub why: &'static str,
}

/// Who could bear how much: sums of the weights of usable endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacities {
    pub local: u64,
    /// Of the arm in question.
    pub remote: u64,
    /// Of the other peers' arms of the same service.
    pub others: u64,
}

// === impl Policy ===

impl Default for Policy {
    fn default() -> Self {
        let step = |weight| Step { weight, min_duration: Duration::from_mins(1), min_requests: 300 };
        Self {
            steps: vec![step(5), step(25), step(100)],
            initial_delay: Duration::from_secs(5),
            interval: Duration::from_secs(5),
            report_every: Duration::from_secs(5),
            backoff: Duration::from_mins(1),
            max_backoff: Duration::from_hours(1),
            max_hold: Duration::from_mins(30),
            shift: Shift::FairShare,
            holdback: 1,
            max_weight: None,
            error_tolerance: 0.001,
            slo_ceiling: Some(0.05),
            rho: 1.5,
            alpha: 0.01,
            evaluations_per_alarm: 1e6,
            max_endpoint_weight: 100,
        }
    }
}

impl Policy {
    /// Checks what the types cannot: ranges and order.
    ///
    /// # Errors
    /// Names the first field that cannot be.
    pub fn check(&self) -> Result<(), PolicyError> {
        let within = |value: f64, low: f64, high: f64| value.is_finite() && value > low && value <= high;
        let least_holdback = u32::from(self.shift == Shift::FairShare);
        let rising = self.steps.windows(2).all(|pair| pair[0].weight < pair[1].weight);
        let in_range = self.steps.iter().all(|step| (1..=100).contains(&step.weight));
        for (good, field, why) in [
            (!self.steps.is_empty() && self.steps.len() <= MOST_STEPS, "steps", "1 to 100 steps"),
            (in_range, "steps", "a weight is 1 to 100 percent of the fair share"),
            (rising, "steps", "weights must rise from step to step"),
            (!self.interval.is_zero(), "interval", "must not be 0"),
            (!self.report_every.is_zero(), "loadReportInterval", "must not be 0"),
            (!self.backoff.is_zero(), "backoff", "must not be 0"),
            (self.backoff <= self.max_backoff, "maxBackoff", "must not be less than backoff"),
            (
                (least_holdback..100).contains(&self.holdback),
                "holdback",
                "1 to 99 percent (0 only with shift: all): without it there is nothing to compare with",
            ),
            (self.max_weight.is_none_or(|max| (1..=100).contains(&max)), "maxWeight", "1 to 100 percent"),
            (within(self.error_tolerance, 0.0, 0.5), "errorTolerance", "above 0, at most 0.5"),
            (self.slo_ceiling.is_none_or(|ceiling| within(ceiling, 0.0, 1.0)), "sloCeiling", "above 0, at most 1"),
            (within(self.rho, 0.999, MOST_RHO), "rho", "1 to 3: more would silence the judge"),
            (within(self.alpha, 0.0, 0.5), "alpha", "above 0, at most 0.5"),
            (self.evaluations_per_alarm >= 1.0, "evaluationsPerAlarm", "at least 1"),
            (self.max_endpoint_weight > 0, "maxEndpointWeight", "must not be 0"),
        ] {
            if !good {
                return Err(PolicyError { field, why });
            }
        }
        Ok(())
    }

    /// The weight of the remote arm at `percent` of what it may get.
    pub fn share(&self, capacities: Capacities, percent: u32) -> Weight {
        let Capacities { local, remote, others } = capacities;
        if remote == 0 || percent == 0 {
            return Weight::ZERO;
        }
        let (local, remote, others) = (float(local), float(remote), float(others));
        let of_remotes = remote / (remote + others);
        let full = match self.shift {
            Shift::FairShare => remote / (local + remote + others),
            Shift::All => of_remotes,
        };
        let kept = of_remotes * (1.0 - f64::from(self.holdback) / 100.0);
        let most = self.max_weight.map_or(1.0, |max| f64::from(max) / 100.0);
        let wanted = full * f64::from(percent.min(100)) / 100.0;
        at_least_one(Weight::of_fraction(wanted.min(kept).min(most)))
    }

    /// The weight of the remote arm when no healthy local endpoint is left: all, in fair parts with the other peers.
    pub fn sole_share(&self, capacities: Capacities) -> Weight {
        if capacities.remote == 0 {
            return Weight::ZERO;
        }
        let (remote, others) = (float(capacities.remote), float(capacities.others));
        at_least_one(Weight::of_fraction(remote / (remote + others)))
    }

    /// The weight of a step of a run that began with `base`: of the way from there to `full`, its percent. A run that has nothing to
    /// climb gets `full`.
    pub fn step_share(&self, capacities: Capacities, base: Weight, step: usize) -> Weight {
        let percent = self.percent(step);
        if base == Weight::ZERO {
            return self.share(capacities, percent);
        }
        let full = self.full_share(capacities);
        if full <= base {
            return full;
        }
        let last = f64::from(self.percent(self.last_step())).max(1.0);
        let way = (full.fraction() - base.fraction()) * f64::from(percent) / last;
        Weight::of_fraction(base.fraction() + way)
    }

    /// The weight once converged: that of the last step.
    pub fn full_share(&self, capacities: Capacities) -> Weight {
        self.share(capacities, self.percent(self.last_step()))
    }

    /// The percent of a step; 0 for one that does not exist.
    pub fn percent(&self, step: usize) -> u32 {
        self.steps.get(step).map_or(0, |step| step.weight)
    }

    /// The index of the last step.
    pub fn last_step(&self) -> usize {
        self.steps.len().saturating_sub(1)
    }

    /// The wait before the probe that follows the `failures`th rollback in a row.
    pub fn backoff_after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.backoff.saturating_mul(1 << doublings).min(self.max_backoff)
    }

    /// How long reports may be late before they are missed.
    pub fn grace(&self) -> Duration {
        self.interval.max(self.report_every).saturating_mul(3)
    }
}

/// A share too small for 1/10,000 still is one.
fn at_least_one(weight: Weight) -> Weight {
    weight.max(Weight::of_fraction(1.0 / f64::from(crate::model::TOTAL)))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "capacities are sums of small weights; a share is rounded to 1/10,000 anyway"
)]
fn float(capacity: u64) -> f64 {
    capacity as f64
}

#[cfg(test)]
mod tests;
