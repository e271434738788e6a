//! A control plane.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use controlplane::app::{self, Addresses, Running, Seams};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use symbolon_kit::clock::Clock;
use symbolon_kit::net::unix_channel;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::{PrivateKey, csr_of};
use symbolon_proto::admin as api;
use symbolon_proto::admin::admin_client::AdminClient;
use symbolon_proto::admin::change_authority_request::Step;
use symbolon_proto::attest::attest_once;
use symbolon_proto::node as wire;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;

use super::node::Node;
use super::process::Process;
use super::settings::Settings;
use super::sidecar::Sidecar;
use super::until;

/// A control plane and its folder.
#[derive(Debug)]
pub struct Plane {
    pub settings: Settings,
    ip: Ipv4Addr,
    ports: [u16; 3],
    folder: Arc<TempDir>,
    process: Process<Running>,
    addresses: Addresses,
    admin: AdminClient<Channel>,
}

impl Plane {
    pub(super) async fn start(settings: Settings, network: Ipv4Addr) -> anyhow::Result<Self> {
        let [a, b, c, _] = network.octets();
        let ip = Ipv4Addr::new(a, b, c, if settings.name == "a" { 1 } else { 2 });
        // Short, since a socket's path may have 107 bytes.
        let folder = Arc::new(tempfile::Builder::new().prefix("mesh").tempdir_in("/tmp")?);
        let (process, addresses) = boot(&settings, &folder, ip, [0; 3]).await?;
        let ports = [addresses.node.port(), addresses.federation.port(), addresses.http.port()];
        let admin = AdminClient::new(unix_channel(&addresses.admin));
        Ok(Self { settings, ip, ports, folder, process, addresses, admin })
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Kills it: no drain, no goodbye.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Starts it again in the same folder, on the same ports.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let (process, addresses) = boot(&self.settings, &self.folder, self.ip, self.ports).await?;
        self.admin = AdminClient::new(unix_channel(&addresses.admin));
        (self.process, self.addresses) = (process, addresses);
        Ok(())
    }

