//! Two arms that cannot drop traffic: whatever happens to B's arm, no request fails. Spec: xds.md, "Two arms that cannot drop traffic".

use controlplane::cli::demo::envoy::{Admin, Http};
use controlplane::cli::demo::plan::{CHECKOUT, PAYMENTS_B};
use http::Method;
use symbolon_tests::{STRAIGHT_UP, Scenario};

/// Enough for several load reports and decisions after the fault.
const AFTERWARDS: u64 = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn remote_workloads_killed_with_their_envoys_alive() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("workloads-killed", 31, STRAIGHT_UP)?;
    scenario.both_arms().await?;
    for node in &PAYMENTS_B {
        scenario.acts.stage.processes.kill(&format!("app {}", node.label())).await?;
    }
    scenario.requests(AFTERWARDS).await?;
    let retries = Admin::new(scenario.acts.stage.plan.envoy_admin(&CHECKOUT)).counters("upstream_rq_retry$").await?;
    anyhow::ensure!(retries.values().sum::<u64>() > 0, "nothing was retried: the fault did not reach the proxy");
    scenario.end_without_failures().await
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_envoys_killed() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("envoys-killed", 32, STRAIGHT_UP)?;
    scenario.both_arms().await?;
    for node in &PAYMENTS_B {
        scenario.acts.stage.processes.kill(&format!("envoy {}", node.label())).await?;
    }
    scenario.requests(AFTERWARDS).await?;
    let retries = Admin::new(scenario.acts.stage.plan.envoy_admin(&CHECKOUT)).counters("upstream_rq_retry$").await?;
    anyhow::ensure!(retries.values().sum::<u64>() > 0, "nothing was retried: the fault did not reach the proxy");
    scenario.end_without_failures().await
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_list_emptied() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("list-emptied", 33, STRAIGHT_UP)?;
    scenario.both_arms().await?;
    for node in &PAYMENTS_B {
        scenario.acts.stage.write_sidecar_workloads(node, &[])?;
    }
    let plan = scenario.acts.stage.plan.clone();
    scenario
        .acts
        .stage
        .until("A's Envoy has no host of B left", std::time::Duration::from_secs(10), || {
            let plan = plan.clone();
            async move {
                let mut envoy = Admin::new(plan.envoy_admin(&CHECKOUT));
                let mut left = false;
                for node in &PAYMENTS_B {
                    left |= envoy.has_host("payments.shop.b", plan.inbound(node)).await.unwrap_or(true);
                }
                !left
            }
        })
        .await?;
    scenario.requests(AFTERWARDS).await?;
    scenario.end_without_failures().await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_remote_hosts_unhealthy() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("hosts-unhealthy", 34, STRAIGHT_UP)?;
    scenario.both_arms().await?;
    for node in &PAYMENTS_B {
        let mut control = Http::new(scenario.acts.stage.plan.app_control(node));
        control.call(Method::PUT, "/healthy/false").await?;
    }
    let out = |rollout: &symbolon_proto::admin::Rollout| rollout.weights.get(1) == Some(&0);
    scenario.acts.until_rollout("the unhealthy arm is out", std::time::Duration::from_secs(20), out).await?;
    scenario.requests(AFTERWARDS).await?;
    scenario.end_without_failures().await
}
