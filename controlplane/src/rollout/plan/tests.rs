use proptest::prelude::*;

use super::*;

fn caps(local: u64, remote: u64, others: u64) -> Capacities {
    Capacities { local, remote, others }
}

#[test]
fn a_step_is_its_percent_of_the_fair_share() {
    let policy = Policy::default();
    for (capacities, percent, weight) in [
        (caps(2, 2, 0), 5, 250),
        (caps(2, 2, 0), 25, 1_250),
        (caps(2, 2, 0), 100, 5_000),
        (caps(1, 3, 0), 100, 7_500),
        (caps(1, 1_000_000, 0), 100, 9_900), // the holdback
        (caps(2, 0, 0), 100, 0),
        (caps(1_000_000, 1, 0), 5, 1), // never nothing
        (caps(2, 2, 2), 100, 3_333),
        (caps(0, 2, 0), 100, 9_900),
    ] {
        assert_eq!(policy.share(capacities, percent).value(), weight, "{capacities:?} at {percent}");
    }
}

#[test]
fn shift_all_moves_everything_but_the_holdback_and_a_cap_caps() {
    let all = Policy { shift: Shift::All, holdback: 0, ..Policy::default() };
    assert_eq!(all.check(), Ok(()));
    assert_eq!(all.share(caps(5, 1, 0), 5).value(), 500);
    assert_eq!(all.share(caps(5, 1, 0), 100).value(), 10_000);
    let kept = Policy { shift: Shift::All, holdback: 10, ..Policy::default() };
    assert_eq!(kept.share(caps(5, 1, 0), 100).value(), 9_000);
    let capped = Policy { max_weight: Some(30), ..Policy::default() };
    assert_eq!(capped.share(caps(2, 2, 0), 25).value(), 1_250);
    assert_eq!(capped.share(caps(2, 2, 0), 100).value(), 3_000);
}

#[test]
fn without_a_local_endpoint_the_remotes_share_everything() {
    let policy = Policy::default();
    assert_eq!(policy.sole_share(caps(0, 2, 0)).value(), 10_000);
    assert_eq!(policy.sole_share(caps(0, 1, 3)).value(), 2_500);
    assert_eq!(policy.sole_share(caps(0, 0, 3)).value(), 0);
}

#[test]
fn a_later_run_ramps_only_the_increment() {
    let policy = Policy::default();
    let base = Weight::new(5_000).unwrap();
    // Capacity grew from 2 of 4 to 6 of 8: 50 % are held, the other 25 points are ramped.
    let weights: Vec<_> = (0..3).map(|step| policy.step_share(caps(2, 6, 0), base, step).value()).collect();
    assert_eq!(weights, [5_125, 5_625, 7_500]);
    assert_eq!(policy.step_share(caps(2, 1, 0), base, 1).value(), 3_333);
}

#[test]
fn backoff_doubles_up_to_its_bound() {
    let policy = Policy { backoff: Duration::from_secs(5), max_backoff: Duration::from_secs(60), ..Policy::default() };
    let waits: Vec<_> = (0..7).map(|failures| policy.backoff_after(failures).as_secs()).collect();
    assert_eq!(waits, [5, 5, 10, 20, 40, 60, 60]);
    assert_eq!(policy.backoff_after(u32::MAX).as_secs(), 60);
}

#[test]
fn bad_policies_are_refused_by_field() {
    let good = Policy::default();
    assert_eq!(good.check(), Ok(()));
    let step = |weight| Step { weight, min_duration: Duration::ZERO, min_requests: 0 };
    for (policy, field) in [
        (Policy { steps: vec![], ..good.clone() }, "steps"),
        (Policy { steps: vec![step(0)], ..good.clone() }, "steps"),
        (Policy { steps: vec![step(101)], ..good.clone() }, "steps"),
        (Policy { steps: vec![step(25), step(5)], ..good.clone() }, "steps"),
        (Policy { interval: Duration::ZERO, ..good.clone() }, "interval"),
        (Policy { backoff: Duration::from_hours(2), ..good.clone() }, "maxBackoff"),
        (Policy { holdback: 0, ..good.clone() }, "holdback"),
        (Policy { holdback: 100, ..good.clone() }, "holdback"),
        (Policy { rho: 3.5, ..good.clone() }, "rho"),
        (Policy { rho: f64::NAN, ..good.clone() }, "rho"),
        (Policy { alpha: 0.0, ..good.clone() }, "alpha"),
        (Policy { error_tolerance: f64::INFINITY, ..good.clone() }, "errorTolerance"),
        (Policy { slo_ceiling: Some(0.0), ..good.clone() }, "sloCeiling"),
        (Policy { max_endpoint_weight: 0, ..good.clone() }, "maxEndpointWeight"),
        (Policy { max_weight: Some(0), ..good }, "maxWeight"),
    ] {
        assert_eq!(policy.check().map_err(|e| e.field), Err(field), "{policy:?}");
    }
}

proptest! {
    /// However many peers and whatever they claim: together they never get more than all but the holdback (and one unit of
    /// rounding each), and no arm more than its fair share.
    #[test]
    fn peers_together_leave_the_holdback(local in 1u64..1_000, remotes in prop::collection::vec(0u64..1_000_000, 1..5), holdback in 1u32..50) {
        let policy = Policy { holdback, ..Policy::default() };
        let all: u64 = remotes.iter().sum();
        let mut sum = 0u32;
        for remote in &remotes {
            let weight = policy.share(caps(local, *remote, all - remote), 100);
            sum += u32::from(weight.value());
            if *remote > 0 {
                prop_assert!(weight.fraction() <= (*remote as f64) / ((local + all) as f64) + 1e-4);
            }
        }
        prop_assert!(sum <= 10_000 - holdback * 100 + u32::try_from(remotes.len()).unwrap());
    }

    #[test]
    fn steps_rise_to_the_full_share(local in 1u64..1_000, remote in 1u64..1_000, base in 0u32..10_000) {
        let policy = Policy::default();
        let base = Weight::new(base).unwrap();
        let weights: Vec<_> = (0..3).map(|step| policy.step_share(caps(local, remote, 0), base, step)).collect();
        prop_assert!(weights.is_sorted());
        prop_assert_eq!(weights[2], policy.full_share(caps(local, remote, 0)));
    }
}
