//! Our own bundle endpoint, asked by strangers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::tls::{Expect, Identity};
use symbolon_proto::admin;
use symbolon_proto::admin::change_authority_request::Step;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::Rig;
use super::super::rig::until;
use super::hostile::Web;
use super::world::{held, rig, start};

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(rig: &Rig, config: &Arc<ClientConfig>) -> std::io::Result<Tls> {
    let socket = TcpStream::connect(rig.running.addresses().bundle_endpoint.unwrap()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config.clone()).connect(name, socket).await
}

/// The whole answer to `request`, until the connection ends.
async fn ask(mut stream: Tls, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await; // a connection that is cut has said what it had to
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(rig: &Rig, config: &Arc<ClientConfig>, method: &str, path: &str, headers: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
    ask(connect(rig, config).await.unwrap(), &request).await
}

fn by_web(web: &Web, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&web.roots).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Accepts this ID, verified by `rig`'s own bundle.
async fn by_id(rig: &Rig, id: &str) -> Arc<ClientConfig> {
    let clock = Clock::system();
    let domain: symbolon_proto::ids::TrustDomain = "a.example".parse().unwrap();
    let bundle = Bundle::parse_jwks(&domain, &held(rig, "").await.unwrap(), clock.now()).unwrap().bundle;
    let identity = Identity::new(clock);
    identity.set_bundles(&[(domain, Arc::new(bundle))].into());
    let mut config = identity.client_config(Expect::Id(id.parse().unwrap()));
    config.alpn_protocols.clear();
    Arc::new(config)
}

fn write(path: &Path, content: &str, mode: u32) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// An endpoint of the Web profile, its files in the folder.
async fn web_rig() -> (Rig, Web, Arc<tempfile::TempDir>) {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let web = Web::new(folder.path());
    let (certificate, key) = web.certificate("localhost");
    write(&folder.path().join("web.pem"), &certificate, 0o644);
    write(&folder.path().join("web.key"), &key, 0o600);
    (rig(folder.clone(), &web_lines(folder.path())).await, web, folder)
}

fn web_lines(folder: &Path) -> String {
    let at = folder.display();
    format!(
        "bundleEndpoint: {{listen: \"127.0.0.1:0\", profile: https_web, certificate: \"{at}/web.pem\", key: \"{at}/web.key\"}}\n"
    )
}

const SPIFFE: &str = "bundleEndpoint: {listen: \"127.0.0.1:0\", profile: https_spiffe}\n";
const OWN_ID: &str = "spiffe://a.example/symbolon/controlplane/0";

/// Neither a certificate nor a header of authentication counts for anything: no client is even asked for one.
#[tokio::test]
async fn f_11_no_client_has_to_prove_anything() {
    let rig = rig(Arc::new(tempfile::tempdir().unwrap()), SPIFFE).await;
    let config = by_id(&rig, OWN_ID).await;
    let plain = get(&rig, &config, "GET", "/", "").await;
    for headers in ["authorization: Basic bm90aGluZw==\r\n", "authorization: Bearer x\r\n", "cookie: a=b\r\n"] {
        let answer = get(&rig, &config, "GET", "/", headers).await;
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, plain.split_once("\r\n\r\n").unwrap().1, "{headers}");
    }
    // One who would show a certificate, of a stranger's.
    let stranger = Identity::new(Clock::system());
    stranger.set_svid(&super::world::Root::of("x.example").svid("spiffe://x.example/nobody"));
    let domain: symbolon_proto::ids::TrustDomain = "a.example".parse().unwrap();
    let bundle = Bundle::parse_jwks(&domain, &held(&rig, "").await.unwrap(), Clock::system().now()).unwrap().bundle;
    stranger.set_bundles(&[(domain, Arc::new(bundle))].into());
    let mut config = stranger.client_config(Expect::Id(OWN_ID.parse().unwrap()));
    config.alpn_protocols.clear();
    assert!(get(&rig, &Arc::new(config), "GET", "/", "").await.starts_with("HTTP/1.1 200"));
}

