//! Trust that ends, with real Envoys under load.

use std::time::Duration;

use controlplane::cli::demo::envoy::Admin;
use controlplane::cli::demo::plan::{CHECKOUT, PAYMENTS_B, Side};
use symbolon_proto::admin::DeleteRelationshipRequest;
use symbolon_tests::{STRAIGHT_UP, Scenario};
use tokio::time::Instant;

/// What is promised.
const SOON: Duration = Duration::from_secs(1);
/// Between two looks at Envoy.
const LOOK: Duration = Duration::from_millis(20);

/// Half of the traffic is in B when A ends trust in it: within a second A's Envoy has no host and no connection there, and no request
/// of A's users fails for it.
#[tokio::test(flavor = "multi_thread")]
async fn f_18_the_connections_of_an_ended_trust_domain_end_and_no_request_fails() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("trust-ended", 45, STRAIGHT_UP)?;
    scenario.both_arms().await?;
    let plan = scenario.acts.stage.plan.clone();
    let mut envoy = Admin::new(plan.envoy_admin(&CHECKOUT));
    // B's Envoys count whom they have: nobody but A's checkout calls them.
    let mut theirs: Vec<_> = PAYMENTS_B.iter().map(|node| Admin::new(plan.envoy_admin(node))).collect();
    anyhow::ensure!(connections(&mut theirs).await? > 0, "there are connections to end");
    let began = Instant::now();
    let asked = DeleteRelationshipRequest { trust_domain: "b.example".into() };
    scenario.acts.stage.admin(Side::A).delete_relationship(asked).await?;
    loop {
        let mut hosts = 0;
        for node in &PAYMENTS_B {
            hosts += u64::from(envoy.has_host("payments.shop.b", plan.inbound(node)).await?);
        }
        let left = connections(&mut theirs).await?;
        if hosts + left == 0 {
            break;
        }
        anyhow::ensure!(began.elapsed() < SOON, "{hosts} hosts and {left} connections are left");
        tokio::time::sleep(LOOK).await;
    }
    scenario.acts.board.say("trust in B has ended");
    scenario.requests(5_000).await?;
    scenario.end_without_failures().await
}

/// What comes in at these Envoys over mTLS.
async fn connections(envoys: &mut [Admin]) -> anyhow::Result<u64> {
    let mut all = 0;
    for envoy in envoys {
        let counted = envoy.counters("http.inbound.downstream_cx_active").await?;
        all += counted
            .into_iter()
            .filter(|(name, _)| name == "http.inbound.downstream_cx_active")
            .map(|(_, n)| n)
            .sum::<u64>();
    }
    Ok(all)
}
