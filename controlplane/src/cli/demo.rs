//! `symbolon demo`: two clusters on this machine, with real Envoys, and one ramp. The [`plan`] says what there is, the [`stage`] runs
//! it, the [`acts`] play, [`observe`] watches, the [`summary`] judges, and the [`page`] shows.

pub mod acts;
pub mod board;
pub mod envoy;
pub mod folder;
pub mod ledger;
pub mod observe;
pub mod page;
pub mod pause;
pub mod plan;
pub mod processes;
pub mod stage;
pub mod steps;
pub mod summary;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::supervise::{OnExit, Tasks};

use acts::{Acts, LOAD};
use board::Board;
use plan::{CHECKOUT, Plan};
use stage::{Programs, Stage};
use summary::{
    EvidenceResult, Latency, Partition, Process, Propagation, Restart, Rollback, Rotation, StepResult, Summary,
};

/// How long processes get to end by themselves.
const GRACE: Duration = Duration::from_secs(5);
/// How often the page is drawn.
const FRAME: Duration = Duration::from_millis(200);

/// Two clusters that share no root, on this machine, with real Envoys: B scales out, A ramps it 5 % → 25 % → 100 %, takes it out
/// when it misbehaves, and takes it back when it is well. Needs no root and no network; everything lives in one folder.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  symbolon demo                     a live page on a terminal, about 100 seconds
  symbolon demo --headless          a line per event
  symbolon demo --fault crash       B's payment services crash instead of answering errors
  symbolon demo --fault partition   B's control plane falls silent instead

Exit status: 0 if everything was as promised, 1 if not; the reasons are printed and in target/demo/summary.json.")]
pub struct Options {
    /// A line per event instead of the live page; also with HEADLESS=1, and whenever standard output is no terminal
    #[arg(long)]
    headless: bool,
    /// What goes wrong in B
    #[arg(long, value_enum, default_value_t = Fault::Errors)]
    fault: Fault,
    /// Where everything is kept; emptied first
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    dir: PathBuf,
    /// The first two bytes of the loopback addresses
    #[arg(long, default_value = "127.77", value_parser = network, value_name = "127.N")]
    network: [u8; 2],
    /// A control of the demo itself: it must fail
    #[arg(long, value_enum, hide = true)]
    sabotage: Option<Sabotage>,
    /// Another Envoy than the one that `make tools` installs
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
}

/// What goes wrong in B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// 30 % of the replies are errors: A must roll back
    Errors,
    /// The payment services are killed, their Envoys live: A must roll back
    Crash,
    /// B's control plane falls silent: A must freeze, withdraw nothing and not roll back
    Partition,
}

/// What is done to the demo so that it must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// A is handed another root as B's: nothing of B may reach A any more.
    WrongBundle,
}

fn network(text: &str) -> Result<[u8; 2], String> {
    let second = text.strip_prefix("127.").and_then(|rest| rest.parse().ok());
    second.map(|second| [127, second]).ok_or_else(|| "127.N with N from 0 to 255".into())
}

