//! Item 8: the commands against a mesh that is at work. What they do on a control plane alone is tested beside them.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use symbolon_tests::mesh::Mesh;
use symbolon_tests::mesh::plane::Plane;

use super::shop::{LOCAL, Shop};

/// The built program.
fn program() -> PathBuf {
    let program = symbolon_tests::built().join("symbolon");
    assert!(program.exists(), "{} is not built: run `make build`", program.display());
    program
}

/// Runs a command; its status and output.
async fn run(plane: &Plane, line: &str) -> anyhow::Result<(i32, String, String)> {
    let socket = plane.addresses().admin.display().to_string();
    let args: Vec<_> = line.split(' ').chain(["--admin-socket", &socket]).collect();
    symbolon_tests::run(&program(), &args, Duration::from_secs(20)).await
}

/// Runs a command that must end well; what it printed.
async fn json(plane: &Plane, line: &str) -> anyhow::Result<Value> {
    let (status, out, err) = run(plane, &format!("{line} -o json")).await?;
    anyhow::ensure!(status == 0, "{line}: {status}: {err}");
    Ok(serde_json::from_str(&out)?)
}

fn has(value: &Value, keys: &[&str]) -> anyhow::Result<()> {
    for key in keys {
        anyhow::ensure!(value.get(key).is_some(), "no {key} in {value}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_federate_by_commands_alone() -> anyhow::Result<()> {
    let mesh = Mesh::builder().two().start().await?;
    let (status, ..) = run(&mesh.a, "peer status b").await?;
    assert_eq!(status, 1, "PENDING is a failed check");
    let invitation = json(&mesh.a, "peer invite b --ttl 1m").await?;
    has(&invitation, &["token", "expiresAt"])?;
    let token = invitation["token"].as_str().unwrap_or_default();
    let peer = json(mesh.b(), &format!("peer accept a {token}")).await?;
    has(&peer, &["name", "trustDomain", "state", "role", "refusals"])?;
    let (status, _, err) = run(mesh.b(), &format!("peer accept a {token}")).await?;
    assert_eq!(status, 1, "a token is spent once: {err}");
    mesh.a.peer_is("LIVE").await?;
    assert_eq!(run(&mesh.a, "peer status b").await?.0, 0);
    assert_eq!(json(&mesh.a, "peer list").await?[0]["state"], "LIVE");
    assert_eq!(json(&mesh.a, "bundle show b.example").await?["trustDomain"], "b.example");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_at_work_is_shown_and_its_rollout_is_led() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    let _traffic = shop.traffic().await?;
    shop.scale_out().await?;
    let a = &shop.mesh.a;
    a.rollout_is("in traffic", |now| now.weights[1] > 0).await?;
    let paused = json(a, &format!("rollout pause {LOCAL}")).await?;
    assert_eq!(paused["phase"], "Paused");
    let list = json(a, "rollout list").await?;
    has(&list[0], &["service", "peer", "phase", "message", "weights", "steps", "evidence", "history", "generation"])?;
    assert_eq!(json(a, &format!("rollout get {LOCAL}")).await?["phase"], "Paused");
    assert_eq!(run(a, &format!("rollout pause {LOCAL}")).await?.0, 1, "paused already");
    assert_ne!(json(a, &format!("rollout resume {LOCAL}")).await?["phase"], "Paused");
    let promoted = json(a, &format!("rollout promote {LOCAL} --full")).await?;
    assert_eq!((&promoted["phase"], &promoted["weights"]), (&"Converged".into(), &serde_json::json!([5000, 5000])));
    let proxies = json(a, "proxy list").await?;
    assert_eq!((&proxies[0]["id"], &proxies[0]["connected"]), (&a.settings.id("checkout").into(), &true.into()));
    has(&proxies[0], &["node", "version", "types"])?;
    let endpoints = json(a, &format!("service endpoints {LOCAL}")).await?;
    assert_eq!(endpoints.as_array().map(Vec::len), Some(2), "{endpoints}");
    let services = json(a, "service list").await?;
    assert_eq!(services.as_array().map(Vec::len), Some(4), "two of each mesh: {services}");
    let aborted = json(a, &format!("rollout abort {LOCAL}")).await?;
    assert_eq!(aborted["weights"], serde_json::json!([10_000, 0]));
    a.rollout_is("out until a person says otherwise", |now| now.phase == "Paused").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_was_killed_is_said_to_be_away() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().start().await?;
    assert_eq!(run(&mesh.a, "peer list").await?.0, 0);
    mesh.a.kill().await;
    let (status, out, err) = run(&mesh.a, "peer list -o json").await?;
    assert_eq!((status, out.as_str()), (69, ""));
    assert!(err.contains("symbolon serve"), "{err}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_looked_at_evicted_and_banned_by_commands() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let _node = mesh.a.node("n1").await?;
    let listed = json(&mesh.a, "node list").await?;
    has(&listed[0], &["name", "spiffeId", "standing", "attestor", "selectors", "connected", "expiresAt", "serial"])?;
    assert_eq!((&listed[0]["name"], &listed[0]["standing"]), (&"n1".into(), &"attested".into()));
    let (status, card, _) = run(&mesh.a, "node show n1").await?;
    assert!(status == 0 && card.contains("with a new token") && card.contains("join_token:node:n1"), "{card}");
    assert_eq!(json(&mesh.a, "node evict n1").await?[0]["standing"], "evicted");
    assert_eq!(json(&mesh.a, "node ban n1 --reason lost").await?[0]["reason"], "lost");
    let (status, table, _) = run(&mesh.a, "node list").await?;
    assert!(status == 0 && table.contains("banned") && table.contains("lost"), "{table}");
    for (line, says) in
        [("node evict n1", "is banned"), ("node evict n2", "has attested"), ("node show n2", "node list")]
    {
        let (status, _, err) = run(&mesh.a, line).await?;
        assert!(status == 1 && err.contains(says), "{line}: {err}");
    }
    assert_eq!(json(&mesh.a, "node unban n1").await?[0]["standing"], "evicted");
    assert_eq!(run(&mesh.a, "node ban N_1").await?.0, 65, "no node is called that");
    Ok(())
}
