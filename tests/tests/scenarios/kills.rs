//! `kill -9` of any process at any time loses nothing that was acknowledged, and no request.

use std::time::Duration;

use controlplane::cli::demo::plan::{PAYMENTS_A, PAYMENTS_B, Side};
use controlplane::cli::demo::stage::{Stage, peer};
use symbolon_tests::{STRAIGHT_UP, Scenario};

/// Every kind of process in turn, under load; what it knew is there when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn fault_001_every_process_killed_in_turn_loses_nothing() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("kills", 43, STRAIGHT_UP)?;
    scenario.both_arms().await?;
    for side in [Side::A, Side::B] {
        let name = Stage::control_plane_name(side);
        scenario.acts.stage.processes.kill(&name).await?;
        scenario.requests(500).await?;
        scenario.acts.stage.start_control_plane(side)?;
        scenario.acts.stage.control_plane_ready(side).await?;
        scenario.acts.stage.linked().await?;
        scenario.requests(500).await?;
    }
    for node in PAYMENTS_A[..1].iter().chain(&PAYMENTS_B[..1]) {
        let name = format!("sidecar {}", node.label());
        scenario.acts.stage.processes.kill(&name).await?;
        scenario.requests(500).await?;
        scenario.acts.stage.start_sidecar(node)?;
        scenario.requests(500).await?;
    }
    let rollout = scenario.acts.board.facts().rollout.clone().unwrap_or_default();
    anyhow::ensure!(rollout.weights == [5_000, 5_000], "the weights have changed: {rollout:?}");
    let exported = peer(scenario.acts.stage.admin(Side::A)).await.map(|peer| peer.imported_endpoints);
    anyhow::ensure!(exported == Some(2), "A imports {exported:?} endpoints of B");
    // An application and an Envoy too: the judge may take B out for it, but no request may fail.
    let (app, envoy) = (&PAYMENTS_A[0], &PAYMENTS_B[1]);
    scenario.acts.stage.processes.kill(&format!("app {}", app.label())).await?;
    scenario.requests(1_000).await?;
    scenario.acts.stage.start_app(app)?;
    scenario.acts.stage.processes.kill(&format!("envoy {}", envoy.label())).await?;
    scenario.requests(1_000).await?;
    scenario.acts.stage.start_envoy(envoy)?;
    scenario.acts.stage.node_ready(envoy).await?;
    scenario.requests(1_000).await?;
    scenario.end_without_failures().await
}

/// A fault that begins while A's control plane is away is caught when it is back: the sidecar kept the reports.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_begins_during_the_restart_is_caught() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("blind-fault", 44, STRAIGHT_UP)?;
    scenario.both_arms().await?;
    let name = Stage::control_plane_name(Side::A);
    scenario.acts.stage.processes.kill(&name).await?;
    for node in &PAYMENTS_B {
        let mut control = controlplane::cli::demo::envoy::Http::new(scenario.acts.stage.plan.app_control(node));
        control.call(http::Method::PUT, "/errors/0.3").await?;
    }
    scenario.requests(2_000).await?;
    // Well again before anybody can look: only the reports that the sidecar kept tell of it.
    for node in &PAYMENTS_B {
        let mut control = controlplane::cli::demo::envoy::Http::new(scenario.acts.stage.plan.app_control(node));
        control.call(http::Method::PUT, "/errors/0").await?;
    }
    scenario.acts.stage.start_control_plane(Side::A)?;
    let out = |rollout: &symbolon_proto::admin::Rollout| rollout.history.iter().any(|item| item.to == "RollingBack");
    scenario.acts.until_rollout("the fault is caught", Duration::from_secs(20), out).await?;
    scenario.end_without_failures().await
}
