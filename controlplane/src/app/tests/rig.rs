//! A control plane in a folder, and clients of its ports.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rustls_pki_types::CertificateDer;
use symbolon_kit::clock::Clock;
use symbolon_kit::net;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::{Svid, new_key};
use symbolon_kit::tls::{Expect, Identity};
use symbolon_proto::admin::admin_client::AdminClient;
use symbolon_proto::admin::{self, CreateTokenRequest, ShowBundleRequest};
use symbolon_proto::attest::attest_once;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use tonic::transport::Channel;

use crate::app::config::load;
use crate::app::{Config, Running, Seams, build};

pub(super) const GRACE: Duration = Duration::from_secs(10);

pub(super) struct Rig {
    own: String,
    folder: Arc<tempfile::TempDir>,
    pub(super) running: Running,
}

/// A node as its sidecar would be.
pub(super) struct Node {
    identity: Identity,
    pub(super) client: NodeClient<Channel>,
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap())).await.unwrap()
    }

    pub(super) async fn start_in(folder: Arc<tempfile::TempDir>) -> anyhow::Result<Self> {
        Self::start_as(folder, "a", "b").await
    }

    /// Trust domain `<own>.example`, which exports to and federates with the peer `<other>`.
    pub(super) async fn start_as(folder: Arc<tempfile::TempDir>, own: &str, other: &str) -> anyhow::Result<Self> {
        Self::start_with(folder, own, other, "", |_| {}).await
    }

    /// With these lines at the end of its file, and what no file may say.
    pub(super) async fn start_with(
        folder: Arc<tempfile::TempDir>,
        own: &str,
        other: &str,
        lines: &str,
        tweak: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Self> {
        let path = file(folder.path(), own, other);
        let text = std::fs::read_to_string(&path).unwrap() + lines;
        std::fs::write(&path, text).unwrap();
        let mut config = load(&path, [])?;
        tweak(&mut config);
        let running = build(config, Seams::seeded(7)).await?.spawn();
        Ok(Self { own: own.to_owned(), folder, running })
    }

    pub(super) fn folder(&self) -> Arc<tempfile::TempDir> {
        self.folder.clone()
    }

    /// Stops and starts again in the same folder.
    pub(super) async fn restart(self) -> Self {
        let folder = self.folder.clone();
        assert!(self.running.drain(GRACE).await, "everything ends by itself");
        loop {
            // The store's writer lets go of its file a few polls after its last user.
            match Self::start_in(folder.clone()).await {
                Ok(rig) => return rig,
                Err(error) if format!("{error:#}").contains("another process has it open") => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error:#}"),
            }
        }
    }

    pub(super) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(net::unix_channel(&self.running.addresses().admin))
    }

    pub(super) async fn token(&self, node: &str) -> String {
        let asked = CreateTokenRequest { node: node.into(), ttl_seconds: 60 };
        self.admin().create_token(asked).await.unwrap().into_inner().token
    }

    pub(super) async fn entry(&self, node: &str, name: &str) -> String {
        let identity = admin::Identity {
            spiffe_id: format!("spiffe://{}.example/ns/shop/sa/{name}", self.own),
            node: node.into(),
            selectors: vec!["unix:uid:1000".into()],
            ..admin::Identity::default()
        };
        let asked = admin::CreateIdentityRequest { identity: Some(identity) };
        self.admin().create_identity(asked).await.unwrap().into_inner().entry_id
    }

    /// A client that trusts this control plane and comes without a certificate.
    pub(super) async fn anonymous(&self) -> Node {
        let jwks = self.admin().show_bundle(ShowBundleRequest::default()).await.unwrap().into_inner().jwks;
        let clock = Clock::system();
        let domain = format!("{}.example", self.own).parse().unwrap();
        let bundle = Bundle::parse_jwks(&domain, &jwks, clock.now()).unwrap().bundle;
        let identity = Identity::new(clock);
        identity.set_bundles(&[(domain, Arc::new(bundle))].into());
        let client = self.connect(&identity);
        Node { identity, client }
    }

    fn connect(&self, identity: &Identity) -> NodeClient<Channel> {
        let address = self.running.addresses().node.to_string();
        let expect = Expect::Pattern(format!("spiffe://{}.example/symbolon/controlplane/*", self.own).into());
        NodeClient::new(net::channel(vec![address], identity, expect))
    }

    pub(super) async fn node(&self, name: &str) -> Node {
        let token = self.token(name).await;
        let mut node = self.anonymous().await;
        let (key, csr) = new_key().unwrap();
        let attested = attest_once(&mut node.client, wire::AttestRequest::join_token(token, csr)).await.unwrap();
        assert_eq!(attested.spiffe_id, format!("spiffe://{}.example/symbolon/node/{name}", self.own));
        let chain = attested.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        node.identity.set_svid(&Svid::new(chain, key).unwrap());
        // The anonymous connection ends now, with whatever would be asked over it.
        node.client = self.connect(&node.identity);
        node
    }

    pub(super) fn refused(&self, reason: &str) -> u64 {
        self.running.metrics().counter("symbolon_node_api_refusals", "").value(&[("reason", reason)])
    }
}

pub(super) fn id(name: &str) -> String {
    format!("spiffe://a.example/ns/shop/sa/{name}")
}

pub(super) fn workload(name: &str, port: u16) -> wire::Workload {
    wire::Workload {
        name: name.into(),
        service: "payments.shop".into(),
        identity: id("payments"),
        address: "127.0.0.1:8000".into(),
        inbound: format!("127.0.0.1:{port}"),
        ..wire::Workload::default()
    }
}

/// Registers workloads and waits for the acknowledgement; what was acknowledged stays when the stream ends.
pub(super) async fn register(node: &mut Node, workloads: Vec<wire::Workload>) -> wire::WorkloadsAck {
    let report = wire::node_report::Report::Workloads(wire::Workloads { revision: 1, workloads });
    let reports = tokio_stream::iter([wire::NodeReport { report: Some(report) }]).chain(tokio_stream::pending());
    let mut down = node.client.sync(reports).await.unwrap().into_inner();
    loop {
        let update = down.message().await.unwrap().expect("the stream goes on");
        if let Some(wire::node_update::Update::WorkloadsAck(ack)) = update.update {
            return ack;
        }
    }
}

/// Asks until the answer is there.
pub(super) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

fn file(folder: &Path, own: &str, other: &str) -> std::path::PathBuf {
    let path = folder.join("symbolon.yaml");
    let at = folder.display();
    let text = format!(
        r#"
trustDomain: {own}.example
dataDir: "{at}/data"
listen: {{node: "127.0.0.1:0", federation: "127.0.0.1:0", http: "127.0.0.1:0", admin: "{at}/admin/admin.sock"}}
identity: {{caTtl: 24h, svidTtl: 1h, refreshHint: 60s}}
services: [{{name: payments.shop, exportTo: [{other}]}}]
federatedServices: [{{name: payments.shop, peers: [{other}]}}]
peers:
- name: {other}
  trustDomain: {other}.example
  grants: {{identities: ["spiffe://{other}.example/ns/shop/sa/*"], names: ["*.shop"], addresses: [127.0.0.0/8]}}
loadReportInterval: 1s
"#
    );
    std::fs::write(&path, text).unwrap();
    path
}
