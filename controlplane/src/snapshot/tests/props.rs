//! Random meshes, changed step by step: what is built from the last step's cache is what would be built from nothing.

use proptest::prelude::*;

use super::*;

/// One change to a mesh of services `s0..s3`, peers `b` and `c`, nodes `n0..n2`.
#[derive(Clone, Debug)]
enum Step {
    Local {
        service: usize,
        endpoints: Vec<(u8, bool, u8)>,
        exported: bool,
    },
    Import {
        peer: usize,
        service: usize,
        endpoints: Vec<(u8, bool, u8)>,
        named: bool,
    },
    State {
        peer: usize,
        state: u8,
    },
    Federate {
        service: usize,
        peers: u8,
    },
    Split {
        service: usize,
        remote: [u16; 2],
    },
    Node {
        node: u8,
        serves: Option<usize>,
        upstreams: Vec<(usize, u8)>,
    },
    Leave {
        node: u8,
    },
    Lifetime {
        server: bool,
        seconds: Option<u8>,
    },
    /// Equal values in new places.
    Copy,
}

const PEERS: [&str; 2] = ["b", "c"];

fn name_of(index: usize) -> ServiceName {
    service(&format!("s{index}.shop"))
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = || prop::collection::vec((0u8..4, any::<bool>(), 0u8..3), 0..4);
    prop_oneof![
        (0usize..4, endpoints(), any::<bool>()).prop_map(|(service, endpoints, exported)| Step::Local {
            service,
            endpoints,
            exported
        }),
        (0usize..2, 0usize..4, endpoints(), any::<bool>()).prop_map(|(peer, service, endpoints, named)| Step::Import {
            peer,
            service,
            endpoints,
            named
        }),
        (0usize..2, 0u8..6).prop_map(|(peer, state)| Step::State { peer, state }),
        (0usize..4, 0u8..4).prop_map(|(service, peers)| Step::Federate { service, peers }),
        (0usize..4, [0u16..5_001, 0..5_001]).prop_map(|(service, remote)| Step::Split { service, remote }),
        (0u8..3, prop::option::of(0usize..4), prop::collection::vec((0usize..4, 0u8..3), 0..4))
            .prop_map(|(node, serves, upstreams)| Step::Node { node, serves, upstreams }),
        (0u8..3).prop_map(|node| Step::Leave { node }),
        (any::<bool>(), prop::option::of(2u8..4)).prop_map(|(server, seconds)| Step::Lifetime { server, seconds }),
        Just(Step::Copy),
    ]
}

fn places(net: usize, domain: &str, all: &[(u8, bool, u8)]) -> Vec<Endpoint> {
    let one = |(at, healthy, account): &(u8, bool, u8)| Endpoint {
        health: if *healthy { Health::Healthy } else { Health::Unhealthy },
        ..endpoint(&format!("n/{at}"), &format!("10.{net}.0.{at}:15006"), &format!("spiffe://{domain}/sa/{account}"))
    };
    all.iter().map(one).collect()
}

fn domain(peer: &str) -> TrustDomain {
    format!("{peer}.example").parse().unwrap()
}

fn apply(view: &mut MeshView, step: &Step) {
    view.generation += 1;
    match step {
        Step::Local { service, endpoints, exported } => {
            let export_to = exported.then(|| peer("b")).into_iter().collect();
            let endpoints = places(*service, "a.example", endpoints).into();
            view.services.insert(name_of(*service), Arc::new(LocalService { export_to, endpoints }));
        }
        Step::Import { peer: index, service, endpoints, named } => {
            let name = PEERS[*index];
            let endpoints = places(10 + index * 10 + service, domain(name).as_str(), endpoints);
            let identities = endpoints.iter().filter(|_| *named).map(|e| e.identity.clone()).collect();
            let imported = ImportedService { endpoints: endpoints.into(), identities, capacity: None, since: 1 };
            Arc::make_mut(known(view, name)).services.insert(name_of(*service), Arc::new(imported));
        }
        Step::State { peer, state } => {
            use PeerState::{Connecting, Expired, Live, Pending, Stale, Suspect};
            let states = [Pending, Connecting, Live, Suspect, Stale, Expired];
            Arc::make_mut(known(view, PEERS[*peer])).state = states[usize::from(*state)];
        }
        Step::Federate { service, peers } => {
            let peers: Vec<_> =
                PEERS.iter().enumerate().filter(|(i, _)| peers >> i & 1 == 1).map(|(_, p)| peer(p)).collect();
            if peers.is_empty() {
                view.federated.remove(&name_of(*service));
                view.splits.remove(&name_of(*service));
            } else {
                view.splits.insert(name_of(*service), (Split::all_local(peers.clone()), view.generation));
                view.federated.insert(name_of(*service), peers);
            }
        }
        Step::Split { service, remote } => {
            let Some(peers) = view.federated.get(&name_of(*service)) else { return };
            let weights = peers.iter().cloned().zip(remote.map(|weight| Weight::new(weight.into()).unwrap()));
            let split = Split::with_remote(weights.collect()).unwrap();
            view.splits.insert(name_of(*service), (split, view.generation));
        }
        Step::Node { node, serves, upstreams } => {
            let of = |(service, kind): &(usize, u8)| match kind {
                0 => name_of(*service).to_string(),
                kind => name_of(*service).of(&peer(PEERS[usize::from(*kind) - 1])).to_string(),
            };
            let upstreams: Vec<String> = upstreams.iter().map(of).collect();
            let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
            let caller = client("caller", "127.0.0.1:15001", &upstreams);
            let serving = serves.map(|service| server("serving", Some(name_of(service).as_str()), 8080));
            let all: Vec<_> = [caller].into_iter().chain(serving).collect();
            view.workloads.insert(format!("n{node}").parse().unwrap(), all.into());
        }
        Step::Leave { node } => {
            view.workloads.remove(&format!("n{node}").parse().unwrap());
        }
        Step::Lifetime { server, seconds } => {
            let identity = if *server { PAY_A } else { CHECKOUT }.parse().unwrap();
            match seconds {
                Some(seconds) => view.lifetimes.insert(identity, Duration::from_secs((*seconds).into())),
                None => view.lifetimes.remove(&identity),
            };
        }
        Step::Copy => {
            view.services.values_mut().for_each(|all| {
                let endpoints = all.endpoints.iter().cloned().collect();
                *all = Arc::new(LocalService { export_to: all.export_to.clone(), endpoints });
            });
            view.peers.values_mut().for_each(|all| *all = Arc::new((**all).clone()));
            view.workloads.values_mut().for_each(|all| *all = all.iter().cloned().collect());
        }
    }
}

