//! §4: whatever comes through a socket or a port, the answer is a refusal that says why, a counter, and everybody else is served on.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use symbolon_kit::net::unix_channel;
use symbolon_proto::admin as api;
use symbolon_proto::attest::attest_once;
use symbolon_proto::encoded::RawCodec;
use symbolon_proto::federation::federation_client::FederationClient;
use symbolon_proto::node as wire_node;
use symbolon_proto::workload::X509svidRequest;
use symbolon_tests::mesh::node::Node;
use symbolon_tests::mesh::plane::Plane;
use symbolon_tests::mesh::proxy::Proxy;
use symbolon_tests::mesh::sidecar::{Sidecar, with_header};
use symbolon_tests::mesh::{Mesh, until, wire};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::shop::{LOCAL, caller, weights};

const ATTEST: &str = "/symbolon.node.v1.Node/Attest";
const MINT: &str = "/symbolon.node.v1.Node/Mint";
const SYNC: &str = "/symbolon.node.v1.Node/Sync";
const REPORT_LOAD: &str = "/symbolon.node.v1.Node/ReportLoad";
const ESTABLISH: &str = "/symbolon.federation.v1.Federation/Establish";
const PULL: &str = "/symbolon.federation.v1.Federation/Pull";
const CREATE_TOKEN: &str = "/symbolon.admin.v1.Admin/CreateToken";
const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";
const LRS: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// A mesh with someone to be disturbed.
struct Calm {
    mesh: Mesh,
    sidecar: Sidecar,
    proxy: Proxy,
}

impl Calm {
    async fn new() -> anyhow::Result<Self> {
        let mesh = Mesh::builder().linked().await?;
        mesh.a.entry("n1", "checkout").await?;
        let sidecar = mesh.a.sidecar("n1", caller(&mesh.a, "checkout", &[LOCAL])).await?;
        let proxy = sidecar.proxy(&mesh.a.settings.id("checkout")).await?;
        proxy.until("its configuration", |held| held.weights(LOCAL) == weights(0)).await?;
        Ok(Self { mesh, sidecar, proxy })
    }

    /// Nobody else has noticed anything, and nothing has changed.
    async fn is_undisturbed(&self, before: &str) -> anyhow::Result<()> {
        let plane = &self.mesh.a;
        anyhow::ensure!(state(plane).await? == before, "the state has changed");
        anyhow::ensure!(plane.peer().await?.state == "LIVE", "the link is up");
        anyhow::ensure!(self.proxy.held().streams == 1, "the proxy's stream goes on: {:?}", self.proxy.held().ended);
        anyhow::ensure!(wire::get(plane.addresses().http, "/livez").await?.starts_with("HTTP/1.1 200"));
        let mut answers =
            self.sidecar.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
        anyhow::ensure!(answers.message().await?.is_some(), "the Workload API answers");
        plane.node("witness").await?; // the node port too
        Ok(())
    }
}

async fn state(plane: &Plane) -> anyhow::Result<String> {
    let identities = plane.admin().list_identities(api::ListIdentitiesRequest {}).await?.into_inner();
    Ok(format!("{identities:?} {:?} {:?}", plane.services().await?, plane.bundle("").await?.sequence))
}

/// What no program expects as the first bytes of a connection.
fn garbage() -> Vec<Vec<u8>> {
    let noise = (0..200_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let h2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let endless_frame = [h2.as_slice(), &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], &[7; 70_000]].concat();
    let endless_header = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'a'; 300_000]].concat();
    vec![
        noise,
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(),
        endless_header,
        endless_frame,
        vec![0; 100_000],
        vec![0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xff], // a TLS handshake that never goes on
        Vec::new(),
    ]
}

