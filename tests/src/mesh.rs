//! The quick harness: one or two real control planes and their sidecars in this process, on loopback, with mTLS and a store on disk.
//! Clients are scripted: [`proxy`] is an Envoy as xDS sees it, [`node`] a sidecar as the node port sees it, [`load`] drives whole
//! ramps by load reports.
//!
//! ```text
//!   test ── admin ──────────────► Plane a ◄── link ──► Plane b          each Plane and Sidecar: the product's own `app::build`,
//!    │ ── node port (Node) ─────►   ▲                    ▲              in a runtime of its own, so that it can be killed
//!    └── Proxy, Load, Workload ──► Sidecar            Sidecar
//! ```
//!
//! A kill ends the runtime: every task is dropped where it stands, no drain, no last words. What was acknowledged must then be on
//! disk. Every mesh has a loopback network of its own, so that a restart finds its ports free.

pub mod load;
pub mod node;
pub mod plane;
pub mod process;
pub mod propagation;
pub mod rotation;
pub mod proxy;
pub mod settings;
pub mod sidecar;
pub mod wire;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use symbolon_proto::admin as api;
use tokio::time::Instant;

use plane::Plane;
use settings::Settings;

/// Far beyond what anything here takes: a hang is a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One or two control planes, `a` and `b`.
#[derive(Debug)]
pub struct Mesh {
    pub a: Plane,
    b: Option<Plane>,
}

/// What a mesh is to be.
#[derive(Debug)]
pub struct Builder {
    a: Settings,
    b: Settings,
    two: bool,
}

impl Mesh {
    pub fn builder() -> Builder {
        Builder { a: Settings::new("a", "b"), b: Settings::new("b", "a"), two: false }
    }

    /// The second control plane.
    ///
    /// # Panics
    /// If the mesh was built with one.
    pub fn b(&self) -> &Plane {
        self.b.as_ref().expect("built with two()")
    }

    /// # Panics
    /// If the mesh was built with one.
    pub fn b_mut(&mut self) -> &mut Plane {
        self.b.as_mut().expect("built with two()")
    }

    /// A invites, B accepts; returns when both call the link LIVE.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn link(&self) -> anyhow::Result<()> {
        let invite = api::InvitePeerRequest { peer: "b".into(), ttl_seconds: 60 };
        let token = self.a.admin().invite_peer(invite).await?.into_inner().token;
        self.b().admin().accept_peer(api::AcceptPeerRequest { peer: "a".into(), token }).await?;
        self.a.peer_is("LIVE").await?;
        self.b().peer_is("LIVE").await
    }
}

impl Builder {
    /// Two control planes, not yet linked.
    #[must_use]
    pub fn two(mut self) -> Self {
        self.two = true;
        self
    }

    /// Changes A's settings.
    #[must_use]
    pub fn a(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.a);
        self
    }

    /// Changes B's settings.
    #[must_use]
    pub fn b(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.b);
        self
    }

    /// Starts the control planes.
    ///
    /// # Errors
    /// If one does not start.
    pub async fn start(self) -> anyhow::Result<Mesh> {
        logs();
        let network = network();
        let a = Plane::start(self.a, network).await.context("a")?;
        let b = if self.two { Some(Plane::start(self.b, network).await.context("b")?) } else { None };
        Ok(Mesh { a, b })
    }

    /// Starts two control planes and links them.
    ///
    /// # Errors
    /// If one does not start, or the link does not come up.
    pub async fn linked(self) -> anyhow::Result<Mesh> {
        let mesh = self.two().start().await?;
        mesh.link().await?;
        Ok(mesh)
    }
}

/// With `SYMBOLON_LOG=debug` tests show what the programs log.
fn logs() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("SYMBOLON_LOG") {
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init(); // once is enough
    }
}

/// A loopback network that no other mesh of this process has, and hardly one of another process.
fn network() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let mine = NEXT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = u16::try_from(std::process::id() % 0x3fff).unwrap_or(0).wrapping_add(mine << 8).to_be_bytes();
    Ipv4Addr::new(127, 128 | (high & 0x7f), low, 0)
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// If there is none in [`PATIENCE`].
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        anyhow::ensure!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// # Errors
/// If `future` takes longer than [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("waited in vain for {what}"))
}
