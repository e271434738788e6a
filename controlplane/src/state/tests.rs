use std::num::NonZeroU32;

use super::*;
use crate::model::{
    FederatedDefinition, Health, ImportedService, PeerName, PeerState, ServiceDefinition, Split, Weight, Workload,
};

fn view() -> MeshView {
    MeshView::empty("a.example".parse().unwrap())
}

fn workload(name: &str, port: u16) -> Workload {
    Workload {
        name: name.into(),
        identity: "spiffe://a.example/ns/shop/sa/payments".parse().unwrap(),
        service: Some("payments.shop".parse().unwrap()),
        address: Some(([127, 0, 0, 1], 8000).into()),
        inbound: Some(([127, 0, 0, 1], port).into()),
        outbound: None,
        upstreams: vec![],
        health: Health::Healthy,
        weight: NonZeroU32::MIN,
    }
}

fn registered(node: &str, workloads: Vec<Workload>) -> Change {
    Change::Workloads { node: node.parse().unwrap(), workloads }
}

fn definitions(federated_with: &[&str]) -> Change {
    Change::Definitions {
        services: vec![ServiceDefinition {
            name: "payments.shop".parse().unwrap(),
            export_to: vec!["b".parse().unwrap()],
        }],
        federated: vec![FederatedDefinition {
            name: "payments.shop".parse().unwrap(),
            peers: federated_with.iter().map(|peer| peer.parse().unwrap()).collect(),
        }],
    }
}

fn ids(view: &MeshView) -> Vec<String> {
    view.services[&"payments.shop".parse().unwrap()].endpoints.iter().map(|e| e.id.to_string()).collect()
}

#[test]
fn a_node_speaks_only_for_itself() {
    let mut mesh = view();
    apply(&mut mesh, registered("n1", vec![workload("w", 1)]));
    apply(&mut mesh, registered("n10", vec![workload("w", 2), workload("v", 3)]));
    assert_eq!(ids(&mesh), ["n1/w", "n10/v", "n10/w"]);
    apply(&mut mesh, registered("n1", vec![]));
    assert_eq!(ids(&mesh), ["n10/v", "n10/w"]);
}

#[test]
fn a_change_that_says_nothing_new_is_no_change() {
    let mut mesh = view();
    let changes = || {
        [
            registered("n1", vec![workload("w", 1)]),
            definitions(&["b"]),
            Change::Peer {
                peer: "b".parse().unwrap(),
                trust_domain: "b.example".parse().unwrap(),
                state: PeerState::Live,
            },
            Change::Import {
                peer: "b".parse().unwrap(),
                service: "payments.shop".parse().unwrap(),
                imported: Some(ImportedService::default()),
            },
        ]
    };
    changes().into_iter().for_each(|change| apply(&mut mesh, change));
    let once = mesh.clone();
    changes().into_iter().for_each(|change| apply(&mut mesh, change));
    assert_eq!(mesh, once);
}

#[test]
fn definitions_keep_endpoints_and_weights_but_not_the_weights_of_other_arms() {
    let mut mesh = view();
    let service = "payments.shop".parse().unwrap();
    apply(&mut mesh, registered("n1", vec![workload("w", 1)]));
    apply(&mut mesh, definitions(&["b"]));
    let b: PeerName = "b".parse().unwrap();
    let split = Split::with_remote(vec![(b.clone(), Weight::new(250).unwrap())]).unwrap();
    apply(&mut mesh, Change::Split { service, split: split.clone() });
    apply(&mut mesh, definitions(&["b"]));
    assert_eq!(mesh.splits[&"payments.shop".parse().unwrap()].0, split);
    assert_eq!(ids(&mesh), ["n1/w"]);
    apply(&mut mesh, definitions(&["b", "c"]));
    assert_eq!(mesh.splits[&"payments.shop".parse().unwrap()].0.of(&b), Weight::ZERO);
}

#[test]
fn a_split_with_other_arms_is_dropped() {
    let mut mesh = view();
    apply(&mut mesh, definitions(&["b"]));
    let before = mesh.clone();
    let split = Split::with_remote(vec![("c".parse().unwrap(), Weight::ALL)]).unwrap();
    apply(&mut mesh, Change::Split { service: "payments.shop".parse().unwrap(), split });
    assert_eq!(mesh, before);
}

#[tokio::test(start_paused = true)]
async fn the_task_publishes_what_was_sent() {
    let tasks = Tasks::default();
    let mut handle = spawn(view(), &tasks, Drain::new());
    handle.changes.send(registered("n1", vec![workload("w", 1)])).await.unwrap();
    let seen = handle.view.wait_for(|view| view.generation > 1).await.unwrap().clone();
    assert_eq!(ids(&seen), ["n1/w"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_restored_is_in_the_first_mesh_that_anybody_sees() {
    let tasks = Tasks::default();
    let (handle, unstarted) = new(view());
    unstarted.fold([definitions(&["b"])]);
    unstarted.fold([registered("n1", vec![workload("w", 1)])]);
    unstarted.spawn(&tasks, Drain::new());
    let first = handle.view.borrow().clone();
    assert_eq!(ids(&first), ["n1/w"]);
    assert!(first.federated.contains_key(&"payments.shop".parse().unwrap()));
}
