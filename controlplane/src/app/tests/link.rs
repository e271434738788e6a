use std::sync::Arc;

use symbolon_proto::admin as wire;
use symbolon_proto::node::Workload;

use super::Rig;
use super::rig::{register, until, workload};

pub(super) async fn two() -> (Rig, Rig) {
    let folder = || Arc::new(tempfile::tempdir().unwrap());
    (Rig::start_as(folder(), "a", "b").await.unwrap(), Rig::start_as(folder(), "b", "a").await.unwrap())
}

pub(super) async fn peer(rig: &Rig) -> wire::Peer {
    rig.admin().list_peers(wire::ListPeersRequest {}).await.unwrap().into_inner().peers.remove(0)
}

pub(super) async fn establish(a: &Rig, b: &Rig) {
    let invite = wire::InvitePeerRequest { peer: "b".into(), ttl_seconds: 60 };
    let token = a.admin().invite_peer(invite).await.unwrap().into_inner().token;
    b.admin().accept_peer(wire::AcceptPeerRequest { peer: "a".into(), token }).await.unwrap();
}

pub(super) async fn live(rig: &Rig) {
    until("the link is LIVE", async || (peer(rig).await.state == "LIVE").then_some(())).await;
}

pub(super) fn of_b(name: &str, port: u16) -> Workload {
    Workload { identity: "spiffe://b.example/ns/shop/sa/payments".into(), ..workload(name, port) }
}

pub(super) async fn imported(rig: &Rig) -> Vec<String> {
    let listed = rig.admin().list_services(wire::ListServicesRequest::default()).await.unwrap().into_inner();
    let theirs = listed.services.into_iter().filter(|service| service.peer == "b");
    theirs.flat_map(|service| service.endpoints).map(|endpoint| endpoint.address).collect()
}

#[tokio::test]
async fn two_control_planes_that_share_no_root_find_each_others_endpoints() {
    let (a, b) = two().await;
    assert_eq!(peer(&a).await.state, "PENDING");
    establish(&a, &b).await;
    live(&a).await;
    live(&b).await;
    b.entry("n1", "payments").await;
    let mut node = b.node("n1").await;
    assert_eq!(register(&mut node, vec![of_b("pay-1", 7001)]).await.refusals, []);
    let found = until("B's endpoint at A", async || Some(imported(&a).await).filter(|all| !all.is_empty())).await;
    assert_eq!(found, ["127.0.0.1:7001"]);
    // Each holds the other's bundle, and neither pooled it with its own.
    let shown = async |rig: &Rig, domain: &str| {
        let asked = wire::ShowBundleRequest { trust_domain: domain.into() };
        rig.admin().show_bundle(asked).await.unwrap().into_inner().authorities
    };
    assert_eq!(shown(&a, "b.example").await, shown(&b, "").await);
    assert_ne!(shown(&a, "").await, shown(&b, "").await);
    // What was imported is in the first answer after a restart, before B is heard again.
    drop(b);
    let a = a.restart().await;
    assert_eq!(imported(&a).await, ["127.0.0.1:7001"]);
    assert_ne!(peer(&a).await.state, "PENDING");
}

#[tokio::test]
async fn a_token_is_for_the_peer_that_it_names_and_for_once() {
    let (a, b) = two().await;
    let invite = wire::InvitePeerRequest { peer: "b".into(), ttl_seconds: 60 };
    let token = a.admin().invite_peer(invite).await.unwrap().into_inner().token;
    let accept = async |rig: &Rig, peer: &str, token: &str| {
        let asked = wire::AcceptPeerRequest { peer: peer.into(), token: token.into() };
        rig.admin().accept_peer(asked).await.map(|_| ()).map_err(|status| status.message().to_owned())
    };
    assert!(accept(&b, "nobody", &token).await.unwrap_err().contains("no peer"));
    assert!(accept(&b, "a", "nonsense").await.unwrap_err().contains("not a token"));
    assert!(accept(&a, "b", &token).await.is_err(), "our own token is no peer's");
    accept(&b, "a", &token).await.unwrap();
    assert!(accept(&b, "a", &token).await.is_err(), "a token is spent once");
}

#[tokio::test]
async fn with_the_wrong_bundle_nothing_federates() {
    let (a, b) = two().await;
    establish(&a, &b).await;
    live(&a).await;
    // A third mesh's bundle, under B's name, over B's own.
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let stranger = Rig::start_as(folder, "b", "a").await.unwrap();
    let wrong = stranger.admin().show_bundle(wire::ShowBundleRequest::default()).await.unwrap().into_inner().jwks;
    let set = wire::SetBundleRequest { trust_domain: "b.example".into(), jwks: wrong, force: true };
    a.admin().set_bundle(set.clone()).await.unwrap();
    until("the link is no longer LIVE", async || (peer(&a).await.state != "LIVE").then_some(())).await;
    let foreign = wire::SetBundleRequest { trust_domain: "c.example".into(), ..set };
    assert!(a.admin().set_bundle(foreign).await.unwrap_err().message().contains("no relationship"));
}
