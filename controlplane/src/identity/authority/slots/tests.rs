//! The table of transitions, and what holds whatever happens.

use proptest::prelude::*;

use super::*;

const TTL: u64 = 600; // prepared at 300, active until 500, forgotten 600 after its end
const WAIT: u64 = 20;

fn second(at: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + at)
}

fn policy() -> Policy {
    Policy::new(Duration::from_secs(TTL), Duration::from_secs(WAIT))
}

/// `a:active@0` is slot a, active, made at 0. After `!` its root, after `-` it has no key.
fn slot(text: &str) -> Slot<()> {
    let (text, root) = text.split_once('!').map_or((text, None), |(text, root)| (text, Some(root)));
    let (text, key) = text.strip_suffix('-').map_or((text, true), |text| (text, false));
    let (id, rest) = text.split_once(':').unwrap();
    let (state, from) = rest.split_once('@').unwrap();
    let (from, at) = from.split_once('/').unwrap_or((from, from));
    let (from, at) = (from.parse().unwrap(), second(at.parse().unwrap()));
    let state = match state {
        "prepared" => State::Prepared,
        "published" => State::Published { at },
        "active" => State::Active,
        "old" => State::Old,
        "tainted" => State::Tainted { at },
        "revoked" => State::Revoked,
        other => panic!("{other}"),
    };
    let life = Life { not_before: second(from), not_after: second(from + TTL) };
    Slot {
        id: id.into(),
        key: key.then(|| format!("key-{id}").into()),
        state,
        life,
        root: root.map(Id::from),
        material: (),
    }
}

fn slots(text: &str) -> Slots<()> {
    let mut slots = Slots::default();
    for word in text.split_whitespace() {
        match word.split_once('=') {
            Some(("making", name)) => slots.making = Some(name.into()),
            Some(("doomed", name)) => drop(slots.doomed.insert(name.into())),
            Some(("hold", at)) => slots.hold = Some(second(at.parse().unwrap())),
            _ if word == "unpublished" => slots.unpublished = true,
            _ => slots.slots.push(slot(word)),
        }
    }
    slots
}

fn shown(slots: &Slots<()>) -> String {
    let since = |at: SystemTime| at.duration_since(second(0)).unwrap().as_secs();
    let mut words: Vec<String> = slots
        .slots
        .iter()
        .map(|slot| {
            let from = since(slot.life.not_before);
            let at = match slot.state {
                State::Published { at } | State::Tainted { at } if since(at) != from => format!("/{}", since(at)),
                _ => String::new(),
            };
            let key = if slot.key.is_some() { "" } else { "-" };
            let root = slot.root.as_ref().map_or(String::new(), |root| format!("!{root}"));
            format!("{}:{}@{from}{at}{key}{root}", slot.id, slot.state.word())
        })
        .collect();
    words.extend(slots.making.iter().map(|name| format!("making={name}")));
    words.extend(slots.doomed.iter().map(|name| format!("doomed={name}")));
    words.extend(slots.unpublished.then(|| "unpublished".to_owned()));
    words.extend(slots.hold.map(|at| format!("hold={}", since(at))));
    words.join(" ")
}

fn effects(effects: &[Effect]) -> String {
    let word = |effect: &Effect| match effect {
        Effect::Make(name) => format!("make {name}"),
        Effect::Publish => "publish".into(),
        Effect::Sign(id) => format!("sign {id}"),
        Effect::Destroy(name) => format!("destroy {name}"),
    };
    effects.iter().map(word).collect::<Vec<_>>().join(", ")
}

fn event(text: &str) -> Event<()> {
    let words: Vec<_> = text.split_whitespace().collect();
    let force = words.contains(&"force");
    let id = || Id::from(words[1]);
    match words[0] {
        "start" => Event::Started { lost: words[1..].iter().map(|name| Arc::from(*name)).collect() },
        "tick" => Event::Tick,
        "made" => Event::Made(slot(words[1])),
        "not-made" => Event::NotMade,
        "published" => Event::Published,
        "destroyed" => Event::Destroyed(words[1].into()),
        "forward" => Event::ClockStepped { forward: true, by: Duration::from_secs(words[1].parse().unwrap()) },
        "back" => Event::ClockStepped { forward: false, by: Duration::from_secs(words[1].parse().unwrap()) },
        "prepare" => Event::Prepare { force },
        "activate" => Event::Activate { id: id(), force },
        "taint" => Event::Taint { id: id(), force },
        "revoke" => Event::Revoke { id: id(), force },
        "taint-root" => Event::TaintRoot { root: id(), force },
        "revoke-root" => Event::RevokeRoot { root: id(), force },
        other => panic!("{other}"),
    }
}

