//! Item 6: what a client of the stream sees.

use symbolon_tests::mesh::Mesh;
use symbolon_tests::mesh::node::workload;
use symbolon_tests::mesh::proxy::{CDS, EDS, RDS, RTDS};

use super::shop::{LOCAL, REMOTE, Shop, offers};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_sends_no_resource_to_a_client_that_has_them_all() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    shop.scale_out().await?;
    shop.proxy.until("B's endpoint", |held| held.endpoints(REMOTE).contains(&(0, "127.0.2.1:15006".into()))).await?;
    let before = shop.proxy.held();
    shop.mesh.a.restart().await?;
    shop.proxy.until("a new stream", |held| held.streams > before.streams).await?;
    // What follows is the proof that everything before it was answered.
    offers(shop.mesh.b(), &mut shop.payments_b, 3, LOCAL, &["127.0.2.1:15006", "127.0.2.2:15006"]).await?;
    let second = (0, "127.0.2.2:15006".to_owned());
    let after = shop.proxy.until("B's second", |held| held.endpoints(REMOTE).contains(&second)).await?;
    // CDS and LDS of the new stream were asked for before, so an answer to either would be there by now.
    let sent: Vec<_> =
        after.answers.iter().flat_map(|answer| answer.names.iter().map(|name| (&*answer.type_url, &**name))).collect();
    assert!(sent.iter().all(|(kind, _)| *kind == EDS || *kind == RDS), "{sent:?}");
    assert!(sent.contains(&(EDS, REMOTE)), "{sent:?}");
    let removed: Vec<_> =
        after.answers.iter().filter(|answer| answer.type_url != RTDS).flat_map(|answer| &answer.removed).collect();
    assert!(removed.is_empty(), "{removed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_client_is_sent_nothing_but_what_changes() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    shop.scale_out().await?;
    shop.proxy.until("B's endpoint", |held| held.endpoints(REMOTE).contains(&(0, "127.0.2.1:15006".into()))).await?;
    let (before, streams) = (shop.proxy.held().resources, shop.proxy.held().streams);
    shop.mesh.a.restart().await?;
    shop.proxy.until("a new stream", |held| held.streams > streams).await?;
    // Another upstream of the same workload: one cluster, its endpoints, the route; nothing of what is held already.
    let more = super::shop::caller(&shop.mesh.a, "checkout", &[LOCAL, "ledger.shop.b"]);
    super::shop::offer(shop.mesh.b(), "n9", "ledger.shop", &["127.0.2.9:15006"]).await?;
    shop.checkout.set_workloads(more)?;
    let has = |held: &symbolon_tests::mesh::proxy::Held| !held.endpoints("ledger.shop.b").is_empty();
    let after = shop.proxy.until("the ledger", has).await?;
    for (kind, wanted) in [(CDS, vec!["ledger.shop.b"]), (EDS, vec!["ledger.shop.b"])] {
        let sent = after.answers.iter().filter(|answer| answer.type_url == kind).flat_map(|answer| &answer.names);
        let sent: std::collections::BTreeSet<_> = sent.map(String::as_str).collect();
        assert_eq!(sent.into_iter().collect::<Vec<_>>(), wanted, "{kind}: {:?}", after.answers);
    }
    assert_eq!(after.resources[EDS][REMOTE], before[EDS][REMOTE], "byte for byte");
    Ok(())
}

/// Without its endpoints sent again, Envoy warms a changed cluster for 15 s (xDS checklist 21 and 35).
#[tokio::test(flavor = "multi_thread")]
async fn xds_21_35_a_changed_cluster_is_followed_by_its_endpoints() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    shop.scale_out().await?;
    shop.proxy.until("B's endpoint", |held| held.endpoints(REMOTE).contains(&(0, "127.0.2.1:15006".into()))).await?;
    let version = |held: &symbolon_tests::mesh::proxy::Held| held.resources[CDS][LOCAL].version.clone();
    let (before, answers) = (version(&shop.proxy.held()), shop.proxy.held().answers.len());
    // Another identity serves payments: the names that the cluster's TLS accepts change.
    let (a, id) = (&shop.mesh.a, shop.mesh.a.settings.id("payments-v2"));
    a.entry("n3", "payments-v2").await?;
    let mut talk = a.node("n3").await?.talk().await?;
    let ack = talk.register(1, vec![workload("v2", LOCAL, &id, "127.0.1.2:15006")]).await?;
    assert!(ack.refusals.is_empty(), "{ack:?}");
    let changed = |held: &symbolon_tests::mesh::proxy::Held| {
        let new = &held.answers[answers..];
        let at = new.iter().position(|one| one.type_url == CDS && one.names.iter().any(|name| name == LOCAL));
        at.is_some_and(|at| {
            new[at..].iter().any(|one| one.type_url == EDS && one.names.iter().any(|name| name == LOCAL))
        })
    };
    let after = shop.proxy.until("the cluster, and then its endpoints", changed).await?;
    assert_ne!(version(&after), before);
    Ok(())
}
