//! Trust that ends, seen by everybody who relied on it: Workload API, SDS, xDS, live and resumed TLS; all within a second.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::ServerName;
use symbolon_kit::clock::Clock;
use symbolon_kit::net::unix_channel;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::{Svid, new_key};
use symbolon_kit::tls::{Expect, Identity};
use symbolon_proto::admin as api;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node::minted::Outcome;
use symbolon_proto::workload::{JwtBundlesRequest, X509BundlesRequest, X509svidRequest};
use symbolon_tests::mesh::plane::Plane;
use symbolon_tests::mesh::proxy::{Held, RDS};
use symbolon_tests::mesh::sidecar::with_header;
use symbolon_tests::mesh::{Mesh, soon, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::shop::{LOCAL, REMOTE, Shop, caller};

/// What is promised.
const SOON: Duration = Duration::from_secs(1);
const B: &str = "b.example";

async fn end(plane: &Plane) -> anyhow::Result<()> {
    let asked = api::DeleteRelationshipRequest { trust_domain: B.into() };
    let ended = plane.admin().delete_relationship(asked).await?.into_inner();
    anyhow::ensure!(ended.state == "TERMINATED", "{ended:?}");
    Ok(())
}

/// Whether B's endpoints are in neither arm's assignment; each carries the other arm's behind its own.
fn is_gone(held: &Held) -> bool {
    let listed = [LOCAL, REMOTE].into_iter().flat_map(|cluster| held.endpoints(cluster));
    listed.into_iter().all(|(_, address)| !address.contains("127.0.2."))
}

/// Whether B's workloads may still call, by the routes of this proxy.
fn admits_b(held: &Held) -> bool {
    let routes = held.resources.get(RDS).into_iter().flatten();
    routes.into_iter().any(|(_, one)| String::from_utf8_lossy(&one.bytes).contains("spiffe://b.example/"))
}

#[tokio::test(flavor = "multi_thread")]
async fn f_18_an_ended_trust_domain_leaves_every_stream_and_every_envoy_within_a_second() -> anyhow::Result<()> {
    let mut shop = Shop::open(Mesh::builder()).await?;
    shop.scale_out().await?;
    let a = &shop.mesh.a;
    shop.proxy.until("B's endpoint", |held| !is_gone(held)).await?;
    // Beside checkout, a payments of A's that B's may call.
    a.entry("n9", "payments").await?;
    let serving = serde_json::json!([{
        "name": "payments", "identity": a.settings.id("payments"), "service": LOCAL,
        "address": "127.0.9.1:8000", "inbound": "127.0.9.1:15006",
    }]);
    let payments = a.sidecar("n9", serving).await?;
    let inbound = payments.proxy(&a.settings.id("payments")).await?;
    inbound.until("B may call", admits_b).await?;

    // The Workload API: bundles, and SVIDs with their federated bundles.
    let sidecar = &shop.checkout;
    let mut bundles = sidecar.workload_api().fetch_x509_bundles(with_header(X509BundlesRequest {})).await?.into_inner();
    let mut svids = sidecar.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
    let of_b = |name: &String| name.trim_start_matches("spiffe://").trim_end_matches('/') == B;
    while !soon("bundles", bundles.message()).await??.expect("it goes on").bundles.keys().any(of_b) {}
    while !soon("SVIDs", svids.message()).await??.expect("it goes on").federated_bundles.keys().any(of_b) {}
    let mut tokens = sidecar.workload_api().fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await?.into_inner();
    while !soon("keys for tokens", tokens.message()).await??.expect("it goes on").bundles.keys().any(of_b) {}
    // SDS: the validator of all trust domains.
    let (ask, asked) = tokio::sync::mpsc::channel(8);
    let request = DiscoveryRequest {
        node: Some(Node { id: a.settings.id("checkout"), ..Node::default() }),
        resource_names: vec!["ALL".into()],
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".into(),
        ..DiscoveryRequest::default()
    };
    ask.send(request.clone()).await?;
    let mut sds = SecretDiscoveryServiceClient::new(unix_channel(sidecar.agent()));
    let mut secrets =
        sds.stream_secrets(with_header(tokio_stream::wrappers::ReceiverStream::new(asked))).await?.into_inner();
    let mut names_b = async || -> anyhow::Result<bool> {
        let answer = soon("a secret", secrets.message()).await??.expect("it goes on");
        let ack = DiscoveryRequest {
            version_info: answer.version_info.clone(),
            response_nonce: answer.nonce.clone(),
            ..request.clone()
        };
        ask.send(ack).await?;
        Ok(answer.resources.iter().any(|one| String::from_utf8_lossy(&one.value).contains(B)))
    };
    while !names_b().await? {}

    let began = Instant::now();
    end(a).await?;
    while soon("bundles", bundles.message()).await??.expect("it goes on").bundles.keys().any(of_b) {}
    let workload_api = began.elapsed();
    while soon("SVIDs", svids.message()).await??.expect("it goes on").federated_bundles.keys().any(of_b) {}
    while soon("keys for tokens", tokens.message()).await??.expect("it goes on").bundles.keys().any(of_b) {}
    while names_b().await? {}
    let sds = began.elapsed();
    shop.proxy.until("the arm is empty", is_gone).await?;
    inbound.until("B may not call", |held| !admits_b(held)).await?;
    let all = began.elapsed();
    assert!(all < SOON, "Workload API {workload_api:?}, SDS {sds:?}, all {all:?}");
    Ok(())
}

/// An SVID of `plane`'s for a workload, and its control plane's own bundle.
async fn member(plane: &Plane, node: &str, account: &str) -> anyhow::Result<(Svid, Arc<Bundle>)> {
    let entry = plane.entry(node, account).await?;
    let (key, csr) = new_key()?;
    let Outcome::Svid(minted) = plane.node(node).await?.mint(&entry, csr).await? else { anyhow::bail!("refused") };
    let chain = minted.chain.iter().map(|der| der.to_vec().into()).collect();
    let domain: TrustDomain = format!("{}.example", plane.settings.name).parse()?;
    let jwks = plane.bundle("").await?.jwks;
    let bundle = Bundle::parse_jwks(&domain, &jwks, Clock::system().now())?.bundle;
    Ok((Svid::new(chain, key)?, Arc::new(bundle)))
}

/// A client of B's at A's own port, over real TLS and with all its tickets: its connection is cut, and nothing is resumed.
#[tokio::test(flavor = "multi_thread")]
async fn f_18_live_and_resumed_connections_of_an_ended_trust_domain_fail_within_a_second() -> anyhow::Result<()> {
    let mesh = Mesh::builder().linked().await?;
    let (svid, _) = member(mesh.b(), "n1", "payments").await?;
    let (_, of_a) = member(&mesh.a, "n1", "payments").await?;
    let identity = Identity::new(Clock::system());
    identity.set_svid(&svid);
    identity.set_bundles(&[(of_a.trust_domain.clone(), of_a)].into());
    let expect = Expect::Pattern("spiffe://a.example/symbolon/controlplane/*".into());
    let mut config: ClientConfig = identity.client_config(expect);
    config.resumption = Resumption::in_memory_sessions(64); // a client that would resume if it could
    let config = TlsConnector::from(Arc::new(config));
    let connect = async || -> std::io::Result<_> {
        let socket = TcpStream::connect(mesh.a.addresses().federation).await?;
        let name = ServerName::try_from("symbolon.invalid").expect("a name");
        let mut stream = config.connect(name, socket).await?;
        // In TLS 1.3 the server's refusal comes after the client's handshake: only an answer is a proof.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        let mut settings = [0; 9];
        stream.read_exact(&mut settings).await?;
        Ok(stream)
    };
    let mut live = connect().await?;
    let again = connect().await?;
    assert_eq!(again.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "nothing was resumed");

    let began = Instant::now();
    end(&mesh.a).await?;
    let mut rest = Vec::new();
    let _ = soon("the end of the connection", live.read_to_end(&mut rest)).await?; // cut, or said to go
    assert!(connect().await.is_err(), "neither resumed nor new");
    let after = began.elapsed();
    assert!(after < SOON, "{after:?}");
    // The link of B's control plane is down, and stays so.
    until("B's link is down", async || (mesh.b().peer().await.ok()?.state != "LIVE").then_some(())).await?;
    assert_eq!(mesh.a.peer().await?.state, "PENDING");
    Ok(())
}

/// A restarted control plane and sidecar do not bring it back.
#[tokio::test(flavor = "multi_thread")]
async fn f_18_what_was_ended_stays_so_after_kills() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().linked().await?;
    mesh.a.entry("n1", "checkout").await?;
    let mut sidecar = mesh.a.sidecar("n1", caller(&mesh.a, "checkout", &[LOCAL])).await?;
    end(&mesh.a).await?;
    let of_b = |name: &String| name.contains(B);
    let mut bundles = sidecar.workload_api().fetch_x509_bundles(with_header(X509BundlesRequest {})).await?.into_inner();
    while soon("bundles", bundles.message()).await??.expect("it goes on").bundles.keys().any(of_b) {}
    sidecar.kill().await;
    mesh.a.restart().await?;
    // From what it kept, before it has heard the control plane again.
    sidecar.start_again().await?;
    let mut bundles = sidecar.workload_api().fetch_x509_bundles(with_header(X509BundlesRequest {})).await?.into_inner();
    assert!(!soon("bundles", bundles.message()).await??.expect("it goes on").bundles.keys().any(of_b));
    assert!(mesh.a.bundle(B).await.is_err());
    assert_eq!(mesh.a.peer().await?.state, "PENDING");
    Ok(())
}
