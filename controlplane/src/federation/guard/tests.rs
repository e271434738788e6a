use super::super::testing::{model_endpoint, service};
use super::*;

fn imported(endpoints: std::ops::Range<u32>) -> ImportedService {
    ImportedService { endpoints: endpoints.map(model_endpoint).collect(), ..ImportedService::default() }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A guard, and what is in force.
struct Scene {
    guard: Guard,
    in_force: Option<ImportedService>,
}

impl Scene {
    fn new(endpoints: std::ops::Range<u32>) -> Self {
        Self { guard: Guard::new(secs(30)), in_force: Some(imported(endpoints)) }
    }

    /// Whether a hold began, and how many endpoints are in force, and of those unhealthy.
    fn say(&mut self, after: Option<ImportedService>, explained: bool, now: Duration) -> (bool, usize, usize) {
        let judged = self.guard.judge(&service("a.shop"), self.in_force.as_ref(), after, explained, now);
        self.in_force = judged.imported;
        let endpoints = self.in_force.as_ref().map(|one| one.endpoints.to_vec()).unwrap_or_default();
        let unhealthy = endpoints.iter().filter(|e| e.health == Health::Unhealthy).count();
        (judged.began, endpoints.len(), unhealthy)
    }
}

#[test]
fn a_sudden_loss_is_held_and_released() {
    for (left, held) in [(9, false), (6, false), (5, false), (4, true), (1, true)] {
        let mut scene = Scene::new(0..10);
        let expected = if held { (true, 10, 10 - left) } else { (false, left, 0) };
        let left = u32::try_from(left).expect("small");
        assert_eq!(scene.say(Some(imported(0..left)), false, secs(1)), expected, "{left} left");
    }
    let mut scene = Scene::new(0..10);
    scene.say(Some(imported(0..2)), false, secs(1));
    assert_eq!(scene.guard.next_release(), Some(secs(31)));
    assert!(scene.guard.released(secs(30)).is_empty());
    assert_eq!(scene.guard.released(secs(31)), vec![service("a.shop")]);
    assert_eq!(scene.say(Some(imported(0..2)), true, secs(31)), (false, 2, 0));
    assert_eq!(scene.guard.next_release(), None);
}

#[test]
fn a_loss_in_slices_is_added_up_within_the_window() {
    let mut scene = Scene::new(0..10);
    for (now, left) in [(1, 8), (2, 6), (3, 5)] {
        assert!(!scene.say(Some(imported(0..left)), false, secs(now)).0);
    }
    assert_eq!(scene.say(Some(imported(0..4)), false, secs(4)), (true, 5, 1), "what stood last is held");
    let mut slow = Scene::new(0..10);
    for (now, left) in [(1, 8), (13, 6), (25, 5), (37, 4), (49, 3), (61, 2), (73, 1)] {
        assert_eq!(slow.say(Some(imported(0..left)), false, secs(now)), (false, left as usize, 0), "{left}");
    }
}

#[test]
fn bad_119_the_last_endpoint_needs_a_reason() {
    let mut scene = Scene::new(0..1);
    assert_eq!(scene.say(Some(imported(0..0)), false, secs(1)), (true, 1, 1));
    let mut whole = Scene::new(0..2);
    assert_eq!(whole.say(None, false, secs(1)), (true, 2, 2), "the service with its endpoints");
    let mut explained = Scene::new(0..5);
    assert_eq!(explained.say(Some(imported(0..0)), true, secs(1)), (false, 0, 0));
    assert_eq!(explained.say(None, true, secs(2)), (false, 0, 0));
    assert_eq!(explained.in_force, None);
}

#[test]
fn one_that_comes_and_goes_is_never_held() {
    let mut scene = Scene::new(0..1);
    let mut now = secs(1);
    for round in 0..200u32 {
        now += Duration::from_millis(50);
        let both: Vec<_> = [0, 100 + round].map(model_endpoint).into();
        let after = ImportedService { endpoints: both.into(), ..ImportedService::default() };
        assert_eq!(scene.say(Some(after), false, now), (false, 2, 0), "{round}");
        now += Duration::from_millis(50);
        assert_eq!(scene.say(Some(imported(0..1)), false, now), (false, 1, 0), "{round}");
    }
}

#[test]
fn what_comes_back_is_used_again() {
    let mut scene = Scene::new(0..4);
    assert_eq!(scene.say(Some(imported(0..0)), false, secs(1)), (true, 4, 4));
    assert_eq!(scene.say(Some(imported(0..4)), false, secs(2)), (false, 4, 0));
    assert_eq!(scene.say(Some(imported(0..6)), false, secs(40)), (false, 6, 0));
    assert_eq!(scene.guard.next_release(), None, "the hold is over by then");
}
