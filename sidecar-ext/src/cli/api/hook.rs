//! What is done when files have changed: a signal to the process that a file names, or a command.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// For one run of the command; longer, and it is killed.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How a program is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    None,
    /// To whoever `pid_file` names at that moment.
    Signal {
        signal: Signal,
        pid_file: PathBuf,
    },
    /// By the shell.
    Command(String),
}

impl Hook {
    /// # Errors
    /// If the signal is none, or has nobody to go to.
    pub(super) fn parse(signal: Option<&str>, pid_file: Option<&Path>, command: Option<&str>) -> anyhow::Result<Self> {
        match (signal, pid_file, command) {
            (None, None, None) => Ok(Self::None),
            (None, None, Some(command)) => Ok(Self::Command(command.to_owned())),
            (Some(name), Some(pid_file), None) => {
                let name = name.to_ascii_uppercase();
                let full = if name.starts_with("SIG") { name.clone() } else { format!("SIG{name}") };
                let signal = full.parse().map_err(|_| anyhow!("--signal: {name} is not the name of a signal"))?;
                Ok(Self::Signal { signal, pid_file: pid_file.to_owned() })
            }
            _ => bail!("give --signal together with --pid-file, or --exec"),
        }
    }

    /// Tells the program; `folder` is where the files are.
    ///
    /// # Errors
    /// If it could not be told. The files are there all the same.
    pub(super) async fn run(&self, folder: &Path) -> anyhow::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Signal { signal, pid_file } => {
                let pid = read_pid(pid_file).with_context(|| format!("{}", pid_file.display()))?;
                kill(pid, *signal).with_context(|| format!("{signal} to process {pid}"))
            }
            Self::Command(command) => run_command(command, folder).await,
        }
    }
}

/// One process: neither a group (0, negative) nor the first of all.
fn read_pid(pid_file: &Path) -> anyhow::Result<Pid> {
    let text = std::fs::read_to_string(pid_file)?;
    match text.trim().parse::<i32>() {
        Ok(pid) if pid > 1 => Ok(Pid::from_raw(pid)),
        _ => bail!("holds no process number"),
    }
}

async fn run_command(command: &str, folder: &Path) -> anyhow::Result<()> {
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell.arg("-c").arg(command).env("SYMBOLON_DIR", folder).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(COMMAND_TIMEOUT, shell.status()).await;
    let ended = ended.map_err(|_| anyhow!("--exec: did not end within {COMMAND_TIMEOUT:?}, and was killed"))?;
    let status = ended.context("--exec: /bin/sh")?;
    if status.success() { Ok(()) } else { bail!("--exec: ended with {status}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_needs_somebody_to_go_to() {
        let file = Path::new("/run/x.pid");
        for name in ["HUP", "hup", "SIGHUP"] {
            let hook = Hook::parse(Some(name), Some(file), None).unwrap();
            assert_eq!(hook, Hook::Signal { signal: Signal::SIGHUP, pid_file: file.to_owned() });
        }
        assert_eq!(Hook::parse(None, None, None).unwrap(), Hook::None);
        assert!(Hook::parse(None, None, Some("true")).is_ok());
        for (signal, pid_file, command) in [
            (Some("HUP"), None, None),
            (None, Some(file), None),
            (Some("HUP"), Some(file), Some("true")),
            (Some("NONSENSE"), Some(file), None),
        ] {
            assert!(Hook::parse(signal, pid_file, command).is_err(), "{signal:?} {pid_file:?} {command:?}");
        }
    }

    #[tokio::test]
    async fn a_command_is_run_and_its_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let run = async |command: &str| Hook::Command(command.into()).run(dir.path()).await;
        run("echo told > $SYMBOLON_DIR/told").await.unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("told")).unwrap(), "told\n");
        assert!(run("exit 3").await.unwrap_err().to_string().contains('3'));
    }

    #[tokio::test]
    async fn a_signal_reaches_one_process_and_never_a_group() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let hook = Hook::Signal { signal: Signal::SIGTERM, pid_file: pid_file.clone() };
        let mut child = tokio::process::Command::new("/bin/sleep").arg("60").kill_on_drop(true).spawn().unwrap();
        std::fs::write(&pid_file, format!("{}\n", child.id().unwrap())).unwrap();
        hook.run(dir.path()).await.unwrap();
        let ended = crate::testing::soon(child.wait()).await.unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(15));
        for text in ["0", "-1", "1", "", "x"] {
            std::fs::write(&pid_file, text).unwrap();
            assert!(hook.run(dir.path()).await.is_err(), "{text:?}");
        }
    }
}
