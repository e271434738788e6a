//! Whose certificates count: tenures, evictions and bans.

use super::*;
use crate::identity::nodes::{Attested, Refused, Standing};

/// Whether the node may call with what was minted.
fn may_call(identity: &Identity, name: &str, minted: &Minted) -> Result<(), &'static str> {
    identity.nodes.check(&node(name), &minted.serial).map_err(|refusal| refusal.label())
}

async fn renew(identity: &Identity, name: &str, by: &Minted) -> Result<Minted, Refusal> {
    let minted = identity.renew_node(&node(name), &plain_csr()).unwrap();
    identity.nodes.renewed(&node(name), &by.serial, &minted).await.map(|()| minted)
}

#[tokio::test]
async fn a_certificate_counts_from_its_attestation_and_each_renewal_on() {
    let world = world();
    let identity = world.start().await;
    let first = join(&identity, "n1").await.unwrap();
    let second = renew(&identity, "n1", &first).await.unwrap();
    for minted in [&first, &second] {
        assert_eq!(may_call(&identity, "n1", minted), Ok(()));
        assert_eq!(may_call(&identity, "n2", minted), Err("node_gone"), "not another's");
    }
    let stray = identity.renew_node(&node("n1"), &plain_csr()).unwrap();
    assert_eq!(may_call(&identity, "n1", &stray), Err("node_superseded"), "signed, but never kept");
    let known = identity.nodes.all()[&node("n1")].clone();
    assert_eq!((&*known.attestor, known.can_reattest), ("join_token", false));
    assert_eq!(known.selectors.iter().map(|one| one.as_str()).collect::<Vec<_>>(), ["join_token:node:n1"]);
    // A restart forgets none of it.
    let identity = world.start().await;
    assert_eq!(identity.nodes.all()[&node("n1")], known);
    assert_eq!(may_call(&identity, "n1", &second), Ok(()));
    assert_eq!(identity.nodes.seat(&node("n1")).0.unwrap().serial.as_ref(), second.serial);
}

#[tokio::test]
async fn a_node_svid_outlives_many_of_its_workloads() {
    let world = world();
    let identity = world.start().await;
    let minted = join(&identity, "n1").await.unwrap();
    assert_eq!(minted.not_after, world.clock.now() + NODE_TTL);
    assert!(identity.renew_node(&node("n1"), &plain_csr()).unwrap().not_after > world.clock.now() + SVID_TTL);
}

#[tokio::test]
async fn an_evicted_node_is_out_until_it_attests_again() {
    let world = world();
    let identity = world.start().await;
    let old = join(&identity, "n1").await.unwrap();
    let tenure = identity.nodes.tenure(&node("n1"), &old.serial).unwrap();
    identity.nodes.evict(&node("n1")).await.unwrap();
    tenure.ended().await;
    assert_eq!(may_call(&identity, "n1", &old), Err("node_gone"));
    assert!(identity.nodes.tenure(&node("n1"), &old.serial).is_none());
    let refused = renew(&identity, "n1", &old).await.unwrap_err();
    assert_eq!(refused.to_string(), "this node must attest again: it was evicted");
    let identity = world.start().await;
    assert_eq!(may_call(&identity, "n1", &old), Err("node_gone"), "also after a restart");
    let new = join(&identity, "n1").await.unwrap();
    assert_eq!(may_call(&identity, "n1", &new), Ok(()));
    assert_eq!(may_call(&identity, "n1", &old), Err("node_superseded"), "the old certificate stays out");
    assert!(matches!(identity.nodes.evict(&node("nobody")).await, Err(Refused::Unknown(_))));
}

