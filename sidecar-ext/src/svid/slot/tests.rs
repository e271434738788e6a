use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::testing::{Ca, HOUR, now};

struct Rig {
    ca: Ca,
    slot: Slot,
    now: SystemTime,
    rng: StdRng,
}

impl Rig {
    fn new() -> Self {
        Self { ca: Ca::new("a.example"), slot: Slot::wanted(now()), now: now(), rng: StdRng::seed_from_u64(1) }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let (slot, effects) = self.slot.clone().step(event, self.now, &mut self.rng);
        self.slot = slot;
        effects
    }

    fn after(&mut self, wait: Duration) -> Vec<Effect> {
        self.now += wait;
        self.step(Event::Tick)
    }

    fn issue(&mut self) -> (Arc<Svid>, Vec<Effect>) {
        let svid = Arc::new(self.ca.svid_from("spiffe://a.example/w", self.now, HOUR));
        (svid.clone(), self.step(Event::Issued(svid)))
    }

    fn serves(&self) -> Option<String> {
        self.slot.svid().map(|svid| svid.serial.clone())
    }
}

#[test]
fn it_asks_at_once_renews_at_half_life_and_serves_the_old_until_the_new_is_there() {
    let mut rig = Rig::new();
    assert_eq!(rig.step(Event::Tick), [Effect::Request]);
    assert_eq!(rig.step(Event::Tick), [], "asked already");
    let (first, effects) = rig.issue();
    assert_eq!((effects, rig.serves()), (vec![Effect::Publish], Some(first.serial.clone())));
    assert_eq!(rig.after(HOUR.mul_f64(0.44)), []);
    assert_eq!(rig.after(HOUR.mul_f64(0.12)), [Effect::Request]);
    assert_eq!(rig.serves(), Some(first.serial.clone()), "the old one is served meanwhile");
    let (second, effects) = rig.issue();
    assert_eq!((effects, rig.serves()), (vec![Effect::Publish], Some(second.serial.clone())));
    assert_ne!(first.serial, second.serial);
}

#[test]
fn a_failed_renewal_keeps_what_is_held_and_is_tried_again_until_it_expires() {
    let mut rig = Rig::new();
    rig.step(Event::Tick);
    let (held, _) = rig.issue();
    assert_eq!(rig.after(HOUR.mul_f64(0.56)), [Effect::Request]);
    let mut attempts = 0;
    while rig.now < held.not_after {
        assert_eq!(rig.step(Event::Failed), []);
        assert_eq!(rig.serves(), Some(held.serial.clone()));
        let wait = rig.slot.wakes().unwrap().duration_since(rig.now).unwrap();
        assert!(wait <= LONGEST_WAIT, "{wait:?}");
        rig.after(wait);
        attempts += 1;
    }
    assert!(attempts > 40, "{attempts} attempts in half an hour");
    assert_eq!(rig.serves(), None, "expired is never served");
}

#[test]
fn i_6_an_svid_that_expires_is_withdrawn_from_whichever_state() {
    for renewing in [false, true] {
        let mut rig = Rig::new();
        rig.step(Event::Tick);
        rig.issue();
        if renewing {
            rig.after(HOUR.mul_f64(0.56));
        }
        rig.now = rig.slot.svid().unwrap().not_after;
        let effects = rig.step(Event::Tick);
        assert_eq!(effects.first(), Some(&Effect::Publish), "renewing: {renewing}");
        assert_eq!(rig.serves(), None);
        let (fresh, _) = rig.issue();
        assert_eq!(rig.serves(), Some(fresh.serial.clone()), "and comes back");
    }
}

#[test]
fn the_first_failure_is_told_and_waits_grow_with_jitter() {
    let mut rig = Rig::new();
    rig.step(Event::Tick);
    assert_eq!(rig.step(Event::Failed), [Effect::Publish], "whoever waits is told");
    let mut waits = Vec::new();
    for _ in 0..12 {
        let wait = rig.slot.wakes().unwrap().duration_since(rig.now).unwrap();
        waits.push(wait);
        assert_eq!(rig.after(wait), [Effect::Request]);
        assert_eq!(rig.step(Event::Failed), []);
    }
    assert!(waits[0] <= FIRST_WAIT && waits[0] >= FIRST_WAIT / 2);
    assert!(waits[11] <= LONGEST_WAIT && waits[11] >= LONGEST_WAIT / 2);
}

#[test]
fn a_stale_or_expired_answer_changes_nothing() {
    let mut rig = Rig::new();
    rig.step(Event::Tick);
    let (held, _) = rig.issue();
    let older = Arc::new(rig.ca.svid_from("spiffe://a.example/w", rig.now - HOUR / 2, HOUR));
    assert_eq!(rig.step(Event::Issued(older)), []);
    assert_eq!(rig.serves(), Some(held.serial.clone()));
    let expired = Arc::new(rig.ca.svid_from("spiffe://a.example/w", rig.now - 2 * HOUR, HOUR));
    let mut empty = Rig::new();
    empty.step(Event::Tick);
    assert_eq!(empty.step(Event::Issued(expired)), [Effect::Publish]);
    assert_eq!(empty.serves(), None);
    assert_eq!(empty.slot.failures(), 1);
}

