//! The judge of `spec/rollout.md` §4.4: is the remote arm worse than the local one at the same time? Pure.
//!
//! It sees completions and errors of both arms, sample by sample, and keeps two families of e-values ([`Products`]): *relative*
//! (null: the remote error rate is at most ρ times the local one) and *absolute* (null: it is at most the tolerance). It fails the
//! remote arm only when both reach the threshold, in either regime:
//!
//! - *in a step*: products start at 1 with the step, threshold 1/α;
//! - *converged* (the detector): every component is floored at 1, threshold = evaluations per tolerated false alarm. It runs
//!   from the start of the run, so that no step change hides what began before it.
//!
//! Three choices the specification leaves open:
//!
//! - **What an interval is.** Reports of many proxies come one by one. The absolute family takes each as it is. The relative one
//!   needs both arms: counts are pooled until both have completed something, for five seconds at most; what found no partner by
//!   then counts 1. When a pool closes depends on the counts alone and never on the errors, so every peek stays valid.
//! - **The interval that contains a step** reports the old share. The products take it all the same: each factor is conditional on
//!   the counts as they were, so no share is assumed, and leaving it out would blind the judge for one report at the very moment
//!   of a change. It is left out of everything that does assume a share or a time: the silent-arm windows, the observed share,
//!   minDuration, minRequests and the confidence bound.
//! - **Half of the requests failing** is a hard trip only if the local arm does not fail likewise, as the relative null has it:
//!   a shared outage is no reason to roll back.

mod products;
mod silence;
mod stats;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::{Policy, Step};
use crate::model::Weight;

pub use products::Products;
pub use silence::Silence;
pub use stats::{binomial_below, wilson_upper};

/// How long one arm's counts wait for the other's.
const PAIRING: Duration = Duration::from_secs(5);
/// The fewest completions on which half of them failing is a verdict.
const TRIP_COMPLETIONS: u64 = 20;
/// One-sided 95 %.
const Z: f64 = 1.645;

/// Completions of one arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Successes and errors.
    pub completions: u64,
    pub errors: u64,
}

/// Completions of both arms over the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The remote arm's.
    pub canary: Count,
    /// The local arm's.
    pub baseline: Count,
}

/// One load sample, seen by one rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub pair: Pair,
    /// Completions of the service on any arm, other peers' included.
    pub total: u64,
    /// Requests for the remote arm that were dropped before a host was chosen.
    pub dropped: u64,
    /// When it came, Unix ms.
    pub received_ms: u64,
    /// The earliest that its interval can have begun; `None` if that is not known: the first sample of a proxy, one of a backlog, or
    /// one after a gap.
    pub begun_ms: Option<u64>,
    /// Since when this proxy has the weights; `None` if it is not known to have them, e.g. while it is not connected.
    pub in_force_ms: Option<u64>,
}

/// What is in force while a sample is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The remote arm's weight.
    pub weight: Weight,
    /// Since when every calling proxy has it.
    pub acked_ms: Option<u64>,
    /// Whether a step is under test, and not what has converged.
    pub in_step: bool,
    /// Whether time counts towards the step: not while frozen.
    pub counting: bool,
    /// Whether the arm's endpoints are used as their health says: a stale peer's are demoted by us, so their silence says nothing.
    pub in_use: bool,
}

/// All that the judge remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    step: Products,
    detector: Products,
    /// When the detector was last floored.
    floored_ms: u64,
    /// Counts that wait for their partner, and since when.
    pending: Pair,
    pending_ms: u64,
    /// Counts since the last look at [`TRIP_COMPLETIONS`].
    burst: Pair,
    silence: Silence,
    /// Everything judged since the step began.
    judged: Pair,
    /// Of samples that began after the weights were acknowledged: the canary's, and all arms'.
    clean: Pair,
    clean_total: u64,
    clean_dropped: u64,
    /// Time with evidence in this step, and up to when it is counted.
    evidence_ms: u64,
    covered_ms: u64,
    /// When the last sample came; 0: none yet.
    heard_ms: u64,
}

/// Why the remote arm is out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alarm {
    /// Both families reached the threshold.
    Evidence { regime: Regime },
    /// Half of its requests fail.
    Failing { completions: u64, errors: u64 },
    /// It serves far less than its share.
    Silent { completions: u64, total: u64 },
}

/// Which threshold applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    Step,
    Converged,
}

/// The answer to "may this step be left?".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Pass,
    Fail,
    /// Not enough evidence yet.
    #[default]
    Inconclusive,
    /// No evidence to be had: reports missing, weights not in force.
    Error,
}

/// What the verdict rests on, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Logarithm of the family's e-value.
    #[serde(with = "bits")]
    pub relative: f64,
    #[serde(with = "bits")]
    pub absolute: f64,
    /// Logarithm of what both must reach to fail.
    #[serde(with = "bits")]
    pub threshold: f64,
    pub canary: Count,
    pub baseline: Count,
    pub verdict: Verdict,
}