/// From these slots, at this second, by this event: to these slots, with these effects; or the refusal's label.
#[track_caller]
fn check(before: &str, at: u64, what: &str, after: &str, then: &str) {
    check_below(None, None, before, at, what, after, then);
}

#[track_caller]
fn check_below(root: Option<&str>, end: Option<u64>, before: &str, at: u64, what: &str, after: &str, then: &str) {
    let (policy, root) = (policy(), root.map(Id::from));
    let context =
        Context { now: second(at), policy: &policy, fresh: "n", root: root.as_ref(), root_end: end.map(second) };
    let (got, did) = match step(&slots(before), event(what), context) {
        Ok((next, did)) => (shown(&next), effects(&did)),
        Err(refused) => (refused.label().to_owned(), String::new()),
    };
    assert_eq!((got.as_str(), did.as_str()), (after, then), "{before:?} at {at}: {what}");
}

#[test]
fn the_first_authority_is_made_published_and_then_signs() {
    check("", 0, "start", "making=n unpublished hold=600", "make n, publish");
    check("making=n", 0, "made a:prepared@0", "a:prepared@0 unpublished", "publish");
    check("a:prepared@0 unpublished", 1, "published", "a:active@0", "sign a");
}

#[test]
fn the_schedule() {
    check("a:active@0", 299, "tick", "a:active@0", "");
    check("a:active@0", 300, "tick", "a:active@0 making=n", "make n");
    check("a:active@0 making=n", 300, "tick", "a:active@0 making=n", "");
    check("a:active@0 making=n", 300, "made b:prepared@300", "a:active@0 b:prepared@300 unpublished", "publish");
    check("a:active@0 b:prepared@300 unpublished", 301, "published", "a:active@0 b:published@300/301", "");
    check("a:active@0 b:published@300", 499, "tick", "a:active@0 b:published@300", "");
    check("a:active@0 b:published@300", 500, "tick", "a:old@0 b:active@300", "sign b");
    check("a:old@0 b:active@300", 1199, "tick", "a:old@0 b:active@300 making=n", "make n");
    // Forgotten as long after its end as it lived, with its key.
    check("a:old@0 b:active@1200", 1199, "tick", "a:old@0 b:active@1200", "");
    check("a:old@0 b:active@1200", 1200, "tick", "b:active@1200 doomed=key-a unpublished", "publish, destroy key-a");
    check("b:active@1200 doomed=key-a", 1200, "destroyed key-a", "b:active@1200", "");
    check("a:revoked@0- b:active@1200", 1200, "tick", "b:active@1200", "");
}

#[test]
fn i_8_nothing_signs_before_it_was_published_and_others_had_the_time_to_hear_of_it() {
    check("a:active@0 b:prepared@300 unpublished", 550, "tick", "a:active@0 b:prepared@300 unpublished", "publish");
    check("a:active@0 b:prepared@300", 400, "activate b force", "authority_state", "");
    check("a:active@0 b:published@300/495", 514, "tick", "a:active@0 b:published@300/495", "");
    check("a:active@0 b:published@300/495", 515, "tick", "a:old@0 b:active@300", "sign b");
}

#[test]
fn when_nothing_signs_nobody_is_served_by_waiting() {
    check("a:active@0 b:published@300/599", 600, "tick", "a:old@0 b:active@300", "sign b");
    check("a:active@0", 600, "tick", "a:active@0 making=n", "make n");
    check("a:active@0 making=n", 601, "made b:prepared@601", "a:active@0 b:prepared@601 unpublished", "publish");
    check("a:active@0 b:prepared@601 unpublished", 602, "published", "a:old@0 b:active@601", "sign b");
    check("a:active@0 b:prepared@100 unpublished", 650, "tick", "a:active@0 b:prepared@100 unpublished", "publish");
    // Not even one that was prepared is left: it ended before it ever signed.
    check(
        "a:active@0 b:published@10",
        700,
        "tick",
        "a:active@0 b:revoked@10- making=n doomed=key-b unpublished",
        "make n, publish, destroy key-b",
    );
}

