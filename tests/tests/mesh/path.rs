//! Item 4: what the control plane's file says is what Envoy gets, and nothing else.

use serde_json::json;
use symbolon_tests::mesh::Mesh;
use symbolon_tests::mesh::proxy::{CDS, LDS};

use super::shop::{LOCAL, REMOTE, Shop, caller, offer, weights};

#[tokio::test(flavor = "multi_thread")]
async fn only_its_upstreams_are_programmed_into_a_proxy() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().linked().await?;
    offer(mesh.b(), "n1", "ledger.shop", &["127.0.2.9:15006"]).await?;
    for account in ["checkout", "audit"] {
        mesh.a.entry("n1", account).await?;
    }
    let callers = |audit: &[&str]| {
        let mut both = caller(&mesh.a, "checkout", &[LOCAL]);
        both.as_array_mut()
            .expect("a list")
            .extend(caller(&mesh.a, "audit", audit).as_array().cloned().into_iter().flatten());
        both[1]["outbound"] = json!("127.0.0.2:15001");
        both
    };
    let mut sidecar = mesh.a.sidecar("n1", callers(&["ledger.shop.b"])).await?;
    let checkout = sidecar.proxy(&mesh.a.settings.id("checkout")).await?;
    let audit = sidecar.proxy(&mesh.a.settings.id("audit")).await?;
    let held = checkout.until("both arms of payments", |held| held.weights(LOCAL) == weights(0)).await?;
    assert_eq!(held.names(CDS), [LOCAL, REMOTE]);
    assert_eq!(held.names(LDS), ["outbound|127.0.0.1:15001"]);
    let ledger = [(0, "127.0.2.9:15006".to_owned())];
    let held = audit.until("the ledger", |held| held.endpoints("ledger.shop.b") == ledger).await?;
    assert_eq!(held.names(CDS), ["ledger.shop.b"], "a name that is not federated keeps its own cluster");
    assert_eq!(held.weights("ledger.shop.b"), [], "and is not split");
    assert_eq!(held.names(LDS), ["outbound|127.0.0.2:15001"]);
    // The file is watched: another upstream, without a restart of anything.
    let next = callers(&["ledger.shop.b", LOCAL]);
    sidecar.set_workloads(next)?;
    audit.until("payments too", |held| held.weights(LOCAL) == weights(0)).await?;
    assert_eq!(audit.held().streams, 1);
    mesh.b_mut().kill().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_arm_carries_the_other_at_the_next_priority() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    shop.scale_out().await?;
    let (ours, theirs) = ("127.0.1.1:15006".to_owned(), "127.0.2.1:15006".to_owned());
    let both = [(0, ours.clone()), (1, theirs.clone())];
    let held = shop.proxy.until("both arms in one", |held| held.endpoints(LOCAL) == both).await?;
    assert_eq!(held.endpoints(REMOTE), [(0, theirs), (1, ours)]);
    Ok(())
}
