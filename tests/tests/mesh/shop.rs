//! What several tests need: checkout behind a sidecar in A, payments in A and B.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use symbolon_tests::mesh::load::{Completed, Load, Traffic};
use symbolon_tests::mesh::node::{Talk, workload};
use symbolon_tests::mesh::plane::Plane;
use symbolon_tests::mesh::proxy::Proxy;
use symbolon_tests::mesh::sidecar::Sidecar;
use symbolon_tests::mesh::{Builder, Mesh};

pub(super) const LOCAL: &str = "payments.shop";
pub(super) const REMOTE: &str = "payments.shop.b";

/// A linked mesh in which everything is ready for a ramp.
pub(super) struct Shop {
    pub(super) mesh: Mesh,
    pub(super) checkout: Sidecar,
    pub(super) proxy: Arc<Proxy>,
    #[expect(dead_code, reason = "keeps the conversation open")]
    payments_a: Talk,
    pub(super) payments_b: Talk,
}

/// A workload of a sidecar that calls `upstreams`.
pub(super) fn caller(plane: &Plane, account: &str, upstreams: &[&str]) -> Value {
    json!([{
        "name": account, "identity": plane.settings.id(account), "outbound": "127.0.0.1:15001", "upstreams": upstreams,
    }])
}

/// Registers endpoints of `service` for a node of its own, and keeps its conversation.
pub(super) async fn offer(plane: &Plane, node: &str, service: &str, inbound: &[&str]) -> anyhow::Result<Talk> {
    let account = service.split('.').next().unwrap_or_default();
    plane.entry(node, account).await?;
    let mut talk = plane.node(node).await?.talk().await?;
    offers(plane, &mut talk, 1, service, inbound).await?;
    Ok(talk)
}

/// Registers other endpoints instead.
pub(super) async fn offers(
    plane: &Plane,
    talk: &mut Talk,
    revision: u64,
    service: &str,
    inbound: &[&str],
) -> anyhow::Result<()> {
    let id = plane.settings.id(service.split('.').next().unwrap_or_default());
    let workloads = inbound.iter().enumerate();
    let workloads = workloads.map(|(at, address)| workload(&format!("w-{at}"), service, &id, address)).collect();
    let ack = talk.register(revision, workloads).await?;
    anyhow::ensure!(ack.refusals.is_empty(), "{ack:?}");
    Ok(())
}

impl Shop {
    /// One endpoint of payments in A; none in B yet.
    pub(super) async fn open(builder: Builder) -> anyhow::Result<Self> {
        let mesh = builder.linked().await?;
        mesh.a.entry("n1", "checkout").await?;
        let checkout = mesh.a.sidecar("n1", caller(&mesh.a, "checkout", &[LOCAL])).await?;
        let proxy = Arc::new(checkout.proxy(&mesh.a.settings.id("checkout")).await?);
        let payments_a = offer(&mesh.a, "n2", LOCAL, &["127.0.1.1:15006"]).await?;
        let payments_b = offer(mesh.b(), "n1", LOCAL, &[]).await?;
        proxy.until("both arms", |held| held.weights(LOCAL) == weights(0)).await?;
        Ok(Self { mesh, checkout, proxy, payments_a, payments_b })
    }

    /// Load of 4,000 requests a report, split as the proxy has it.
    pub(super) async fn traffic(&self) -> anyhow::Result<Traffic> {
        let load = self.checkout.load(&self.mesh.a.settings.id("checkout")).await?;
        Ok(Traffic::start(load, self.proxy.clone()))
    }

    /// B's payments scale out to as many endpoints as A has.
    pub(super) async fn scale_out(&mut self) -> anyhow::Result<()> {
        offers(self.mesh.b(), &mut self.payments_b, 2, LOCAL, &["127.0.2.1:15006"]).await
    }
}

/// The arms as routes have them, when the remote one has `remote`.
pub(super) fn weights(remote: u32) -> Vec<(String, u32)> {
    vec![(LOCAL.into(), 10_000 - remote), (REMOTE.into(), remote)]
}

/// Reports successes of both arms.
pub(super) async fn reported(load: &Load, local: u64, remote: u64) -> anyhow::Result<()> {
    let one = |cluster: &str, success| Completed { cluster: cluster.into(), success, error: 0 };
    load.report(Duration::from_millis(100), &[one(LOCAL, local), one(REMOTE, remote)]).await
}

/// Timing of a link that suspects a silent peer soon.
pub(super) fn impatient() -> Value {
    json!({"beat": "50ms", "suspectAfter": "500ms", "staleAfter": "700ms", "expiredAfter": "900ms"})
}
