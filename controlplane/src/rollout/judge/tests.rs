use super::*;

const ACKED: u64 = 10_000;

fn policy() -> Policy {
    Policy { interval: Duration::from_secs(1), report_every: Duration::from_secs(1), ..Policy::default() }
}

fn count(completions: u64, errors: u64) -> Count {
    Count { completions, errors }
}

/// One report per second, begun right after the one before.
fn reading(second: u64, canary: (u64, u64), baseline: (u64, u64)) -> Reading {
    let received_ms = ACKED + second * 1000;
    Reading {
        pair: Pair { canary: count(canary.0, canary.1), baseline: count(baseline.0, baseline.1) },
        total: canary.0 + baseline.0,
        dropped: 0,
        received_ms,
        begun_ms: Some(received_ms - 1000),
        in_force_ms: Some(ACKED),
    }
}

fn setting(weight: u32, in_step: bool) -> Setting {
    let weight = Weight::new(weight).unwrap();
    Setting { weight, acked_ms: Some(ACKED), in_step, counting: true, in_use: true }
}

/// The first alarm and the report it came with.
fn first_alarm(
    judge: &mut Judge,
    setting: &Setting,
    readings: impl IntoIterator<Item = Reading>,
) -> Option<(usize, Alarm)> {
    let policy = policy();
    readings.into_iter().enumerate().find_map(|(i, r)| judge.observe(&policy, &r, setting).map(|alarm| (i, alarm)))
}

#[test]
fn one_report_of_30_percent_at_half_share_fails_in_either_regime() {
    let bad = reading(1, (500, 150), (500, 0));
    for (in_step, regime) in [(true, Regime::Step), (false, Regime::Converged)] {
        let alarm = first_alarm(&mut Judge::default(), &setting(5_000, in_step), [bad]);
        assert_eq!(alarm, Some((0, Alarm::Evidence { regime })));
    }
}

#[test]
fn a_day_of_health_does_not_hide_a_regression() {
    let mut judge = Judge::default();
    let converged = setting(5_000, false);
    let healthy = (1..=86_400).map(|s| reading(s, (500, 0), (500, 0)));
    assert_eq!(first_alarm(&mut judge, &converged, healthy), None);
    let bad = (86_401..).map(|s| reading(s, (500, 150), (500, 0)));
    assert!(matches!(
        first_alarm(&mut judge, &converged, bad),
        Some((0, Alarm::Evidence { regime: Regime::Converged }))
    ));
}

#[test]
fn the_detector_goes_on_where_a_step_ends() {
    // 0.5 % against none: not enough for either regime within the step, and the step's own products forget it.
    let mut judge = Judge::default();
    let slow = |from: u64| (from..from + 2).map(|s| reading(s, (500, 3), (500, 0)));
    assert_eq!(first_alarm(&mut judge, &setting(5_000, false), slow(1)), None);
    let before = judge.detector.least();
    judge.begin_step();
    assert_eq!(judge.step, Products::default());
    assert!(judge.detector.least().to_bits() == before.to_bits() && before > 0.0, "{before}");
}

#[test]
fn the_e_values_are_those_of_the_specification() {
    // By hand, rho 1.5, tolerance 0.1 %: n_c = n_b = 100, x_c = 4, x_b = 1.
    let mut products = Products::default();
    let pair = Pair { canary: count(100, 4), baseline: count(100, 1) };
    products.relative(1.5, pair);
    products.absolute(0.001, pair.canary);
    let (mut relative, mut absolute) = (0.0, 0.0);
    for r in [1.5_f64, 2.0, 4.0, 8.0, 16.0, 64.0] {
        let (null, theta) = (0.6, 1.5 * r / (1.5 * r + 1.0));
        relative += (theta / null).powi(4) * (1.0 - theta) / (1.0 - null) / 6.0;
        absolute += r.powi(4) * (-(r - 1.0) * 0.1_f64).exp() / 6.0;
    }
    let (have_relative, have_absolute) = products.e_values();
    assert!((have_relative - relative.ln()).abs() < 1e-12, "{have_relative} {}", relative.ln());
    assert!((have_absolute - absolute.ln()).abs() < 1e-12, "{have_absolute} {}", absolute.ln());
}

