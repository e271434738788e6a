//! Item 7: the ramp, by load reports alone.

use serde_json::json;
use symbolon_proto::admin as api;
use symbolon_tests::mesh::{Mesh, until};

use super::shop::{Shop, impatient, weights};

/// Every decision with what it led to, in order: what must be neither lost nor doubled.
fn decisions(rollout: &api::Rollout) -> Vec<(u64, &str, u32)> {
    let weight = |item: &api::HistoryItem| item.weights.get(1).copied().unwrap_or_default();
    rollout.history.iter().map(|item| (item.decision, item.to.as_str(), weight(item))).collect()
}

/// The weights of the steps that were entered, in order.
fn entered(rollout: &api::Rollout) -> Vec<u32> {
    let ramping = decisions(rollout).into_iter().filter(|(_, to, _)| *to == "Ramping");
    let mut weights: Vec<_> = ramping.map(|(_, _, weight)| weight).collect();
    weights.dedup(); // taken up again after a hold or a freeze it is the same step
    weights
}

fn rolled_back(rollout: &api::Rollout) -> bool {
    decisions(rollout).iter().any(|(_, to, _)| *to == "RollingBack")
}

fn without_gaps(rollout: &api::Rollout) -> bool {
    decisions(rollout).windows(2).all(|pair| pair[0].0 + 1 == pair[1].0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ramp_takes_each_step_once_and_ends_at_the_fair_share() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    let _traffic = shop.traffic().await?;
    shop.scale_out().await?;
    let end = shop.mesh.a.rollout_is("converged", |now| now.phase == "Converged").await?;
    assert_eq!(entered(&end), [250, 1250, 5000], "5, 25 and 100 % of a fair share of one half");
    assert_eq!(end.weights, [5000, 5000]);
    assert!(without_gaps(&end), "{end:#?}");
    assert_eq!(shop.proxy.held().weights("payments.shop"), weights(5000));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_a_step_it_takes_the_step_that_it_would_have_taken() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    let traffic = shop.traffic().await?;
    shop.scale_out().await?;
    let in_step = |now: &api::Rollout| now.weights == [8750, 1250] && now.evidence_ms > 0;
    let before = shop.mesh.a.rollout_is("in the second step, with evidence", in_step).await?;
    shop.mesh.a.kill().await;
    assert_eq!(shop.proxy.held().weights("payments.shop"), weights(1250), "a dead control plane withdraws nothing");
    shop.mesh.a.start_again().await?;
    let after = shop.mesh.a.rollout().await?;
    assert_eq!(decisions(&after)[..before.history.len()], decisions(&before), "nothing decided is forgotten");
    assert!(after.weights[1] >= 1250, "{after:#?}");
    let end = shop.mesh.a.rollout_is("converged", |now| now.phase == "Converged").await?;
    assert_eq!(entered(&end), [250, 1250, 5000]);
    assert!(without_gaps(&end) && !rolled_back(&end), "{end:#?}");
    assert!(traffic.is_open(), "the stream of reports has outlived the control plane");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_percent_of_errors_roll_back_in_one_report_and_a_probe_follows_the_backoff() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    let traffic = shop.traffic().await?;
    shop.scale_out().await?;
    shop.mesh.a.rollout_is("converged", |now| now.phase == "Converged").await?;
    traffic.fail(0, 30);
    let out = shop.mesh.a.rollout_is("rolled back", |now| now.phase == "RolledBack").await?;
    let decided = out.history.iter().find(|item| item.to == "RollingBack").and_then(|item| item.evidence.clone());
    assert_eq!(decided.map(|evidence| evidence.canary_errors), Some(600), "the errors of one report: 30 % of 2,000");
    assert_eq!((out.weights.as_slice(), out.failures), ([10_000, 0].as_slice(), 1));
    shop.proxy.until("weight 0", |held| held.weights("payments.shop") == weights(0)).await?;
    assert!(out.backoff_until_ms >= out.history.last().map_or(i64::MAX, |last| last.at_ms), "{out:#?}");
    traffic.fail(0, 0);
    let probe = shop.mesh.a.rollout_is("a probe", |now| now.generation > out.generation && now.weights[1] > 0).await?;
    let first = probe.history.iter().find(|item| item.decision > out.decisions);
    assert!(first.is_some_and(|item| item.at_ms >= out.backoff_until_ms), "not before the backoff has passed");
    assert_eq!(entered(&probe)[3..], [250], "a probe begins at the first step");
    let end = shop.mesh.a.rollout_is("converged again", |now| now.phase == "Converged").await?;
    assert_eq!(entered(&end)[3..], [250, 1250, 5000]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_begins_during_a_restart_is_caught() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    let traffic = shop.traffic().await?;
    shop.scale_out().await?;
    shop.mesh.a.rollout_is("in the last step", |now| now.weights == [5000, 5000]).await?;
    shop.mesh.a.kill().await;
    traffic.fail(0, 30);
    shop.mesh.a.start_again().await?;
    let out = shop.mesh.a.rollout_is("out", |now| now.weights == [10_000, 0]).await?;
    assert!(rolled_back(&out), "{out:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_freezes_the_ramp_and_a_returning_one_goes_on_in_the_same_step() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder().a(|a| a.federation = impatient())).await?;
    let _traffic = shop.traffic().await?;
    shop.scale_out().await?;
    shop.mesh.a.rollout_is("in the second step", |now| now.weights == [8750, 1250]).await?;
    shop.mesh.b_mut().kill().await;
    let frozen = shop.mesh.a.rollout_is("frozen", |now| now.phase == "Frozen").await?;
    let counted = || shop.mesh.a.counted("symbolon_rollout_samples", &[("outcome", "counted")]);
    let later = counted() + 6; // reports go on, for longer than the step would last
    until("more reports", async || (counted() >= later).then_some(())).await?;
    let still = shop.mesh.a.rollout().await?;
    assert_eq!((still.phase.as_str(), &still.weights), ("Frozen", &frozen.weights));
    assert_eq!(shop.mesh.a.imported("payments.shop").await?, ["127.0.2.1:15006"], "nothing is withdrawn");
    shop.mesh.b_mut().start_again().await?;
    let end = shop.mesh.a.rollout_is("converged", |now| now.phase == "Converged").await?;
    let last = frozen.weights[1];
    assert!(entered(&end).windows(2).all(|pair| pair[0] < pair[1]), "no step twice: {end:#?}");
    assert!(entered(&end).contains(&last) && !rolled_back(&end), "{end:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_both_arms_alike_never_roll_back() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    let traffic = shop.traffic().await?;
    shop.scale_out().await?;
    shop.mesh.a.rollout_is("in the second step", |now| now.weights == [8750, 1250]).await?;
    traffic.fail(30, 30);
    let counted = || shop.mesh.a.counted("symbolon_rollout_samples", &[("outcome", "counted")]);
    let later = counted() + 8; // one is enough when only the remote arm fails
    until("more reports", async || (counted() >= later).then_some(())).await?;
    let now = shop.mesh.a.rollout().await?;
    assert!(!rolled_back(&now) && now.weights[1] >= 1250, "{now:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_arm_that_serves_nothing_trips() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    let traffic = shop.traffic().await?;
    shop.scale_out().await?;
    shop.mesh.a.rollout_is("in the second step", |now| now.weights == [8750, 1250]).await?;
    traffic.silence();
    let out = shop.mesh.a.rollout_is("out", rolled_back).await?;
    let why = out.history.iter().find(|item| item.to == "RollingBack").map(|item| item.reason.as_str());
    assert!(why.is_some_and(|why| why.contains("share") || why.contains("silent")), "{why:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn load_that_piles_up_while_the_control_plane_is_away_is_counted_once() -> anyhow::Result<()> {
    let long = json!({"steps": [{"weight": 100, "minDuration": "1h", "minRequests": 1}], "initialDelay": "0s",
        "interval": "20ms"});
    let mut shop = Shop::open(Mesh::builder().a(|a| a.policy = long)).await?;
    shop.scale_out().await?;
    shop.mesh.a.rollout_is("in the step", |now| now.phase == "Ramping" || now.phase == "Holding").await?;
    let load = shop.checkout.load(&shop.mesh.a.settings.id("checkout")).await?;
    let mut sent = 0;
    for round in 0..3_u64 {
        for report in 1..=5 {
            let success = 100 * round + report;
            super::shop::reported(&load, success, success).await?;
            sent += success;
        }
        match round {
            0 => shop.mesh.a.kill().await,
            1 => shop.mesh.a.start_again().await?,
            _ => {}
        }
    }
    let counts = |now: &api::Rollout| {
        let evidence = now.evidence.clone().unwrap_or_default();
        (evidence.baseline_completions, evidence.canary_completions)
    };
    shop.mesh.a.rollout_is("all is counted", |now| counts(now).0 >= sent && counts(now).1 >= sent).await?;
    let unacknowledged =
        || shop.checkout.running().metrics.gauge("symbolon_sidecar_load_unacknowledged", "").value(&[]);
    until("all is acknowledged", async || (unacknowledged() == 0).then_some(())).await?;
    assert_eq!(counts(&shop.mesh.a.rollout().await?), (sent, sent), "each once");
    assert_eq!(shop.checkout.counted("symbolon_sidecar_load_reports", &[("result", "stream_ended")]), 0);
    Ok(())
}
