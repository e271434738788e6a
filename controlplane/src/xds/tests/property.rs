//! A client that subscribes, unsubscribes, acknowledges and rejects in any order, while snapshots change under it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{cluster, endpoints, listener, route, snapshot};
use crate::model::ResourceType;
use crate::snapshot::Snapshot;
use crate::xds::WAIT;
use crate::xds::kind::Kind;
use crate::xds::wave::{Event, Response, Wave};
use crate::xds::wire::{Asks, Request, Variant};

const KINDS: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Content that the client refuses.
const BAD: u8 = 3;

#[derive(Clone, Debug)]
enum Op {
    Subscribe(usize, Vec<usize>),
    Unsubscribe(usize, Vec<usize>),
    Star(usize),
    NoStar(usize),
    /// The oldest response in flight, of any type, is taken and answered.
    Answer(usize),
    Snapshot(Vec<(usize, usize, u8)>),
    Pass,
}

fn op() -> impl Strategy<Value = Op> {
    let kind = 0..KINDS.len();
    let names = prop::collection::vec(0..NAMES.len(), 1..3);
    prop_oneof![
        3 => (kind.clone(), names.clone()).prop_map(|(kind, names)| Op::Subscribe(kind, names)),
        2 => (kind.clone(), names).prop_map(|(kind, names)| Op::Unsubscribe(kind, names)),
        1 => kind.clone().prop_map(Op::Star),
        1 => kind.clone().prop_map(Op::NoStar),
        6 => kind.clone().prop_map(Op::Answer),
        3 => prop::collection::vec((kind, 0..NAMES.len(), 0..=BAD), 0..10).prop_map(Op::Snapshot),
        1 => Just(Op::Pass),
    ]
}

/// The content of each name is its revision; routes need the clusters of all lower names, so that order matters.
fn world(generation: u64, resources: &[(usize, usize, u8)]) -> Arc<Snapshot> {
    let resources = resources.iter().map(|(kind, name, rev)| {
        let (name, rev, text) = (NAMES[*name], *rev, rev.to_string());
        match KINDS[*kind] {
            ResourceType::Cluster => cluster(name, &text),
            ResourceType::Endpoint => endpoints(name, rev.into()),
            ResourceType::Listener => listener(name, &text),
            _ => route(name, &text, if rev % 2 == 0 { &["a"] } else { &["a", "b"] }),
        }
    });
    snapshot(generation, resources)
}

#[derive(Default)]
struct Type {
    started: bool,
    wildcard: bool,
    names: BTreeSet<&'static str>,
    /// Name → version, as an obedient client keeps it.
    holds: BTreeMap<String, String>,
    version: String,
    nonce: String,
}

struct Client {
    variant: Variant,
    wave: Wave,
    now: Instant,
    types: BTreeMap<ResourceType, Type>,
    inbox: VecDeque<Response>,
    /// Versions of content that it refuses.
    bad: BTreeSet<String>,
    latest: Arc<Snapshot>,
}

impl Client {
    fn new(variant: Variant) -> Self {
        let now = Instant::now();
        let all = |rev| (0..KINDS.len()).flat_map(move |k| (0..NAMES.len()).map(move |n| (k, n, rev)));
        let bad = world(0, &all(BAD).collect::<Vec<_>>());
        let bad = KINDS.iter().flat_map(|of| bad.of(*of).values().map(|r| r.version.to_string())).collect();
        let mut client = Self {
            variant,
            wave: Wave::new(variant, 1, now),
            now,
            types: KINDS.iter().map(|of| (*of, Type::default())).collect(),
            inbox: VecDeque::new(),
            bad,
            latest: Arc::default(),
        };
        client.step(Event::Snapshot { snapshot: Arc::default(), generation: 0 });
        client
    }

    fn step(&mut self, event: Event) {
        let effects = self.wave.step(event, self.now).unwrap();
        for response in effects.responses {
            assert!(self.inbox.iter().all(|other| other.kind != response.kind), "two in flight of {:?}", response.kind);
            self.inbox.push_back(response);
        }
    }