#[test]
fn an_arm_that_completed_nothing_is_a_factor_of_one() {
    let mut judge = Judge::default();
    let settings = Setting { in_use: false, ..setting(5_000, true) }; // silence is another matter
    let lonely = (0..100).map(|i| reading(6 * i + 1, (0, 0), (10, 10)));
    assert_eq!(first_alarm(&mut judge, &settings, lonely), None);
    assert_eq!(judge.step.e_values(), (0.0, 0.0));
    let silent_baseline = (100..103).map(|i| reading(6 * i + 1, (19, 9), (0, 0)));
    let alarm = first_alarm(&mut judge, &settings, silent_baseline);
    assert_eq!(alarm, None);
    assert!(judge.step.e_values().0 == 0.0 && judge.step.e_values().1 > 4.0);
}

#[test]
fn arms_are_paired_across_reports_of_many_proxies() {
    // A thousand proxies of one request each: no report has both arms.
    let mut judge = Judge::default();
    let settings = setting(5_000, true);
    let many = (0..1000).map(|i| {
        let (canary, baseline) = if i % 2 == 0 { ((1, u64::from(i % 4 == 0)), (0, 0)) } else { ((0, 0), (1, 0)) };
        Reading { received_ms: ACKED + i, ..reading(0, canary, baseline) }
    });
    let (at, alarm) = first_alarm(&mut judge, &settings, many).unwrap();
    assert!(at < 150, "{at} {alarm:?}");
    // What found no partner in time is let go.
    let mut judge = Judge::default();
    judge.observe(&policy(), &reading(1, (10, 5), (0, 0)), &settings);
    judge.observe(&policy(), &reading(10, (0, 0), (10, 0)), &settings);
    assert_eq!(judge.step.e_values().0, 0.0);
}

#[test]
fn half_of_twenty_failing_trips_unless_both_arms_fail() {
    let at =
        |canary, baseline| first_alarm(&mut Judge::default(), &setting(500, false), [reading(1, canary, baseline)]);
    assert_eq!(at((19, 19), (400, 400)), None);
    assert_eq!(at((20, 9), (400, 100)), None);
    assert_eq!(at((20, 10), (400, 100)), Some((0, Alarm::Failing { completions: 20, errors: 10 })));
    assert_eq!(at((20, 20), (400, 380)), None, "a shared outage");
    // In pieces, as a low load reports them.
    let pieces = (1..=10).map(|s| reading(s, (2, 1), (60, 10)));
    let alarm = first_alarm(&mut Judge::default(), &setting(500, false), pieces);
    assert_eq!(alarm, Some((9, Alarm::Failing { completions: 20, errors: 10 })));
}

#[test]
fn both_arms_failing_alike_at_30_percent_is_no_fault_of_the_remote_one() {
    for in_step in [true, false] {
        let alike = (1..=600).map(|s| reading(s, (500, 150), (500, 150)));
        assert_eq!(first_alarm(&mut Judge::default(), &setting(5_000, in_step), alike), None);
    }
}

#[test]
fn stray_errors_below_the_tolerance_do_not_fail_against_a_spotless_baseline() {
    let stray = (1..=1200).map(|s| reading(s, (500, u64::from(s % 10 == 0)), (500, 0)));
    assert_eq!(first_alarm(&mut Judge::default(), &setting(5_000, true), stray), None);
}

#[test]
fn a_silent_arm_trips_after_two_windows() {
    let silent = |weight, rps: u64, seconds| {
        let readings = (1..=seconds).map(move |s| reading(s, (0, 0), (rps, 0)));
        first_alarm(&mut Judge::default(), &setting(weight, true), readings)
    };
    assert_eq!(silent(5_000, 1000, 9), Some((1, Alarm::Silent { completions: 0, total: 1000 })));
    assert_eq!(silent(250, 1000, 9), Some((1, Alarm::Silent { completions: 0, total: 1000 })));
    // 100 a second at 2.5 %: 455 requests are needed to tell silence from chance, so five reports a window.
    assert_eq!(silent(250, 100, 99), Some((9, Alarm::Silent { completions: 0, total: 500 })));
    assert_eq!(silent(5_000, 10, 19), None);
    assert_eq!(silent(5_000, 10, 40).map(|(at, _)| at), Some(39));
    assert_eq!(silent(0, 1000, 99), None, "never at weight 0");
}

