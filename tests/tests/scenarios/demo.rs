//! The demo with its other faults; the suite `demo` plays the first.

use std::path::Path;
use std::time::Duration;

use symbolon_tests::{built, run};

async fn play(fault: &str, network: &str) -> anyhow::Result<serde_json::Value> {
    std::env::set_current_dir(symbolon_tests::repository())?;
    let dir = format!("target/scenarios/demo-{fault}");
    let args = ["demo", "--headless", "--dir", &dir, "--network", network, "--fault", fault];
    let (code, out, err) = run(&built().join("symbolon"), &args, Duration::from_secs(240)).await?;
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(Path::new(&dir).join("summary.json"))?)?;
    anyhow::ensure!(code == 0 && summary["pass"] == true, "exit {code}\n{out}\n{err}");
    Ok(summary)
}

#[tokio::test(flavor = "multi_thread")]
async fn crashed_workloads_are_rolled_back() -> anyhow::Result<()> {
    let summary = play("crash", "127.41").await?;
    anyhow::ensure!(summary["rollback"]["at_weight"] == 100, "{summary}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_freezes_the_ramp() -> anyhow::Result<()> {
    let summary = play("partition", "127.42").await?;
    anyhow::ensure!(summary["partition"]["phase_while_away"] == "Frozen" && summary["rollback"].is_null(), "{summary}");
    Ok(())
}

/// A missing program is named with the command that makes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_is_named_with_its_remedy() -> anyhow::Result<()> {
    let args = ["demo", "--headless", "--envoy", "target/no-such-envoy"];
    let (code, out, err) = run(&built().join("symbolon"), &args, Duration::from_secs(20)).await?;
    anyhow::ensure!(code != 0 && err.contains("no-such-envoy") && err.contains("make demo"), "exit {code}: {out}{err}");
    Ok(())
}
