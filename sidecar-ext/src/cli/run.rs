//! `symbolon-sidecar run`.

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use symbolon_kit::config::environment;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use super::{Failure, LogFormat, RunArgs};
use crate::app::{self, Running, Seams};
use crate::config;

/// For streams and tasks to end.
const GRACE: Duration = Duration::from_secs(5);

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    start_logging(args.log_format).map_err(|why| Failure::new(Failure::USAGE, why))?;
    // Our own TLS names its provider; this is for whatever asks for the default.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = config::load(&args.config, environment()).map_err(|why| Failure::new(Failure::DATA, why))?;
    let runtime = tokio::runtime::Runtime::new().context("tokio").map_err(|why| Failure::new(Failure::FAILED, why))?;
    runtime.block_on(async {
        let app = app::build(config, args.config.clone(), Seams::real()).await;
        let running = app.and_then(app::App::spawn).map_err(|why| Failure::new(Failure::FAILED, why))?;
        until_stopped(running).await.map_err(|why| Failure::new(Failure::FAILED, why))
    })
}

async fn until_stopped(running: Running) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        name = running.fatal() => Some(name),
    };
    info!("stopping");
    if !running.drain(GRACE).await {
        warn!("not everything ended in time");
    }
    ended.map_or(Ok(()), |name| Err(anyhow!("the task `{name}` ended; see the log")))
}

fn start_logging(format: LogFormat) -> anyhow::Result<()> {
    let filter = match std::env::var("SYMBOLON_LOG") {
        Ok(said) => said.parse::<EnvFilter>().context("SYMBOLON_LOG")?,
        Err(_) => EnvFilter::new("info"),
    };
    let colours = colours(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

/// A file or a pipe gets plain text, and so does who asks for it (no-color.org).
fn colours(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_gets_colours() {
        assert!(colours(true, None));
        assert!(colours(true, Some(OsStr::new(""))));
        assert!(!colours(true, Some(OsStr::new("1"))));
        assert!(!colours(false, None));
    }
}