fn known<'a>(view: &'a mut MeshView, name: &str) -> &'a mut Arc<PeerView> {
    view.peers.entry(peer(name)).or_insert_with(|| {
        Arc::new(PeerView { trust_domain: domain(name), state: PeerState::Live, services: BTreeMap::new() })
    })
}

/// Everything that xDS asks of one proxy's resources.
fn check(snapshot: &Snapshot) {
    for (kind, all) in snapshot.resources.iter() {
        for (name, resource) in all {
            assert_eq!(*name, resource.name);
            for (needed, by_name) in resource.needs.iter() {
                assert!(snapshot.of(*needed).contains_key(by_name), "{kind:?} {name} needs {needed:?} {by_name}");
            }
        }
    }
    for name in snapshot.of(ResourceType::Route).keys().filter(|name| name.starts_with("outbound|")) {
        let routes: rds::RouteConfiguration = of(snapshot, ResourceType::Route, name);
        let hosts = routes.virtual_hosts.iter().filter(|host| host.name != "*");
        for one in hosts.flat_map(|host| &host.routes) {
            let weights = weights(route(one));
            assert_eq!(weights.iter().map(|(_, weight)| weight).sum::<u32>(), 10_000);
            assert!(
                weights.iter().all(|(cluster, _)| snapshot.of(ResourceType::Cluster).contains_key(cluster.as_str()))
            );
            assert!(weights[1..].windows(2).all(|pair| pair[0].0 < pair[1].0), "local, then the peers: {weights:?}");
        }
    }
    for name in snapshot.of(ResourceType::Endpoint).keys() {
        let assignment: eds::ClusterLoadAssignment = of(snapshot, ResourceType::Endpoint, name);
        let priorities: BTreeSet<u32> = assignment.endpoints.iter().map(|locality| locality.priority).collect();
        assert!(priorities.iter().copied().eq(0..u32::try_from(priorities.len()).unwrap()), "{priorities:?}");
        let localities: BTreeSet<_> =
            assignment.endpoints.iter().map(|l| (l.priority, l.locality.clone().unwrap().zone)).collect();
        assert_eq!(localities.len(), assignment.endpoints.len());
        let accepted = accepted_by_arm(&of(snapshot, ResourceType::Cluster, name));
        for (priority, arm, ..) in listed(&assignment) {
            assert_eq!(priority == 0, arm == **name, "its own arm and no other comes first");
            let domain = if arm.matches('.').count() == 1 { "a" } else { &arm[arm.len() - 1..] };
            assert!(accepted[&arm].iter().all(|id| {
                id.starts_with(&format!("spiffe://{domain}.example/sa/")) || id == "spiffe://a.example/symbolon/nobody"
            }));
            assert!(!accepted[&arm].is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn xds_13_36_from_the_cache_or_from_nothing_the_result_is_the_same(steps in prop::collection::vec(step(), 1..24)) {
        let mut view = MeshView::empty("a.example".parse().unwrap());
        let mut cached = builder();
        let mut before = SnapshotSet::default();
        for step in &steps {
            apply(&mut view, step);
            let set = cached.build(&view);
            prop_assert!(cached.held().is_empty(), "{:?}", cached.held());
            prop_assert_eq!(&set.proxies, &builder().build(&view).proxies);
            prop_assert!(set.proxies.keys().eq(view.proxies().keys()));
            for (key, snapshot) in &set.proxies {
                prop_assert_eq!(snapshot.generation, view.generation);
                check(snapshot);
                let Some(last) = before.proxies.get(key) else { continue };
                for (kind, all) in snapshot.resources.iter() {
                    for (name, resource) in all {
                        let same = last.of(*kind).get(name).filter(|last| last.version == resource.version);
                        prop_assert!(same.is_none_or(|last| Arc::ptr_eq(last, resource)), "{} was encoded again", name);
                    }
                }
                if matches!(step, Step::Copy) {
                    prop_assert!(Arc::ptr_eq(&last.resources, &snapshot.resources));
                }
            }
            before = set;
        }
    }
}
