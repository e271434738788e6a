//! X.509-SVIDs per second of one core: a whole control plane, alone on its core in a process of its own; nodes on another core ask it
//! over mTLS. Each SVID is a CSR verified, authorised, signed, and recorded durably before it is answered.
//!
//! What is compared is work per second of *processor time* of the server, on both sides: on a machine that others use too the clock on
//! the wall says more of them than of us. What the wall says is shown beside it.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use controlplane::app::{self, Seams};
use serde_json::json;
use symbolon_kit::clock::Clock;
use symbolon_kit::net;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::new_key;
use symbolon_kit::tls::{Expect, Identity};
use symbolon_proto::admin as api;
use symbolon_proto::admin::admin_client::AdminClient;
use symbolon_proto::attest::attest_once;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::{Row, Target};
use crate::mesh::node::svid;

/// The core of the server.
const CORE: &str = "0";
const WARM_UP: Duration = Duration::from_secs(1);
const LASTS: Duration = Duration::from_secs(6);
/// Nodes that ask, each over a connection of its own, and the requests that each has under way.
const NODES: usize = 4;
const UNDER_WAY: [(usize, usize); 2] = [(50, 4), (1, 16)];
/// Processor time as the kernel counts it.
const TICKS_PER_SECOND: f64 = 100.0;

/// A control plane, alone on its core.
struct Server {
    child: Child,
    admin: AdminClient<Channel>,
    address: String,
}

/// # Errors
/// If the server does not start, or refuses.
pub async fn rows() -> anyhow::Result<Vec<Row>> {
    let folder = tempfile::Builder::new().prefix("bench").tempdir_in("/tmp")?;
    let server = Server::start(folder.path()).await?;
    let mut rows = Vec::new();
    for (batch, under_way) in UNDER_WAY {
        let before = bare().await?;
        let (per_core, per_wall) = server.issue(batch, under_way).await?;
        let baseline = Some(f64::midpoint(before, bare().await?));
        let (name, wall, target) = if batch == 1 {
            ("identity.x509_issuance_of_1_per_s", "identity.x509_issuance_of_1_wall_per_s", Target::None)
        } else {
            ("identity.x509_issuance_per_s", "identity.x509_issuance_wall_per_s", Target::Share(0.6))
        };
        rows.push(Row { name, value: per_core, unit: "/s", baseline, target });
        rows.push(Row { name: wall, value: per_wall, unit: "/s", baseline, target: Target::None });
    }
    Ok(rows)
}

/// What the crypto library does alone, on the server's core: one verification and one signature, per second of processor time.
async fn bare() -> anyhow::Result<f64> {
    let output = on_core().arg("bare").output().await?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// The other half of [`bare`]: prints the rate.
///
/// # Errors
/// If there is no key.
pub fn print_bare(out: &mut impl std::io::Write) -> anyhow::Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der())?;
    let random = SystemRandom::new();
    let (csr, certificate) = ([7; 200], [8; 400]); // about as long as what is signed of either
    let signature = key.sign(&random, &csr)?;
    let public = key.public_key().as_ref().to_vec();
    let (began, mut done) = (cpu(std::process::id())?, 0u32);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        for _ in 0..100 {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &public).verify(&csr, signature.as_ref())?;
            std::hint::black_box(key.sign(&random, &certificate)?);
        }
        done += 100;
    }
    let rate = f64::from(done) / (cpu(std::process::id())? - began);
    Ok(writeln!(out, "{rate}")?)
}

fn on_core() -> Command {
    let mut command = Command::new("taskset");
    let own = std::env::current_exe().unwrap_or_default(); // if there is none, the start fails and says so
    command.args(["-c", CORE]).arg(own).kill_on_drop(true);
    command
}

/// Processor time that a process has used, in seconds.
fn cpu(process: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| -> anyhow::Result<f64> { Ok(fields.get(index).context("too few fields")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND) // utime and stime
}

/// The server's process: serves until its standard input ends.
///
/// # Errors
/// If it cannot start.
pub async fn serve(file: &Path) -> anyhow::Result<()> {
    let running = app::build(app::config::load(file, [])?, Seams::real()).await?.spawn();
    println_now("ready")?;
    let ended = || std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut Vec::new());
    tokio::task::spawn_blocking(ended).await??;
    running.drain(Duration::from_secs(5)).await;
    Ok(())
}

