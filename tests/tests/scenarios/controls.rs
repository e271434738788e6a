//! Controls: what must not happen, shown not to.

use std::path::Path;
use std::time::Duration;

use controlplane::cli::demo::envoy::Http;
use controlplane::cli::demo::plan::{CHECKOUT, PAYMENTS_A, PAYMENTS_B, Side};
use controlplane::cli::demo::stage::peer;
use http::Method;
use symbolon_tests::{STRAIGHT_UP, Scenario, built, run};

/// Errors that both arms share are no reason to roll back: the judge compares the arms.
#[tokio::test(flavor = "multi_thread")]
async fn errors_on_both_arms_never_roll_back() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("both-arms-err", 35, STRAIGHT_UP)?;
    scenario.both_arms().await?;
    for node in PAYMENTS_A.iter().chain(&PAYMENTS_B) {
        let mut control = Http::new(scenario.acts.stage.plan.app_control(node));
        control.call(Method::PUT, "/errors/0.3").await?;
    }
    scenario.requests(20_000).await?;
    let board = scenario.acts.board.clone();
    {
        let facts = board.facts();
        let injected = facts.ledger.total().injected;
        anyhow::ensure!(injected > 4_000, "only {injected} errors were injected");
        let changes = facts.steps.changes();
        anyhow::ensure!(changes.iter().all(|(step, _)| step.weight > 0), "rolled back: {changes:?}");
        let rollout = facts.rollout.clone().unwrap_or_default();
        anyhow::ensure!(rollout.weights == [5_000, 5_000], "{rollout:?}");
    }
    scenario.end_without_failures().await
}

/// The same user, the same socket, another program: no selector matches, so there is nothing for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_process_gets_no_svid() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("stranger", 36, STRAIGHT_UP)?;
    scenario.acts.stage.start_control_plane(Side::A)?;
    scenario.acts.stage.control_plane_ready(Side::A).await?;
    scenario.acts.start_nodes(&[CHECKOUT]).await?;
    let socket = scenario.acts.stage.plan.node_dir(&CHECKOUT).join("agent.sock");
    let socket = socket.to_string_lossy().into_owned();
    let fetch = ["api", "fetch", "--socket", &socket];
    let (code, out, err) = run(&built().join("symbolon-sidecar"), &fetch, Duration::from_secs(20)).await?;
    anyhow::ensure!(code == 1, "exit {code}: {out}{err}");
    anyhow::ensure!(err.contains("PermissionDenied") && !out.contains("spiffe://"), "{out}{err}");
    Ok(())
}

/// With another root under B's name, nothing of B reaches A, and the demo says so and fails.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_wrong_bundle_nothing_federates_and_the_demo_fails() -> anyhow::Result<()> {
    std::env::set_current_dir(symbolon_tests::repository())?;
    let dir = "target/scenarios/wrong-bundle";
    let args = ["demo", "--headless", "--dir", dir, "--network", "127.37", "--sabotage", "wrong-bundle"];
    let (code, out, err) = run(&built().join("symbolon"), &args, Duration::from_secs(120)).await?;
    anyhow::ensure!(code == 1, "exit {code}: {out}{err}");
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(Path::new(dir).join("summary.json"))?)?;
    anyhow::ensure!(summary["pass"] == false && out.contains("hears its peer"), "{out}");
    anyhow::ensure!(out.contains("FAIL"), "{out}");
    Ok(())
}

/// A token is good once, for one peer, in time; whoever comes second is told why.
#[tokio::test(flavor = "multi_thread")]
async fn bad_141_a_federation_token_is_good_once() -> anyhow::Result<()> {
    use symbolon_proto::admin::{AcceptPeerRequest, InvitePeerRequest};
    let mut scenario = Scenario::new("token-once", 38, STRAIGHT_UP)?;
    for side in [Side::A, Side::B] {
        scenario.acts.stage.start_control_plane(side)?;
        scenario.acts.stage.control_plane_ready(side).await?;
    }
    let stage = &scenario.acts.stage;
    let invite = InvitePeerRequest { peer: "b".into(), ttl_seconds: 600 };
    let token = stage.admin(Side::A).invite_peer(invite).await?.into_inner().token;
    let accept = |token: &str| AcceptPeerRequest { peer: "a".into(), token: token.into() };
    for wrong in ["", "nonsense", &token[..token.len() / 2], &"A".repeat(100_000)] {
        let refused = stage.admin(Side::B).accept_peer(accept(wrong)).await;
        anyhow::ensure!(refused.is_err(), "{:?} was accepted", wrong.get(..20));
    }
    stage.admin(Side::B).accept_peer(accept(&token)).await?;
    let again = stage.admin(Side::B).accept_peer(accept(&token)).await;
    let words = again.err().map(|status| status.message().to_owned()).unwrap_or_default();
    anyhow::ensure!(words.contains("token"), "the second use said: {words:?}");
    scenario.acts.stage.linked().await?;
    anyhow::ensure!(
        peer(scenario.acts.stage.admin(Side::A)).await.is_some_and(|peer| peer.trust_domain == "b.example")
    );
    Ok(())
}
