//! `symbolon`: arguments, telemetry, crypto provider, signals; nothing else.

use std::process::ExitCode;

use controlplane::app::{self, Seams};
use controlplane::cli::{self, Command, LintOptions, ServeOptions, failure};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(status) => return ExitCode::from(status),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("symbolon: no runtime: {error}"), failure::FAILED),
    };
    // Something may have installed one before: then it is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match cli.command {
        Command::Serve(options) => runtime.block_on(serve(options)),
        Command::Lint(options) => lint(&options),
        _ => match runtime.block_on(cli::run(cli)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => match failure.message() {
                Some(message) => complain(&message, failure.code),
                None => ExitCode::from(failure.code),
            },
        },
    }
}

async fn serve(options: ServeOptions) -> ExitCode {
    telemetry();
    let mut config = match app::config::load(&options.config, symbolon_kit::config::environment()) {
        Ok(config) => config,
        Err(refused) => {
            return complain(
                &format!("symbolon: the configuration is refused, nothing was started\n{refused}"),
                failure::BAD_INPUT,
            );
        }
    };
    config.authority.replace_lost_keys = options.replace_lost_keys;
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            return complain(&format!("symbolon: no signals: {error}"), failure::FAILED);
        }
    };
    let app = match app::build(config, Seams::real()).await {
        Ok(app) => app,
        Err(error) => return complain(&format!("symbolon: cannot start: {error:#}"), failure::FAILED),
    };
    let addresses = app.addresses();
    info!(node = %addresses.node, federation = %addresses.federation, http = %addresses.http, admin = %addresses.admin.display(), "listening");
    let running = app.spawn();
    let outcome = tokio::select! {
        _ = terminate.recv() => ExitCode::SUCCESS,
        _ = interrupt.recv() => ExitCode::SUCCESS,
        task = running.fatal() => {
            error!(task, "a core task ended; stopping");
            ExitCode::from(failure::FAILED)
        }
    };
    info!("stopping");
    if !running.drain(options.grace).await {
        warn!("not everything ended within the grace");
    }
    outcome
}

fn lint(options: &LintOptions) -> ExitCode {
    let mut worst = 0;
    for path in &options.files {
        // The environment is not the file's: two people must see the same findings.
        let status = match app::config::load(path, []) {
            Ok(_) => 0,
            Err(refused @ app::config::Refused::Unreadable(_)) => {
                complain(&refused.to_string(), failure::BAD_INPUT);
                failure::BAD_INPUT
            }
            Err(refused) => {
                let _ = cli::output::write(format!("{refused}\n").as_bytes());
                failure::FINDINGS
            }
        };
        worst = if worst == failure::BAD_INPUT { worst } else { worst.max(status) };
        if status == failure::BAD_INPUT {
            worst = status;
        }
    }
    ExitCode::from(worst)
}

/// To standard error, as text or with `SYMBOLON_LOG_FORMAT=json` as JSON; control characters are escaped in both.
fn telemetry() {
    let filter = EnvFilter::try_from_env("SYMBOLON_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var_os("SYMBOLON_LOG_FORMAT").is_some_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    }
}

fn complain(message: &str, status: u8) -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{message}"); // nowhere else to say it
    ExitCode::from(status)
}