/// Plays the demo. Whether everything was as promised.
///
/// # Errors
/// If it could not begin at all.
pub async fn run(options: &Options) -> anyhow::Result<bool> {
    let executable = std::env::current_exe().context("where is this executable?")?;
    let programs = Programs::find(&executable, options.envoy.as_deref())?;
    let envoy = envoy_version(&programs).await?;
    let headless = options.headless || std::env::var_os("HEADLESS").is_some_and(|value| value == "1");
    let live = !headless && std::io::stdout().is_terminal();
    let plan = Plan { network: options.network, dir: options.dir.clone(), svid_ttl: "60s", steps: plan::STEPS };
    let board = Board::new(!live, Clock::system());
    let (drain, mut show) = (Drain::new(), Show::new(&board, live));
    let tasks = Tasks::new(drain.clone());
    let mut play = Play {
        acts: Acts { stage: Stage::new(plan, programs)?, board: board.clone() },
        fault: options.fault,
        sabotage: options.sabotage,
        findings: Summary {
            envoy,
            fault: options.fault.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default(),
            ..Summary::default()
        },
        fault_began: None,
        restarted: None,
    };
    let played = tokio::select! {
        played = play.all(&tasks, &drain) => played,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    let summary = play.finish(played, &drain).await?;
    show.end();
    print(&report(&summary, &options.dir));
    Ok(summary.pass)
}

/// The acts in order, and what they found.
struct Play {
    acts: Acts,
    fault: Fault,
    sabotage: Option<Sabotage>,
    findings: Summary,
    /// Unix milliseconds.
    fault_began: Option<u64>,
    /// From the kill of A's control plane until it was back, in Unix milliseconds.
    restarted: Option<(u64, u64)>,
}

impl Play {
    async fn all(&mut self, tasks: &Tasks, drain: &Drain) -> anyhow::Result<()> {
        self.acts.join_and_federate(self.sabotage).await?;
        self.observe(tasks, drain);
        let lines = self.acts.start_load()?;
        tasks.spawn("load", OnExit::Log, observe::load(self.acts.board.clone(), lines));
        let board = self.acts.board.clone();
        let replies = || std::future::ready(board.facts().ledger.total().local >= 1_000);
        self.acts.stage.until("the first thousand replies are there", stage::PATIENCE, replies).await?;
        self.acts.propagation().await?;
        self.acts.scale_out().await?;
        self.acts.follow_certificates(tasks, drain);
        self.restarted = Some(self.acts.ramp().await?);
        if self.fault == Fault::Partition {
            self.findings.partition = Some(self.acts.partition().await?);
        } else {
            let began = self.acts.fault(self.fault).await?;
            self.fault_began = Some(began);
            self.acts.recover(self.fault).await?;
        }
        self.acts.board.act("the last certificates come into use");
        self.acts.rotated().await?;
        self.acts.board.act("done");
        Ok(())
    }

    fn observe(&self, tasks: &Tasks, drain: &Drain) {
        let (board, plan) = (&self.acts.board, &self.acts.stage.plan);
        tasks.spawn("rollout", OnExit::Log, observe::rollout(board.clone(), plan.clone(), drain.clone()));
        let probe = pause::PauseProbe::start();
        let surroundings = observe::surroundings(board.clone(), plan.clone(), probe, drain.clone());
        tasks.spawn("surroundings", OnExit::Log, surroundings);
        self.acts.follow_certificates(tasks, drain);
    }

    /// Ends everything, whatever was played, and judges.
    async fn finish(&mut self, played: anyhow::Result<()>, drain: &Drain) -> anyhow::Result<Summary> {
        if let Err(error) = played {
            self.findings.problems.push(format!("{error:#}"));
        }
        self.list_processes();
        let mut envoy = envoy::Admin::new(self.acts.stage.plan.envoy_admin(&CHECKOUT));
        if let Ok(retries) = envoy.counters("upstream_rq_retry$").await {
            self.findings.upstream_rq_retry = retries.values().sum();
        }
        if self.acts.stage.processes.is_running(LOAD) {
            // It waits for the replies that are still on their way, and prints them.
            self.acts.stage.processes.stop(LOAD, GRACE).await?;
        }
        drain.start();
        self.acts.stage.processes.end(GRACE).await;
        self.gather();
        let path = self.acts.stage.plan.dir.join("summary.json");
        std::fs::write(&path, serde_json::to_vec_pretty(&self.findings)?).context("write the summary")?;
        Ok(self.findings.clone())
    }

    fn list_processes(&mut self) {
        let list = self.acts.stage.processes.list().into_iter();
        let list = list.map(|(name, pid, exe)| Process { name, pid, exe: exe.display().to_string() });
        self.findings.processes = list.collect();
    }

    fn gather(&mut self) {
        let facts = self.acts.board.facts();
        let total = facts.ledger.total();
        let found = &mut self.findings;
        (found.requests, found.failed_requests) = (total.requests, total.failed);
        found.problems.extend(facts.ledger.failures().into_iter().take(5).map(|(why, n)| format!("{n} × {why}")));
        found.duration_s = facts.began.elapsed().as_secs_f64();
        found.longest_pause_ms = facts.longest_pause_ms;
        let latency = |percent| facts.ledger.latency_ms(0, percent);
        found.latency_ms = Latency { p50: latency(50.0), p99: latency(99.0), max: latency(100.0) };
        let mut samples = facts.propagation.clone();
        let mut rank = |percent| ledger::nearest_rank(&mut samples, percent);
        found.propagation_ms =
            Propagation { samples: facts.propagation.len(), p50: rank(50.0), p99: rank(99.0), max: rank(100.0) };
        found.rotation = rotation(&facts, total.failed);
        let (steps_lost, steps_doubled) =
            facts.steps.lost_and_doubled(&plan::STEPS.iter().map(|(weight, _)| *weight).collect::<Vec<_>>());
        let during = self.restarted.map(|(from, to)| facts.ledger.between(from, to).failed).unwrap_or_default();
        found.restart = Restart { steps_lost, steps_doubled, failed_requests: during };
        found.rollback = self.fault_began.and_then(|began| rollback(&facts, began));
        let (steps, wanted) = steps(&facts);
        found.steps = steps;
        found.expect(self.fault, found.partition.clone());
        found.judge(&wanted);
    }
}

impl Summary {
    /// What must be there at all, by the fault that was chosen.
    fn expect(&mut self, fault: Fault, partition: Option<Partition>) {
        let ramps = if fault == Fault::Partition { 1 } else { 2 };
        if self.steps.len() != plan::STEPS.len() * ramps {
            self.problems.push(format!("{} steps were seen, {} were due", self.steps.len(), plan::STEPS.len() * ramps));
        }
        match (fault, &self.rollback, partition) {
            (Fault::Partition, _, None) => self.problems.push("the partition was not played to its end".into()),
            (Fault::Partition, _, Some(partition)) => {
                let frozen = partition.phase_while_away == "Frozen" && partition.peer_while_away == "SUSPECT";
                let kept = partition.hosts_kept && partition.weights_before == partition.weights_while_away;
                if !(frozen && kept && partition.healed) {
                    self.problems.push(format!("the partition went otherwise than promised: {partition:?}"));
                }
            }
            (_, None, _) => self.problems.push("there was no rollback".into()),
            (_, Some(_), _) => {}
        }
    }
}

fn rotation(facts: &board::Facts, failed_requests: u64) -> Rotation {
    let all = facts.certificates.values();
    Rotation {
        serials_before: all.clone().flat_map(|one| one.first.clone()).collect(),
        serials_after: all.flat_map(|one| one.now.clone()).collect(),
        stale: facts.certificates.iter().flat_map(|(label, one)| one.stale(label)).collect(),
        failed_requests,
    }
}

fn rollback(facts: &board::Facts, began: u64) -> Option<Rollback> {
    let changes = facts.steps.changes();
    let index = changes.iter().position(|(step, _)| step.weight == 0 && step.decided_at >= began)?;
    let (step, end) = &changes[index];
    let evidence = step.evidence.clone().unwrap_or_default();
    let last = facts.ledger.last_remote(began, end.unwrap_or(u64::MAX)).unwrap_or(began);
    Some(Rollback {
        at_weight: index.checked_sub(1).map_or(0, |before| changes[before].0.weight),
        reason: step.reason.clone(),
        fault_to_decision_ms: step.decided_at - began,
        decision_to_zero_ms: step.acked_at.map_or(0, |at| at.saturating_sub(step.decided_at)),
        fault_to_zero_share_ms: last - began,
        evidence: EvidenceResult {
            relative: evidence.relative,
            absolute: evidence.absolute,
            threshold: evidence.threshold,
        },
    })
}

/// Every step that gave B traffic, and the weights that it was to have.
fn steps(facts: &board::Facts) -> (Vec<StepResult>, Vec<Vec<u32>>) {
    let (mut results, mut wanted, mut phase) = (Vec::new(), Vec::new(), "ramp");
    let changes = facts.steps.changes();
    for (index, (step, _)) in changes.iter().enumerate() {
        if step.weight == 0 {
            phase = "recover";
            continue;
        }
        let next = changes.get(index + 1).map_or(u64::MAX, |(next, _)| next.decision);
        let in_envoy = facts.weights_by_decision.range(step.decision..next).next_back();
        let until = facts.steps.counted_until(step.decision).unwrap_or_else(|| facts.ledger.newest());
        let counts = step.acked_at.map(|acked| facts.ledger.between(acked, until)).unwrap_or_default();
        let answered = counts.local + counts.remote;
        #[expect(clippy::cast_precision_loss, reason = "request counts are far below 2^52")]
        let observed_share = if answered == 0 { 0.0 } else { counts.remote as f64 / answered as f64 };
        results.push(StepResult {
            phase,
            weight: step.weight,
            wanted_share: f64::from(step.weights.get(1).copied().unwrap_or(0)) / 10_000.0,
            envoy_weights: in_envoy.map(|(_, weights)| weights.clone()).unwrap_or_default(),
            observed_share,
            requests: answered,
            failed_requests: counts.failed,
        });
        wanted.push(step.weights.clone());
    }
    (results, wanted)
}

/// Ctrl-C, the word to end, or a terminal that was closed: whichever it is, nothing may be left running.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let heard = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = heard(SignalKind::interrupt()) => {}
        () = heard(SignalKind::terminate()) => {}
        () = heard(SignalKind::hangup()) => {}
    }
}

