//! Item 1: killed at any time, a control plane has lost nothing that it acknowledged.

use std::os::unix::fs::PermissionsExt as _;

use symbolon_kit::spiffe::svid::new_key;
use symbolon_proto::admin as api;
use symbolon_proto::attest::attest_once;
use symbolon_proto::node as wire;
use symbolon_tests::mesh::Mesh;
use symbolon_tests::mesh::node::Node;
use symbolon_tests::mesh::plane::Plane;
use tonic::Code;

use super::shop::{LOCAL, Shop, offer};

async fn attest(plane: &Plane, token: &str) -> anyhow::Result<Result<String, Code>> {
    let (_, csr) = new_key()?;
    let asked = wire::AttestRequest::join_token(token, csr);
    let answer = attest_once(&mut Node::anonymous(plane).await?.api(), asked).await;
    Ok(answer.map(|answer| answer.spiffe_id).map_err(|status| status.code()))
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_entries_that_were_acknowledged_are_there_after_a_kill() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().start().await?;
    let (spent, kept) = (mesh.a.token("n1").await?, mesh.a.token("n2").await?);
    assert_eq!(attest(&mesh.a, &spent).await?, Ok("spiffe://a.example/symbolon/node/n1".into()));
    let entry = mesh.a.entry("n1", "payments").await?;
    let bundle = mesh.a.bundle("").await?;
    mesh.a.restart().await?;
    assert_eq!(attest(&mesh.a, &spent).await?, Err(Code::Unauthenticated), "spent is spent");
    assert_eq!(attest(&mesh.a, &kept).await?, Ok("spiffe://a.example/symbolon/node/n2".into()));
    assert_eq!(attest(&mesh.a, &kept).await?, Err(Code::Unauthenticated));
    let identities = mesh.a.admin().list_identities(api::ListIdentitiesRequest {}).await?.into_inner().identities;
    assert_eq!(identities.iter().map(|one| one.entry_id.as_str()).collect::<Vec<_>>(), [entry]);
    assert_eq!(mesh.a.bundle("").await?, bundle, "the same authority");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_each_of_many_acknowledgements() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().start().await?;
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        // Some are on their way when the end comes: those may or may not be there.
        let (admin, id) = (mesh.a.admin(), mesh.a.settings.id(&format!("flying-{round}")));
        let flying = tokio::spawn(async move {
            let mut admin = admin;
            let selectors = vec!["unix:uid:1".into()];
            let identity = api::Identity { spiffe_id: id, node: "n1".into(), selectors, ..Default::default() };
            let asked = api::CreateIdentityRequest { identity: Some(identity) };
            admin.create_identity(asked).await.map(|created| created.into_inner().entry_id)
        });
        acknowledged.push(mesh.a.entry("n1", &format!("kept-{round}")).await?);
        mesh.a.restart().await?;
        if let Ok(Ok(entry)) = flying.await {
            acknowledged.push(entry);
        }
        let all = mesh.a.admin().list_identities(api::ListIdentitiesRequest {}).await?.into_inner().identities;
        let lost: Vec<_> = acknowledged.iter().filter(|id| !all.iter().any(|one| one.entry_id == **id)).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?} of {acknowledged:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_peers_imports_and_rollouts_are_in_the_first_answers_after_a_kill() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    shop.scale_out().await?;
    let mesh = &mut shop.mesh;
    mesh.a.imports(LOCAL, &["127.0.2.1:15006"]).await?;
    let pause = api::CommandRolloutRequest {
        service: LOCAL.into(),
        peer: "b".into(),
        command: api::command_rollout_request::Command::Pause.into(),
        reason: "a person looks".into(),
        ..Default::default()
    };
    let paused = mesh.a.admin().command_rollout(pause).await?.into_inner();
    let services = mesh.a.services().await?;
    let of_b = mesh.a.bundle("b.example").await?;
    // Both, so that nobody can tell A again what it has forgotten.
    mesh.b_mut().kill().await;
    mesh.a.restart().await?;
    assert_eq!(mesh.a.services().await?, services);
    assert_eq!(mesh.a.bundle("b.example").await?, of_b);
    assert_ne!(mesh.a.peer().await?.state, "PENDING", "trust was exchanged");
    let rollout = mesh.a.rollout().await?;
    let known = rollout.history.iter().take(paused.history.len());
    assert!(known.eq(&paused.history), "{rollout:#?}");
    mesh.b_mut().start_again().await?;
    mesh.a.rollout_is("paused still", |now| now.phase == "Paused" && now.weights == paused.weights).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_a_registration_leaves_the_old_one_or_the_new_one() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().start().await?;
    let mut talk = offer(&mesh.a, "n1", LOCAL, &["127.0.1.1:15006"]).await?;
    let next = ["127.0.1.2:15006", "127.0.1.3:15006"];
    let id = mesh.a.settings.id("payments");
    let workloads = next.iter().enumerate();
    let workloads =
        workloads.map(|(at, address)| symbolon_tests::mesh::node::workload(&format!("w-{at}"), LOCAL, &id, address));
    let workloads: Vec<_> = workloads.collect();
    let registering = tokio::spawn(async move { talk.register(2, workloads).await.is_ok() });
    mesh.a.kill().await;
    let acknowledged = registering.await?;
    mesh.a.start_again().await?;
    let services = mesh.a.services().await?;
    let endpoints = services.iter().filter(|one| one.name == LOCAL).flat_map(|one| &one.endpoints);
    let held: Vec<_> = endpoints.map(|endpoint| endpoint.address.as_str()).collect();
    assert!(held == next || (held == ["127.0.1.1:15006"] && !acknowledged), "{held:?}, acknowledged: {acknowledged}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_on_disk_is_its_owners_alone() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let mut folders = vec![mesh.a.folder().join("data")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(std::fs::metadata(&folder)?.permissions().mode() & 0o777, 0o700, "{}", folder.display());
        for file in std::fs::read_dir(&folder)? {
            let file = file?;
            if file.file_type()?.is_dir() {
                folders.push(file.path());
            } else if file.file_name() != "addresses.json" {
                files += 1;
                assert_eq!(file.metadata()?.permissions().mode() & 0o777, 0o600, "{}", file.path().display());
            }
        }
    }
    assert!(files >= 2, "the store and a key at least");
    Ok(())
}