#[test]
fn a_key_that_could_not_be_made_is_tried_again_at_the_next_tick_only() {
    check("a:active@0 making=m", 300, "not-made", "a:active@0 doomed=m", "destroy m");
    check("a:active@0 doomed=m", 301, "tick", "a:active@0 making=n doomed=m", "make n, destroy m");
}

#[test]
fn what_a_crash_cut_off_is_done_again() {
    check(
        "a:active@0 making=m",
        100,
        "start",
        "a:active@0 doomed=m unpublished hold=700",
        "sign a, publish, destroy m",
    );
    check(
        "a:active@0 doomed=k",
        100,
        "start",
        "a:active@0 doomed=k unpublished hold=700",
        "sign a, publish, destroy k",
    );
    check("a:active@0 b:prepared@99", 100, "start", "a:active@0 b:prepared@99 unpublished hold=700", "sign a, publish");
    check("making=m", 0, "start", "making=n doomed=m unpublished hold=600", "make n, publish, destroy m");
}

#[test]
fn lost_keys_sign_no_more_but_what_they_signed_is_still_verified() {
    check(
        "a:old@0 b:active@300 c:published@310",
        400,
        "start key-a key-b key-c",
        "a:old@0- b:old@300- c:revoked@310- making=n unpublished hold=1000",
        "make n, publish",
    );
    check(
        "a:active@0 b:published@300",
        400,
        "start key-a",
        "a:old@0- b:active@300 unpublished hold=1000",
        "sign b, publish",
    );
}

#[test]
fn by_hand_prepare() {
    check("a:active@0", 10, "prepare", "a:active@0 making=n", "make n");
    check("a:active@0 making=m", 10, "prepare", "authority_busy", "");
    check("a:active@0 b:published@10", 20, "prepare", "authority_pending", "");
    check(
        "a:active@0 b:published@10",
        20,
        "prepare force",
        "a:active@0 b:revoked@10- making=n doomed=key-b unpublished",
        "make n, publish, destroy key-b",
    );
}

#[test]
fn by_hand_activate() {
    check("a:active@0 b:published@10", 29, "activate b", "authority_too_soon", "");
    check("a:active@0 b:published@10", 30, "activate b", "a:old@0 b:active@10", "sign b");
    check("a:active@0 b:published@10", 11, "activate b force", "a:old@0 b:active@10", "sign b");
    check("a:old@0 b:active@10", 50, "activate a", "a:active@0 b:old@10", "sign a");
    check("a:active@0", 10, "activate a", "authority_state", "");
    check("a:tainted@0- b:active@10", 50, "activate a force", "authority_state", "");
    check("a:revoked@0- b:active@10", 50, "activate a force", "authority_state", "");
    check("a:old@0- b:active@10", 50, "activate a", "authority_without_key", "");
    check("a:old@0 b:active@300", 700, "activate a", "authority_not_valid", "");
    check("a:active@0", 10, "activate z", "unknown_authority", "");
}

#[test]
fn by_hand_taint() {
    let tainted = "a:tainted@0/50- b:active@10 doomed=key-a";
    check("a:active@0 b:published@10", 50, "taint a", tainted, "sign b, destroy key-a");
    check("a:old@0 b:active@10", 50, "taint a", tainted, "destroy key-a");
    check("a:active@0 b:published@40", 50, "taint a", "authority_too_soon", "");
    check(
        "a:active@0 b:published@40",
        50,
        "taint a force",
        "a:tainted@0/50- b:active@40 doomed=key-a",
        "sign b, destroy key-a",
    );
    check("a:active@0", 50, "taint a", "only_authority", "");
    check("a:active@0", 50, "taint a force", "only_authority", "");
    check("a:active@0 b:prepared@40", 50, "taint a force", "only_authority", "");
    check("a:active@0 b:published@10", 50, "taint b", "a:active@0 b:tainted@10/50- doomed=key-b", "destroy key-b");
    check(tainted, 60, "taint a", "authority_state", "");
}

