//! The two clusters as real processes: control planes, sidecars, Envoys, applications; brought up node by node, each step waiting for
//! the condition that the next one needs.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use http::Method;
use symbolon_kit::clock::Clock;
use symbolon_kit::files::{Durability, replace};
use symbolon_kit::net;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_proto::admin::admin_client::AdminClient;
use symbolon_proto::admin::{
    self as wire, AcceptPeerRequest, CreateIdentityRequest, CreateTokenRequest, InvitePeerRequest, ListPeersRequest,
    Peer, SetBundleRequest, ShowBundleRequest,
};
use symbolon_proto::ids::TrustDomain;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::identity::profile;

use super::envoy::{Admin, Http};
use super::folder::Folder;
use super::plan::{Node, Plan, Side};
use super::processes::{Launch, Processes};

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);
/// How long anything may take that the demo waits for, unless it says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The programs that a stage runs.
#[derive(Clone, Debug)]
pub struct Programs {
    pub symbolon: PathBuf,
    pub sidecar: PathBuf,
    pub payments: PathBuf,
    pub load: PathBuf,
    pub envoy: PathBuf,
}

/// Two clusters, as far as they have been brought up.
#[derive(Debug)]
pub struct Stage {
    pub plan: Plan,
    pub programs: Programs,
    pub processes: Processes,
    /// The nodes that run, by label.
    pub nodes: BTreeMap<String, Node>,
    _folder: Folder,
}

impl Programs {
    /// Those beside `executable`, and the Envoy that `make tools` installed, or the one given.
    ///
    /// # Errors
    /// Names what is missing and `make demo`.
    pub fn find(executable: &Path, envoy: Option<&Path>) -> anyhow::Result<Self> {
        let beside = executable.parent().context("this executable is in no folder")?;
        let find = |path: PathBuf| {
            let found = path.canonicalize();
            found.map_err(|_| anyhow!("{} is missing. Run `make demo`, which builds and installs it", path.display()))
        };
        let installed = beside.join("../tools/envoy/envoy/_bin/envoy");
        Ok(Self {
            symbolon: find(executable.to_owned())?,
            sidecar: find(beside.join("symbolon-sidecar"))?,
            payments: find(beside.join("symbolon-demo-payments"))?,
            load: find(beside.join("symbolon-demo-load"))?,
            envoy: find(envoy.map_or(installed, Path::to_owned))?,
        })
    }
}

impl Stage {
    /// An empty stage in the plan's folder, which is emptied first.
    ///
    /// # Errors
    /// If the folder cannot be used, another run uses it, or it holds what no run has written.
    pub fn new(plan: Plan, programs: Programs) -> anyhow::Result<Self> {
        let folder = Folder::take(&plan.dir)?;
        // Whoever has it would answer in place of ours that it is ready.
        let address = plan.address(Side::A, 1, 8080);
        std::net::TcpListener::bind(address)
            .with_context(|| format!("{address} cannot be bound; does another demo run? Choose another --network"))?;
        let processes = Processes::new(&plan.dir)?;
        folder.empty()?;
        Ok(Self { plan, programs, processes, nodes: BTreeMap::new(), _folder: folder })
    }

    /// Returns when `condition` holds.
    ///
    /// # Errors
    /// If it does not within `patience`, or a process has ended by itself.
    pub async fn until<F, C>(&mut self, what: &str, patience: Duration, mut condition: C) -> anyhow::Result<()>
    where
        C: FnMut() -> F,
        F: Future<Output = bool>,
    {
        let deadline = Instant::now() + patience;
        loop {
            if condition().await {
                return Ok(());
            }
            self.check_alive()?;
            if Instant::now() > deadline {
                bail!("waited {patience:?} in vain until {what}; the logs are in {}", self.plan.dir.display());
            }
            tokio::time::sleep(LOOK).await; // the pace of looking, not a guess at how long it takes
        }
    }

