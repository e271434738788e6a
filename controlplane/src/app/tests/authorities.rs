//! The operator's steps in the lives of authorities, as nodes hear of them.

use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::{issuer_key_id, new_key};
use symbolon_proto::admin;
use symbolon_proto::admin::change_authority_request::Step;
use symbolon_proto::node as wire;
use tonic::Code;
use wire::minted::Outcome;
use wire::node_update::Update;

use super::Rig;
use super::node_api::Talk;
use super::rig::{Node, until};

async fn change(rig: &Rig, kind: &str, step: Step, id: &str, force: bool) -> Result<Vec<admin::LocalAuthority>, Code> {
    let asked = admin::ChangeAuthorityRequest { kind: kind.into(), step: step.into(), id: id.into(), force };
    let changed = rig.admin().change_authority(asked).await;
    changed.map(|answer| answer.into_inner().authorities).map_err(|status| status.code())
}

async fn list(rig: &Rig) -> Vec<admin::LocalAuthority> {
    rig.admin().list_authorities(admin::ListAuthoritiesRequest {}).await.unwrap().into_inner().authorities
}

fn one<'a>(all: &'a [admin::LocalAuthority], kind: &str, state: &str) -> &'a admin::LocalAuthority {
    let found = all.iter().find(|one| one.kind == kind && one.state == state);
    found.unwrap_or_else(|| panic!("no {state} {kind} among {all:?}"))
}

/// Whose SVIDs the node gets now.
async fn issuer(node: &mut Node) -> String {
    let csr = wire::Csr { entry_id: String::new(), csr: new_key().unwrap().1.into() };
    let minted = node.client.mint(wire::MintRequest { csrs: vec![csr] }).await.unwrap().into_inner();
    let Some(Outcome::Svid(svid)) = minted.results[0].outcome.clone() else { panic!("{minted:?}") };
    issuer_key_id(&svid.chain[0].to_vec().into()).unwrap()
}

#[tokio::test]
async fn a_taint_reaches_every_node_at_once_and_our_own_svid_is_replaced() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1").await;
    let mut talk = Talk::open(&mut node).await;
    let bundles = |update| if let Update::Bundles(bundles) = update { Some(bundles) } else { None };
    let first = talk.next(bundles).await;
    assert_eq!((first.tainted_x509.len(), first.tainted_jwt.len(), first.incubating), (0, 0, false));
    let stolen = one(&list(&rig).await, "x509", "active").id.clone();
    assert_eq!(issuer(&mut node).await, stolen);
    assert_eq!(change(&rig, "x509", Step::Taint, &stolen, false).await.unwrap_err(), Code::FailedPrecondition);
    let after = change(&rig, "x509", Step::Taint, &stolen.to_uppercase()[..12], true).await.unwrap();
    let successor = one(&after, "x509", "active").id.clone();
    let told = talk.next(|update| bundles(update).filter(|told| !told.tainted_x509.is_empty())).await;
    assert_eq!(told.tainted_x509, [stolen.as_str()]);
    let own = Bundle::parse_jwks(&"a.example".parse().unwrap(), &told.bundles["a.example"], clock()).unwrap().bundle;
    assert_eq!((own.x509.len(), own.jwt.len()), (2, 1), "both are trusted while everything is replaced");
    assert_eq!(issuer(&mut node).await, successor);
    // What the control plane itself presents is not of the stolen authority any more: it can be revoked, and nodes come back.
    change(&rig, "x509", Step::Revoke, &stolen, true).await.unwrap();
    // Whoever still presents what it signed is cut off at once, and comes back by attesting again.
    until("a node that attests after the revocation", async || {
        let mut again = rig.node("n2").await;
        (issuer(&mut again).await == successor).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_operator_gets_wrong_is_told() {
    let rig = Rig::start().await;
    assert_eq!(change(&rig, "x508", Step::Prepare, "", false).await.unwrap_err(), Code::InvalidArgument);
    assert_eq!(change(&rig, "x509", Step::Taint, "nobody", false).await.unwrap_err(), Code::NotFound);
    assert_eq!(change(&rig, "wit", Step::Prepare, "", false).await.unwrap_err(), Code::NotFound);
    let prepared = change(&rig, "jwt", Step::Prepare, "", false).await.unwrap();
    let published = one(&prepared, "jwt", "published");
    assert_eq!((published.next.as_str(), published.key_manager.as_str()), ("takes over", "disk"));
    assert!(published.next_at > 0 && published.not_after > published.not_before);
    assert_eq!(change(&rig, "jwt", Step::Prepare, "", false).await.unwrap_err(), Code::FailedPrecondition);
    assert_eq!(change(&rig, "jwt", Step::Activate, &published.id, false).await.unwrap_err(), Code::FailedPrecondition);
    let active = one(&prepared, "jwt", "active").id.clone();
    assert_eq!(change(&rig, "jwt", Step::Revoke, &active, true).await.unwrap_err(), Code::FailedPrecondition);
    let after = change(&rig, "jwt", Step::Activate, &published.id, true).await.unwrap();
    assert_eq!(one(&after, "jwt", "old").id, active);
}

fn clock() -> std::time::SystemTime {
    symbolon_kit::clock::Clock::system().now()
}
