//! The acts, in order. Each begins by saying what it does and ends when its condition holds; what it measured goes to the board or
//! is returned.

use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use nix::sys::signal::Signal;
use symbolon_kit::drain::Drain;
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_proto::admin::Rollout;
use tokio::time::Instant;

use super::board::{Board, Certificates};
use super::envoy::{Admin, Http};
use super::plan::{CHECKOUT, LEDGER, Node, PAYMENTS_A, PAYMENTS_B, Side};
use super::processes::Launch;
use super::stage::{PATIENCE, Stage};
use super::summary::Partition;
use super::{Fault, Sabotage, observe};

/// How many times the second ledger workload comes, and goes.
const ROUNDS: usize = 100;
/// Longer than a ramp of the demo takes.
const RAMP: Duration = Duration::from_secs(75);
/// From the start of a workload: half of 60 s and its jitter, two fifths until its connections end, and some room.
const ROTATION: Duration = Duration::from_secs(75);
/// Between two looks at A's Envoy while a change is on its way.
const PROPAGATION_LOOK: Duration = Duration::from_millis(2);
/// What the load program is called among the processes.
pub const LOAD: &str = "load checkout";

/// Acts on the stage and tells the board.
#[derive(Debug)]
pub struct Acts {
    pub stage: Stage,
    pub board: Board,
}

impl Acts {
    /// Both control planes, A's nodes and B's ledger; then the federation.
    ///
    /// # Errors
    /// If anything does not come up.
    pub async fn join_and_federate(&mut self, sabotage: Option<Sabotage>) -> anyhow::Result<()> {
        self.board.act("two control planes that share nothing start");
        for side in [Side::A, Side::B] {
            self.stage.start_control_plane(side)?;
        }
        for side in [Side::A, Side::B] {
            self.stage.control_plane_ready(side).await?;
        }
        self.board.act("nodes join with one-time tokens; their workloads get SVIDs");
        let [first, second] = PAYMENTS_A;
        self.start_nodes(&[CHECKOUT, first, second, LEDGER]).await?;
        self.board.act("A invites B: a one-time token, then each side trusts exactly the other's bundle");
        self.stage.introduce().await?;
        if sabotage == Some(Sabotage::WrongBundle) {
            self.stage.mislead().await?;
        }
        self.stage.linked().await?;
        let (checkout, ledger) = (self.stage.plan.envoy_admin(&CHECKOUT), self.stage.plan.inbound(&LEDGER));
        let mut envoy = Admin::new(checkout);
        self.wait_for_host(&mut envoy, "ledger.shop.b", ledger, true).await?;
        self.board.say("A's Envoy knows b's ledger");
        Ok(())
    }

    /// Starts nodes side by side and waits for their Envoys.
    ///
    /// # Errors
    /// If one does not come up.
    pub async fn start_nodes(&mut self, nodes: &[Node]) -> anyhow::Result<()> {
        for node in nodes {
            self.stage.start_node(node).await?;
        }
        for node in nodes {
            self.stage.node_ready(node).await?;
        }
        Ok(())
    }

