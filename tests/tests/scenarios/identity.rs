//! Identity under load: an authority is replaced, distrusted and revoked while requests go on, and trust in a peer ends.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use controlplane::cli::demo::plan::{CHECKOUT, PAYMENTS_A, Side};
use symbolon_proto::admin::change_authority_request::Step;
use symbolon_proto::admin::{ChangeAuthorityRequest, ListAuthoritiesRequest, LocalAuthority, ShowBundleRequest};
use symbolon_tests::mesh::until;
use symbolon_tests::{STRAIGHT_UP, Scenario};
use tokio::time::Instant;

/// Far below half of an SVID's life, at which certificates are replaced anyhow.
const AT_ONCE: Duration = Duration::from_secs(8);

/// By force: a key was stolen, so nobody waits for as long as others may keep an old bundle. What must be there is looked at instead.
async fn change(scenario: &Scenario, step: Step, id: &str) -> anyhow::Result<Vec<LocalAuthority>> {
    let asked = ChangeAuthorityRequest { kind: "x509".into(), step: step.into(), id: id.into(), force: true };
    let mut admin = scenario.acts.stage.admin(Side::A);
    let changed = admin.change_authority(asked).await.with_context(|| format!("{step:?} {id}"))?;
    Ok(changed.into_inner().authorities)
}

async fn in_state(scenario: &Scenario, state: &str) -> anyhow::Result<String> {
    let listed = scenario.acts.stage.admin(Side::A).list_authorities(ListAuthoritiesRequest {}).await?.into_inner();
    let mut found = listed.authorities.into_iter().filter(|one| one.kind == "x509" && one.state == state);
    Ok(found.next().with_context(|| format!("no authority is {state}"))?.id)
}

/// Prepared, activated, tainted, revoked: every Envoy of A changes its certificate at once, peers follow the bundle, and no request
/// fails meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn fault_021_a_stolen_authority_is_replaced_under_load() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("taint", 40, STRAIGHT_UP)?;
    scenario.both_arms().await?;
    let stolen = in_state(&scenario, "active").await?;
    change(&scenario, Step::Prepare, "").await?;
    // Published first (I8): it may sign once everybody could have it.
    let next = until("the new one is published", async || in_state(&scenario, "published").await.ok()).await?;
    until("the peer has the new one", async || {
        let asked = ShowBundleRequest { trust_domain: "a.example".into() };
        let held = scenario.acts.stage.admin(Side::B).show_bundle(asked).await.ok()?.into_inner();
        (held.authorities.iter().filter(|one| one.kind.contains("x509")).count() == 2).then_some(())
    })
    .await?;
    change(&scenario, Step::Activate, &next).await?;
    scenario.acts.follow_certificates(&scenario.tasks, &scenario.drain);
    let [first, second] = PAYMENTS_A;
    let nodes = [CHECKOUT, first, second];
    let board = scenario.acts.board.clone();
    let seen = |fresh: bool| {
        let facts = board.facts();
        let all = nodes.iter().all(|node| {
            let known = facts.certificates.get(&node.label());
            known.is_some_and(|known| {
                !known.now.is_empty() && (!fresh || !known.now.iter().any(|serial| known.first.contains(serial)))
            })
        });
        std::future::ready(all)
    };
    scenario.acts.stage.until("certificates are known", AT_ONCE, || seen(false)).await?;
    let tainted = Instant::now();
    change(&scenario, Step::Taint, &stolen).await?;
    scenario.acts.stage.until("every certificate has been replaced", AT_ONCE, || seen(true)).await?;
    println!("a taint replaced every certificate of A in {} ms", tainted.elapsed().as_millis());
    scenario.requests(3_000).await?;
    let left = change(&scenario, Step::Revoke, &stolen).await?;
    ensure!(!left.iter().any(|one| one.id == stolen && one.state != "revoked"), "{left:?}");
    scenario.requests(5_000).await?;
    scenario.end_without_failures().await
}
