//! The key rows of `spec/gate_sim.py`'s table, with fewer runs, seeded: what the specification measured with numpy holds for this
//! code. 5-second reports, shares 2.5, 12.5 and 50 %, ten minutes a step.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const TICK: u64 = 5;
const STEPS: [f64; 3] = [0.025, 0.125, 0.5];
const STEP_TICKS: u64 = 600 / TICK;

#[derive(Clone, Copy)]
struct Case {
    rps: f64,
    baseline: f64,
    canary: f64,
    /// Chance and factor of bursts that strike both arms.
    bursts: Option<(f64, f64)>,
}

/// Exact for small means, normal beyond.
fn binomial(rng: &mut StdRng, n: u64, p: f64) -> u64 {
    let (mean, p) = (n as f64 * p, p.clamp(0.0, 1.0));
    if p == 0.0 || n == 0 {
        return 0;
    }
    if mean > 30.0 && n as f64 * (1.0 - p) > 30.0 {
        return (mean + normal(rng) * (mean * (1.0 - p)).sqrt()).round().clamp(0.0, n as f64) as u64;
    }
    if n > 64 && p < 0.5 {
        // Gaps between successes are geometric.
        let (mut at, mut hits) = (0.0, 0);
        loop {
            at += (1.0 - rng.random::<f64>()).ln() / (1.0 - p).ln();
            at = at.floor() + 1.0;
            if at > n as f64 {
                return hits;
            }
            hits += 1;
        }
    }
    (0..n).filter(|_| rng.random::<f64>() < p).count() as u64
}

