//! A foreign program that says JSON, a line for each thing that happens.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::mesh::soon;
use crate::repository;

/// The program while it runs; dropping it kills it.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// go-spiffe.
    ///
    /// # Errors
    /// If it cannot be started: `make tools` first.
    pub fn go(args: &[&str]) -> anyhow::Result<Self> {
        Self::start(&repository().join("target/tools/go/peer"), args)
    }

    /// A script of `tests/peers`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn python(script: &str, args: &[&str]) -> anyhow::Result<Self> {
        let script = repository().join("tests/peers").join(script).to_string_lossy().into_owned();
        Self::start(Path::new("python3"), &[&[script.as_str()], args].concat())
    }

    fn start(program: &Path, args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{}; make tools first", program.display()))?;
        let out = child.stdout.take().context("no output")?;
        Ok(Self { child, lines: BufReader::new(out).lines() })
    }

    /// What it says next.
    ///
    /// # Errors
    /// If it says nothing more, or nothing in time.
    pub async fn says(&mut self) -> anyhow::Result<Value> {
        let line = soon("a word of the peer", self.lines.next_line()).await??.context("the peer has ended")?;
        serde_json::from_str(&line).with_context(|| line.clone())
    }

    /// All that it says until it ends by itself, and whether it ended well.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn ends(mut self) -> anyhow::Result<(Vec<Value>, bool)> {
        let mut said = Vec::new();
        while let Some(line) = soon("the peer's end", self.lines.next_line()).await?? {
            said.push(serde_json::from_str(&line).with_context(|| line.clone())?);
        }
        let status = soon("the peer's end", self.child.wait()).await??;
        Ok((said, status.success()))
    }

    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).context("the peer has ended")?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }
}
