//! A sidecar, and what its sockets offer.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sidecar_ext::app::{self, Running, Seams};
use symbolon_kit::clock::Clock;
use symbolon_kit::net::unix_channel;
use symbolon_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tempfile::TempDir;
use tonic::Request;
use tonic::transport::Channel;

use super::load::Load;
use super::plane::Plane;
use super::process::Process;
use super::proxy::Proxy;
use super::until;

/// A sidecar and its folder.
#[derive(Debug)]
pub struct Sidecar {
    pub node: String,
    folder: TempDir,
    file: Value,
    process: Process<Running>,
}

impl Sidecar {
    pub(super) async fn start(plane: &Plane, node: &str, workloads: Value) -> anyhow::Result<Self> {
        let folder = folder()?;
        let token = folder.path().join("token");
        std::fs::write(&token, plane.token(node).await?)?;
        Self::start_in(folder, plane, node, ("joinTokenFile", json!(token)), workloads).await
    }

    pub(super) async fn start_by(plane: &Plane, attest: Value, workloads: Value) -> anyhow::Result<Self> {
        Self::start_in(folder()?, plane, "", ("attest", attest), workloads).await
    }

    async fn start_in(
        folder: TempDir,
        plane: &Plane,
        node: &str,
        (evidence, of): (&str, Value),
        workloads: Value,
    ) -> anyhow::Result<Self> {
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("bundle.json"), plane.bundle("").await?.jwks)?;
        let file = json!({
            "trustDomain": format!("{}.example", plane.settings.name),
            "controlPlane": [plane.addresses().node.to_string()],
            "bootstrapBundle": at("bundle.json"),
            evidence: of,
            "dataDir": at("data"),
            "sockets": {"agent": at("run/agent.sock"), "xds": at("run/xds.sock")},
            "http": "127.0.0.1:0",
            "healthInterval": "50ms",
            "workloads": workloads,
        });
        let process = boot(&folder, &file).await?;
        let sidecar = Self { node: node.into(), folder, file, process };
        sidecar.ready().await?;
        Ok(sidecar)
    }

    /// Returns when it has joined and holds what it is to hold.
    ///
    /// # Errors
    /// If it never does.
    pub async fn ready(&self) -> anyhow::Result<()> {
        until("the sidecar is ready", async || self.running().readiness.pending().is_empty().then_some(())).await
    }

    pub fn running(&self) -> &Running {
        self.process.running()
    }

    /// Kills it.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Starts it again in the same folder; its token is spent.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = boot(&self.folder, &self.file).await?;
        Ok(())
    }

    /// Replaces the workloads in its file, which is watched.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_workloads(&mut self, workloads: Value) -> anyhow::Result<()> {
        self.file["workloads"] = workloads;
        let (new, path) = (self.folder.path().join("sidecar.new"), self.folder.path().join("sidecar.yaml"));
        std::fs::write(&new, self.file.to_string())?;
        Ok(std::fs::rename(new, path)?)
    }

    pub fn agent(&self) -> PathBuf {
        self.folder.path().join("run/agent.sock")
    }

    pub fn xds(&self) -> PathBuf {
        self.folder.path().join("run/xds.sock")
    }

    pub fn counted(&self, name: &str, labels: &[(&'static str, &str)]) -> u64 {
        self.running().metrics.counter(name, "").value(labels)
    }

    pub fn workload_api(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(unix_channel(self.agent()))
    }

    /// An Envoy beside the workload of this identity.
    ///
    /// # Errors
    /// If the socket does not answer.
    pub async fn proxy(&self, id: &str) -> anyhow::Result<Proxy> {
        Proxy::start(&self.xds(), id).await
    }

    /// Its load reports.
    ///
    /// # Errors
    /// If the socket does not answer.
    pub async fn load(&self, id: &str) -> anyhow::Result<Load> {
        Load::open(&self.xds(), id).await
    }

    /// Stops it in order. Whether everything ended by itself.
    pub async fn drain(&mut self) -> bool {
        self.process.end(|running| running.drain(Duration::from_secs(10))).await
    }
}

fn folder() -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix("node").tempdir_in("/tmp")
}

/// A request as SPIFFE clients make it.
pub fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", tonic::metadata::MetadataValue::from_static("true"));
    request
}

async fn boot(folder: &TempDir, file: &Value) -> anyhow::Result<Process<Running>> {
    let path = folder.path().join("sidecar.yaml");
    std::fs::write(&path, file.to_string())?;
    let config = sidecar_ext::config::load(&path, [])?;
    let seams = Seams { clock: Clock::system(), seed: 11 };
    Process::start("sidecar", async move { Box::pin(app::build(config, path, seams)).await?.spawn() }).await
}
