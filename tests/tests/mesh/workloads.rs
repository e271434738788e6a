//! What workloads get from their node's sidecar, by the sockets, with a real control plane behind it.

use std::collections::BTreeSet;

use serde_json::json;
use symbolon_proto::admin as api;
use symbolon_proto::workload::{X509BundlesRequest, X509svidRequest, X509svidResponse};
use symbolon_tests::mesh::plane::Plane;
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
    const WORKLOADS: usize = 120;
    let mesh = Mesh::builder().start().await?;
    for at in 0..WORKLOADS {
        mesh.a.entry("n1", &format!("w{at}")).await?;
    }
    let mut sidecar = mesh.a.sidecar("n1", json!([])).await?;
    let keys =
        |answer: X509svidResponse| answer.svids.into_iter().map(|svid| svid.x509_svid_key).collect::<BTreeSet<_>>();
    let before = keys(first(&sidecar).await?);
    assert_eq!(before.len(), WORKLOADS);
    sidecar.kill().await;
    sidecar.start_again().await?;
    assert_eq!(keys(first(&sidecar).await?), before);
    sidecar.ready().await?;
    assert_eq!(sidecar.counted("symbolon_sidecar_svids_minted", &[]), 0);
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
