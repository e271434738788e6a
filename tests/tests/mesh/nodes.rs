//! Nodes get in, are put out, and come back: through the node port, the admin socket and the sidecar's own file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::json;
use symbolon_kit::spiffe::svid::{PrivateKey, csr_of, new_key};
use symbolon_proto::admin as api;
use symbolon_proto::admin::change_node_request::Change;
use symbolon_proto::attest::{attest_once, reason};
use symbolon_proto::node as wire;
use symbolon_tests::mesh::node::{Node, svid};
use symbolon_tests::mesh::plane::Plane;
use symbolon_tests::mesh::{Mesh, soon, until};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::shop::caller;

async fn attest(plane: &Plane, token: &str, key: &PrivateKey) -> anyhow::Result<Result<wire::Attested, Status>> {
    let asked = wire::AttestRequest::join_token(token, csr_of(key)?);
    Ok(attest_once(&mut Node::anonymous(plane).await?.api(), asked).await)
}

async fn change(plane: &Plane, name: &str, change: Change, reason: &str) -> Result<api::Node, Status> {
    let asked = api::ChangeNodeRequest { name: name.into(), change: change.into(), reason: reason.into() };
    plane.admin().change_node(asked).await.map(tonic::Response::into_inner)
}

async fn listed(plane: &Plane, name: &str) -> Option<api::Node> {
    let nodes = plane.admin().list_nodes(api::ListNodesRequest {}).await.ok()?.into_inner().nodes;
    nodes.into_iter().find(|node| node.name == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_141_a_token_serves_one_key_however_many_ask_at_once() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let token = mesh.a.token("n1").await?;
    let mine = new_key()?.0;
    attest(&mesh.a, &token, &mine).await??; // say that this answer is lost
    let stranger = Node::anonymous(&mesh.a).await?;
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (mut api, asked) = (stranger.api(), wire::AttestRequest::join_token(token.as_str(), new_key()?.1));
        others.spawn(async move { attest_once(&mut api, asked).await });
    }
    for answer in others.join_all().await {
        let refused = answer.expect_err("another key");
        assert!(matches!(refused.code(), Code::Unauthenticated | Code::ResourceExhausted), "{refused}");
    }
    // The source has run out of guesses by now; the key is asked for again from another address.
    let fresh = mesh.a.token("n2").await?;
    let from_elsewhere = mesh.a.node_from("127.77.0.1", &token, &mine).await?;
    assert_eq!(from_elsewhere?.spiffe_id, "spiffe://a.example/symbolon/node/n1");
    let (one, two) = (new_key()?.0, new_key()?.0);
    let race = tokio::join!(mesh.a.node_from("127.77.0.2", &fresh, &one), mesh.a.node_from("127.77.0.3", &fresh, &two));
    assert_eq!([race.0?.is_ok(), race.1?.is_ok()].iter().filter(|won| **won).count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_144_bad_145_what_is_no_token_is_refused_and_is_no_part_of_any_name() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let key = new_key()?.0;
    let token = mesh.a.token("n1").await?;
    for (number, wrong) in
        ["", "\0", "токен", &"x".repeat(1 << 20), &format!("{token}\0"), &format!("{token}/../n2"), &token[..63]]
            .into_iter()
            .enumerate()
    {
        let refused = mesh.a.node_from(&format!("127.78.0.{}", number + 1), wrong, &key).await?.expect_err("no token");
        assert_eq!((refused.code(), reason(&refused)), (Code::Unauthenticated, "unknown_token"), "{wrong:.20}");
    }
    assert_eq!(attest(&mesh.a, &token, &key).await??.spiffe_id, "spiffe://a.example/symbolon/node/n1");
    let names: Vec<_> = mesh.a.admin().list_nodes(api::ListNodesRequest {}).await?.into_inner().nodes;
    assert_eq!(names.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_146_who_guesses_is_slowed_down_and_nobody_else() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let key = new_key()?.0;
    let guess = async || mesh.a.node_from("127.79.0.1", "guess", &key).await;
    let mut refused = Vec::new();
    for _ in 0..30 {
        refused.push(guess().await?.expect_err("a guess"));
    }
    let slowed = refused.iter().filter(|status| status.code() == Code::ResourceExhausted).count();
    assert!((5..=15).contains(&slowed), "{slowed}");
    let last = refused.pop().expect("thirty");
    assert!(last.message().contains("try again in"), "{last}");
    assert_eq!(reason(&last), "too_many_attempts");
    assert!(mesh.a.counted("symbolon_node_api_refusals", &[("reason", "too_many_attempts")]) >= 5);
    let token = mesh.a.token("n1").await?;
    mesh.a.node_from("127.79.0.2", &token, &key).await??; // from another address
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_147_a_replay_after_a_restart_is_refused() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().start().await?;
    let (token, key) = (mesh.a.token("n1").await?, new_key()?.0);
    attest(&mesh.a, &token, &key).await??;
    mesh.a.restart().await?;
    let refused = attest(&mesh.a, &token, &new_key()?.0).await?.expect_err("spent");
    assert_eq!(refused.code(), Code::Unauthenticated);
    attest(&mesh.a, &token, &key).await??; // its own key may still fetch the answer
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_147_a_store_from_a_backup_gives_no_token_back() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().start().await?;
    let token = mesh.a.token("n1").await?;
    let store = mesh.a.folder().join("data/store.redb");
    mesh.a.kill().await;
    let backup = std::fs::read(&store)?;
    mesh.a.start_again().await?;
    attest(&mesh.a, &token, &new_key()?.0).await??;
    mesh.a.kill().await;
    std::fs::write(&store, backup)?;
    mesh.a.start_again().await?;
    let refused = attest(&mesh.a, &token, &new_key()?.0).await?.expect_err("it was spent, whatever the backup says");
    assert_eq!(refused.code(), Code::Unauthenticated);
    Ok(())
}

/// Live streams of the node end in under a second, and what it has opens none.
async fn is_out(
    plane: &Plane,
    node: &Node,
    word: &str,
    put_out: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut talk = node.talk().await?;
    talk.register(1, Vec::new()).await?;
    until("it is connected", async || listed(plane, "n1").await.filter(|node| node.connected)).await?;
    put_out.await?;
    let began = Instant::now();
    soon("the end of the conversation", talk.ended()).await?;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let refused = node.talk().await.expect_err("refused");
    let status = refused.downcast_ref::<Status>().expect("a status");
    assert_eq!((status.code(), reason(status)), (Code::PermissionDenied, word), "{status}");
    let csrs = vec![wire::Csr { entry_id: String::new(), csr: new_key()?.1.into() }];
    let renewal = node.api().mint(wire::MintRequest { csrs }).await.expect_err("no renewal either");
    assert_eq!(reason(&renewal), word);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn evict_is_not_ban() -> anyhow::Result<()> {
    let mut mesh = Mesh::builder().start().await?;
    let node = mesh.a.node("n1").await?;
    is_out(&mesh.a, &node, "node_gone", async {
        change(&mesh.a, "n1", Change::Evict, "").await?;
        Ok(())
    })
    .await?;
    mesh.a.restart().await?;
    assert_eq!(reason(&node.talk().await.expect_err("out").downcast::<Status>()?), "node_gone", "durably");
    // Evicted: new evidence does. Banned: none does.
    let node = mesh.a.node("n1").await?;
    is_out(&mesh.a, &node, "node_banned", async {
        let banned = change(&mesh.a, "n1", Change::Ban, "found in a skip").await?;
        anyhow::ensure!(banned.banned && banned.reason == "found in a skip" && banned.serial.is_empty());
        Ok(())
    })
    .await?;
    let (token, key) = (mesh.a.token("n1").await?, new_key()?.0);
    let refused = attest(&mesh.a, &token, &key).await?.expect_err("banned");
    assert_eq!((refused.code(), reason(&refused)), (Code::PermissionDenied, "node_banned"));
    assert!(refused.message().contains("found in a skip"), "{refused}");
    assert_eq!(change(&mesh.a, "n1", Change::Evict, "").await.expect_err("out").code(), Code::FailedPrecondition);
    change(&mesh.a, "n1", Change::Unban, "").await?;
    attest(&mesh.a, &token, &key).await??;
    assert_eq!(change(&mesh.a, "n9", Change::Evict, "").await.expect_err("unknown").code(), Code::NotFound);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_attests_elsewhere_is_out_here() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let here = mesh.a.node("n1").await?;
    is_out(&mesh.a, &here, "node_superseded", async { mesh.a.node("n1").await.map(|_| ()) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_nodes_workloads_get_no_traffic_and_an_evicted_ones_keep_theirs() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    mesh.a.entry("n1", "payments").await?;
    let node = mesh.a.node("n1").await?;
    let mut talk = node.talk().await?;
    let id = mesh.a.settings.id("payments");
    let workload = symbolon_tests::mesh::node::workload("pay", "payments.shop", &id, "127.0.0.1:7001");
    talk.register(1, vec![workload]).await?;
    let endpoints = async || {
        let all = mesh.a.services().await.ok()?;
        Some(all.into_iter().find(|one| one.name == "payments.shop")?.endpoints.len())
    };
    until("its endpoint", async || endpoints().await.filter(|count| *count == 1)).await?;
    change(&mesh.a, "n1", Change::Evict, "").await?;
    soon("the end", talk.ended()).await?;
    assert_eq!(endpoints().await, Some(1), "it may be back in a moment");
    change(&mesh.a, "n1", Change::Ban, "").await?;
    until("none", async || endpoints().await.filter(|count| *count == 0)).await?;
    Ok(())
}

/// An authority that vouches for machines, and the files of one.
struct Factory {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Factory {
    fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("ca.pem"), ca.pem())?;
        Ok(Self { dir, ca })
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes certificate and key of a machine.
    fn machine(&self, name: &str) -> anyhow::Result<KeyPair> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.ca)?;
        std::fs::write(self.file("node.crt"), certificate.pem())?;
        private(&self.file("node.key"), &key.serialize_pem())?;
        Ok(key)
    }
}

fn private(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text)?;
    Ok(std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_attests_by_its_certificate_and_comes_back_by_itself() -> anyhow::Result<()> {
    let factory = Factory::new()?;
    factory.machine("rack-7")?;
    let bundle = factory.bundle();
    let mesh =
        Mesh::builder().a(|a| a.x509pop = Some(json!({"caBundle": bundle, "name": "{commonName}"}))).start().await?;
    mesh.a.entry("rack-7", "checkout").await?;
    let files = json!({"x509pop": {"certificate": factory.file("node.crt"), "key": factory.file("node.key")}});
    let sidecar = mesh.a.sidecar_by(files, caller(&mesh.a, "checkout", &[])).await?;
    let first = listed(&mesh.a, "rack-7").await.expect("it is listed");
    assert_eq!((first.attestor.as_str(), first.can_reattest, first.connected), ("x509pop", true, true));
    assert!(first.selectors.contains(&"x509pop:subject:cn:rack-7".to_owned()), "{:?}", first.selectors);
    // Evicted: it attests again without anybody's help.
    change(&mesh.a, "rack-7", Change::Evict, "").await?;
    let back = async || {
        let now = listed(&mesh.a, "rack-7").await?;
        (now.connected && !now.serial.is_empty() && now.serial != first.serial).then_some(now)
    };
    until("it is back", back).await?;
    // Banned: it asks on, says so, and comes back once it may.
    change(&mesh.a, "rack-7", Change::Ban, "").await?;
    let refused = || sidecar.counted("symbolon_sidecar_node_failures", &[("reason", "not_allowed")]);
    until("it is refused", async || (refused() > 0).then_some(())).await?;
    change(&mesh.a, "rack-7", Change::Unban, "").await?;
    until("it is back", back).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_svid_ran_out_comes_back_by_its_certificate() -> anyhow::Result<()> {
    let factory = Factory::new()?;
    factory.machine("rack-8")?;
    let bundle = factory.bundle();
    let mut mesh = Mesh::builder()
        .a(|a| {
            a.x509pop = Some(json!({"caBundle": bundle, "name": "{commonName}"}));
            // 3 s, since 10 s of it are backdated.
            a.tweak = |config| config.identity.node_ttl = Duration::from_secs(3);
        })
        .start()
        .await?;
    let files = json!({"x509pop": {"certificate": factory.file("node.crt"), "key": factory.file("node.key")}});
    let sidecar = mesh.a.sidecar_by(files, json!([])).await?;
    let first = listed(&mesh.a, "rack-8").await.expect("it is listed").attested_at;
    mesh.a.kill().await;
    let joined = async || sidecar.running().upstream.is_joined().then_some(());
    until("its SVID has run out", async || joined().await.is_none().then_some(())).await?;
    mesh.a.start_again().await?;
    until("it is back", async || {
        listed(&mesh.a, "rack-8").await.filter(|node| node.attested_at > first && node.connected)
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_its_key_or_of_a_stranger_is_nobody() -> anyhow::Result<()> {
    let (factory, stranger) = (Factory::new()?, Factory::new()?);
    let bundle = factory.bundle();
    let mesh = Mesh::builder().a(|a| a.x509pop = Some(json!({"caBundle": bundle}))).start().await?;
    let chain = |of: &Factory| -> anyhow::Result<Vec<bytes::Bytes>> {
        use rustls_pki_types::pem::PemObject as _;
        let der = rustls_pki_types::CertificateDer::from_pem_file(of.file("node.crt"))?;
        Ok(vec![bytes::Bytes::copy_from_slice(&der)])
    };
    factory.machine("rack-9")?;
    stranger.machine("rack-9")?;
    let asked = wire::AttestRequest::x509pop(chain(&stranger)?, new_key()?.1);
    let refused = attest_once(&mut Node::anonymous(&mesh.a).await?.api(), asked).await.expect_err("a stranger's");
    assert_eq!((refused.code(), reason(&refused)), (Code::Unauthenticated, "bad_evidence"));
    // The right certificate, and an answer that does not prove the key.
    let (up, requests) = tokio::sync::mpsc::channel(2);
    up.send(wire::AttestRequest::x509pop(chain(&factory)?, new_key()?.1)).await?;
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = Node::anonymous(&mesh.a).await?.api().attest(requests).await?.into_inner();
    let challenge = answers.message().await?.and_then(|answer| answer.step);
    assert!(matches!(challenge, Some(wire::attest_response::Step::Challenge(nonce)) if nonce.len() == 32));
    let step = wire::attest_request::Step::ChallengeResponse(vec![0x30; 70].into());
    up.send(wire::AttestRequest { step: Some(step) }).await?;
    let refused = answers.message().await.expect_err("no proof");
    assert_eq!(reason(&refused), "bad_evidence");
    assert!(listed(&mesh.a, "rack-9").await.is_none());
    // And where certificates are not taken at all, that is said.
    let mesh = Mesh::builder().start().await?;
    let asked = wire::AttestRequest::x509pop(chain(&factory)?, new_key()?.1);
    let refused = attest_once(&mut Node::anonymous(&mesh.a).await?.api(), asked).await.expect_err("off");
    assert_eq!(reason(&refused), "attestor_off");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_029_killed_in_the_middle_and_its_socket_deleted_a_sidecar_comes_back_as_one_node() -> anyhow::Result<()>
{
    let mesh = Mesh::builder().start().await?;
    mesh.a.entry("n1", "checkout").await?;
    let mut sidecar = mesh.a.sidecar("n1", caller(&mesh.a, "checkout", &[])).await?;
    for stale in [false, true] {
        sidecar.kill().await;
        let _ = std::fs::remove_file(sidecar.agent()); // the kill may have left it
        if stale {
            drop(std::os::unix::net::UnixListener::bind(sidecar.agent())?); // nobody listens on it any more
        }
        sidecar.start_again().await?;
        sidecar.ready().await?;
        assert!(tokio::net::UnixStream::connect(sidecar.agent()).await.is_ok(), "the socket is there again");
    }
    let nodes = mesh.a.admin().list_nodes(api::ListNodesRequest {}).await?.into_inner().nodes;
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n1"], "no orphan");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_that_says_nothing_is_ended() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let began = Instant::now();
    let silent = Node::anonymous(&mesh.a).await?.api().attest(tokio_stream::pending()).await.expect_err("too slow");
    assert_eq!(reason(&silent), "too_slow", "{silent}");
    assert!(began.elapsed() < Duration::from_secs(15));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_142_an_expired_token_is_refused_at_the_port() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let asked = api::CreateTokenRequest { node: "n1".into(), ttl_seconds: 1 };
    let made = mesh.a.admin().create_token(asked).await?.into_inner();
    let clock = symbolon_kit::clock::Clock::system();
    let is_past = || symbolon_kit::clock::unix_secs(clock.now()) > made.expires_at;
    until("it has expired", async || is_past().then_some(())).await?;
    let refused = attest(&mesh.a, &made.token, &new_key()?.0).await?.expect_err("expired");
    assert_eq!((refused.code(), reason(&refused)), (Code::Unauthenticated, "expired_token"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_143_a_token_of_another_trust_domain_or_with_a_name_in_the_csr_is_refused() -> anyhow::Result<()> {
    let mesh = Mesh::builder().two().start().await?;
    let foreign = mesh.b().token("n1").await?;
    let refused = attest(&mesh.a, &foreign, &new_key()?.0).await?.expect_err("of another mesh");
    assert_eq!(reason(&refused), "unknown_token");
    let token = mesh.a.token("n1").await?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let other = "spiffe://a.example/symbolon/node/n2".to_owned().try_into()?;
    params.subject_alt_names = vec![rcgen::SanType::URI(other)];
    let csr = params.serialize_request(&KeyPair::generate()?)?.der().to_vec();
    let asked = wire::AttestRequest::join_token(token.as_str(), csr);
    let refused = attest_once(&mut Node::anonymous(&mesh.a).await?.api(), asked).await.expect_err("asks for a name");
    assert_eq!(reason(&refused), "bad_csr");
    let (key, csr) = new_key()?;
    let asked = wire::AttestRequest::join_token(token, csr);
    let attested = attest_once(&mut Node::anonymous(&mesh.a).await?.api(), asked).await?; // not spent by that
    assert_eq!(svid(&attested.chain, key)?.id.as_str(), "spiffe://a.example/symbolon/node/n1");
    Ok(())
}