#[tokio::test]
async fn a_ban_is_not_an_eviction_no_evidence_lifts_it() {
    let world = world();
    let identity = world.start().await;
    let old = join(&identity, "n1").await.unwrap();
    let tenure = identity.nodes.tenure(&node("n1"), &old.serial).unwrap();
    identity.nodes.ban(&node("n1"), "stolen\n").await.unwrap();
    tenure.ended().await;
    assert_eq!(may_call(&identity, "n1", &old), Err("node_banned"));
    let token = identity.tokens.create(&node("n1"), SVID_TTL).await.unwrap().token;
    let identity = world.start().await;
    let refused = join_with(&identity, &token, &plain_csr()).await.unwrap_err();
    assert_eq!(refused.to_string(), "this node is banned: stolen");
    assert!(matches!(identity.nodes.evict(&node("n1")).await, Err(Refused::AlreadyBanned(_))));
    identity.nodes.unban(&node("n1")).await.unwrap();
    assert_eq!(may_call(&identity, "n1", &old), Err("node_gone"), "the old certificate does not come back");
    let new = join_with(&identity, &token, &plain_csr()).await.expect("its token was not spent meanwhile");
    assert_eq!(may_call(&identity, "n1", &new), Ok(()));
    assert!(matches!(identity.nodes.unban(&node("n1")).await, Err(Refused::NotBanned(_))));
}

#[tokio::test]
async fn a_node_can_be_banned_before_it_ever_comes() {
    let identity = world().start().await;
    identity.nodes.ban(&node("n1"), "").await.unwrap();
    assert_eq!(join(&identity, "n1").await.unwrap_err().to_string(), "this node is banned");
    assert!(matches!(identity.nodes.all()[&node("n1")].standing, Standing::Banned { .. }));
}

#[tokio::test]
async fn a_ban_between_proof_and_admission_wins() {
    let identity = world().start().await;
    let minted = join(&identity, "n1").await.unwrap();
    identity.nodes.ban(&node("n1"), "").await.unwrap();
    let attested = Attested { name: node("n1"), selectors: Default::default(), can_reattest: false };
    assert_eq!(identity.nodes.admit("join_token", attested, &minted).await.unwrap_err().label(), "node_banned");
}

#[tokio::test]
async fn one_kind_of_evidence_does_not_take_over_the_nodes_of_another() {
    let identity = world().start().await;
    let minted = join(&identity, "n1").await.unwrap();
    let attested = || Attested { name: node("n1"), selectors: Default::default(), can_reattest: true };
    assert_eq!(identity.nodes.admit("x509pop", attested(), &minted).await.unwrap_err().label(), "name_taken");
    identity.nodes.evict(&node("n1")).await.unwrap();
    identity.nodes.admit("x509pop", attested(), &minted).await.unwrap();
    let token = identity.tokens.create(&node("n1"), SVID_TTL).await.unwrap().token;
    assert_eq!(join_with(&identity, &token, &plain_csr()).await.unwrap_err().label(), "name_taken");
}

#[tokio::test]
async fn i_9_a_node_that_loses_its_answers_does_not_pile_up_serials_and_keeps_the_one_it_uses() {
    let identity = world().start().await;
    let used = join(&identity, "n1").await.unwrap();
    let mut last = used.clone();
    for _ in 0..100 {
        last = renew(&identity, "n1", &used).await.unwrap();
    }
    assert_eq!(may_call(&identity, "n1", &used), Ok(()));
    assert_eq!(may_call(&identity, "n1", &last), Ok(()));
}

#[tokio::test]
async fn a_node_is_connected_as_long_as_somebody_serves_it() {
    let identity = world().start().await;
    let minted = join(&identity, "n1").await.unwrap();
    let connected = || identity.nodes.seat(&node("n1")).1;
    assert!(!connected());
    let tenures = [0; 2].map(|_| identity.nodes.tenure(&node("n1"), &minted.serial).unwrap());
    assert!(connected());
    drop(tenures);
    assert!(!connected());
}

#[tokio::test]
async fn the_table_is_watched_and_renewals_are_not_news() {
    let identity = world().start().await;
    let mut watch = identity.nodes.watch();
    let minted = join(&identity, "n1").await.unwrap();
    assert_eq!(watch.borrow_and_update().len(), 1);
    renew(&identity, "n1", &minted).await.unwrap();
    assert!(!watch.has_changed().unwrap());
    identity.nodes.evict(&node("n1")).await.unwrap();
    assert!(watch.has_changed().unwrap());
}