/// The newest bundle, as JSON, by GET and HEAD, on `/`; whoever holds it already is told so.
#[tokio::test]
async fn f_12_the_newest_bundle_is_served_at_the_root() {
    let rig = rig(Arc::new(tempfile::tempdir().unwrap()), SPIFFE).await;
    let config = by_id(&rig, OWN_ID).await;
    let answer = get(&rig, &config, "GET", "/", "").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
    assert_eq!(body.as_bytes(), held(&rig, "").await.unwrap());
    assert!(body.contains("spiffe_refresh_hint") && body.contains("spiffe_sequence"), "{body}");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();

    let headed = get(&rig, &config, "HEAD", "/", "").await;
    assert!(headed.starts_with("HTTP/1.1 200") && headed.contains(etag) && headed.ends_with("\r\n\r\n"), "{headed}");
    assert!(headed.contains(&format!("content-length: {}", body.len())), "{headed}");
    for known in [etag.to_owned(), format!("\"x\", {etag}"), format!("W/{etag}"), "*".to_owned()] {
        let same = get(&rig, &config, "GET", "/", &format!("if-none-match: {known}\r\n")).await;
        assert!(same.starts_with("HTTP/1.1 304") && same.ends_with("\r\n\r\n"), "{known}: {same}");
    }
    let other = get(&rig, &config, "GET", "/", "if-none-match: \"other\"\r\n").await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");

    for (method, path, status) in [
        ("POST", "/", "405"),
        ("PUT", "/", "405"),
        ("DELETE", "/", "405"),
        ("GET", "/bundle", "404"),
        ("GET", "/..%2f", "404"),
        ("GET", "/metrics", "404"),
    ] {
        let refused = get(&rig, &config, method, path, "").await;
        assert!(refused.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {refused}");
    }
    // F-15: and nobody else's name is proved.
    let wrong = by_id(&rig, "spiffe://a.example/symbolon/controlplane/1").await;
    assert!(connect(&rig, &wrong).await.is_err());
}

#[tokio::test]
async fn f_15_the_endpoint_can_have_an_id_of_its_own() {
    let lines = SPIFFE.replace("https_spiffe", "https_spiffe, spiffeId: \"spiffe://a.example/spire/server\"");
    let rig = rig(Arc::new(tempfile::tempdir().unwrap()), &lines).await;
    let config = by_id(&rig, "spiffe://a.example/spire/server").await;
    assert!(get(&rig, &config, "GET", "/", "").await.starts_with("HTTP/1.1 200"));
    assert!(connect(&rig, &by_id(&rig, OWN_ID).await).await.is_err());
}

/// F-6: TLS 1.3 and 1.2; a session is never resumed, and no client is asked for a certificate.
#[tokio::test]
async fn f_6_the_web_profile_serves_both_versions_and_resumes_nothing() {
    let (rig, web, _folder) = web_rig().await;
    for version in [&TLS12, &TLS13] {
        let config = by_web(&web, &[version]);
        for _ in 0..2 {
            let mut stream = connect(&rig, &config).await.unwrap();
            let tls = stream.get_ref().1;
            assert_eq!(tls.protocol_version(), Some(version.version));
            assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Full), "nothing is resumed");
            stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"));
        }
    }
}

#[tokio::test]
async fn bad_136_the_web_certificate_is_followed_and_its_key_is_private() {
    let (rig, web, folder) = web_rig().await;
    let first = connect(&rig, &by_web(&web, &[&TLS13])).await.unwrap();
    let leaf = |stream: &Tls| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let before = leaf(&first);
    // A pair that does not fit leaves the one before in force.
    let (certificate, key) = web.certificate("localhost");
    write(&folder.path().join("web.pem"), &certificate, 0o644);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(leaf(&connect(&rig, &by_web(&web, &[&TLS13])).await.unwrap()), before);
    write(&folder.path().join("web.key"), &key, 0o600);
    until("the new certificate", async || {
        (leaf(&connect(&rig, &by_web(&web, &[&TLS13])).await.unwrap()) != before).then_some(())
    })
    .await;

    for (mode, starts) in [(0o644, false), (0o640, false), (0o604, false), (0o600, true), (0o400, true)] {
        let other = Arc::new(tempfile::tempdir().unwrap());
        write(&other.path().join("web.pem"), &certificate, 0o644);
        write(&other.path().join("web.key"), &key, mode);
        match start(other.clone(), &web_lines(other.path())).await {
            Ok(_) => assert!(starts, "{mode:o}"),
            Err(error) => {
                let error = format!("{error:#}");
                assert!(!starts && error.contains("chmod 600"), "{mode:o}: {error}");
            }
        }
    }
}