#[test]
fn one_quiet_window_between_good_ones_is_not_silence() {
    let readings =
        (1..=100).map(|s| if s % 2 == 0 { reading(s, (0, 0), (1000, 0)) } else { reading(s, (500, 0), (500, 0)) });
    assert_eq!(first_alarm(&mut Judge::default(), &setting(5_000, true), readings), None);
}

#[test]
fn intervals_that_began_before_the_acknowledgement_say_nothing_of_silence() {
    let unclean = (1..=50).flat_map(|s| {
        let before = Reading { begun_ms: Some(ACKED - 1), ..reading(s, (0, 0), (1000, 0)) };
        [before, Reading { begun_ms: None, ..before }]
    });
    let mut judge = Judge::default();
    assert_eq!(first_alarm(&mut judge, &setting(5_000, true), unclean), None);
    assert_eq!(judge.observed_share(), 0);
    let unacked = Setting { acked_ms: None, ..setting(5_000, true) };
    let readings = (1..=50).map(|s| reading(s, (0, 0), (1000, 0)));
    assert_eq!(first_alarm(&mut judge, &unacked, readings), None);
    // A proxy that was not connected when the others acknowledged has the old share, whatever they have.
    let late = (1..=50).flat_map(|s| {
        let joined = Reading { in_force_ms: Some(ACKED + s * 1000), ..reading(s, (0, 0), (1000, 0)) };
        [joined, Reading { in_force_ms: None, ..joined }]
    });
    assert_eq!(first_alarm(&mut judge, &setting(5_000, true), late), None);
    let demoted = Setting { in_use: false, ..setting(5_000, true) };
    let readings = (51..=99).map(|s| reading(s, (0, 0), (1000, 0)));
    assert_eq!(first_alarm(&mut judge, &demoted, readings), None);
}

#[test]
fn errors_in_the_interval_of_the_step_are_judged_all_the_same() {
    let straddling = Reading { begun_ms: Some(ACKED - 500), ..reading(1, (500, 150), (500, 0)) };
    let alarm = first_alarm(&mut Judge::default(), &setting(5_000, true), [straddling]);
    assert!(matches!(alarm, Some((0, Alarm::Evidence { .. }))));
}

#[test]
fn time_counts_from_the_acknowledgement_once_and_only_with_evidence() {
    let (policy, settings) = (policy(), setting(5_000, true));
    let mut judge = Judge::default();
    let mut see = |reading: Reading, settings: &Setting| {
        judge.observe(&policy, &reading, settings);
        judge.evidence_ms()
    };
    let straddling = Reading { begun_ms: Some(ACKED - 600), received_ms: ACKED + 400, ..reading(0, (5, 0), (5, 0)) };
    assert_eq!(see(straddling, &settings), 400);
    assert_eq!(see(reading(1, (5, 0), (5, 0)), &settings), 1_000);
    // Another proxy, half a second later: the same time is not counted twice.
    let other = Reading { received_ms: ACKED + 1_500, begun_ms: Some(ACKED + 500), ..reading(0, (5, 0), (5, 0)) };
    assert_eq!(see(other, &settings), 1_500);
    assert_eq!(see(reading(2, (0, 0), (0, 0)), &settings), 1_500, "nothing was completed");
    assert_eq!(see(reading(3, (5, 0), (5, 0)), &Setting { counting: false, ..settings }), 1_500, "frozen");
    // Ten seconds of backlog in one report: the control plane was away.
    let late = Reading { begun_ms: Some(ACKED + 3_000), ..reading(13, (50, 0), (50, 0)) };
    assert_eq!(see(late, &settings), 2_500);
    assert_eq!(see(Reading { begun_ms: None, ..reading(14, (5, 0), (5, 0)) }, &settings), 2_500, "unknown");
}