// === impl Judge ===

impl Judge {
    /// A step begins: its products, counts and time start anew. The detector goes on.
    pub fn begin_step(&mut self) {
        *self = Self {
            detector: self.detector,
            floored_ms: self.floored_ms,
            pending: self.pending,
            pending_ms: self.pending_ms,
            burst: self.burst,
            covered_ms: self.covered_ms,
            heard_ms: self.heard_ms,
            ..Self::default()
        };
    }

    /// The weight changed within a step: what assumed the old share starts anew.
    pub fn weight_changed(&mut self) {
        self.silence = Silence::default();
        self.clean = Pair::default();
        self.clean_total = 0;
        self.clean_dropped = 0;
    }

    /// Judges one sample. An alarm is to be acted on now; it is not repeated.
    pub fn observe(&mut self, policy: &Policy, reading: &Reading, setting: &Setting) -> Option<Alarm> {
        let now = reading.received_ms;
        self.heard_ms = self.heard_ms.max(now);
        self.judged = self.judged + reading.pair;
        self.count(policy, reading, setting);
        self.accumulate(policy, reading, now);
        let failing = self.failing(policy, reading.pair);
        let evidence = self.fails(policy, setting.in_step).map(|regime| Alarm::Evidence { regime });
        let silent = self.silent(reading, setting);
        evidence.or(failing).or(silent)
    }

    /// Folds a sample into both families of both regimes.
    fn accumulate(&mut self, policy: &Policy, reading: &Reading, now: u64) {
        // Floored before, and at most once per report: the threshold counts evaluations, and a thousand proxies must not make a
        // thousand of them a second. Between floors every peek is one into a supermartingale.
        if now.saturating_sub(self.floored_ms).saturating_mul(4) >= ms(policy.report_every).saturating_mul(3) {
            self.detector.floor();
            self.floored_ms = now;
        }
        for products in [&mut self.step, &mut self.detector] {
            products.absolute(policy.error_tolerance, reading.pair.canary);
        }
        if self.pending == Pair::default() || now.saturating_sub(self.pending_ms) >= ms(PAIRING) {
            (self.pending, self.pending_ms) = (Pair::default(), now);
        }
        self.pending = self.pending + reading.pair;
        if self.pending.canary.completions > 0 && self.pending.baseline.completions > 0 {
            for products in [&mut self.step, &mut self.detector] {
                products.relative(policy.rho, self.pending);
            }
            self.pending = Pair::default();
        }
    }

    /// What assumes that the weights are in force: time, requests, share.
    fn count(&mut self, policy: &Policy, reading: &Reading, setting: &Setting) {
        let covered = self.covered_ms;
        self.covered_ms = covered.max(reading.received_ms);
        let (Some(begun), Some(acked)) = (reading.begun_ms, in_force(reading, setting)) else { return };
        if !setting.counting || reading.total == 0 {
            return;
        }
        // A sample that covers more than one report waited somewhere, e.g. while this control plane was away: that time is not
        // time under watch.
        let from = begun.max(covered).max(acked).max(reading.received_ms.saturating_sub(ms(policy.report_every)));
        self.evidence_ms += reading.received_ms.saturating_sub(from);
        if begun >= acked {
            self.clean = self.clean + reading.pair;
            self.clean_total += reading.total;
            self.clean_dropped += reading.dropped;
        }
    }

    fn failing(&mut self, policy: &Policy, pair: Pair) -> Option<Alarm> {
        self.burst = self.burst + pair;
        let Pair { canary, baseline } = self.burst;
        if canary.completions < TRIP_COMPLETIONS {
            return None;
        }
        self.burst = Pair::default();
        let worse = baseline.completions == 0 || canary.rate() > policy.rho * baseline.rate();
        (canary.errors * 2 >= canary.completions && worse)
            .then_some(Alarm::Failing { completions: canary.completions, errors: canary.errors })
    }

    fn silent(&mut self, reading: &Reading, setting: &Setting) -> Option<Alarm> {
        let clean = reading.begun_ms.zip(in_force(reading, setting)).is_some_and(|(begun, acked)| begun >= acked);
        if !setting.in_use || setting.weight == Weight::ZERO {
            self.silence = Silence::default();
            return None;
        }
        if !clean {
            return None;
        }
        let (completions, total) =
            self.silence.observe(setting.weight.fraction(), reading.pair.canary.completions, reading.total)?;
        Some(Alarm::Silent { completions, total })
    }

    /// Whether both families reach the threshold of a regime.
    pub fn fails(&self, policy: &Policy, in_step: bool) -> Option<Regime> {
        if in_step && self.step.least() >= threshold(policy, Regime::Step) {
            return Some(Regime::Step);
        }
        (self.detector.least() >= threshold(policy, Regime::Converged)).then_some(Regime::Converged)
    }