    /// Killed and started again.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill().await;
        self.start_again().await
    }

    /// Stops it in order. Whether everything ended by itself.
    pub async fn drain(&mut self) -> bool {
        self.process.end(|running| running.drain(Duration::from_secs(10))).await
    }

    /// The selector that this process matches.
    ///
    /// # Panics
    /// If the folder is gone.
    pub fn own_uid(&self) -> String {
        let folder = std::fs::metadata(self.folder.path()).expect("its folder is there");
        format!("unix:uid:{}", std::os::unix::fs::MetadataExt::uid(&folder))
    }

    pub fn admin(&self) -> AdminClient<Channel> {
        self.admin.clone()
    }

    /// What a counter shows under these labels.
    pub fn counted(&self, name: &str, labels: &[(&'static str, &str)]) -> u64 {
        self.process.running().metrics().counter(name, "").value(labels)
    }

    // === what an operator does ===

    /// A join token.
    ///
    /// # Errors
    /// The control plane's refusal.
    pub async fn token(&self, node: &str) -> anyhow::Result<String> {
        let asked = api::CreateTokenRequest { node: node.into(), ttl_seconds: 60 };
        Ok(self.admin().create_token(asked).await?.into_inner().token)
    }

    /// The certificate and the key of the authority that signs, as somebody has them who has read its data folder.
    ///
    /// # Errors
    /// If there is no such key.
    pub async fn stolen_authority(&self) -> anyhow::Result<(CertificateDer<'static>, KeyPair)> {
        let domain = format!("{}.example", self.settings.name).parse()?;
        let bundle = Bundle::parse_jwks(&domain, &self.bundle("").await?.jwks, Clock::system().now())?.bundle;
        for file in std::fs::read_dir(self.folder().join("data/keys"))? {
            let key = KeyPair::from_pem(&std::fs::read_to_string(file?.path())?)?;
            let own = |root: &&CertificateDer<'_>| {
                root.windows(key.public_key_raw().len()).any(|window| window == key.public_key_raw())
            };
            if let Some(root) = bundle.x509.iter().find(own) {
                return Ok((root.clone(), key));
            }
        }
        anyhow::bail!("no key of an authority")
    }

    /// A registration entry for this process's user; its ID.
    ///
    /// # Errors
    /// The control plane's refusal.
    pub async fn entry(&self, node: &str, account: &str) -> anyhow::Result<String> {
        let identity = api::Identity {
            spiffe_id: self.settings.id(account),
            node: node.into(),
            selectors: vec![self.own_uid()],
            ..api::Identity::default()
        };
        let asked = api::CreateIdentityRequest { identity: Some(identity) };
        Ok(self.admin().create_identity(asked).await?.into_inner().entry_id)
    }

    /// Ids of the X.509 authorities in this state: subject key identifiers, in hex.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn authorities(&self, state: &str) -> anyhow::Result<Vec<String>> {
        let all = self.admin().list_authorities(api::ListAuthoritiesRequest {}).await?.into_inner().authorities;
        Ok(all.into_iter().filter(|one| one.kind == "x509" && one.state == state).map(|one| one.id).collect())
    }

    /// One step of an X.509 authority's life. By force: the waits are for consumers that fetch seldom, and there are none here.
    ///
    /// # Errors
    /// The control plane's refusal.
    pub async fn change_authority(&self, step: Step, id: &str) -> anyhow::Result<()> {
        let force = !matches!(step, Step::Prepare);
        let asked = api::ChangeAuthorityRequest { kind: "x509".into(), step: step.into(), id: id.into(), force };
        self.admin().change_authority(asked).await?;
        Ok(())
    }

    /// Has a new X.509 authority sign from now on; its id, and that of the one before, which is not tainted yet.
    ///
    /// # Errors
    /// The control plane's refusal.
    pub async fn next_authority(&self) -> anyhow::Result<(String, String)> {
        let old = self.authorities("active").await?.pop().context("an active authority")?;
        self.change_authority(Step::Prepare, "").await?;
        let new = until("a published authority", async || self.authorities("published").await.ok()?.pop()).await?;
        self.change_authority(Step::Activate, &new).await?;
        Ok((new, old))
    }

    /// The own bundle, or another trust domain's.
    ///
    /// # Errors
    /// If there is none.
    pub async fn bundle(&self, trust_domain: &str) -> anyhow::Result<api::ShowBundleResponse> {
        let asked = api::ShowBundleRequest { trust_domain: trust_domain.into() };
        Ok(self.admin().show_bundle(asked).await?.into_inner())
    }

    /// Its only peer.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn peer(&self) -> anyhow::Result<api::Peer> {
        let mut peers = self.admin().list_peers(api::ListPeersRequest {}).await?.into_inner().peers;
        peers.pop().context("no peer")
    }

    /// Returns when the peer is in this state.
    ///
    /// # Errors
    /// If it never is.
    pub async fn peer_is(&self, state: &str) -> anyhow::Result<()> {
        let what = format!("{}: the peer is {state}", self.settings.name);
        until(&what, async || (self.peer().await.ok()?.state == state).then_some(())).await
    }

    /// All services, ours and the peer's.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn services(&self) -> anyhow::Result<Vec<api::Service>> {
        Ok(self.admin().list_services(api::ListServicesRequest::default()).await?.into_inner().services)
    }

    /// Addresses of the endpoints imported for `service`, in order.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn imported(&self, service: &str) -> anyhow::Result<Vec<String>> {
        let all = self.services().await?.into_iter();
        let theirs = all.filter(|one| !one.peer.is_empty() && one.name == service);
        let mut found: Vec<_> = theirs.flat_map(|one| one.endpoints).map(|endpoint| endpoint.address).collect();
        found.sort();
        Ok(found)
    }

    /// Returns when exactly these are imported.
    ///
    /// # Errors
    /// If they never are.
    pub async fn imports(&self, service: &str, wanted: &[&str]) -> anyhow::Result<()> {
        let what = format!("{} imports {wanted:?} of {service}", self.settings.name);
        until(&what, async || (self.imported(service).await.ok()? == wanted).then_some(())).await
    }

    /// The rollout of payments.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn rollout(&self) -> anyhow::Result<api::Rollout> {
        let all = self.admin().list_rollouts(api::ListRolloutsRequest {}).await?.into_inner().rollouts;
        all.into_iter().find(|one| one.service == "payments.shop").context("no rollout")
    }

    /// Returns when the rollout is as wanted.
    ///
    /// # Errors
    /// If it never is; says how it is instead.
    pub async fn rollout_is(&self, what: &str, is: impl Fn(&api::Rollout) -> bool) -> anyhow::Result<api::Rollout> {
        let mut last = None;
        let found = until(what, async || {
            let now = self.rollout().await.ok()?;
            let good = is(&now);
            last = Some(now);
            good.then(|| last.clone()).flatten()
        });
        found.await.with_context(|| format!("{last:#?}"))
    }

    // === who comes to it ===

    /// A node as its sidecar would be, attested.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn node(&self, name: &str) -> anyhow::Result<Node> {
        Node::attested(self, name).await
    }

    /// What a caller from this address is answered, who shows a token.
    ///
    /// # Errors
    /// If it cannot ask.
    pub async fn node_from(
        &self,
        source: &str,
        token: &str,
        key: &PrivateKey,
    ) -> anyhow::Result<Result<wire::Attested, Status>> {
        let way = super::wire::from_address(source.parse()?, self.addresses.node).await?;
        let node = Node::anonymous_at(self, way.to_string()).await?;
        let asked = wire::AttestRequest::join_token(token, csr_of(key)?);
        Ok(attest_once(&mut node.api(), asked).await)
    }

    /// A sidecar that attests by what its file says under `attest`, ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn sidecar_by(&self, attest: Value, workloads: Value) -> anyhow::Result<Sidecar> {
        Sidecar::start_by(self, attest, workloads).await
    }

    /// A sidecar with its first token, ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn sidecar(&self, node: &str, workloads: Value) -> anyhow::Result<Sidecar> {
        Sidecar::start(self, node, workloads).await
    }
}

async fn boot(
    settings: &Settings,
    folder: &Arc<TempDir>,
    ip: Ipv4Addr,
    ports: [u16; 3],
) -> anyhow::Result<(Process<Running>, Addresses)> {
    let file = folder.path().join("symbolon.yaml");
    std::fs::write(&file, settings.file(folder.path(), ip, ports).to_string())?;
    let mut config = app::config::load(&file, [])?;
    (settings.tweak)(&mut config);
    let boot = async move { Ok(Box::pin(app::build(config, Seams::seeded(7))).await?.spawn()) };
    let process = Process::start(settings.name, boot).await?;
    let addresses = process.running().addresses().clone();
    Ok((process, addresses))
}