#[test]
fn new_terms_are_asked_for_at_once_and_the_old_svid_is_served_meanwhile() {
    let mut rig = Rig::new();
    rig.step(Event::Tick);
    let (held, _) = rig.issue();
    assert_eq!(rig.step(Event::Changed), []);
    assert_eq!(rig.step(Event::Tick), [Effect::Request]);
    assert_eq!(rig.serves(), Some(held.serial.clone()));
}

#[test]
fn a_tainted_svid_is_replaced_at_once_and_served_until_then() {
    let mut rig = Rig::new();
    rig.step(Event::Tick);
    let (held, _) = rig.issue();
    assert_eq!(rig.step(Event::Tainted), []);
    assert_eq!(rig.step(Event::Tick), [Effect::Request]);
    assert_eq!(rig.serves(), Some(held.serial.clone()));
    // The control plane has not changed over yet: what it sends is no better, and is asked for again, ever less often.
    let mut waits = Vec::new();
    for _ in 0..3 {
        let again = Arc::new(rig.ca.svid_from("spiffe://a.example/w", rig.now, HOUR));
        assert_eq!(rig.step(Event::IssuedTainted(again)), []);
        assert_eq!(rig.serves(), Some(held.serial.clone()));
        let wait = rig.slot.wakes().unwrap().duration_since(rig.now).unwrap();
        assert_eq!(rig.after(wait), [Effect::Request]);
        waits.push(wait);
    }
    assert!(waits[2] > waits[0] && waits[0] >= FIRST_WAIT / 2, "{waits:?}");
    let (fresh, effects) = rig.issue();
    assert_eq!((effects, rig.serves()), (vec![Effect::Publish], Some(fresh.serial.clone())));
}

#[test]
fn where_nothing_is_held_a_tainted_svid_is_better_than_none() {
    let mut rig = Rig::new();
    rig.step(Event::Tick);
    let svid = Arc::new(rig.ca.svid_from("spiffe://a.example/w", rig.now, HOUR));
    assert_eq!(rig.step(Event::IssuedTainted(svid.clone())), [Effect::Publish]);
    assert_eq!(rig.serves(), Some(svid.serial.clone()));
    assert_eq!(rig.after(FIRST_WAIT), [Effect::Request], "and is replaced soon");
}

/// The whole table: from each state, each event; what is served and what is done.
#[test]
fn every_transition_is_as_drawn() {
    let ca = Ca::new("a.example");
    let at = now();
    let held = Arc::new(ca.svid_from("spiffe://a.example/w", at, HOUR));
    let newer = Arc::new(ca.svid_from("spiffe://a.example/w", at + Duration::from_secs(1), HOUR));
    let states = [
        Slot::Empty { at, failures: 0 },
        Slot::Requested { failures: 0 },
        Slot::Valid { svid: held.clone(), renew_at: at, failures: 0 },
        Slot::Renewing { svid: held, failures: 0 },
    ];
    let events = [
        Event::Tick,
        Event::Issued(newer.clone()),
        Event::IssuedTainted(newer),
        Event::Failed,
        Event::Tainted,
        Event::Changed,
    ];
    let mut table = String::new();
    for state in &states {
        for event in &events {
            let (next, effects) =
                state.clone().step(event.clone(), at + Duration::from_secs(1), &mut StdRng::seed_from_u64(1));
            table += &format!("{} {} -> {} {effects:?}\n", name(state), name_of(event), name(&next));
        }
    }
    let drawn = "\
Empty Tick -> Requested [Request]
Empty Issued -> Valid [Publish]
Empty IssuedTainted -> Valid [Publish]
Empty Failed -> Empty []
Empty Tainted -> Empty []
Empty Changed -> Empty []
Requested Tick -> Requested []
Requested Issued -> Valid [Publish]
Requested IssuedTainted -> Valid [Publish]
Requested Failed -> Empty [Publish]
Requested Tainted -> Requested []
Requested Changed -> Empty []
Valid Tick -> Renewing [Request]
Valid Issued -> Valid [Publish]
Valid IssuedTainted -> Valid []
Valid Failed -> Valid []
Valid Tainted -> Valid []
Valid Changed -> Valid []
Renewing Tick -> Renewing []
Renewing Issued -> Valid [Publish]
Renewing IssuedTainted -> Valid []
Renewing Failed -> Valid []
Renewing Tainted -> Renewing []
Renewing Changed -> Valid []
";
    assert_eq!(table, drawn);
}

fn name(slot: &Slot) -> &'static str {
    match slot {
        Slot::Empty { .. } => "Empty",
        Slot::Requested { .. } => "Requested",
        Slot::Valid { .. } => "Valid",
        Slot::Renewing { .. } => "Renewing",
    }
}

fn name_of(event: &Event) -> &'static str {
    match event {
        Event::Tick => "Tick",
        Event::Issued(_) => "Issued",
        Event::IssuedTainted(_) => "IssuedTainted",
        Event::Failed => "Failed",
        Event::Tainted => "Tainted",
        Event::Changed => "Changed",
    }
}