    /// Whether the step has shown what it was to show, and if not, what is missing, in words.
    pub fn verdict(&self, policy: &Policy, step: &Step, acked: bool, now: u64) -> (Verdict, String) {
        if let Some(regime) = self.fails(policy, true) {
            return (Verdict::Fail, format!("both e-values reach the threshold {}", regime.label()));
        }
        if !acked {
            return (Verdict::Error, "not every proxy has acknowledged the weights".into());
        }
        if self.heard_ms == 0 || now.saturating_sub(self.heard_ms) > ms(policy.grace()) {
            return (Verdict::Error, "no load reports".into());
        }
        let Count { completions, errors } = self.clean.canary;
        let wanted = ms(step.min_duration);
        if self.evidence_ms < wanted {
            let (have, want) = (seconds(self.evidence_ms), seconds(wanted));
            return (Verdict::Inconclusive, format!("{have} of {want} with evidence"));
        }
        if completions < step.min_requests {
            return (Verdict::Inconclusive, format!("{completions} of {} requests", step.min_requests));
        }
        // Overload is no fault: it caps the weight by never passing the step.
        let dropped = Count { completions: completions + self.clean_dropped, errors: self.clean_dropped };
        if dropped.rate() > policy.error_tolerance {
            let why = format!("{} requests dropped beside {completions} completed: overloaded", self.clean_dropped);
            return (Verdict::Inconclusive, why);
        }
        let bound = wilson_upper(completions, errors, Z);
        if policy.slo_ceiling.is_some_and(|ceiling| bound >= ceiling) {
            let (bound, ceiling) = (bound * 100.0, policy.slo_ceiling.unwrap_or(1.0) * 100.0);
            let why = format!(
                "{errors} errors of {completions}: the error rate may be up to {bound:.2} %, the ceiling is {ceiling:.2} %"
            );
            return (Verdict::Inconclusive, why);
        }
        let why = format!("{} with evidence, {errors} errors of {completions} requests", seconds(self.evidence_ms));
        (Verdict::Pass, why)
    }

    /// What there is to show in `regime`.
    pub fn evidence(&self, policy: &Policy, regime: Regime, verdict: Verdict) -> Evidence {
        let products = match regime {
            Regime::Step => &self.step,
            Regime::Converged => &self.detector,
        };
        let (relative, absolute) = products.e_values();
        let Pair { canary, baseline } = self.judged;
        Evidence { relative, absolute, threshold: threshold(policy, regime), canary, baseline, verdict }
    }

    /// Time with evidence in this step.
    pub fn evidence_ms(&self) -> u64 {
        self.evidence_ms
    }

    /// The remote arm's share of the completions since the weights were acknowledged, in 1/10,000.
    pub fn observed_share(&self) -> u32 {
        let share = self.clean.canary.completions.saturating_mul(10_000).checked_div(self.clean_total).unwrap_or(0);
        u32::try_from(share).unwrap_or(10_000).min(10_000)
    }
}

/// Since when the weights are in force, both everywhere and where this sample comes from.
fn in_force(reading: &Reading, setting: &Setting) -> Option<u64> {
    Some(setting.acked_ms?.max(reading.in_force_ms?))
}

/// Logarithm of what both families must reach.
fn threshold(policy: &Policy, regime: Regime) -> f64 {
    match regime {
        Regime::Step => -policy.alpha.ln(),
        Regime::Converged => policy.evaluations_per_alarm.ln(),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

// === impl Count, Pair ===

impl Count {
    #[expect(clippy::cast_precision_loss, reason = "counts of one interval")]
    pub(super) fn rate(self) -> f64 {
        if self.completions == 0 { 0.0 } else { self.errors as f64 / self.completions as f64 }
    }
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            completions: self.completions.saturating_add(other.completions),
            errors: self.errors.saturating_add(other.errors),
        }
    }
}

impl std::ops::Add for Pair {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { canary: self.canary + other.canary, baseline: self.baseline + other.baseline }
    }
}

// === impl Regime, Verdict ===

impl Regime {
    fn label(self) -> &'static str {
        match self {
            Self::Step => "of the step",
            Self::Converged => "of the detector",
        }
    }
}

impl Verdict {
    /// As commands and the API show it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pass => "Pass",
            Self::Fail => "Fail",
            Self::Inconclusive => "Inconclusive",
            Self::Error => "Error",
        }
    }
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Evidence { regime } => write!(f, "both e-values reached the threshold {}", regime.label()),
            Self::Failing { completions, errors } => write!(f, "{errors} of {completions} requests failed"),
            Self::Silent { completions, total } => {
                write!(f, "the arm is silent: it completed {completions} of {total} requests, twice in a row")
            }
        }
    }
}

/// Floats as their bits: what is read back is what was written, to the last bit, whatever the format.
pub(super) mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::rollout) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_bits().serialize(serializer)
    }

    pub(in crate::rollout) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
