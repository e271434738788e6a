//! Registration, from the operator's word to the workload.

use std::time::Duration;

use serde_json::json;
use symbolon_proto::admin as api;
use symbolon_proto::workload::{X509svidRequest, X509svidResponse};
use symbolon_tests::mesh::propagation::{self, apply, identity};
use symbolon_tests::mesh::sidecar::{Sidecar, with_header};
use symbolon_tests::mesh::{Mesh, soon, until};
use tonic::{Code, Status, Streaming};

/// A stream with its first answer.
async fn stream(sidecar: &Sidecar) -> anyhow::Result<(Streaming<X509svidResponse>, X509svidResponse)> {
    until("an SVID", async || {
        let mut answers =
            sidecar.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await.ok()?.into_inner();
        let first = answers.message().await.ok().flatten()?;
        Some((answers, first))
    })
    .await
}

/// The next answers until one is `enough`.
async fn next_until(
    answers: &mut Streaming<X509svidResponse>,
    enough: impl Fn(&X509svidResponse) -> bool,
) -> anyhow::Result<X509svidResponse> {
    loop {
        let answer = soon("an answer", answers.message()).await??.expect("the stream goes on");
        if enough(&answer) {
            return Ok(answer);
        }
    }
}

fn ids(answer: &X509svidResponse) -> Vec<&str> {
    answer.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

fn federated(answer: &X509svidResponse) -> Vec<&str> {
    answer.federated_bundles.keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_a_waiting_workload_at_once() -> anyhow::Result<()> {
    let took = propagation::entry_to_workload(300, 20).await?;
    println!("entry change to workload, 300 entries: p50 {:?}, p99 {:?}", took[9], took[19]);
    assert!(took[9] < Duration::from_secs(1), "pushed, not polled: {took:?}"); // the bench has the target
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_gets_the_bundles_that_its_entry_federates_with() -> anyhow::Result<()> {
    let mesh = Mesh::builder().linked().await?;
    let plain = identity(&mesh.a, "payments", &mesh.a.own_uid());
    let says = |said: api::FederatesWith| api::Identity { federates_with: Some(said), ..plain.clone() };
    apply(&mesh.a, vec![plain.clone()]).await?;
    let sidecar = mesh.a.sidecar("n1", json!([])).await?;
    let (mut answers, _) = stream(&sidecar).await?;
    drop(answers);
    // Unset: every relationship's.
    (answers, _) = until("both bundles", async || {
        stream(&sidecar).await.ok().filter(|(_, first)| federated(first) == ["spiffe://b.example"])
    })
    .await?;
    let none = api::FederatesWith::default();
    apply(&mesh.a, vec![says(none.clone())]).await?;
    next_until(&mut answers, |answer| federated(answer).is_empty()).await?;
    apply(&mesh.a, vec![says(api::FederatesWith { trust_domains: vec!["b.example".into()], ..none.clone() })]).await?;
    next_until(&mut answers, |answer| federated(answer) == ["spiffe://b.example"]).await?;
    let but_b = api::FederatesWith { all: true, except: vec!["b.example".into()], ..none };
    apply(&mesh.a, vec![says(but_b)]).await?;
    next_until(&mut answers, |answer| federated(answer).is_empty()).await?;
    apply(&mesh.a, vec![plain.clone()]).await?;
    next_until(&mut answers, |answer| federated(answer) == ["spiffe://b.example"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_or_expired_registration_ends_what_its_workload_gets() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let (uid, now) = (mesh.a.own_uid(), symbolon_kit::clock::unix_secs(symbolon_kit::clock::Clock::system().now()));
    let stays = identity(&mesh.a, "stays", &uid);
    let fleeting = api::Identity { expires_at: now + 4, ..identity(&mesh.a, "fleeting", &uid) };
    let made = apply(&mesh.a, vec![stays, fleeting]).await?;
    let sidecar = mesh.a.sidecar("n1", json!([])).await?;
    let (mut answers, first) = stream(&sidecar).await?;
    let (stays, fleeting) = (mesh.a.settings.id("stays"), mesh.a.settings.id("fleeting"));
    if ids(&first).contains(&&*fleeting) {
        next_until(&mut answers, |answer| ids(answer) == [&*stays]).await?; // by itself
    }
    let listed = until("the expired one is deleted", async || {
        let listed = mesh.a.admin().list_identities(api::ListIdentitiesRequest {}).await.ok()?.into_inner();
        (listed.identities.len() == 1).then_some(listed)
    })
    .await?;
    assert_eq!(listed.identities[0].spiffe_id, stays);
    let entry = made.created.iter().find(|one| one.spiffe_id == stays).expect("made");
    mesh.a.admin().delete_identity(api::DeleteIdentityRequest { entry_id: entry.entry_id.clone() }).await?;
    let ended: Status = loop {
        match soon("the end", answers.message()).await? {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("it ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alias_gives_one_entry_to_every_node_that_it_names() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let alias = api::Identity {
        spiffe_id: mesh.a.settings.id("web-nodes"),
        node: String::new(),
        node_alias: true,
        ..identity(&mesh.a, "", "join_token:node:n1")
    };
    let parent = alias.spiffe_id.clone();
    let below = api::Identity { node: String::new(), parent, ..identity(&mesh.a, "payments", &mesh.a.own_uid()) };
    apply(&mesh.a, vec![alias, below]).await?;
    let named = mesh.a.sidecar("n1", json!([])).await?;
    let (_, first) = stream(&named).await?;
    assert_eq!(ids(&first), [mesh.a.settings.id("payments")]);
    let other = mesh.a.sidecar("n2", json!([])).await?;
    let refused = async || {
        let mut answers = other.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
        answers.message().await
    };
    let refused = until("its entries are there", async || refused().await.err()).await?;
    assert_eq!(refused.code(), Code::PermissionDenied);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_asks_the_sidecar_who_a_process_is() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let uid = mesh.a.own_uid();
    let wants_more = api::Identity {
        selectors: vec![uid.clone(), "unix:path:/not/this".into()],
        ..identity(&mesh.a, "ledger", &uid)
    };
    apply(&mesh.a, vec![identity(&mesh.a, "payments", &uid), wants_more]).await?;
    let _sidecar = mesh.a.sidecar("n1", json!([])).await?;
    let explain = async |pid: i32| {
        let asked = api::ExplainIdentityRequest { node: "n1".into(), pid, selectors: vec![] };
        mesh.a.admin().explain_identity(asked).await.map(tonic::Response::into_inner)
    };
    let told = until("an answer", async || explain(std::process::id().try_into().ok()?).await.ok()).await?;
    assert_eq!(told.granted[0].spiffe_id, mesh.a.settings.id("payments"));
    assert_eq!(told.nearest[0].missing, ["unix:path:/not/this"]);
    assert!(told.nearest[0].why.starts_with("the caller has unix:path:/"), "{}", told.nearest[0].why);
    assert!(told.selectors.contains(&uid), "{:?}", told.selectors);
    let nobody = explain(i32::MAX).await.expect_err("there is no such process");
    assert_eq!(nobody.code(), Code::NotFound, "{nobody}");
    Ok(())
}
