use std::num::NonZeroU32;

use super::super::testing::{model_endpoint, service};
use super::*;
use crate::model::{Health, PeerState, PeerView, ProxyAck, Workload};

fn imported(endpoints: std::ops::Range<u32>) -> ImportedService {
    ImportedService { endpoints: endpoints.map(model_endpoint).collect(), ..ImportedService::default() }
}

fn told(seq: u64, imported: ImportedService) -> Vec<Published> {
    vec![Published { service: service("pay.shop"), imported: Some(imported), seq }]
}

fn caller(n: u32, upstream: &str) -> Workload {
    Workload {
        name: "w".into(),
        identity: format!("spiffe://a.example/ns/shop/sa/w{n}").parse().expect("an ID"),
        service: None,
        address: None,
        inbound: None,
        outbound: None,
        upstreams: vec![upstream.parse().expect("a reference")],
        health: Health::Healthy,
        weight: NonZeroU32::MIN,
    }
}

/// Two callers, one by the local name, and a bystander.
fn view(generation: u64, have: &ImportedService) -> MeshView {
    let mut view = MeshView::empty("a.example".parse().expect("a name"));
    view.generation = generation;
    let services = [(service("pay.shop"), Arc::new(have.clone()))].into();
    let b = "b.example".parse().expect("a name");
    let peer = PeerView { trust_domain: b, state: PeerState::Live, services };
    view.peers.insert("b".parse().expect("a name"), Arc::new(peer));
    view.federated.insert(service("pay.shop"), vec!["b".parse().expect("a name")]);
    for (n, upstream) in [(1, "pay.shop"), (2, "pay.shop.b"), (3, "other.shop")] {
        view.workloads.insert(format!("n{n}").parse().expect("a name"), vec![caller(n, upstream)].into());
    }
    view
}

fn acks(view: &MeshView, generations: [u64; 3]) -> AckTable {
    let ack = |generation| ProxyAck {
        generations: [(ResourceType::Endpoint, generation), (ResourceType::Cluster, generation)].into(),
    };
    AckTable(view.proxies().into_keys().zip(generations.map(ack)).collect())
}

#[test]
fn programmed_means_acknowledged_by_every_connected_caller() {
    let b = "b".parse().expect("a name");
    let mut waiting = Waiting::default();
    waiting.applied(7, told(7, imported(0..2)));
    let mut step = |view: &MeshView, generations| {
        waiting.step(&b, view, &acks(view, generations)).map(|ack| (ack.seq, ack.proxies_ok, ack.proxies_total))
    };
    let (old, new) = (view(4, &imported(0..1)), view(5, &imported(0..2)));
    assert_eq!(step(&old, [9, 9, 9]), Some((6, 0, 0)), "nothing before it is waited for");
    assert_eq!(step(&new, [5, 4, 9]), None, "one caller lacks it");
    assert_eq!(step(&new, [5, 5, 0]), Some((7, 2, 2)), "a bystander is not asked");
    assert_eq!(step(&new, [5, 5, 0]), None, "said once");
}

#[test]
fn without_callers_it_is_programmed_at_once() {
    let b = "b".parse().expect("a name");
    let mut waiting = Waiting::default();
    waiting.applied(7, told(7, imported(0..2)));
    let mut view = view(5, &imported(0..2));
    view.workloads.clear();
    let ack = waiting.step(&b, &view, &AckTable::default());
    assert_eq!(ack.map(|ack| (ack.seq, ack.proxies_total)), Some((7, 0)));
}

#[test]
fn an_overtaken_change_counts_with_the_newer_one() {
    let b = "b".parse().expect("a name");
    let mut waiting = Waiting::default();
    waiting.applied(7, told(7, imported(0..2)));
    waiting.applied(8, told(8, imported(0..3)));
    let view = view(6, &imported(0..3));
    assert_eq!(waiting.step(&b, &view, &acks(&view, [5, 5, 5])).map(|ack| ack.seq), Some(6));
    assert_eq!(waiting.step(&b, &view, &acks(&view, [6, 6, 6])).map(|ack| ack.seq), Some(8));
    waiting.restart(3);
    assert_eq!(waiting.step(&b, &view, &AckTable::default()).map(|ack| ack.seq), Some(3), "told again on a new stream");
}