/// What strangers may cost us is bounded, counted and ended.
#[tokio::test]
async fn bad_160_strangers_cost_little() {
    let (rig, web, _folder) = web_rig().await;
    let config = by_web(&web, &[&TLS13]);
    let refused = |reason: &str| {
        rig.running.metrics().counter("symbolon_bundle_endpoint_refusals", "").value(&[("reason", reason)])
    };
    let large = format!("x: {}\r\n", "y".repeat(100_000));
    let answer = get(&rig, &config, "GET", "/", &large).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    let many: String = (0..200).map(|n| format!("x{n}: y\r\n")).collect();
    assert!(!get(&rig, &config, "GET", "/", &many).await.contains("200 OK"));
    assert!(!ask(connect(&rig, &config).await.unwrap(), "SSH-2.0-x\r\n\r\n").await.contains("200 OK"));
    until("both are counted", async || (refused("request_too_large") >= 1 && refused("not_http") >= 1).then_some(()))
        .await;
    // No TLS at all.
    let mut plain = TcpStream::connect(rig.running.addresses().bundle_endpoint.unwrap()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    until("it is counted", async || (refused("handshake") >= 1).then_some(())).await;
    // One address takes no more than its share, and gets it back.
    let mut open = Vec::new();
    while refused("too_many_of_one") == 0 {
        assert!(open.len() < 100, "there is a limit");
        let socket = TcpStream::connect(rig.running.addresses().bundle_endpoint.unwrap()).await.unwrap();
        open.push(socket);
        tokio::task::yield_now().await;
    }
    drop(open);
    until("its places are free again", async || {
        let asked = connect(&rig, &config).await;
        asked.is_ok().then_some(())
    })
    .await;
    // And it still answers.
    assert!(get(&rig, &config, "GET", "/", "").await.starts_with("HTTP/1.1 200"));
}

/// What the endpoint serves of our own authorities, as `sha256 of the certificate`.
async fn served(rig: &Rig, config: &Arc<ClientConfig>) -> Vec<String> {
    let answer = get(rig, config, "GET", "/", "").await;
    let value: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let x509 = value["keys"].as_array().unwrap().iter().filter_map(|key| key["x5c"][0].as_str());
    x509.map(str::to_owned).collect()
}

/// Our authorities of X.509, by state.
async fn authorities(rig: &Rig, state: &str) -> Vec<admin::LocalAuthority> {
    let listed = rig.admin().list_authorities(admin::ListAuthoritiesRequest {}).await.unwrap().into_inner();
    listed.authorities.into_iter().filter(|one| one.kind == "x509" && one.state == state).collect()
}

async fn change(rig: &Rig, step: Step, id: &str, force: bool) -> Result<(), tonic::Status> {
    let asked = admin::ChangeAuthorityRequest { kind: "x509".into(), step: step.into(), id: id.into(), force };
    rig.admin().change_authority(asked).await.map(|_| ())
}

/// An authority is served by the endpoint before it signs anything: whoever polls us had the time to fetch it.
#[tokio::test]
async fn f_1_a_new_authority_is_served_before_its_first_use() {
    let rig = rig(Arc::new(tempfile::tempdir().unwrap()), SPIFFE).await;
    let config = by_id(&rig, OWN_ID).await;
    let first = served(&rig, &config).await;
    let active = authorities(&rig, "active").await.remove(0).id;
    change(&rig, Step::Prepare, "", false).await.unwrap();
    let both = until("both are served", async || Some(served(&rig, &config).await).filter(|all| all.len() == 2)).await;
    assert!(both.contains(&first[0]), "the first is not lost for it");
    let new = authorities(&rig, "published").await.remove(0).id;
    let refused = change(&rig, Step::Activate, &new, false).await.unwrap_err();
    assert!(refused.message().contains("published a moment ago"), "{refused}");
    assert_eq!(authorities(&rig, "active").await.remove(0).id, active, "the first still signs");
}

/// It is served for as long as an SVID may depend on it, and no longer.
#[tokio::test]
async fn f_2_a_revoked_authority_is_served_no_more() {
    let rig = rig(Arc::new(tempfile::tempdir().unwrap()), SPIFFE).await;
    let config = by_id(&rig, OWN_ID).await;
    let first = served(&rig, &config).await.remove(0);
    let old = authorities(&rig, "active").await.remove(0).id;
    change(&rig, Step::Prepare, "", false).await.unwrap();
    until("it is published", async || (!authorities(&rig, "published").await.is_empty()).then_some(())).await;
    let new = authorities(&rig, "published").await.remove(0).id;
    change(&rig, Step::Activate, &new, true).await.unwrap();
    assert!(served(&rig, &config).await.contains(&first), "what it signed is still out there");
    assert!(change(&rig, Step::Revoke, &old, false).await.is_err(), "and so it cannot be revoked yet");
    change(&rig, Step::Taint, &old, false).await.unwrap();
    assert!(served(&rig, &config).await.contains(&first));
    change(&rig, Step::Revoke, &old, true).await.unwrap();
    until("it is gone", async || {
        // Our own SVID may have been of the old authority: whoever knows both accepts it either way.
        let all = authorities(&rig, "active").await;
        let now: serde_json::Value = serde_json::from_slice(&held(&rig, "").await.unwrap()).unwrap();
        let gone = !now["keys"].as_array().unwrap().iter().any(|key| key["x5c"][0] == first.as_str());
        (all.len() == 1 && gone).then_some(())
    })
    .await;
    let config = by_id(&rig, OWN_ID).await;
    until("nor does the endpoint serve it", async || match connect(&rig, &config).await {
        Ok(_) => (!served(&rig, &config).await.contains(&first)).then_some(()),
        Err(_) => None, // until its own SVID is of the new authority
    })
    .await;
}