    fn request(&mut self, of: ResourceType, nonce: String, error: Option<String>, change: impl FnOnce(&mut Type)) {
        let entry = self.types.get_mut(&of).unwrap();
        let before = (entry.wildcard, entry.names.clone());
        change(entry);
        entry.started = true;
        if !entry.wildcard {
            let names = &entry.names;
            entry.holds.retain(|name, _| names.contains(name.as_str()));
        }
        let star = |wildcard: bool| wildcard.then_some("*");
        let asks = match self.variant {
            Variant::Sotw => Asks::Sotw {
                version: entry.version.clone(),
                names: entry.names.iter().copied().chain(star(entry.wildcard)).map(str::to_owned).collect(),
            },
            Variant::Delta => {
                let texts = |a: &BTreeSet<&str>, b: &BTreeSet<&str>, star: Option<&str>| {
                    a.difference(b).copied().chain(star).map(str::to_owned).collect::<Vec<_>>()
                };
                Asks::Delta {
                    subscribe: texts(&entry.names, &before.1, star(entry.wildcard && !before.0)),
                    unsubscribe: texts(&before.1, &entry.names, star(before.0 && !entry.wildcard)),
                    initial: Default::default(),
                }
            }
        };
        let request = Request { kind: of.into(), nonce, error, asks };
        self.step(Event::Request(request));
    }

    fn subscribe(&mut self, of: ResourceType, change: impl FnOnce(&mut Type)) {
        let entry = &self.types[&of];
        let nonce = if self.variant == Variant::Sotw { entry.nonce.clone() } else { String::new() };
        // An empty first request is a legacy wildcard, which `Star` and names do not mean.
        if !entry.started {
            let mut probe = Type { wildcard: entry.wildcard, names: entry.names.clone(), ..Type::default() };
            change(&mut probe);
            if !probe.wildcard && probe.names.is_empty() {
                return;
            }
            let Type { wildcard, names, .. } = probe;
            return self.request(of, nonce, None, |entry| (entry.wildcard, entry.names) = (wildcard, names));
        }
        self.request(of, nonce, None, change);
    }

    /// Takes one response as Envoy does: the valid resources count, the others are named in the NACK.
    fn answer(&mut self, at: usize) {
        if self.inbox.is_empty() {
            return;
        }
        let response = self.inbox.remove(at % self.inbox.len()).unwrap();
        let of = response.kind.model().unwrap();
        let full = self.variant == Variant::Sotw && response.kind.is_root();
        let entry = self.types.get_mut(&of).unwrap();
        let wants = |entry: &Type, name: &str| entry.wildcard || entry.names.contains(name);
        let mut refused = Vec::new();
        if full {
            entry.holds.retain(|name, _| response.upserts.iter().any(|r| r.name.as_ref() == name));
        }
        for resource in &response.upserts {
            if self.bad.contains(resource.version.as_ref()) {
                refused.push(resource.name.to_string());
            } else if wants(entry, &resource.name) {
                entry.holds.insert(resource.name.to_string(), resource.version.to_string());
            }
        }
        if self.variant == Variant::Delta {
            for name in &response.removed {
                entry.holds.remove(name.as_ref());
            }
        }
        entry.nonce.clone_from(&response.nonce);
        let error = (!refused.is_empty()).then(|| format!("Error adding/updating: {}: no", refused.join(": no, ")));
        if error.is_none() {
            entry.version.clone_from(&response.version);
        }
        self.request(of, response.nonce, error, |_| {});
    }

    fn take(&mut self, op: Op, generation: u64) {
        match op {
            Op::Subscribe(kind, names) => {
                self.subscribe(KINDS[kind], |entry| entry.names.extend(names.iter().map(|name| NAMES[*name])));
            }
            Op::Unsubscribe(kind, names) => self.subscribe(KINDS[kind], |entry| {
                entry.names.retain(|name| names.iter().all(|other| NAMES[*other] != *name));
            }),
            Op::Star(kind) => self.subscribe(KINDS[kind], |entry| entry.wildcard = true),
            Op::NoStar(kind) => self.subscribe(KINDS[kind], |entry| entry.wildcard = false),
            Op::Answer(at) => self.answer(at),
            Op::Snapshot(resources) => {
                self.latest = world(generation, &resources);
                self.step(Event::Snapshot { snapshot: self.latest.clone(), generation });
            }
            Op::Pass => {
                self.now += WAIT / 2;
                self.step(Event::Tick);
            }
        }
    }

