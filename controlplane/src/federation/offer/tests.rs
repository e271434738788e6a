use std::time::UNIX_EPOCH;

use super::super::log::Log;
use super::super::testing::{model_endpoint, service};
use super::*;

fn view(services: &[(&str, &[&str], Vec<u32>)]) -> MeshView {
    let mut view = MeshView::empty("b.example".parse().expect("a name"));
    for (name, peers, endpoints) in services {
        let export_to = peers.iter().map(|peer| peer.parse().expect("a name")).collect();
        let endpoints = endpoints.iter().copied().map(model_endpoint).collect();
        view.services.insert(service(name), Arc::new(LocalService { export_to, endpoints }));
    }
    view
}

fn update(offer: &mut Offer, view: &MeshView) -> Vec<(String, Said)> {
    offer.update(view, &"a".parse().expect("a name"), None)
}

fn keys(changes: &[(String, Said)]) -> Vec<(&str, Option<Why>)> {
    let why = |said: &Said| match said {
        Said::Put(_) => None,
        Said::Gone(why) => Some(*why),
    };
    changes.iter().map(|(key, said)| (key.as_str(), why(said))).collect()
}

#[test]
fn only_what_is_exported_to_the_peer_is_offered() {
    let mut offer = Offer::default();
    let mesh = view(&[("pay.shop", &["a"], vec![1]), ("secret.shop", &["c"], vec![2]), ("own.shop", &[], vec![3])]);
    let changes = update(&mut offer, &mesh);
    assert!(changes.iter().all(|(key, _)| key.contains("pay.shop")), "{:?}", keys(&changes));
    assert_eq!(offer.services(), 1);
    assert!(update(&mut offer, &mesh).is_empty(), "nothing new");
}

#[test]
fn what_others_need_is_said_first() {
    let bundle =
        Arc::new(Bundle::new("b.example".parse().expect("a name"), 1, std::time::Duration::from_mins(5), vec![]));
    let mut offer = Offer::default();
    let a = "a".parse().expect("a name");
    let changes = offer.update(&view(&[("pay.shop", &["a"], vec![1])]), &a, Some(&bundle));
    let order: Vec<&str> = changes.iter().map(|(key, _)| key.split('/').next().unwrap_or_default()).collect();
    assert_eq!(order, ["bundle", "service", "capacity", "capacity", "shard"]);
    let again = Arc::new(Bundle::clone(&bundle));
    assert!(offer.update(&view(&[("pay.shop", &["a"], vec![1])]), &a, Some(&again)).is_empty(), "the same content");
}

#[test]
fn one_changed_endpoint_resends_one_shard() {
    let mut offer = Offer::default();
    let mut log = Log::new(Bytes::new(), 0, 10);
    let all: Vec<u32> = (0..250).collect();
    for (key, said) in update(&mut offer, &view(&[("pay.shop", &["a"], all.clone())])) {
        log.record(&key, said, UNIX_EPOCH);
    }
    assert_eq!(log.live(), 5, "service, capacity, three shards");
    let without: Vec<u32> = all.iter().copied().filter(|n| *n != 0).collect();
    let changes = update(&mut offer, &view(&[("pay.shop", &["a"], without)]));
    assert_eq!(keys(&changes), [("capacity/pay.shop", None), ("shard/pay.shop/0", None)]);
    let changes = update(&mut offer, &view(&[("pay.shop", &["a"], all)]));
    assert_eq!(keys(&changes), [("capacity/pay.shop", None), ("shard/pay.shop/0", None)], "the gap is filled");
}

#[test]
fn what_is_withdrawn_is_withdrawn_with_a_reason() {
    let mut offer = Offer::default();
    update(&mut offer, &view(&[("pay.shop", &["a"], vec![1, 2])]));
    let changes = update(&mut offer, &view(&[("pay.shop", &["a"], vec![])]));
    assert_eq!(keys(&changes), [("capacity/pay.shop", None), ("shard/pay.shop/0", Some(Why::ScaledToZero))]);
    update(&mut offer, &view(&[("pay.shop", &["a"], vec![1])]));
    let changes = update(&mut offer, &view(&[("pay.shop", &[], vec![1])]));
    let unexported = Some(Why::Unexported);
    assert_eq!(
        keys(&changes),
        [("shard/pay.shop/0", unexported), ("capacity/pay.shop", unexported), ("service/pay.shop", unexported)]
    );
    assert_eq!(offer.services(), 0);
}

#[test]
fn a_service_scaled_to_zero_keeps_its_identities() {
    let mut offer = Offer::default();
    update(&mut offer, &view(&[("pay.shop", &["a"], vec![1])]));
    let changes = update(&mut offer, &view(&[("pay.shop", &["a"], vec![])]));
    assert!(!changes.iter().any(|(key, _)| key.starts_with("service/")));
    let changes = update(&mut offer, &view(&[("pay.shop", &["a"], vec![2])]));
    assert_eq!(keys(&changes), [("capacity/pay.shop", None), ("shard/pay.shop/0", None)]);
}