#[test]
fn by_hand_revoke() {
    let revoked = "a:revoked@0- b:active@10 unpublished";
    check("a:tainted@0/50- b:active@10", 69, "revoke a", "authority_still_used", "");
    check("a:tainted@0/50- b:active@10", 70, "revoke a", revoked, "publish");
    check("a:tainted@0/50- b:active@10", 51, "revoke a force", revoked, "publish");
    check("a:old@0 b:active@10", 50, "revoke a", "authority_not_tainted", "");
    check(
        "a:old@0 b:active@10",
        50,
        "revoke a force",
        "a:revoked@0- b:active@10 doomed=key-a unpublished",
        "publish, destroy key-a",
    );
    check("a:active@0 b:published@10", 50, "revoke a force", "authority_state", "");
    check("a:revoked@0- b:active@10", 50, "revoke a force", "authority_state", "");
    check(
        "a:active@0 b:published@10",
        50,
        "revoke b",
        "a:active@0 b:revoked@10- doomed=key-b unpublished",
        "publish, destroy key-b",
    );
}

#[test]
fn below_an_upstream_root() {
    let check = |root, end, before, at, what, after, then| check_below(Some(root), end, before, at, what, after, then);
    // The operator laid another upstream authority into the file.
    check("r2", None, "a:active@0!r1", 10, "tick", "a:active@0!r1 making=n", "make n");
    check("r2", None, "a:active@0!r1 b:published@10!r2", 29, "tick", "a:active@0!r1 b:published@10!r2", "");
    check("r2", None, "a:active@0!r1 b:published@10!r2", 30, "tick", "a:old@0!r1 b:active@10!r2", "sign b");
    check(
        "r2",
        None,
        "a:active@0!r2 b:published@10!r1",
        20,
        "prepare",
        "a:active@0!r2 b:revoked@10-!r1 making=n doomed=key-b unpublished",
        "make n, publish, destroy key-b",
    );
    // It ends with the active one: another would change nothing.
    check("r1", Some(600), "a:active@0!r1", 400, "tick", "a:active@0!r1", "");
    check("r1", Some(601), "a:active@0!r1", 400, "tick", "a:active@0!r1 making=n", "make n");
    check(
        "r2",
        None,
        "a:old@0!r1 b:active@10!r1 c:published@20!r2",
        50,
        "taint-root r1",
        "a:tainted@0/50-!r1 b:tainted@10/50-!r1 c:active@20!r2 doomed=key-a doomed=key-b",
        "sign c, destroy key-a, destroy key-b",
    );
    check("r1", None, "a:active@0!r1 b:published@10!r1", 50, "taint-root r1", "only_authority", "");
    check("r1", None, "a:active@0!r1", 50, "taint-root r9", "unknown_authority", "");
    check(
        "r2",
        None,
        "a:tainted@0/50-!r1 c:active@20!r2",
        70,
        "revoke-root r1",
        "a:revoked@0-!r1 c:active@20!r2 unpublished",
        "publish",
    );
    check("r1", None, "a:active@0!r1", 50, "revoke-root r1 force", "authority_state", "");
}

#[test]
fn fault_007_waiting_times_move_with_the_clock() {
    // Published 5 s ago, and the clock jumps an hour: it still waits for 15 s.
    let jumped = "a:active@3600 b:published@3605/3610 hold=4215";
    check("a:active@3600 b:published@3605/10", 3615, "forward 3600", jumped, "");
    check(jumped, 3629, "activate b", "authority_too_soon", "");
    check(jumped, 3630, "activate b", "a:old@3600 b:active@3605 hold=4215", "sign b");
    check("a:active@0 t:tainted@20/400-", 340, "back 60", "a:active@0 t:tainted@20/340- making=n hold=940", "make n");
}

#[test]
fn fault_007_nothing_is_forgotten_while_the_clock_may_jump_back() {
    let year = 31_536_000;
    let (before, after) = ("a:old@0 b:active@300", format!("a:old@0 b:active@300 making=n hold={}", year + 600));
    check(before, year, "forward 31535000", &after, "make n");
    check(&after, year + 599, "tick", &after, "");
    // And back again: what was made meanwhile is valid in a year, so the one before goes on.
    let made = format!("a:old@0 b:old@300 c:active@{year} hold={}", year + 600);
    let back = format!("a:old@0 b:active@300 c:old@{year} hold=1000");
    check(&made, 400, "back 31535000", &back, "sign b");
}