    /// Everything is answered, and time passes, until nothing more comes.
    fn settle(&mut self) {
        for _ in 0..200 {
            while !self.inbox.is_empty() {
                self.answer(0);
            }
            self.now += WAIT;
            self.step(Event::Tick);
            if self.inbox.is_empty() {
                return;
            }
        }
        panic!("it never ends");
    }

    /// Good content is there at its latest version, and nothing else; what is bad is there as it was before, or not at all.
    fn check(&self, generation: u64) {
        for (of, entry) in self.types.iter().filter(|(_, entry)| entry.started) {
            let table = self.latest.of(*of);
            let wants = |name: &str| entry.wildcard || entry.names.contains(name);
            let mut all_good = true;
            for (name, resource) in table.iter().filter(|(name, _)| wants(name)) {
                let has = entry.holds.get(name.as_ref());
                if self.bad.contains(resource.version.as_ref()) {
                    all_good = false;
                    assert_ne!(has.map(String::as_str), Some(resource.version.as_ref()));
                } else {
                    assert_eq!(has.map(String::as_str), Some(resource.version.as_ref()), "{of:?} {name}");
                }
            }
            // SotW cannot take back a single endpoint or route, and keeps clusters that are asked for by name (37).
            let full = self.variant == Variant::Delta || Kind::from(*of).is_root();
            for name in entry.holds.keys().filter(|name| !table.contains_key(name.as_str())) {
                let asked = self.variant == Variant::Sotw
                    && *of == ResourceType::Cluster
                    && entry.names.contains(name.as_str());
                let needed = *of != ResourceType::Listener && self.has_stuck_parents();
                assert!(!full || asked || needed, "{of:?} {name} is no more, and still held");
            }
            let acked = self.wave.acks().generations.get(of).copied();
            if all_good && !self.has_stuck_parents() && self.asks_for_children(*of) {
                assert_eq!(acked, Some(generation), "{of:?}");
            } else if !all_good {
                assert!(acked < Some(generation), "{of:?} counts a rejected version as acknowledged");
            }
        }
    }

    /// Whether the client asked for what its clusters and listeners name, as Envoy would.
    fn asks_for_children(&self, of: ResourceType) -> bool {
        let parent = match of {
            ResourceType::Endpoint => ResourceType::Cluster,
            ResourceType::Route => ResourceType::Listener,
            _ => return true,
        };
        let (children, parents) = (&self.types[&of], &self.types[&parent]);
        let wants = |name: &str| children.wildcard || children.names.contains(name);
        // Parents and children share names here.
        let mut expected = self.latest.of(of).keys().filter(|name| self.latest.of(parent).contains_key(*name));
        !parents.wildcard || expected.all(|name| wants(name))
    }

    /// A parent that is stuck on an old version keeps what that version needs: a rejected one, or one that SotW cannot take back.
    fn has_stuck_parents(&self) -> bool {
        self.types.iter().filter(|(_, entry)| entry.started).any(|(of, entry)| {
            let table = self.latest.of(*of);
            let wanted = |name: &str| entry.wildcard || entry.names.contains(name);
            let rejected = table.iter().any(|(name, r)| wanted(name) && self.bad.contains(r.version.as_ref()));
            rejected
                || self.variant == Variant::Sotw && entry.holds.keys().any(|name| !table.contains_key(name.as_str()))
        })
    }
}

proptest! {
    #[test]
    fn xds_5_any_interleaving_converges(ops in prop::collection::vec(op(), 1..60), delta in any::<bool>()) {
        let mut client = Client::new(if delta { Variant::Delta } else { Variant::Sotw });
        let mut generation = 0;
        for op in ops {
            generation += 1;
            client.take(op, generation);
        }
        // A last generation of the same content, so that there is one to be acknowledged.
        generation += 1;
        client.settle();
        client.step(Event::Snapshot { snapshot: client.latest.clone(), generation });
        client.settle();
        client.check(generation);
    }
}