    /// Starts the open loop of 1,000 requests a second; returns its lines once the first replies are there.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_load(&mut self) -> anyhow::Result<tokio::process::ChildStdout> {
        self.board.act("1,000 requests a second, through A's Envoy, whatever happens from now on");
        let plan = &self.stage.plan;
        let mut args = vec!["--target".to_owned(), plan.outbound(&CHECKOUT).to_string(), "--host".to_owned()];
        args.push("payments.shop".into());
        for node in PAYMENTS_A.iter().chain(&PAYMENTS_B) {
            args.extend(["--expect".to_owned(), format!("{}={}", node.label(), node.identity())]);
        }
        let (exe, dir) = (self.stage.programs.load.clone(), plan.node_dir(&CHECKOUT));
        self.stage.processes.start_piped(&Launch { name: LOAD.into(), exe, args, dir, env: Vec::new() })
    }

    /// The ledger's second workload comes and goes; measures each change from the file to A's Envoy.
    ///
    /// # Errors
    /// If a change does not arrive.
    pub async fn propagation(&mut self) -> anyhow::Result<()> {
        self.board
            .act(&format!("{ROUNDS} additions and {ROUNDS} removals of an endpoint in B, as A's Envoy sees them"));
        let mut envoy = Admin::new(self.stage.plan.envoy_admin(&CHECKOUT));
        let (first, second) = (self.stage.plan.inbound(&LEDGER), self.stage.plan.second_ledger());
        for _ in 0..ROUNDS {
            for present in [true, false] {
                let changed = Instant::now();
                let inbound = if present { &[first, second][..] } else { &[first] };
                self.stage.write_sidecar_workloads(&LEDGER, inbound)?;
                self.wait_for_host(&mut envoy, "ledger.shop.b", second, present).await?;
                self.board.facts().propagation.push(changed.elapsed().as_secs_f64() * 1e3);
            }
        }
        let mut samples = self.board.facts().propagation.clone();
        let (p50, p99) =
            (super::ledger::nearest_rank(&mut samples, 50.0), super::ledger::nearest_rank(&mut samples, 99.0));
        self.board
            .say(&format!("file in B → Envoy in A: p50 {p50:.1} ms, p99 {p99:.1} ms over {} changes", samples.len()));
        Ok(())
    }

    async fn wait_for_host(
        &mut self,
        envoy: &mut Admin,
        cluster: &str,
        address: std::net::SocketAddr,
        present: bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while envoy.has_host(cluster, address).await.context("A's Envoy")? != present {
            self.stage.check_alive()?;
            if Instant::now() > deadline {
                bail!(
                    "A's Envoy did not {} {address} in {cluster} within {PATIENCE:?}",
                    if present { "take" } else { "drop" }
                );
            }
            tokio::time::sleep(PROPAGATION_LOOK).await;
        }
        Ok(())
    }

    /// B's payments scale out.
    ///
    /// # Errors
    /// If they do not come up.
    pub async fn scale_out(&mut self) -> anyhow::Result<()> {
        self.board.act("B's payments scale out; nobody tells A what to do");
        self.start_nodes(&PAYMENTS_B).await
    }

    /// In the middle of the ramp A's control plane is killed and started again; from when to when it was away, in Unix milliseconds.
    ///
    /// # Errors
    /// If the ramp does not reach the end.
    pub async fn ramp(&mut self) -> anyhow::Result<(u64, u64)> {
        self.until_rollout("the ramp is at 25 %", RAMP, |r| r.step_weight == 25 && r.weights_acked_at_ms > 0).await?;
        self.board.act("A's control plane is killed (SIGKILL) in the middle of the ramp, and started again");
        let name = Stage::control_plane_name(Side::A);
        let killed = self.board.now_ms();
        self.stage.processes.kill(&name).await?;
        self.stage.start_control_plane(Side::A)?;
        self.stage.control_plane_ready(Side::A).await?;
        let back = self.board.now_ms();
        self.board.act("A's control plane is back; the ramp goes on where it stood");
        self.converged("the ramp").await?;
        Ok((killed, back))
    }

    /// Waits until the last step is passed.
    ///
    /// # Errors
    /// If it is not.
    pub async fn converged(&mut self, what: &str) -> anyhow::Result<()> {
        self.until_rollout(&format!("{what} has converged"), RAMP, |r| {
            r.phase == "Converged" && r.step_weight == 100 && r.weights_acked_at_ms > 0
        })
        .await
    }

    /// Returns when the rollout, as last told, is as wanted.
    ///
    /// # Errors
    /// If it does not become so.
    pub async fn until_rollout(
        &mut self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&Rollout) -> bool,
    ) -> anyhow::Result<()> {
        let board = self.board.clone();
        let holds = || {
            let holds = board.facts().rollout.as_ref().is_some_and(&wanted);
            std::future::ready(holds)
        };
        let waited = self.stage.until(what, patience, holds).await;
        waited.with_context(|| match &board.facts().rollout {
            Some(rollout) => {
                format!("the rollout is {} at {} %: {}", rollout.phase, rollout.step_weight, rollout.message)
            }
            None => "no rollout was ever told of".into(),
        })
    }

    /// Something goes wrong in B. Returns when it began, in Unix milliseconds, once A has taken B out of traffic.
    ///
    /// # Errors
    /// If A does not.
    pub async fn fault(&mut self, fault: Fault) -> anyhow::Result<u64> {
        let began = self.board.now_ms();
        match fault {
            Fault::Errors => {
                self.board.act("B's payments answer 30 % errors");
                self.set_errors(0.3).await?;
            }
            Fault::Crash => {
                self.board.act("B's payments crash (SIGKILL), their Envoys go on");
                for node in &PAYMENTS_B {
                    self.stage.processes.kill(&format!("app {}", node.label())).await?;
                }
            }
            Fault::Partition => bail!("a partition is an act of its own"),
        }
        self.until_rollout("B is out of traffic", Duration::from_secs(20), |r| {
            r.step_weight == 0 && r.weights.get(1) == Some(&0) && r.weights_acked_at_ms > 0
        })
        .await?;
        self.board.say("A took B out of traffic by itself");
        Ok(began)
    }

    /// What went wrong in B is mended; waits for backoff, probe and the second ramp.
    ///
    /// # Errors
    /// If it does not converge again.
    pub async fn recover(&mut self, fault: Fault) -> anyhow::Result<()> {
        self.board.act("B is well again; A waits its backoff, then ramps once more");
        match fault {
            Fault::Errors => self.set_errors(0.0).await?,
            Fault::Crash => {
                for node in &PAYMENTS_B {
                    self.stage.start_app(node)?;
                }
            }
            Fault::Partition => {}
        }
        self.until_rollout("A probes B", RAMP, |r| r.step_weight > 0).await?;
        self.converged("the second ramp").await
    }

    async fn set_errors(&mut self, share: f64) -> anyhow::Result<()> {
        for node in &PAYMENTS_B {
            let mut control = Http::new(self.stage.plan.app_control(node));
            control.call(Method::PUT, &format!("/errors/{share}")).await?;
        }
        Ok(())
    }

    /// B's control plane falls silent (SIGSTOP) for longer than SUSPECT: the ramp freezes, nothing is withdrawn, nothing rolls back.
    ///
    /// # Errors
    /// If A does not notice, or it does not heal.
    pub async fn partition(&mut self) -> anyhow::Result<Partition> {
        self.board.act("B's control plane falls silent: no word, no close (SIGSTOP)");
        let before = self.board.facts().rollout.clone().map(|rollout| rollout.weights).unwrap_or_default();
        let name = Stage::control_plane_name(Side::B);
        self.stage.processes.signal(&name, Signal::SIGSTOP)?;
        let frozen = self.until_rollout("A freezes", PATIENCE, |r| r.phase == "Frozen").await;
        let lasts = Instant::now() + Duration::from_secs(5);
        let board = self.board.clone();
        self.stage.until("the silence has lasted", PATIENCE, || std::future::ready(Instant::now() > lasts)).await?;
        let (rollout, peers) = {
            let facts = board.facts(); // one guard: a second in the same statement would wait for this one for ever
            (facts.rollout.clone().unwrap_or_default(), facts.peers.clone())
        };
        let peer = peers.into_iter().find(|(side, _)| *side == Side::A).map(|(_, peer)| peer.state).unwrap_or_default();
        let mut envoy = Admin::new(self.stage.plan.envoy_admin(&CHECKOUT));
        let mut kept = true;
        for node in &PAYMENTS_B {
            kept &= envoy.has_host("payments.shop.b", self.stage.plan.inbound(node)).await?;
        }
        self.stage.processes.signal(&name, Signal::SIGCONT)?;
        frozen?;
        self.board.say("frozen, and everything is still there; B speaks again");
        let healed = self.converged("the frozen rollout").await.is_ok();
        let weights_while_away = rollout.weights;
        Ok(Partition {
            phase_while_away: rollout.phase,
            peer_while_away: peer,
            hosts_kept: kept && board.facts().envoy_weights == weights_while_away,
            weights_before: before,
            weights_while_away,
            healed,
        })
    }

    /// Returns when every Envoy has a new certificate, and everything that carries traffic has used it.
    ///
    /// # Errors
    /// If one has not, long after half the certificates' lifetime.
    pub async fn rotated(&mut self) -> anyhow::Result<()> {
        let board = self.board.clone();
        let fresh = || {
            let facts = board.facts();
            let stale = facts.certificates.iter().any(|(label, certificates)| !certificates.stale(label).is_empty());
            std::future::ready(!stale && !facts.certificates.is_empty())
        };
        self.stage.until("every certificate has been replaced and used", ROTATION, fresh).await
    }

    /// Starts following the certificates of every node that runs.
    pub fn follow_certificates(&self, tasks: &Tasks, drain: &Drain) {
        for (label, node) in &self.stage.nodes {
            if !self.board.facts().certificates.contains_key(label) {
                self.board.facts().certificates.insert(label.clone(), Certificates::default());
                let follow =
                    observe::certificates(self.board.clone(), self.stage.plan.clone(), node.clone(), drain.clone());
                tasks.spawn("certificates", OnExit::Log, follow);
            }
        }
    }
}