#[test]
fn fault_007_a_clock_that_went_back_mid_rotation_makes_no_new_authority() {
    check("a:active@4000", 400, "back 3600", "a:active@4000 hold=1000", "");
    check("a:old@3700 b:active@4000", 3999, "back 60", "a:active@3700 b:old@4000 hold=4599", "sign a");
}

#[test]
fn what_happens_next_is_told() {
    let policy = policy();
    let outlook = |text: &str, id: &str| {
        let slots = slots(text);
        let (word, at) = slots.outlook(slots.find(id).unwrap(), &policy);
        format!("{word} {}", at.map_or(0, |at| at.duration_since(second(0)).unwrap().as_secs()))
    };
    assert_eq!(outlook("a:active@0", "a"), "its successor is prepared 300");
    assert_eq!(outlook("a:active@0 b:published@300", "a"), "hands over 500");
    assert_eq!(outlook("a:active@0 b:published@300", "b"), "takes over 500");
    assert_eq!(outlook("a:active@0 b:published@300/490", "b"), "takes over 510");
    assert_eq!(outlook("a:active@0 b:prepared@300", "b"), "is published 0");
    assert_eq!(outlook("a:old@0 b:active@300", "a"), "is forgotten 1200");
    assert_eq!(slots("a:old@0 b:active@300").next_at(&policy), Some(second(600)));
}

#[test]
fn an_id_may_be_cut_short_as_long_as_it_names_one() {
    let slots = slots("ab1:active@0 ab2:old@0 c:old@0 ab1c:old@0");
    assert_eq!(slots.find("ab1").unwrap().id.as_ref(), "ab1", "whole");
    assert_eq!(slots.find("c").unwrap().id.as_ref(), "c");
    assert_eq!(slots.find("ab").unwrap_err().label(), "ambiguous_authority");
    assert_eq!(slots.find("").unwrap_err().label(), "unknown_authority");
}

#[derive(Clone, Debug)]
enum Move {
    Wait(u64),
    Step(bool, u64),
    Crash { lose: bool },
    Fail(u8),
    Prepare(bool),
    Activate(u8, bool),
    Taint(u8, bool),
    Revoke(u8, bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (1u64..200).prop_map(Move::Wait),
        1 => (any::<bool>(), 1u64..5_000).prop_map(|(forward, by)| Move::Step(forward, by)),
        1 => prop::bool::weighted(0.1).prop_map(|lose| Move::Crash { lose }),
        1 => (0u8..3).prop_map(Move::Fail),
        1 => any::<bool>().prop_map(Move::Prepare),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(slot, force)| Move::Activate(slot, force)),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(slot, force)| Move::Taint(slot, force)),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(slot, force)| Move::Revoke(slot, force)),
    ];
    prop::collection::vec(one, 1..60)
}

/// Slots with a world around them: keys that exist, the bundle as published, and who signs.
struct World {
    slots: Slots<()>,
    now: u64,
    made: u64,
    keys: BTreeSet<Arc<str>>,
    bundle: BTreeSet<Id>,
    signs: Option<Id>,
    /// What fails this time: nothing, making, publishing.
    fails: u8,
}

