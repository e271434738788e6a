//! What the scenarios share: a stage of real processes for each, on its own loopback network, in its own folder; and programs to run
//! and read. `tests/scenarios.rs` holds the scenarios.

pub mod bench;
pub mod interop;
pub mod mesh;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use controlplane::cli::demo::acts::{Acts, LOAD};
use controlplane::cli::demo::board::Board;
use controlplane::cli::demo::observe;
use controlplane::cli::demo::pause::PauseProbe;
use controlplane::cli::demo::plan::{CHECKOUT, PAYMENTS_A, PAYMENTS_B, Plan, Side};
use controlplane::cli::demo::stage::{PATIENCE, Programs, Stage};
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::supervise::{OnExit, Tasks};

/// A ramp with one short step: scenarios that need both arms in traffic get there at once.
pub const STRAIGHT_UP: &[(u32, &str)] = &[(100, "2s")];

/// A stage, its observers, and what they see.
#[derive(Debug)]
pub struct Scenario {
    pub acts: Acts,
    pub tasks: Tasks,
    pub drain: Drain,
}

/// The folder of the built programs: where this test's own executable lies, one up.
///
/// # Panics
/// If the test runs from an unusual place.
pub fn built() -> PathBuf {
    let own = std::env::current_exe().expect("a test has an executable");
    own.ancestors().nth(2).expect("target/<profile>/deps/<test>").to_owned()
}

/// The root of the repository.
///
/// # Panics
/// Never: the manifest's folder has a parent.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

impl Scenario {
    /// An empty stage. `network` is the second byte of its addresses; no two scenarios share one.
    ///
    /// # Errors
    /// If the programs are not built: `make build` first.
    pub fn new(name: &str, network: u8, steps: &'static [(u32, &'static str)]) -> anyhow::Result<Self> {
        // Relative, since a Unix socket's path may have 107 bytes at most.
        std::env::set_current_dir(repository())?;
        let programs = Programs::find(&built().join("symbolon"), None)?;
        let dir = Path::new("target/scenarios").join(name);
        let plan = Plan { network: [127, network], dir, svid_ttl: "60s", steps };
        let acts = Acts { stage: Stage::new(plan, programs)?, board: Board::new(true, Clock::system()) };
        let drain = Drain::new();
        Ok(Self { acts, tasks: Tasks::new(drain.clone()), drain })
    }

    /// Both control planes, federated; A's checkout and payments; no load yet.
    ///
    /// # Errors
    /// If anything does not come up.
    pub async fn federated(&mut self) -> anyhow::Result<()> {
        for side in [Side::A, Side::B] {
            self.acts.stage.start_control_plane(side)?;
        }
        for side in [Side::A, Side::B] {
            self.acts.stage.control_plane_ready(side).await?;
        }
        let [first, second] = PAYMENTS_A;
        self.acts.start_nodes(&[CHECKOUT, first, second]).await?;
        self.acts.stage.introduce().await?;
        self.acts.stage.linked().await
    }

    /// The load, and the observers of rollout and surroundings.
    ///
    /// # Errors
    /// If the load does not get its first replies.
    pub async fn under_load(&mut self) -> anyhow::Result<()> {
        let (board, plan) = (self.acts.board.clone(), self.acts.stage.plan.clone());
        let lines = self.acts.start_load()?;
        self.tasks.spawn("load", OnExit::Log, observe::load(board.clone(), lines));
        self.tasks.spawn("rollout", OnExit::Log, observe::rollout(board.clone(), plan.clone(), self.drain.clone()));
        let probe = PauseProbe::start();
        let surroundings = observe::surroundings(board.clone(), plan, probe, self.drain.clone());
        self.tasks.spawn("surroundings", OnExit::Log, surroundings);
        self.requests(500).await
    }

    /// Federated, under load, and half of the traffic in B.
    ///
    /// # Errors
    /// If it does not get there.
    pub async fn both_arms(&mut self) -> anyhow::Result<()> {
        self.federated().await?;
        self.under_load().await?;
        self.acts.start_nodes(&PAYMENTS_B).await?;
        self.acts.converged("the ramp").await?;
        self.acts.board.say("both arms carry traffic");
        Ok(())
    }

    /// Returns after `count` more requests have ended.
    ///
    /// # Errors
    /// If they do not.
    pub async fn requests(&mut self, count: u64) -> anyhow::Result<()> {
        let board = self.acts.board.clone();
        let until = board.facts().ledger.total().requests + count;
        let counted = || std::future::ready(board.facts().ledger.total().requests >= until);
        let patience = PATIENCE + Duration::from_millis(count);
        self.acts.stage.until(&format!("{count} more requests have ended"), patience, counted).await
    }

    /// Ends the load and everything else; fails if any request failed.
    ///
    /// # Errors
    /// Says which failures there were.
    pub async fn end_without_failures(mut self) -> anyhow::Result<()> {
        self.acts.stage.check_alive()?;
        self.acts.stage.processes.stop(LOAD, Duration::from_secs(5)).await?;
        self.drain.start();
        self.acts.stage.processes.end(Duration::from_secs(5)).await;
        self.tasks.join(Duration::from_secs(5)).await;
        let facts = self.acts.board.facts();
        let total = facts.ledger.total();
        anyhow::ensure!(total.requests > 1_000, "only {} requests were made", total.requests);
        anyhow::ensure!(
            total.failed == 0,
            "{} of {} failed: {:?}",
            total.failed,
            total.requests,
            facts.ledger.failures()
        );
        Ok(())
    }
}

/// Runs a program to its end in the repository's root; its status, standard output and standard error.
///
/// # Errors
/// If it cannot be started, or does not end within `patience`.
pub async fn run(program: &Path, args: &[&str], patience: Duration) -> anyhow::Result<(i32, String, String)> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).current_dir(repository()).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(patience, command.output()).await;
    let output = ended.with_context(|| format!("{} {args:?} did not end", program.display()))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
}