async fn envoy_version(programs: &Programs) -> anyhow::Result<String> {
    let told =
        tokio::process::Command::new(&programs.envoy).arg("--version").output().await.context("envoy --version")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    // "envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
    told.split('/').nth_back(3).map(str::to_owned).with_context(|| format!("envoy --version says {told:?}"))
}

/// The live page, if there is one: drawn beside the acts, taken off the terminal at the end.
struct Show {
    live: bool,
    over: Drain,
}

impl Show {
    fn new(board: &Board, live: bool) -> Self {
        let over = Drain::new();
        if live {
            print(page::ENTER);
            let (board, over) = (board.clone(), over.clone());
            Tasks::new(over.clone()).spawn("page", OnExit::Log, async move {
                while !over.is_draining() {
                    let size = rustix::termios::tcgetwinsize(std::io::stdout());
                    let (width, height) = size.map_or((100, 30), |size| (size.ws_col.into(), size.ws_row.into()));
                    let drawn = page::draw(&board.facts(), width, height);
                    if !over.is_draining() {
                        print(&drawn);
                    }
                    tokio::time::sleep(FRAME).await; // the pace of drawing
                }
            });
        }
        Self { live, over }
    }

    fn end(&mut self) {
        self.over.start();
        if std::mem::take(&mut self.live) {
            print(page::LEAVE);
        }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes to standard output; a reader that has gone away is no reason to stop.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn report(summary: &Summary, dir: &std::path::Path) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\n{:<9}{:>7}{:>9}{:>10}{:>10}{:>8}  weights in Envoy",
        "phase", "step", "wanted", "observed", "requests", "failed"
    );
    for step in &summary.steps {
        let (wanted, observed) = (step.wanted_share * 100.0, step.observed_share * 100.0);
        let _ = writeln!(
            text,
            "{:<9}{:>5} %{wanted:>7.2} %{observed:>8.2} %{:>10}{:>8}  {:?}",
            step.phase, step.weight, step.requests, step.failed_requests, step.envoy_weights
        );
    }
    let propagation = summary.propagation_ms;
    let _ = writeln!(text, "\nrequests      {}, failed {}", summary.requests, summary.failed_requests);
    let _ = writeln!(
        text,
        "latency       p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        summary.latency_ms.p50, summary.latency_ms.p99, summary.latency_ms.max
    );
    let _ = writeln!(
        text,
        "propagation   p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms over {} changes",
        propagation.p50, propagation.p99, propagation.max, propagation.samples
    );
    if let Some(rollback) = &summary.rollback {
        let _ = writeln!(
            text,
            "rollback      decided {} ms after the fault ({}), weights acknowledged {} ms later, last answer of B {} ms after the fault",
            rollback.fault_to_decision_ms,
            rollback.reason,
            rollback.decision_to_zero_ms,
            rollback.fault_to_zero_share_ms
        );
    }
    if let Some(partition) = &summary.partition {
        let _ = writeln!(
            text,
            "partition     {} with peer {}, weights {:?} kept",
            partition.phase_while_away, partition.peer_while_away, partition.weights_while_away
        );
    }
    let _ = writeln!(
        text,
        "restart       steps lost {}, doubled {}",
        summary.restart.steps_lost, summary.restart.steps_doubled
    );
    let _ = writeln!(
        text,
        "certificates  {} of {} Envoys have new ones in use",
        summary.rotation.serials_after.len() - summary.rotation.stale.len().min(summary.rotation.serials_after.len()),
        summary.rotation.serials_before.len()
    );
    let _ =
        writeln!(text, "machine       longest pause {} ms; took {:.1} s", summary.longest_pause_ms, summary.duration_s);
    for problem in &summary.problems {
        let _ = writeln!(text, "PROBLEM       {problem}");
    }
    let verdict = if summary.pass { "PASS" } else { "FAIL" };
    let _ = writeln!(text, "{verdict}          {}", dir.join("summary.json").display());
    text
}