impl World {
    fn drive(&mut self, event: Event<()>) -> Result<(), Refused> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.made += 1;
            let (policy, fresh) = (policy(), format!("k{}", self.made));
            let context = Context { now: second(self.now), policy: &policy, fresh: &fresh, root: None, root_end: None };
            let (next, effects) = step(&self.slots, event, context)?;
            self.slots = next;
            self.check();
            let mut todo = effects.into_iter();
            for effect in todo.by_ref() {
                match effect {
                    Effect::Sign(id) => {
                        assert!(self.bundle.contains(&id), "I8: {id} signs and is not published");
                        let key = self.slots.find(&id).unwrap().key.clone();
                        assert!(self.keys.contains(&key.unwrap()));
                        self.signs = Some(id);
                        continue;
                    }
                    Effect::Make(_) if self.fails == 1 => events.push(Event::NotMade),
                    Effect::Make(name) => {
                        self.keys.insert(name.clone());
                        let mut slot = slot(&format!("{name}:prepared@{}", self.now));
                        slot.key = Some(name);
                        events.push(Event::Made(slot));
                    }
                    Effect::Publish if self.fails == 2 => return Ok(()),
                    Effect::Publish => {
                        self.bundle = self.slots.in_bundle().map(|slot| slot.id.clone()).collect();
                        events.push(Event::Published);
                    }
                    Effect::Destroy(name) => {
                        self.keys.remove(&name);
                        events.push(Event::Destroyed(name));
                    }
                }
                break; // the next step tells again what is left
            }
        }
        Ok(())
    }

    /// What always holds.
    fn check(&self) {
        let active: Vec<_> = self.slots.slots.iter().filter(|slot| slot.state == State::Active).collect();
        assert!(active.len() <= 1);
        assert!(
            self.slots
                .slots
                .iter()
                .filter(|slot| matches!(slot.state, State::Prepared | State::Published { .. }))
                .count()
                <= 1
        );
        for slot in &self.slots.slots {
            if let State::Tainted { .. } | State::Revoked = slot.state {
                assert!(slot.key.is_none(), "its key is destroyed");
                // The signer that the world still has is replaced by an effect of the same step; looked at in `settled`.
            }
            assert!(slot.key.as_ref().is_none_or(|key| self.keys.contains(key) && !self.slots.doomed.contains(key)));
        }
        let ids: BTreeSet<_> = self.slots.slots.iter().map(|slot| &slot.id).collect();
        assert_eq!(ids.len(), self.slots.slots.len());
    }

    /// What holds when nothing is left to be done.
    fn settled(&self) {
        let active = self.slots.active().expect("something signs");
        assert_eq!(self.signs.as_ref(), Some(&active.id));
        let revoked = |id: &Id| self.slots.slots.iter().any(|slot| slot.id == *id && slot.state == State::Revoked);
        assert!(!self.bundle.iter().any(revoked), "what is revoked is out of the bundle");
        assert!(self.slots.in_bundle().all(|slot| self.bundle.contains(&slot.id)));
        let named: BTreeSet<_> = self.slots.slots.iter().filter_map(|slot| slot.key.clone()).collect();
        assert_eq!(self.keys, named, "no key is left behind");
        assert!(second(self.now) < active.life.not_after, "and it has not expired");
    }

    fn pick(&self, index: u8) -> Id {
        self.slots.slots[usize::from(index) % self.slots.slots.len()].id.clone()
    }
}

proptest! {
    #[test]
    fn whatever_happens_something_signs_that_is_published(moves in moves()) {
        let mut world = World {
            slots: Slots::default(), now: 0, made: 0, keys: BTreeSet::new(), bundle: BTreeSet::new(), signs: None, fails: 0,
        };
        world.drive(Event::Started { lost: BTreeSet::new() }).unwrap();
        world.settled();
        for one in moves {
            world.fails = 0;
            let active = world.slots.active().map(|slot| slot.id.clone());
            let refused = match one {
                Move::Wait(by) => { world.now += by; world.drive(Event::Tick) }
                Move::Step(forward, by) => {
                    let by = if forward { by } else { by.min(world.now) };
                    world.now = if forward { world.now + by } else { world.now - by };
                    world.drive(Event::ClockStepped { forward, by: Duration::from_secs(by) })
                }
                Move::Crash { lose } => {
                    world.signs = None;
                    let lost = if lose { std::mem::take(&mut world.keys) } else { BTreeSet::new() };
                    world.drive(Event::Started { lost })
                }
                Move::Fail(what) => { world.fails = what; world.now += 150; world.drive(Event::Tick) }
                Move::Prepare(force) => world.drive(Event::Prepare { force }),
                Move::Activate(slot, force) => world.drive(Event::Activate { id: world.pick(slot), force }),
                Move::Taint(slot, force) => world.drive(Event::Taint { id: world.pick(slot), force }),
                Move::Revoke(slot, force) => {
                    let id = world.pick(slot);
                    let was = world.slots.find(&id).unwrap().state;
                    let done = world.drive(Event::Revoke { id: id.clone(), force });
                    if done.is_ok() {
                        prop_assert!(was != State::Active && (force || was != State::Old));
                        prop_assert!(world.slots.find(&id).is_ok_and(|slot| slot.state == State::Revoked));
                        prop_assert!(!world.bundle.contains(&id));
                    }
                    done
                }
            };
            if let Err(refused) = refused {
                prop_assert_eq!(world.slots.active().map(|slot| slot.id.clone()), active, "{}: nothing changed", refused);
            }
            world.fails = 0;
            world.drive(Event::Tick).unwrap();
            world.settled();
        }
    }
}
