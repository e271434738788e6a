//! Item 3: joining, and who may be whom on a node.

use serde_json::json;
use symbolon_kit::spiffe::svid::new_key;
use symbolon_proto::attest::attest_once;
use symbolon_proto::node as wire;
use symbolon_proto::workload::X509svidRequest;
use symbolon_tests::mesh::Mesh;
use symbolon_tests::mesh::node::Node;
use symbolon_tests::mesh::proxy::{CDS, RTDS};
use symbolon_tests::mesh::sidecar::with_header;
use tokio_stream::StreamExt as _;
use tonic::Code;

use envoy_types::pb::envoy::config::core::v3::Node as EnvoyNode;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::shop::{LOCAL, caller, weights};

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_that_use_one_token_at_once_one_is_attested() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let token = mesh.a.token("n1").await?;
    let mut racing = Vec::new();
    for _ in 0..10 {
        let node = Node::anonymous(&mesh.a).await?;
        for _ in 0..10 {
            let (mut api, token, (_, csr)) = (node.api(), token.clone(), new_key()?);
            racing.push(tokio::spawn(async move {
                let asked = wire::AttestRequest::join_token(token, csr);
                attest_once(&mut api, asked).await.map_err(|status| status.code())
            }));
        }
    }
    let (mut attested, mut limited) = (0, 0);
    for one in racing {
        match one.await? {
            Ok(_) => attested += 1,
            // After many wrong attempts from one address the next ones are not even looked at (bad input 146).
            Err(Code::ResourceExhausted) => limited += 1,
            Err(code) => assert_eq!(code, Code::Unauthenticated),
        }
    }
    assert_eq!(attested, 1);
    assert_eq!(mesh.a.counted("symbolon_node_api_refusals", &[("reason", "unknown_token")]), 99 - limited);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_only_what_its_process_may_be_here() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    mesh.a.entry("n1", "checkout").await?;
    mesh.a.entry("n2", "payments").await?;
    let sidecar = mesh.a.sidecar("n1", caller(&mesh.a, "checkout", &[LOCAL])).await?;
    // Registered, but for another node; and nobody's at all.
    for (account, count) in [("payments", 1), ("nobody", 2)] {
        let refused = sidecar.proxy(&mesh.a.settings.id(account)).await?;
        let held = refused.until("a refusal", |held| held.ended.is_some()).await?;
        assert_eq!(held.ended.map(|status| status.code()), Some(Code::PermissionDenied));
        drop(refused);
        assert!(sidecar.counted("symbolon_sidecar_relay_refused", &[("reason", "not_yours")]) >= count);
        let load = sidecar.load(&mesh.a.settings.id(account)).await;
        assert!(load.is_err(), "nor may it report load");
    }
    // A sidecar that lies is stopped by the control plane.
    let node = mesh.a.node("n3").await?;
    let id = mesh.a.settings.id("payments");
    let request = DeltaDiscoveryRequest {
        node: Some(EnvoyNode { id, cluster: "n3".into(), ..EnvoyNode::default() }),
        type_url: CDS.into(),
        ..DeltaDiscoveryRequest::default()
    };
    let asking = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let mut answers = node.ads().delta_aggregated_resources(asking).await?.into_inner();
    let refused = answers.message().await.expect_err("it is another node's");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(mesh.a.counted("symbolon_xds_refusals", &[("reason", "not_its_workload")]), 1);
    // Nobody else was disturbed.
    let own = sidecar.proxy(&mesh.a.settings.id("checkout")).await?;
    own.until("its own", |held| !held.names(CDS).is_empty()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_to_runtime_is_answered_at_once() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    mesh.a.entry("n1", "checkout").await?;
    let sidecar = mesh.a.sidecar("n1", caller(&mesh.a, "checkout", &[LOCAL])).await?;
    let proxy = sidecar.proxy(&mesh.a.settings.id("checkout")).await?;
    let is_answered = |held: &symbolon_tests::mesh::proxy::Held| held.answers.iter().any(|one| one.type_url == RTDS);
    let held = proxy.until("an answer", is_answered).await?;
    let answer = held.answers.iter().find(|one| one.type_url == RTDS);
    assert!(answer.is_some_and(|one| one.removed == ["rtds"] && one.names.is_empty()), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_it_serves_again_what_it_had_without_a_token_and_without_its_control_plane() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().start().await?;
    mesh.a.entry("n1", "checkout").await?;
    let mut sidecar = mesh.a.sidecar("n1", caller(&mesh.a, "checkout", &[LOCAL])).await?;
    mesh.a.kill().await;
    sidecar.kill().await;
    sidecar.start_again().await?;
    let fetch = async || -> anyhow::Result<String> {
        let mut answers = sidecar.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
        Ok(answers.message().await?.map(|answer| answer.svids[0].spiffe_id.clone()).unwrap_or_default())
    };
    let served = symbolon_tests::mesh::until("its SVID", async || fetch().await.ok()).await?;
    assert_eq!(served, mesh.a.settings.id("checkout"));
    // The stream waits, and is answered when the control plane is there again.
    let proxy = sidecar.proxy(&mesh.a.settings.id("checkout")).await?;
    mesh.a.start_again().await?;
    proxy.until("its configuration", |held| held.weights(LOCAL) == weights(0)).await?;
    assert_eq!(proxy.held().streams, 1, "held, not refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_selector_narrows_who_is_a_workload() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    for account in ["checkout", "ledger"] {
        mesh.a.entry("n1", account).await?;
    }
    // This process matches both entries; the file says that another program is the ledger.
    let workloads = json!([
        {"name": "checkout", "identity": mesh.a.settings.id("checkout")},
        {"name": "ledger", "identity": mesh.a.settings.id("ledger"), "selectors": ["unix:path:/usr/bin/ledger"]},
    ]);
    let sidecar = mesh.a.sidecar("n1", workloads).await?;
    let mut answers = sidecar.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
    let answer = answers.message().await?.expect("an answer");
    let ids: Vec<_> = answer.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(ids, [mesh.a.settings.id("checkout")]);
    let refused = sidecar.proxy(&mesh.a.settings.id("ledger")).await?;
    let held = refused.until("a refusal", |held| held.ended.is_some()).await?;
    assert_eq!(held.ended.map(|status| status.code()), Some(Code::PermissionDenied));
    Ok(())
}