fn println_now(text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

impl Server {
    async fn start(folder: &Path) -> anyhow::Result<Self> {
        let socket = folder.join("admin/admin.sock");
        let any = "127.0.0.1:0";
        let file = json!({
            "trustDomain": "a.example",
            "dataDir": folder.join("data"),
            "listen": {"node": any, "federation": any, "http": any, "admin": socket},
            "identity": {"signaturesPerSecond": 4_000_000},
        });
        let path = folder.join("symbolon.yaml");
        std::fs::write(&path, file.to_string())?;
        let mut child = on_core().arg("serve").arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let out = child.stdout.as_mut().context("no standard output")?;
        BufReader::new(out).read_line(&mut line).await?;
        anyhow::ensure!(line.trim() == "ready", "the server did not start: {line}");
        let addresses: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("data/addresses.json"))?)?;
        let address = addresses["node"].as_str().context("no address")?.to_owned();
        Ok(Self { child, admin: AdminClient::new(net::unix_channel(&socket)), address })
    }

    /// SVIDs per second of the server's processor time, and per second.
    async fn issue(&self, batch: usize, under_way: usize) -> anyhow::Result<(f64, f64)> {
        let issued = Arc::new(AtomicU64::new(0));
        let mut asking = Vec::new();
        for node in 0..NODES {
            let (client, orders) = self.node(&format!("bench-{batch}-{node}"), batch).await?;
            for _ in 0..under_way {
                let (mut client, orders, issued) = (client.clone(), orders.clone(), issued.clone());
                asking.push(tokio::spawn(async move {
                    loop {
                        let answers = client.mint(wire::MintRequest { csrs: orders.clone() }).await?.into_inner();
                        let svid = |one: &wire::Minted| matches!(one.outcome, Some(wire::minted::Outcome::Svid(_)));
                        anyhow::ensure!(answers.results.iter().all(svid), "refused: {:?}", answers.results.first());
                        issued.fetch_add(answers.results.len() as u64, Ordering::Relaxed);
                    }
                }));
            }
        }
        tokio::time::sleep(WARM_UP).await;
        let process = self.child.id().context("the server has ended")?;
        let (began, used, before) = (Instant::now(), cpu(process)?, issued.load(Ordering::Relaxed));
        tokio::time::sleep(LASTS).await;
        let (used, issued) = (cpu(process)? - used, issued.load(Ordering::Relaxed) - before);
        let lasted = began.elapsed().as_secs_f64();
        for task in asking {
            if task.is_finished() {
                let ended: anyhow::Result<()> = task.await?;
                ended.context("a node was not served")?;
            } else {
                task.abort();
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let issued = issued as f64;
        Ok((issued / used, issued / lasted))
    }

    /// A node with `entries` entries, and a CSR for each.
    async fn node(&self, name: &str, entries: usize) -> anyhow::Result<(NodeClient<Channel>, Vec<wire::Csr>)> {
        let mut admin = self.admin.clone();
        let asked = api::CreateTokenRequest { node: name.into(), ttl_seconds: 60 };
        let token = admin.create_token(asked).await?.into_inner().token;
        let (trust_domain, clock) = ("a.example".parse()?, Clock::system());
        let jwks = admin.show_bundle(api::ShowBundleRequest::default()).await?.into_inner().jwks;
        let bundle = Bundle::parse_jwks(&trust_domain, &jwks, clock.now())?.bundle;
        let identity = Identity::new(clock);
        identity.set_bundles(&[(trust_domain, Arc::new(bundle))].into());
        let expect = || Expect::Pattern("spiffe://a.example/symbolon/controlplane/*".into());
        let connect = || NodeClient::new(net::channel(vec![self.address.clone()], &identity, expect()));
        let (key, csr) = new_key()?;
        let attested = attest_once(&mut connect(), wire::AttestRequest::join_token(token, csr)).await?;
        identity.set_svid(&svid(&attested.chain, key)?);
        let mut orders = Vec::new();
        for entry in 0..entries {
            let identity = api::Identity {
                spiffe_id: format!("spiffe://a.example/{name}/{entry}"),
                node: name.into(),
                selectors: vec!["unix:uid:1".into()],
                ..api::Identity::default()
            };
            let asked = api::CreateIdentityRequest { identity: Some(identity) };
            let entry_id = admin.create_identity(asked).await?.into_inner().entry_id;
            orders.push(wire::Csr { entry_id, csr: new_key()?.1.into() });
        }
        Ok((connect(), orders))
    }
}
