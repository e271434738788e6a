//! What workloads get from their node's sidecar, by the sockets, with a real control plane behind it.

use std::collections::BTreeSet;

use serde_json::json;
use symbolon_proto::admin as api;
use symbolon_proto::admin::change_authority_request::Step;
use symbolon_proto::workload::{X509BundlesRequest, X509svidRequest, X509svidResponse};
use symbolon_tests::mesh::plane::Plane;
use symbolon_tests::mesh::sidecar::{Sidecar, with_header};
use symbolon_tests::mesh::{Mesh, soon, until};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

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

/// Subject key identifiers, in hex, of the X.509 authorities in this state.
async fn authorities(plane: &Plane, state: &str) -> anyhow::Result<Vec<String>> {
    let all = plane.admin().list_authorities(api::ListAuthoritiesRequest {}).await?.into_inner().authorities;
    Ok(all.into_iter().filter(|one| one.kind == "x509" && one.state == state).map(|one| one.id).collect())
}

async fn change(plane: &Plane, step: Step, id: &str) -> anyhow::Result<()> {
    // By force: the waits are for consumers that fetch seldom, and there are none here.
    let force = !matches!(step, Step::Prepare);
    let asked = api::ChangeAuthorityRequest { kind: "x509".into(), step: step.into(), id: id.into(), force };
    plane.admin().change_authority(asked).await?;
    Ok(())
}

/// Who signed the first SVID of the answer, as its authority key identifier.
fn issuer(answer: &X509svidResponse) -> anyhow::Result<String> {
    let (_, leaf) = X509Certificate::from_der(&answer.svids[0].x509_svid)?;
    let id = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => {
            id.key_identifier.as_ref().map(|id| symbolon_kit::octets::hex(id.0))
        }
        _ => None,
    });
    Ok(id.unwrap_or_default())
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
    assert_eq!(authorities(&mesh.a, "active").await?, [old.clone()]);

    change(&mesh.a, Step::Prepare, "").await?;
    let new = until("a published authority", async || authorities(&mesh.a, "published").await.ok()?.pop()).await?;
    change(&mesh.a, Step::Activate, &new).await?;
    change(&mesh.a, Step::Taint, &old).await?;
    let began = tokio::time::Instant::now();
    let mut answer = next().await?;
    while issuer(&answer)? != new {
        assert_eq!(issuer(&answer)?, old, "what is served meanwhile is good");
        answer = next().await?; // the bundle that gained an authority
    }
    println!("replaced within {:?} of the taint", began.elapsed());

    change(&mesh.a, Step::Revoke, &old).await?;
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
