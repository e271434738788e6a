//! What workloads get from their node's sidecar, by the sockets, with a real control plane behind it.

use serde_json::json;
use symbolon_proto::admin as api;
use symbolon_proto::admin::change_authority_request::Step;
use symbolon_proto::workload::{X509BundlesRequest, X509svidRequest, X509svidResponse};
use symbolon_tests::mesh::plane::Plane;
use symbolon_tests::mesh::rotation::{self, issuer_of};
use symbolon_tests::mesh::sidecar::{Sidecar, with_header};
use symbolon_tests::mesh::{Mesh, soon, until};

async fn first(sidecar: &Sidecar) -> anyhow::Result<X509svidResponse> {
    let mut answers = sidecar.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
    Ok(soon("an SVID", answers.message()).await??.expect("the stream goes on"))
}

/// An entry of this process on node `n1`, federated as said.
async fn entry(plane: &Plane, federates_with: Option<api::FederatesWith>) -> anyhow::Result<String> {
    let uid = nix::unistd::geteuid();
    let identity = api::Identity {
        spiffe_id: plane.settings.id("checkout"),
        node: "n1".into(),
        selectors: vec![format!("unix:uid:{uid}")],
        federates_with,
        ..api::Identity::default()
    };
    let asked = api::CreateIdentityRequest { identity: Some(identity) };
    Ok(plane.admin().create_identity(asked).await?.into_inner().entry_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_says_whose_bundles_its_workloads_see() -> anyhow::Result<()> {
    let mesh = Mesh::builder().linked().await?;
    let but_b = api::FederatesWith { all: true, except: vec!["b.example".into()], ..Default::default() };
    let only_b = api::FederatesWith { trust_domains: vec!["b.example".into()], ..Default::default() };
    let mut sidecar = None;
    for (federates_with, sees) in [(None, 2), (Some(but_b), 1), (Some(only_b), 2)] {
        let id = entry(&mesh.a, federates_with.clone()).await?;
        if sidecar.is_none() {
            sidecar = Some(mesh.a.sidecar("n1", json!([])).await?);
        }
        let sidecar = sidecar.as_ref().expect("started");
        let what = format!("{sees} bundles with {federates_with:?}");
        until(&what, async || {
            let asked = with_header(X509BundlesRequest {});
            let mut answers = sidecar.workload_api().fetch_x509_bundles(asked).await.ok()?.into_inner();
            let bundles = answers.message().await.ok()??.bundles;
            (bundles.len() == sees).then_some(())
        })
        .await?;
        mesh.a.admin().delete_identity(api::DeleteIdentityRequest { entry_id: id }).await?;
        until("PermissionDenied", async || first(sidecar).await.is_err().then_some(())).await?;
    }
    Ok(())
}

/// Several batches of them, so that a restart would show.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_sidecar_has_every_key_and_asks_for_none() -> anyhow::Result<()> {
    println!("120 workloads are served {:?} after the start", rotation::sidecar_restart(120).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_envoy_has_its_new_certificate_soon_after_a_taint() -> anyhow::Result<()> {
    let took = rotation::sds_after_taint(60).await?;
    println!("60 streams: median {:?}, last {:?}", took[30], took[59]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_explains_a_process_by_what_its_node_sees() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let id = mesh.a.entry("n1", "checkout").await?;
    let _sidecar = mesh.a.sidecar("n1", json!([])).await?;
    let pid = i32::try_from(std::process::id())?;
    let explain = async |pid| {
        let asked = api::ExplainIdentityRequest { node: "n1".into(), pid, ..Default::default() };
        mesh.a.admin().explain_identity(asked).await
    };
    let answer = explain(pid).await?.into_inner();
    assert!(answer.selectors.iter().any(|one| one.starts_with("unix:path:/")), "{:?}", answer.selectors);
    assert_eq!(answer.granted.iter().map(|one| one.entry_id.as_str()).collect::<Vec<_>>(), [id]);
    let nobody = explain(i32::MAX).await.expect_err("no such process");
    assert!(nobody.message().contains("process"), "{nobody:?}");
    Ok(())
}

/// Who signed the first SVID of the answer.
fn issuer(answer: &X509svidResponse) -> anyhow::Result<String> {
    issuer_of(&answer.svids[0].x509_svid)
}

/// A compromise, from the workload's side: the stream never ends, each message is whole, and within moments what the tainted authority
/// signed is replaced; then the authority is taken out, and everybody still talks to everybody.
#[tokio::test(flavor = "multi_thread")]
async fn fault_021_a_taint_replaces_what_workloads_hold_and_a_revocation_then_hurts_nobody() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    mesh.a.entry("n1", "checkout").await?;
    let sidecar = mesh.a.sidecar("n1", json!([])).await?;
    let mut stream = sidecar.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
    let mut next =
        async || soon("an SVID", stream.message()).await??.ok_or_else(|| anyhow::anyhow!("the stream ended"));
    let old = issuer(&next().await?)?;
    let (new, before) = mesh.a.next_authority().await?;
    assert_eq!(before, old);
    mesh.a.change_authority(Step::Taint, &old).await?;
    let began = tokio::time::Instant::now();
    let mut answer = next().await?;
    while issuer(&answer)? != new {
        assert_eq!(issuer(&answer)?, old, "what is served meanwhile is good");
        answer = next().await?; // the bundle that gained an authority
    }
    println!("replaced within {:?} of the taint", began.elapsed());

    mesh.a.change_authority(Step::Revoke, &old).await?;
    until("a bundle of one authority", async || {
        let served = first(&sidecar).await.ok()?;
        let ends = mesh.a.bundle("").await.ok()?.authorities.len();
        (ends == 1 && served.svids[0].bundle.len() < answer.svids[0].bundle.len()).then_some(())
    })
    .await?;
    // Both ends have left the old authority: what is new still reaches the node.
    mesh.a.entry("n1", "late").await?;
    until("a second SVID", async || (first(&sidecar).await.ok()?.svids.len() == 2).then_some(())).await?;
    assert_eq!(sidecar.counted("symbolon_sidecar_svids_expired", &[]), 0);
    Ok(())
}
