//! Item 5: what B says and A takes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use symbolon_proto::admin as api;
use symbolon_tests::mesh::node::workload;
use symbolon_tests::mesh::{Mesh, until};

use super::shop::{LOCAL, Shop, impatient, offer, offers};

/// B says more than A grants: each is refused by its own reason, counted on both sides, and nothing of it is imported.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_refused_and_not_imported() -> anyhow::Result<()> {
    let grants = json!({
        "identities": ["spiffe://b.example/ns/shop/sa/payments"], "names": ["payments.shop", "refunds.shop"],
        "addresses": ["127.0.2.0/24"],
    });
    let exported = |name: &str| json!({"name": name, "exportTo": ["a"]});
    let builder = Mesh::builder().a(|a| a.grants = grants).b(|b| {
        b.services = ["payments.shop", "ledger.shop", "refunds.shop"].map(exported).into_iter().collect();
    });
    let mesh = builder.linked().await?;
    let b = mesh.b();
    offer(b, "n1", LOCAL, &["127.0.2.1:15006"]).await?;
    mesh.a.imports(LOCAL, &["127.0.2.1:15006"]).await?;
    // A name that is not granted.
    offer(b, "n2", "ledger.shop", &["127.0.2.2:15006"]).await?;
    // An identity that is not granted, of a name that is.
    offer(b, "n3", "refunds.shop", &["127.0.2.3:15006"]).await?;
    let refusals = |wanted: &'static [&'static str]| {
        let a = &mesh.a;
        until("the refusals", async move || {
            let known: BTreeSet<_> = a.peer().await.ok()?.refusals.into_keys().collect();
            wanted.iter().all(|reason| known.contains(*reason)).then_some(())
        })
    };
    refusals(&["name_not_granted", "identity_not_granted"]).await?;
    // An address that is not granted, beside one that is: what was good before stays in force.
    offer(b, "n4", LOCAL, &["10.9.9.9:15006"]).await?;
    refusals(&["address_not_granted"]).await?;
    assert_eq!(mesh.a.imported(LOCAL).await?, ["127.0.2.1:15006"]);
    assert_eq!(mesh.a.imported("ledger.shop").await?, [""; 0]);
    assert_eq!(mesh.a.imported("refunds.shop").await?, [""; 0]);
    assert_eq!(mesh.a.peer().await?.state, "LIVE", "a refusal concerns one resource");
    let metrics = symbolon_tests::mesh::wire::get(mesh.a.addresses().http, "/metrics").await?;
    for reason in ["name_not_granted", "identity_not_granted", "address_not_granted"] {
        let counted = |line: &str| line.starts_with("symbolon_federation_refused") && line.contains(reason);
        assert!(metrics.lines().any(counted), "{reason}: {metrics}");
    }
    // B hears of it.
    let nacked = async || (b.peer().await.ok()?.last_error.contains("granted")).then_some(());
    let counted = async || {
        let metrics = symbolon_tests::mesh::wire::get(b.addresses().http, "/metrics").await.ok()?;
        metrics
            .lines()
            .any(|line| line.starts_with("symbolon_federation_nacks") && line.contains("granted"))
            .then_some(())
    };
    tokio::select! { heard = until("B hears", nacked) => heard?, heard = until("B counts", counted) => heard? }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_trust_domain_is_refused_and_nothing_is_imported() -> anyhow::Result<()> {
    // A expects c.example under the name b.
    let builder = Mesh::builder().two().a(|a| {
        a.peer_domain = "c.example".into();
        a.grants["identities"] = json!(["spiffe://c.example/ns/shop/**"]);
    });
    let mesh = builder.start().await?;
    offer(mesh.b(), "n1", LOCAL, &["127.0.2.1:15006"]).await?;
    let invite = api::InvitePeerRequest { peer: "b".into(), ttl_seconds: 60 };
    let token = mesh.a.admin().invite_peer(invite).await?.into_inner().token;
    let accept = api::AcceptPeerRequest { peer: "a".into(), token };
    let refused = mesh.b().admin().accept_peer(accept).await.expect_err("it is not c.example");
    assert!(refused.message().contains("c.example") || refused.message().contains("trust domain"), "{refused}");
    let metrics = symbolon_tests::mesh::wire::get(mesh.a.addresses().http, "/metrics").await?;
    assert!(metrics.contains("wrong_trust_domain"), "{metrics}");
    assert_eq!(mesh.a.imported(LOCAL).await?, [""; 0]);
    assert_ne!(mesh.a.peer().await?.state, "LIVE");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_withdraw_at_once_and_silence_does_not() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().a(|a| a.federation = impatient()).linked().await?;
    let mut talk = offer(mesh.b(), "n1", LOCAL, &["127.0.2.1:15006", "127.0.2.2:15006"]).await?;
    mesh.a.imports(LOCAL, &["127.0.2.1:15006", "127.0.2.2:15006"]).await?;
    // One of two goes, then all: what is said is done.
    offers(mesh.b(), &mut talk, 2, LOCAL, &["127.0.2.2:15006"]).await?;
    mesh.a.imports(LOCAL, &["127.0.2.2:15006"]).await?;
    offers(mesh.b(), &mut talk, 3, LOCAL, &[]).await?;
    mesh.a.imports(LOCAL, &[]).await?;
    offers(mesh.b(), &mut talk, 4, LOCAL, &["127.0.2.3:15006"]).await?;
    mesh.a.imports(LOCAL, &["127.0.2.3:15006"]).await?;
    // Now it dies: A looks on, through every state before EXPIRED.
    mesh.b_mut().kill().await;
    for state in ["SUSPECT", "STALE"] {
        mesh.a.peer_is(state).await?;
        assert_eq!(mesh.a.imported(LOCAL).await?, ["127.0.2.3:15006"], "{state}");
    }
    mesh.b_mut().start_again().await?;
    mesh.a.peer_is("LIVE").await?;
    assert_eq!(mesh.a.imported(LOCAL).await?, ["127.0.2.3:15006"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_taken_back_is_gone_at_the_peer() -> anyhow::Result<()> {
    // B forgets with the restart that it ever exported it, so it cannot say that it no longer does: A holds what vanished for a while.
    let hold = |config: &mut controlplane::app::Config| config.timing.hold = Duration::from_millis(300);
    let mut mesh = Mesh::builder().a(|a| a.tweak = hold).linked().await?;
    offer(mesh.b(), "n1", "ledger.shop", &["127.0.2.9:15006"]).await?;
    mesh.a.imports("ledger.shop", &["127.0.2.9:15006"]).await?;
    mesh.b_mut().settings.services = json!([{"name": "payments.shop", "exportTo": ["a"]}, {"name": "ledger.shop"}]);
    mesh.b_mut().restart().await?;
    mesh.a.imports("ledger.shop", &[]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_killed_the_link_resumes_and_changes_flow_on() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().linked().await?;
    let mut talk = offer(mesh.b(), "n1", LOCAL, &["127.0.2.1:15006"]).await?;
    mesh.a.imports(LOCAL, &["127.0.2.1:15006"]).await?;
    mesh.a.kill().await;
    offers(mesh.b(), &mut talk, 2, LOCAL, &["127.0.2.1:15006", "127.0.2.2:15006"]).await?;
    mesh.a.start_again().await?;
    mesh.a.imports(LOCAL, &["127.0.2.1:15006", "127.0.2.2:15006"]).await?;
    mesh.b_mut().restart().await?;
    let id = mesh.b().settings.id("payments");
    let mut again = mesh.b().node("n1").await?.talk().await?;
    again.register(1, vec![workload("w-9", LOCAL, &id, "127.0.2.9:15006")]).await?;
    mesh.a.imports(LOCAL, &["127.0.2.9:15006"]).await?;
    mesh.a.peer_is("LIVE").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_reach_the_publisher_up_to_programmed() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    let before = shop.mesh.b().peer().await?.head_seq;
    shop.scale_out().await?;
    shop.proxy.until("B's endpoint", |held| !held.endpoints("payments.shop.b").is_empty()).await?;
    let b = shop.mesh.b();
    until("B hears that A's proxy has it", async || {
        let peer = b.peer().await.ok()?;
        (peer.head_seq > before && peer.programmed_seq == peer.head_seq).then_some(())
    })
    .await
}