/// Each of them, and then an end; the program must close, or at least not die.
async fn shout(tcp: Option<SocketAddr>, unix: Option<&Path>) -> anyhow::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    for bytes in garbage() {
        if let Some(address) = tcp {
            let mut stream = TcpStream::connect(address).await?;
            let _ = stream.write_all(&bytes).await; // refused half-way is an answer
            let _ = stream.shutdown().await;
            wire::say(&mut stream, &[]).await?;
        }
        if let Some(path) = unix {
            let mut stream = UnixStream::connect(path).await?;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            wire::say(&mut stream, &[]).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_any_port_or_socket_disturbs_nobody() -> anyhow::Result<()> {
    let calm = Calm::new().await?;
    let plane = &calm.mesh.a;
    let before = state(plane).await?;
    let at = plane.addresses();
    let handshakes = async || {
        let metrics = wire::get(at.http, "/metrics").await?;
        let counted = metrics.lines().filter(|line| line.starts_with("symbolon_handshakes_refused_total"));
        anyhow::Ok(counted.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>())
    };
    let refused = handshakes().await?;
    for address in [at.node, at.federation] {
        shout(Some(address), None).await?;
    }
    assert!(handshakes().await? >= refused + 8, "each handshake that failed is counted");
    shout(Some(at.http), None).await?;
    assert!(plane.counted("symbolon_ops_refusals", &[("reason", "not_http")]) >= 2);
    shout(Some(calm.sidecar.running().http), None).await?;
    for socket in [at.admin.as_path(), &calm.sidecar.agent(), &calm.sidecar.xds()] {
        shout(None, Some(socket)).await?;
    }
    assert!(plane.counted("symbolon_admin_refusals", &[("reason", "not_http2")]) >= 4);
    assert!(calm.sidecar.counted("symbolon_sidecar_callers_refused", &[("reason", "not_http2")]) >= 8);
    calm.is_undisturbed(&before).await
}

/// One message of any bytes, in a stream of one.
async fn send(channel: &Channel, path: &'static str, message: Vec<u8>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let messages = tokio_stream::iter([Bytes::from(message)]);
    let asked = with_header(messages);
    let asked: Request<_> = asked;
    let mut answers = grpc.streaming(asked, path.parse().expect("a path"), RawCodec).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// Messages that are no message of any kind: cut short, a length beyond the end, wire types that do not exist, nested without end.
fn malformed() -> Vec<Vec<u8>> {
    vec![
        vec![0x0a],
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        vec![0x0a, 0x7f, 1, 2, 3],
        vec![0xff; 64],
        vec![0x0b; 5_000],
    ]
}

async fn refuses_all(name: &str, channel: &Channel, path: &'static str, sizes: &[usize]) -> anyhow::Result<()> {
    let typed =
        |status: &Status| !matches!(status.code(), Code::Ok | Code::Cancelled | Code::Unavailable | Code::DataLoss);
    for message in malformed() {
        let first: Vec<u8> = message.iter().copied().take(8).collect();
        match symbolon_tests::mesh::soon(name, send(channel, path, message)).await? {
            Err(status) => anyhow::ensure!(typed(&status), "{name}: {first:?}: {status:?}"),
            Ok(()) => anyhow::bail!("{name}: {first:?} was taken"),
        }
    }
    for mib in sizes {
        // A field that nobody knows, as long as that: well-formed, and too much.
        let length = mib << 20;
        let mut message = vec![0xfa, 0x7f];
        prost::encoding::encode_varint(length as u64, &mut message);
        message.resize(message.len() + length, 7);
        match symbolon_tests::mesh::soon(name, send(channel, path, message)).await? {
            Err(status) => anyhow::ensure!(
                matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument),
                "{name}: {mib} MiB: {status:?}"
            ),
            Ok(()) => anyhow::bail!("{name}: {mib} MiB were taken"),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_oversized_messages_to_the_control_plane_are_refused() -> anyhow::Result<()> {
    let calm = Calm::new().await?;
    let plane = &calm.mesh.a;
    let node = plane.node("witness").await?;
    let stranger = Node::anonymous(plane).await?;
    let guest = Node::anonymous_at(plane, plane.addresses().federation.to_string()).await?;
    let before = state(plane).await?;
    let admin = unix_channel(&plane.addresses().admin);
    for (name, channel, path) in [
        ("attest", &stranger.channel, ATTEST),
        ("mint", &node.channel, MINT),
        ("establish", &guest.channel, ESTABLISH),
        ("admin", &admin, CREATE_TOKEN),
    ] {
        refuses_all(name, channel, path, &[5, 20]).await?;
    }
    let refused = |reason| plane.counted("symbolon_calls_refused", &[("reason", reason)]);
    // Attest is a stream, whose messages the node API itself counts, the long ones too. The operator's socket takes longer ones.
    let streamed = plane.counted("symbolon_node_api_refusals", &[("reason", "malformed")]);
    assert_eq!((refused("malformed"), refused("too_long"), streamed), (3 * 5, 2 * 2, 5 + 2), "each is counted");
    // Calls that are streams, to somebody who may not make them.
    for (channel, path) in
        [(&stranger.channel, MINT), (&stranger.channel, SYNC), (&stranger.channel, DELTA), (&guest.channel, PULL)]
    {
        let refused = send(channel, path, vec![0xff; 64]).await.expect_err("no SVID");
        assert!(
            matches!(refused.code(), Code::Unauthenticated | Code::PermissionDenied | Code::Internal),
            "{path}: {refused:?}"
        );
    }
    for path in [SYNC, REPORT_LOAD] {
        refuses_all(path, &node.channel, path, &[5, 20]).await?;
    }
    assert!(plane.counted("symbolon_node_api_refusals", &[("reason", "malformed")]) >= 14);
    for path in [SOTW, DELTA] {
        let refused = send(&node.channel, path, vec![0xff; 64]).await.expect_err("not a discovery request");
        assert!(!matches!(refused.code(), Code::Unknown | Code::Unavailable), "{path}: {refused:?}");
    }
    let unknown = send(&admin, "/symbolon.admin.v1.Admin/Reformat", Vec::new()).await.expect_err("no such call");
    assert_eq!(unknown.code(), Code::Unimplemented);
    calm.is_undisturbed(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_oversized_messages_to_the_sidecar_are_refused() -> anyhow::Result<()> {
    let calm = Calm::new().await?;
    let before = state(&calm.mesh.a).await?;
    let (agent, xds) = (unix_channel(calm.sidecar.agent()), unix_channel(calm.sidecar.xds()));
    let refused = || calm.sidecar.counted("symbolon_sidecar_relay_refused", &[("reason", "malformed")]);
    for (name, channel, path) in
        [("SDS", &agent, SDS), ("Delta", &xds, DELTA), ("SotW", &xds, SOTW), ("LRS", &xds, LRS)]
    {
        refuses_all(name, channel, path, &[9, 20]).await?;
    }
    refuses_all("Workload API", &agent, FETCH, &[5, 20]).await?;
    assert!(calm.sidecar.counted("symbolon_sidecar_callers_refused", &[("reason", "malformed")]) >= 5);
    assert!(calm.sidecar.counted("symbolon_sidecar_callers_refused", &[("reason", "too_long")]) >= 2);
    assert!(refused() >= 6, "{}", refused());
    assert!(calm.sidecar.counted("symbolon_sidecar_relay_refused", &[("reason", "too_long")]) >= 4);
    calm.is_undisturbed(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_expired_and_reused_tokens_are_refused_each_by_its_word() -> anyhow::Result<()> {
    let mesh = Mesh::builder().two().start().await?;
    let attest = async |token: &str| -> anyhow::Result<Status> {
        let (_, csr) = symbolon_kit::spiffe::svid::new_key()?;
        let asked = wire_node::AttestRequest::join_token(token, csr);
        let answer = attest_once(&mut Node::anonymous(&mesh.a).await?.api(), asked).await;
        Ok(answer.err().unwrap_or_else(|| Status::ok("attested")))
    };
    let short = api::CreateTokenRequest { node: "n1".into(), ttl_seconds: 1 };
    let expiring = mesh.a.admin().create_token(short).await?.into_inner();
    for wrong in ["", "nonsense", &"x".repeat(10_000), "\u{0}\u{202e}"] {
        assert_eq!(attest(wrong).await?.code(), Code::Unauthenticated, "{wrong:.20}");
    }
    let good = mesh.a.token("n2").await?;
    assert_eq!(attest(&good).await?.code(), Code::Ok);
    assert_eq!(attest(&good).await?.code(), Code::Unauthenticated);
    let counted = |reason| mesh.a.counted("symbolon_node_api_refusals", &[("reason", reason)]);
    assert_eq!(counted("unknown_token"), 5);
    // A token of one mesh is nothing to another.
    let foreign = mesh.b().token("n3").await?;
    assert_eq!(attest(&foreign).await?.code(), Code::Unauthenticated);
    let clock = symbolon_kit::clock::Clock::system();
    let is_past = || symbolon_kit::clock::unix_secs(clock.now()) > expiring.expires_at;
    until("it has expired", async || is_past().then_some(())).await?;
    let status = attest(&expiring.token).await?;
    assert!(matches!(status.code(), Code::Unauthenticated), "{status:?}");
    assert_eq!(counted("expired_token"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federation_token_is_used_once_and_by_whom_it_names() -> anyhow::Result<()> {
    let mesh = Mesh::builder().two().start().await?;
    let guest = Node::anonymous_at(&mesh.a, mesh.a.addresses().federation.to_string()).await?;
    let mut link = FederationClient::new(guest.channel.clone());
    let bundle = mesh.b().bundle("").await?.jwks;
    let mut asked = symbolon_proto::federation::EstablishRequest {
        one_time_secret: vec![7; 32].into(),
        trust_domain: "b.example".into(),
        bundle,
        cp_spiffe_id: "spiffe://b.example/symbolon/controlplane/0".into(),
    };
    let guessed = link.establish(asked.clone()).await.expect_err("a guess");
    assert!(matches!(guessed.code(), Code::PermissionDenied | Code::Unauthenticated), "{guessed:?}");
    asked.bundle = b"{\"keys\": [{}]}".as_slice().into();
    assert!(link.establish(asked).await.is_err());
    assert_eq!(mesh.a.peer().await?.state, "PENDING", "nothing was learned");
    let metrics = wire::get(mesh.a.addresses().http, "/metrics").await?;
    assert!(
        metrics.lines().any(|line| line.starts_with("symbolon_federation_refused_total") && !line.ends_with(" 0")),
        "{metrics}"
    );
    mesh.link().await
}
