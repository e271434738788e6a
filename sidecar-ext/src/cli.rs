//! The command line. Exit codes: 0 fine, 1 failed, 64 wrong usage, 65 bad input data, 69 server unreachable.

mod api;
mod bootstrap;
mod run;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs on the node beside Envoy: attests workloads, keeps their keys, serves the SPIFFE Workload API and Envoy's SDS, registers
/// local workloads and relays xDS.
#[derive(Debug, Parser)]
#[command(name = "symbolon-sidecar", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar of this node.
    Run(RunArgs),
    /// Call the agent socket as a workload would.
    #[command(subcommand)]
    Api(api::Api),
    /// Print the Envoy bootstrap of a workload of this node.
    Bootstrap(BootstrapArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  symbolon-sidecar run --config /etc/symbolon/sidecar.yaml
  SYMBOLON_LOG=debug symbolon-sidecar run --config sidecar.yaml --log-format json

The first start spends the join token that the file names (on the control plane: symbolon token create); later ones use the SVID in
dataDir. SIGTERM or Ctrl-C stops it; the workloads keep what they have.")]
struct RunArgs {
    /// The sidecar's configuration file; its workloads are watched.
    #[arg(long, short, env = "SYMBOLON_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// How log lines look; SYMBOLON_LOG says which (info, debug, sidecar_ext=trace).
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  symbolon-sidecar bootstrap --config sidecar.yaml > envoy.yaml && envoy -c envoy.yaml
  symbolon-sidecar bootstrap --config sidecar.yaml --identity spiffe://a.example/ns/shop/sa/payments --admin 127.0.0.1:9901

Run Envoy in the folder that the sidecar runs in, if the file names its sockets by relative paths.")]
struct BootstrapArgs {
    /// The sidecar's configuration file.
    #[arg(long, short, env = "SYMBOLON_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Whose Envoy; needed if the file lists several identities.
    #[arg(long, value_name = "SPIFFE_ID")]
    identity: Option<String>,
    /// Where Envoy's admin endpoint listens; left out: none.
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<std::net::SocketAddr>,
    /// The node's name [default: that of the SVID in dataDir, else `node`]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "yaml")]
    output: BootstrapOutput,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Token,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BootstrapOutput {
    Yaml,
    Json,
}

/// Why a command failed, and what the caller's script sees.
#[derive(Debug)]
struct Failure {
    code: u8,
    why: anyhow::Error,
}

impl Failure {
    const FAILED: u8 = 1;
    const USAGE: u8 = 64;
    const DATA: u8 = 65;
    const UNREACHABLE: u8 = 69;

    fn new(code: u8, why: impl Into<anyhow::Error>) -> Self {
        Self { code, why: why.into() }
    }
}

/// Does what the arguments say.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(said) => {
            let _ = said.print(); // nowhere to complain to if it fails
            return ExitCode::from(if said.use_stderr() { Failure::USAGE } else { 0 });
        }
    };
    let done = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Api(api) => api::run(api),
        Command::Bootstrap(args) => bootstrap::bootstrap(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, why }) => {
            let _ = writeln!(std::io::stderr(), "symbolon-sidecar: {why:#}"); // nowhere else to say it
            ExitCode::from(code)
        }
    }
}

/// Writes to standard output; a reader that has left is no failure of ours.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(Failure::FAILED, why)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