fn normal(rng: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn poisson(rng: &mut StdRng, mean: f64) -> u64 {
    if mean > 50.0 {
        return (mean + normal(rng) * mean.sqrt()).round().max(0.0) as u64;
    }
    let (limit, mut product, mut k) = ((-mean).exp(), rng.random::<f64>(), 0);
    while product > limit {
        product *= rng.random::<f64>();
        k += 1;
    }
    k
}

fn tick(rng: &mut StdRng, case: Case, share: f64, at: u64) -> Reading {
    let n = poisson(rng, case.rps * TICK as f64);
    let canary = binomial(rng, n, share);
    let factor = match case.bursts {
        Some((chance, factor)) if rng.random::<f64>() < chance => factor,
        _ => 1.0,
    };
    let errors =
        |rng: &mut StdRng, n, p: f64| Count { completions: n, errors: binomial(rng, n, (p * factor).min(1.0)) };
    let pair = Pair { canary: errors(rng, canary, case.canary), baseline: errors(rng, n - canary, case.baseline) };
    let received_ms = at * TICK * 1000;
    Reading { pair, total: n, dropped: 0, received_ms, begun_ms: Some(received_ms - TICK * 1000), in_force_ms: Some(0) }
}

fn setting(share: f64, in_step: bool) -> Setting {
    Setting { weight: Weight::of_fraction(share), acked_ms: Some(0), in_step, counting: true, in_use: true }
}

/// When a ramp was rolled back: seconds from its start, and the step.
fn ramp(rng: &mut StdRng, policy: &Policy, case: Case) -> Option<(u64, usize)> {
    let mut judge = Judge::default();
    for (step, share) in STEPS.into_iter().enumerate() {
        judge.begin_step();
        for t in 1..=STEP_TICKS {
            let at = step as u64 * STEP_TICKS + t;
            if judge.observe(policy, &tick(rng, case, share, at), &setting(share, true)).is_some() {
                return Some((at * TICK, step));
            }
        }
    }
    None
}

struct Outcome {
    caught: f64,
    first_step: f64,
    median: u64,
}

fn ramps(runs: u32, case: Case) -> Outcome {
    let (policy, mut rng) = (Policy::default(), StdRng::seed_from_u64(7));
    let mut hits: Vec<_> = (0..runs).filter_map(|_| ramp(&mut rng, &policy, case)).collect();
    hits.sort_unstable();
    let share = |n: usize| n as f64 / f64::from(runs);
    Outcome {
        caught: share(hits.len()),
        first_step: share(hits.iter().filter(|(_, step)| *step == 0).count()),
        median: hits.get(hits.len() / 2).map_or(0, |(seconds, _)| *seconds),
    }
}

fn case(rps: f64, baseline: f64, canary: f64) -> Case {
    Case { rps, baseline, canary, bursts: None }
}

#[test]
fn a_healthy_arm_is_not_rolled_back_at_any_load() {
    for (rps, p) in [(1.0, 0.001), (10.0, 0.001), (100.0, 0.001), (1000.0, 0.001), (1000.0, 0.02)] {
        let outcome = ramps(60, case(rps, p, p));
        assert_eq!(outcome.caught, 0.0, "{rps} rps at {p}");
    }
}

#[test]
fn bursts_that_strike_both_arms_do_not_roll_back() {
    for rps in [1.0, 10.0, 100.0, 1000.0] {
        let outcome = ramps(60, Case { bursts: Some((0.01, 20.0)), ..case(rps, 0.001, 0.001) });
        assert!(outcome.caught <= 0.01, "{rps} rps: {}", outcome.caught);
    }
}

#[test]
fn at_the_boundary_of_the_null_false_rollbacks_stay_below_alpha() {
    let outcome = ramps(200, case(1000.0, 0.01, 0.015));
    assert!(outcome.caught <= 0.03, "{}", outcome.caught); // three sigma over 1 %
}

#[test]
fn a_regression_is_caught_at_the_first_step() {
    for (rps, canary, seconds) in [(1000.0, 0.05, 10), (1000.0, 0.01, 40), (100.0, 0.05, 40)] {
        let outcome = ramps(60, case(rps, 0.001, canary));
        assert_eq!(outcome.first_step, 1.0, "{rps} rps to {canary}");
        assert!(outcome.median <= seconds, "{rps} rps to {canary}: {} s", outcome.median);
    }
    let slow = ramps(60, case(10.0, 0.001, 0.2));
    assert!(slow.first_step >= 0.95 && slow.median <= 90, "{} {}", slow.first_step, slow.median);
}

#[test]
fn one_request_a_second_is_judged_too() {
    let outcome = ramps(60, case(1.0, 0.001, 0.1));
    assert!(outcome.caught >= 0.95, "{}", outcome.caught);
}

/// A healthy time, then a regression: false alarms in it, and the delay in seconds.
fn converged(case_: Case, healthy: u64, seed: u64) -> (bool, Option<u64>) {
    let (policy, mut rng, mut judge) = (Policy::default(), StdRng::seed_from_u64(seed), Judge::default());
    let (well, settings) = (Case { canary: case_.baseline, ..case_ }, setting(0.5, false));
    let ticks = healthy / TICK;
    let false_alarm = (1..=ticks).any(|t| judge.observe(&policy, &tick(&mut rng, well, 0.5, t), &settings).is_some());
    let delay =
        (1..=1440).find(|t| judge.observe(&policy, &tick(&mut rng, case_, 0.5, ticks + t), &settings).is_some());
    (false_alarm, delay.map(|t| t * TICK))
}

#[test]
fn converged_traffic_is_watched_as_if_fresh() {
    for (rps, canary, limit) in [(100.0, 0.05, 40), (1000.0, 0.01, 40), (10.0, 0.05, 400)] {
        for seed in 0..5 {
            let (false_alarm, delay) = converged(case(rps, 0.001, canary), 6 * 3600, seed);
            assert!(!false_alarm, "{rps} rps");
            assert!(delay.is_some_and(|delay| delay <= limit), "{rps} rps to {canary}: {delay:?}");
        }
    }
}

#[test]
fn a_day_of_a_a_with_shared_bursts_raises_no_alarm() {
    for rps in [1.0, 10.0, 100.0, 1000.0] {
        for seed in 0..2 {
            let case = Case { bursts: Some((0.01, 20.0)), ..case(rps, 0.001, 0.001) };
            let (policy, mut rng, mut judge) = (Policy::default(), StdRng::seed_from_u64(seed), Judge::default());
            let alarm = (1..=86_400 / TICK)
                .find_map(|t| judge.observe(&policy, &tick(&mut rng, case, 0.5, t), &setting(0.5, false)));
            assert_eq!(alarm, None, "{rps} rps, seed {seed}");
        }
    }
}