#[test]
fn a_step_passes_only_with_time_requests_and_a_good_bound() {
    let policy = policy();
    let step = Step { weight: 5, min_duration: Duration::from_secs(10), min_requests: 200 };
    let verdict = |per_second: (u64, u64), seconds: u64, acked: bool, now: u64| {
        let mut judge = Judge::default();
        for s in 1..=seconds {
            judge.observe(&policy, &reading(s, per_second, (1000 - per_second.0, 0)), &setting(250, true));
        }
        judge.verdict(&policy, &step, acked, ACKED + now * 1000)
    };
    assert_eq!(verdict((25, 0), 0, true, 0).0, Verdict::Error);
    assert_eq!(verdict((25, 0), 10, false, 10).0, Verdict::Error);
    assert_eq!(verdict((25, 0), 9, true, 9), (Verdict::Inconclusive, "9.0 s of 10.0 s with evidence".into()));
    assert_eq!(verdict((19, 0), 10, true, 10), (Verdict::Inconclusive, "190 of 200 requests".into()));
    assert_eq!(
        verdict((25, 0), 10, true, 10),
        (Verdict::Pass, "10.0 s with evidence, 0 errors of 250 requests".into())
    );
    assert_eq!(verdict((25, 0), 10, true, 14).0, Verdict::Error, "reports stopped");
    let mut judge = Judge::default();
    for s in 1..=10 {
        judge.observe(&policy, &reading(s, (25, 2), (975, 60)), &setting(250, true));
    }
    let (verdict, why) = judge.verdict(&policy, &step, true, ACKED + 10_000);
    assert_eq!(verdict, Verdict::Inconclusive, "{why}");
    assert!(why.contains("the ceiling is 5.00 %"), "{why}");
    let no_ceiling = Policy { slo_ceiling: None, ..policy.clone() };
    assert_eq!(judge.verdict(&no_ceiling, &step, true, ACKED + 10_000).0, Verdict::Pass);
}

#[test]
fn dropped_requests_cap_the_weight_and_never_fail_it() {
    let policy = policy();
    let step = Step { weight: 5, min_duration: Duration::from_secs(5), min_requests: 0 };
    let mut judge = Judge::default();
    for s in 1..=60 {
        let dropping = Reading { dropped: 300, ..reading(s, (200, 0), (500, 0)) };
        assert_eq!(judge.observe(&policy, &dropping, &setting(2_800, true)), None);
    }
    let (verdict, why) = judge.verdict(&policy, &step, true, ACKED + 60_000);
    assert_eq!(verdict, Verdict::Inconclusive, "{why}");
    assert!(why.contains("overloaded"), "{why}");
}

#[test]
fn wilson_is_the_specification_s() {
    for (n, ceiling) in [(52, 0.05), (268, 0.01), (2_704, 0.001)] {
        assert!(wilson_upper(n, 0, 1.645) < ceiling, "{n}");
        assert!(wilson_upper(n - 3, 0, 1.645) >= ceiling, "{n}");
    }
    assert_eq!(wilson_upper(0, 0, 1.645), 1.0);
    assert!((wilson_upper(100, 10, 1.645) - 0.1600).abs() < 1e-3);
}

#[test]
fn the_binomial_bound_is_exact() {
    assert!(!binomial_below(0, 200, 0.025, 1e-5)); // 0.0063
    assert!(binomial_below(0, 455, 0.025, 1e-5));
    assert!(!binomial_below(0, 454, 0.025, 1e-5));
    // Direct summation in another way, for sizes where that works.
    for (n, share) in [(50_u64, 0.5_f64), (100, 0.3), (200, 0.1)] {
        let mut term = (1.0 - share).powf(n as f64);
        let mut below = 0.0;
        for k in 0..n {
            below += term;
            for chance in [1e-5, 1e-3, 0.05] {
                let expected = below < chance && (k as f64) < n as f64 * share;
                assert_eq!(binomial_below(k, n, share, chance), expected, "{k} of {n} at {share}: {below}");
            }
            term *= (n - k) as f64 / (k + 1) as f64 * share / (1.0 - share);
        }
    }
    assert!(binomial_below(499_000, 1_000_000, 0.5025, 1e-5));
    assert!(!binomial_below(1000, 1000, 0.5, 1e-5));
    assert!(binomial_below(9, 10, 1.0, 1e-5));
    assert!(
        !binomial_below(0, 0, 0.5, 1e-5) && !binomial_below(0, 10, 0.0, 1e-5) && !binomial_below(0, 10, f64::NAN, 1e-5)
    );
}

#[test]
fn what_is_stored_is_read_back_to_the_last_bit() {
    let mut judge = Judge::default();
    for s in 1..50 {
        judge.observe(&policy(), &reading(s, (333, s % 3), (667, s % 2)), &setting(3_333, true));
    }
    let text = serde_json::to_string(&judge).unwrap();
    let back: Judge = serde_json::from_str(&text).unwrap();
    assert_eq!(back, judge);
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
}
