//! The demo's processes: started in their own folders with their output in files, killed together at the end whatever happens.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Everything that runs, by name. Dropping it kills them all.
#[derive(Debug)]
pub struct Processes {
    /// Where the ids of what runs are kept, so that the next run can end what a killed one left behind.
    list: PathBuf,
    running: BTreeMap<String, Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    pid: i32,
    exe: PathBuf,
    log: PathBuf,
}

/// How to start one.
#[derive(Clone, Debug)]
pub struct Launch {
    pub name: String,
    pub exe: PathBuf,
    pub args: Vec<String>,
    /// Its working folder, with its log beside its files.
    pub dir: PathBuf,
    pub env: Vec<(String, String)>,
}

impl Processes {
    /// Ends what an earlier run left behind in `dir`, then begins with nothing.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let list = dir.join("processes");
        if let Ok(left) = std::fs::read_to_string(&list) {
            left.lines().filter_map(|line| line.split_once(' ')).for_each(|(pid, exe)| end_leftover(pid, exe));
        }
        Ok(Self { list, running: BTreeMap::new() })
    }

    /// Starts a process in a group of its own, so that a Ctrl-C at the terminal reaches only the demo, which ends the others in order.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self, launch: &Launch) -> anyhow::Result<()> {
        let log = launch.dir.join(format!("{}.log", launch.name));
        let mut command = self.command(launch, &log)?;
        command.stdout(open_log(&log)?);
        self.adopt(launch, log, command)
    }

    /// As [`Self::start`], with its standard output handed to the caller.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_piped(&mut self, launch: &Launch) -> anyhow::Result<tokio::process::ChildStdout> {
        let log = launch.dir.join(format!("{}.log", launch.name));
        let mut command = self.command(launch, &log)?;
        command.stdout(Stdio::piped());
        self.adopt(launch, log, command)?;
        let child = self.running.get_mut(&launch.name).map(|running| &mut running.child);
        child.and_then(|child| child.stdout.take()).context("its standard output is not there")
    }

    fn command(&self, launch: &Launch, log: &Path) -> anyhow::Result<Command> {
        if self.running.contains_key(&launch.name) {
            bail!("{} runs already", launch.name);
        }
        let mut command = Command::new(&launch.exe);
        command
            .args(&launch.args)
            .envs(launch.env.iter().cloned())
            .current_dir(&launch.dir)
            .stdin(Stdio::null())
            .stderr(open_log(log)?)
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    fn adopt(&mut self, launch: &Launch, log: PathBuf, mut command: Command) -> anyhow::Result<()> {
        let child = command.spawn().with_context(|| format!("start {} ({})", launch.name, launch.exe.display()))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("it has no process id")?;
        self.running.insert(launch.name.clone(), Running { child, pid, exe: launch.exe.clone(), log });
        self.write_list()
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let mut running = self.running.remove(name).with_context(|| format!("{name} does not run"))?;
        running.child.kill().await.with_context(|| format!("kill {name}"))?;
        self.write_list()
    }

    /// SIGTERM, and waits until it is gone, or kills it after `grace`. Whether it went by itself, with success.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn stop(&mut self, name: &str, grace: std::time::Duration) -> anyhow::Result<bool> {
        let mut running = self.running.remove(name).with_context(|| format!("{name} does not run"))?;
        signal(running.pid, Signal::SIGTERM);
        let ended = tokio::time::timeout(grace, running.child.wait()).await;
        if ended.is_err() {
            running.child.kill().await.with_context(|| format!("kill {name}"))?;
        }
        self.write_list()?;
        Ok(matches!(ended, Ok(Ok(status)) if status.success()))
    }

    /// Sends a signal such as SIGSTOP.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&self, name: &str, which: Signal) -> anyhow::Result<()> {
        signal(self.running.get(name).with_context(|| format!("{name} does not run"))?.pid, which);
        Ok(())
    }

    /// The first process that ended without having been told to, with the end of its log.
    pub fn first_dead(&mut self) -> Option<String> {
        self.running.iter_mut().find_map(|(name, running)| {
            let status = running.child.try_wait().ok()??;
            Some(format!(
                "{name} ended by itself ({status}); the end of {}:\n{}",
                running.log.display(),
                tail(&running.log)
            ))
        })
    }

    /// Name, process id and executable of everything that runs.
    pub fn list(&self) -> Vec<(String, i32, PathBuf)> {
        self.running.iter().map(|(name, running)| (name.clone(), running.pid, running.exe.clone())).collect()
    }

    pub fn is_running(&self, name: &str) -> bool {
        self.running.contains_key(name)
    }

    /// Ends everything: SIGTERM first, SIGKILL for whoever is still there after `grace`.
    pub async fn end(&mut self, grace: std::time::Duration) {
        for running in self.running.values() {
            signal(running.pid, Signal::SIGCONT);
            signal(running.pid, Signal::SIGTERM);
        }
        let deadline = tokio::time::Instant::now() + grace;
        for running in self.running.values_mut() {
            if tokio::time::timeout_at(deadline, running.child.wait()).await.is_err() {
                let _ = running.child.kill().await; // gone in the meantime
            }
        }
        self.running.clear();
        let _ = std::fs::remove_file(&self.list);
    }

    fn write_list(&self) -> anyhow::Result<()> {
        let lines = self.running.values().map(|running| format!("{} {}\n", running.pid, running.exe.display()));
        std::fs::write(&self.list, lines.collect::<String>()).context("write the list of processes")
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for running in self.running.values() {
            let _ = killpg(Pid::from_raw(running.pid), Signal::SIGKILL); // its own group, see `command`
        }
        let _ = std::fs::remove_file(&self.list);
    }
}

fn signal(pid: i32, which: Signal) {
    let _ = kill(Pid::from_raw(pid), which); // gone already is what was wanted
}

/// Kills a process of an earlier run, if the id still belongs to the same program.
fn end_leftover(pid: &str, exe: &str) {
    let same = std::fs::read_link(format!("/proc/{pid}/exe"))
        .is_ok_and(|now| now.to_string_lossy().trim_end_matches(" (deleted)") == exe);
    if let (true, Ok(pid)) = (same, pid.parse()) {
        signal(pid, Signal::SIGKILL);
    }
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
}

/// The last lines of a log.
pub fn tail(path: &Path) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