    /// # Errors
    /// If a process has ended by itself.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        self.processes.first_dead().map_or(Ok(()), |words| Err(anyhow!(words)))
    }

    // --- control planes

    /// The name of a control plane's process.
    pub fn control_plane_name(side: Side) -> String {
        format!("symbolon {}", side.name())
    }

    /// Writes its file and starts it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_control_plane(&mut self, side: Side) -> anyhow::Result<()> {
        let dir = self.plan.control_plane_dir(side);
        std::fs::create_dir_all(&dir)?;
        let file = serde_json::to_vec_pretty(&self.plan.control_plane_file(side))?;
        write(&dir.join("symbolon.yaml"), &file)?;
        self.processes.start(&Launch {
            name: Self::control_plane_name(side),
            exe: self.programs.symbolon.clone(),
            args: ["serve", "--config", "symbolon.yaml"].map(str::to_owned).into(),
            dir,
            env: Vec::new(),
        })
    }

    /// Returns when it answers that it is ready.
    ///
    /// # Errors
    /// If it does not.
    pub async fn control_plane_ready(&mut self, side: Side) -> anyhow::Result<()> {
        let address = self.plan.address(side, 1, 8080);
        self.until(&format!("{} is ready", Self::control_plane_name(side)), PATIENCE, || async move {
            Http::new(address).call(Method::GET, "/readyz").await.is_ok_and(|(status, _)| status == 200)
        })
        .await
    }

    /// A control plane's operator door.
    pub fn admin(&self, side: Side) -> AdminClient<Channel> {
        admin_client(self.plan.admin_socket(side))
    }

    /// Invites on A, accepts on B.
    ///
    /// # Errors
    /// If either refuses.
    pub async fn introduce(&mut self) -> anyhow::Result<()> {
        let invite = InvitePeerRequest { peer: "b".into(), ttl_seconds: 600 };
        let token = self.admin(Side::A).invite_peer(invite).await.context("peer invite b")?.into_inner().token;
        let accept = AcceptPeerRequest { peer: "a".into(), token };
        self.admin(Side::B).accept_peer(accept).await.context("peer accept a")?;
        Ok(())
    }

    /// Waits until both sides hear each other.
    ///
    /// # Errors
    /// If the link does not come up.
    pub async fn linked(&mut self) -> anyhow::Result<()> {
        for side in [Side::A, Side::B] {
            let admin = self.admin(side);
            self.until(&format!("{} hears its peer", side.name()), PATIENCE, || {
                let admin = admin.clone();
                async move { peer(admin).await.is_some_and(|peer| peer.state == "LIVE") }
            })
            .await?;
        }
        Ok(())
    }

    /// Hands A another root as B's, and starts A again so that nothing of before is left.
    ///
    /// # Errors
    /// If A does not take it.
    pub async fn mislead(&mut self) -> anyhow::Result<()> {
        let trust_domain: TrustDomain = Side::B.trust_domain().parse()?;
        let now = Clock::system().now();
        let params = profile::authority(&trust_domain, "a stranger", now, Duration::from_hours(1));
        let root = params.self_signed(&rcgen::KeyPair::generate()?)?.der().clone();
        let wrong = Bundle::new(trust_domain, u64::MAX >> 1, Duration::from_mins(1), vec![root]);
        let file = self.plan.dir.join("wrong-bundle.json");
        write(&file, &wrong.to_jwks())?;
        let request = SetBundleRequest { trust_domain: "b.example".into(), jwks: wrong.to_jwks().into(), force: true };
        self.admin(Side::A).set_bundle(request).await.context("bundle set")?;
        let name = Self::control_plane_name(Side::A);
        self.processes.kill(&name).await?;
        self.start_control_plane(Side::A)?;
        self.control_plane_ready(Side::A).await
    }

    // --- nodes

    /// Registers the node and its workload, then starts application, sidecar and Envoy.
    ///
    /// # Errors
    /// If the control plane refuses or a process cannot be started.
    pub async fn start_node(&mut self, node: &Node) -> anyhow::Result<()> {
        let (dir, label) = (self.plan.node_dir(node), node.label());
        std::fs::create_dir_all(&dir)?;
        self.register(node, &dir).await.with_context(|| format!("register {label}"))?;
        self.write_sidecar_workloads(node, &[self.plan.inbound(node)])?;
        if node.service.is_some() {
            self.start_app(node)?;
        }
        self.start_sidecar(node)?;
        self.write_bootstrap(node, &dir).await?;
        self.start_envoy(node)?;
        self.nodes.insert(label, node.clone());
        Ok(())
    }

    /// Returns when the node's Envoy has its listeners.
    ///
    /// # Errors
    /// If it does not get them.
    pub async fn node_ready(&mut self, node: &Node) -> anyhow::Result<()> {
        let wanted = usize::from(node.service.is_some()) + usize::from(!node.upstreams.is_empty());
        let address = self.plan.envoy_admin(node);
        self.until(&format!("the Envoy of {} has its listeners", node.label()), PATIENCE, || async move {
            let mut admin = Admin::new(address);
            admin.is_ready().await && admin.listeners().await.is_ok_and(|listeners| listeners.len() >= wanted)
        })
        .await
    }

    /// Starts the node's sidecar; its file must be there.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_sidecar(&mut self, node: &Node) -> anyhow::Result<()> {
        self.processes.start(&Launch {
            name: format!("sidecar {}", node.label()),
            exe: self.programs.sidecar.clone(),
            args: ["run", "--config", "sidecar.yaml"].map(str::to_owned).into(),
            dir: self.plan.node_dir(node),
            env: Vec::new(),
        })
    }

    /// Starts the node's Envoy from the bootstrap that its sidecar printed.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_envoy(&mut self, node: &Node) -> anyhow::Result<()> {
        let args = ["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"];
        self.processes.start(&Launch {
            name: format!("envoy {}", node.label()),
            exe: self.programs.envoy.clone(),
            args: args.map(str::to_owned).into(),
            dir: self.plan.node_dir(node),
            env: Vec::new(),
        })
    }

    /// Starts the node's application.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_app(&mut self, node: &Node) -> anyhow::Result<()> {
        let (listen, control) = (self.plan.app(node).to_string(), self.plan.app_control(node).to_string());
        let args = ["--listen", &listen, "--control", &control, "--name", &node.label()];
        self.processes.start(&Launch {
            name: format!("app {}", node.label()),
            exe: self.programs.payments.clone(),
            args: args.map(str::to_owned).into(),
            dir: self.plan.node_dir(node),
            env: Vec::new(),
        })
    }

    /// Writes the sidecar's file, whole, with the node's workload behind each of these inbound addresses.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_sidecar_workloads(&self, node: &Node, inbound: &[std::net::SocketAddr]) -> anyhow::Result<()> {
        let file = serde_json::to_vec_pretty(&self.plan.sidecar_file(node, inbound))?;
        Ok(write(&self.plan.node_dir(node).join("sidecar.yaml"), &file)?)
    }

    async fn register(&mut self, node: &Node, dir: &Path) -> anyhow::Result<()> {
        let mut admin = self.admin(node.side);
        let token = CreateTokenRequest { node: node.name.into(), ttl_seconds: 600 };
        let token = admin.create_token(token).await?.into_inner().token;
        let identity = wire::Identity {
            spiffe_id: node.identity(),
            node: node.name.into(),
            // Envoy itself calls SDS: it is Envoy that must match, and nobody else on this node does.
            selectors: vec![
                format!("unix:uid:{}", nix::unistd::getuid()),
                format!("unix:path:{}", self.programs.envoy.display()),
            ],
            ..Default::default()
        };
        admin.create_identity(CreateIdentityRequest { identity: Some(identity) }).await?;
        let bundle = admin.show_bundle(ShowBundleRequest::default()).await?.into_inner().jwks;
        write(&dir.join("bundle.json"), &bundle)?;
        Ok(write(&dir.join("join-token"), token.as_bytes())?)
    }

    async fn write_bootstrap(&self, node: &Node, dir: &Path) -> anyhow::Result<()> {
        let admin = self.plan.envoy_admin(node).to_string();
        let printed = tokio::process::Command::new(&self.programs.sidecar)
            .args(["bootstrap", "--config", "sidecar.yaml", "--admin", &admin])
            .current_dir(dir)
            .output()
            .await
            .context("symbolon-sidecar bootstrap")?;
        if !printed.status.success() {
            bail!("symbolon-sidecar bootstrap: {}", String::from_utf8_lossy(&printed.stderr));
        }
        Ok(write(&dir.join("envoy.yaml"), &printed.stdout)?)
    }
}

/// Whole or not at all: the control planes, sidecars and Envoys watch these files.
fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    replace(path, content, 0o644, Durability::Soon)
}

/// A client of the admin socket; connects when it is first used, again after a restart.
pub fn admin_client(socket: PathBuf) -> AdminClient<Channel> {
    AdminClient::new(net::unix_channel(socket))
}

/// The one peer that each control plane of a stage has.
pub async fn peer(mut admin: AdminClient<Channel>) -> Option<Peer> {
    let listed = tokio::time::timeout(Duration::from_secs(2), admin.list_peers(ListPeersRequest {})).await;
    listed.ok()?.ok()?.into_inner().peers.into_iter().next()
}
