//! The operator's command line. Each command asks the control plane through its admin socket ([`client`]), prints a table, JSON or
//! YAML ([`output`]), and ends with a status that says what went wrong ([`failure`]). `serve` and `lint` need the whole program, so
//! `main` runs them.

#![allow(rustdoc::invalid_html_tags, reason = "the words are those of `--help`: `<service>` stands for a name there")]

pub mod audit;
pub mod authority;
pub mod bundle;
pub mod client;
pub mod demo;
pub mod failure;
pub mod federation;
pub mod identity;
pub mod node;
pub mod output;
pub mod peer;
pub mod proxy;
pub mod rollout;
pub mod service;
pub mod token;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use client::Client;
use failure::Failure;

/// A SPIFFE service-mesh federation control plane: identities, bundles, endpoints and progressive traffic between meshes that do
/// not trust each other's operators.
#[derive(Debug, Parser)]
#[command(
    name = "symbolon",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Examples:
  symbolon demo                                  two clusters, real Envoys, one ramp, on this machine
  symbolon serve --config symbolon.yaml          run the control plane
  symbolon lint symbolon.yaml                    check a configuration without running it
  symbolon token create --node web-1             let a node join
  symbolon rollout get payments.shop -w          watch a ramp

Exit status: 0 fine, 1 failed, 64 usage, 65 bad input, 69 control plane unreachable, 79 lint found issues."
)]
pub struct Cli {
    /// The control plane's admin socket
    #[arg(long, global = true, env = "SYMBOLON_ADMIN_SOCKET", value_name = "PATH")]
    #[arg(default_value = "/run/symbolon/admin/admin.sock")]
    pub admin_socket: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(ServeOptions),
    Demo(demo::Options),
    Lint(LintOptions),
    /// Join tokens for nodes
    #[command(subcommand)]
    Token(token::Command),
    /// Attested nodes: look at, evict, ban
    #[command(subcommand)]
    Node(node::Command),
    /// Federated peers: invite, accept, look at
    #[command(subcommand)]
    Peer(peer::Command),
    /// Trust bundles: our own and the peers'
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// What was issued, refused and changed, and whether that record is whole
    #[command(subcommand)]
    Audit(audit::Command),
    /// Trust in other trust domains: begin, look at, end
    #[command(subcommand)]
    Federation(federation::Command),
    /// The authorities that sign for this trust domain: list, prepare, activate, taint, revoke
    #[command(subcommand)]
    Authority(authority::Command),
    /// Registration entries: which node may have which identity
    #[command(subcommand)]
    Identity(identity::Command),
    /// Services of this mesh and of its peers
    #[command(subcommand)]
    Service(service::Command),
    /// The Envoys that this control plane configures
    #[command(subcommand)]
    Proxy(proxy::Command),
    /// Ramps of federated services
    #[command(subcommand)]
    Rollout(rollout::Command),
}

/// Run the control plane in the foreground, until SIGTERM or Ctrl-C. A configuration that is wrong binds no port.
#[derive(Debug, Args)]
#[command(after_help = "Every field can be overridden by an environment variable SYMBOLON_SECTION__FIELD.

Examples:
  symbolon serve --config symbolon.yaml
  SYMBOLON_LISTEN__HTTP=127.0.0.1:0 symbolon serve --config symbolon.yaml
  SYMBOLON_LOG=debug,h2=info symbolon serve --config symbolon.yaml

The bound addresses are logged and written to <dataDir>/addresses.json.")]
pub struct ServeOptions {
    /// The configuration file
    #[arg(long, env = "SYMBOLON_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// How long streams may take to end when stopping
    #[arg(long, default_value = "10s", value_parser = symbolon_kit::config::duration::parse, value_name = "DURATION")]
    pub grace: std::time::Duration,
    /// Go on although keys of authorities are lost for good: new ones are made. Everybody must then be given the new bundle
    #[arg(long)]
    pub replace_lost_keys: bool,
}

/// Check configuration files without running anything: every finding with its file, line and a stable code SYM0001….
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 nothing found, 65 a file cannot be read, 79 findings.

Examples:
  symbolon lint symbolon.yaml
  symbolon lint a.yaml b.yaml")]
pub struct LintOptions {
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Parses the process's arguments; on a usage error prints it and gives the status to end with.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Cli, u8> {
    Cli::try_parse_from(args).map_err(|error| {
        let usage = error.use_stderr(); // help and version are no errors
        let _ = error.print(); // nowhere to complain to if it fails
        if usage { failure::USAGE } else { 0 }
    })
}

/// Runs a command that asks the control plane.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let client = Client::new(&cli.admin_socket);
    match cli.command {
        Command::Token(command) => token::run(&client, command).await,
        Command::Node(command) => node::run(&client, command).await,
        Command::Peer(command) => peer::run(&client, command).await,
        Command::Bundle(command) => bundle::run(&client, command).await,
        Command::Audit(command) => audit::run(&client, command).await,
        Command::Federation(command) => federation::run(&client, command).await,
        Command::Authority(command) => authority::run(&client, command).await,
        Command::Identity(command) => identity::run(&client, command).await,
        Command::Service(command) => service::run(&client, command).await,
        Command::Proxy(command) => proxy::run(&client, command).await,
        Command::Rollout(command) => rollout::run(&client, command).await,
        Command::Demo(options) => match demo::run(&options).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::silent(failure::FAILED)), // the demo has said what failed
            Err(error) => Err(Failure::new(failure::FAILED, format!("the demo could not run: {error:#}"))),
        },
        Command::Serve(_) | Command::Lint(_) => {
            Err(Failure::new(failure::USAGE, "this command is run by the program itself"))
        }
    }
}

#[cfg(test)]
mod tests;
