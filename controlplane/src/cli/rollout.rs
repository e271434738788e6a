//! `symbolon rollout`.

mod view;

use clap::{Args, Subcommand};
use symbolon_proto::admin as wire;
use wire::command_rollout_request::Command as Word;

use super::client::Client;
use super::failure::Failure;
use super::output::{self, Format, Output, Table};
use view::Rollout;

#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Get(Get),
    Pause(Pause),
    Resume(Resume),
    Promote(Promote),
    Abort(Abort),
}

/// Which rollout.
#[derive(Clone, Debug, Args)]
pub struct Of {
    /// The federated service, <service>.<namespace>
    service: String,
    /// The peer that it ramps towards; may be left out if there is only one
    peer: Option<String>,
}

/// List all rollouts.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon rollout list
  symbolon rollout list -o json")]
pub struct List {
    #[command(flatten)]
    output: Output,
}

/// Show one rollout: where it stands, its arms, and what happened.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon rollout get payments.shop
  symbolon rollout get payments.shop b -w           again at each change, until Ctrl-C
  symbolon rollout get payments.shop -w -o json     one JSON document per change")]
pub struct Get {
    #[command(flatten)]
    of: Of,
    /// Show it again at each change
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    output: Output,
}

/// Hold a ramp where it is. The judge goes on: a fault still rolls back.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon rollout pause payments.shop
  symbolon rollout pause payments.shop b --reason 'release freeze'")]
pub struct Pause {
    #[command(flatten)]
    word: Words,
}

/// Let a paused ramp go on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon rollout resume payments.shop")]
pub struct Resume {
    #[command(flatten)]
    word: Words,
}

/// Take the next step now, without waiting for the judge to pass this one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon rollout promote payments.shop           one step
  symbolon rollout promote payments.shop --full    straight to the last")]
pub struct Promote {
    /// All steps at once
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    word: Words,
}

/// Take the peer out of traffic at once. It stays out until the next scale-out or `resume`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon rollout abort payments.shop --reason 'wrong version'")]
pub struct Abort {
    #[command(flatten)]
    word: Words,
}

#[derive(Debug, Args)]
pub struct Words {
    #[command(flatten)]
    of: Of,
    /// Why; kept in the history
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(options) => list(client, options.output).await,
        Command::Get(options) => get(client, options).await,
        Command::Pause(Pause { word }) => say(client, Word::Pause, false, word).await,
        Command::Resume(Resume { word }) => say(client, Word::Resume, false, word).await,
        Command::Promote(Promote { full, word }) => say(client, Word::Promote, full, word).await,
        Command::Abort(Abort { word }) => say(client, Word::Abort, false, word).await,
    }
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let listed = client.call(async |mut admin| admin.list_rollouts(wire::ListRolloutsRequest {}).await).await?;
    let rollouts: Vec<_> = listed.rollouts.into_iter().map(Rollout::from).collect();
    output::print(output.format, &rollouts, |rollouts| {
        let mut table = Table::new(["SERVICE", "PEER", "PHASE", "STEP", "WEIGHTS", "PROXIES", "MESSAGE"]);
        for one in rollouts {
            table.row([
                one.service.clone(),
                one.peer.clone(),
                view::phase(&one.phase),
                view::step(one),
                view::weights(one),
                format!("{}/{}", one.acked_proxies, one.total_proxies),
                one.message.clone(),
            ]);
        }
        table.to_string()
    })
}

async fn get(client: &Client, options: Get) -> Result<(), Failure> {
    let (service, peer) = (options.of.service, options.of.peer.unwrap_or_default());
    let asked = wire::WatchRolloutRequest { service, peer, once: !options.watch };
    let mut changes = client.call(async |mut admin| admin.watch_rollout(asked).await).await?;
    let live = options.watch && options.output.format == Format::Table && is_terminal();
    while let Some(rollout) = changes.message().await.map_err(|status| client.failed(&status))? {
        if live {
            output::write(b"\x1b[H\x1b[2J")?;
        }
        output::print(options.output.format, &Rollout::from(rollout), view::full)?;
    }
    Ok(())
}

fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdout())
}

async fn say(client: &Client, command: Word, full: bool, words: Words) -> Result<(), Failure> {
    let asked = wire::CommandRolloutRequest {
        service: words.of.service,
        peer: words.of.peer.unwrap_or_default(),
        command: command.into(),
        full,
        reason: words.reason,
    };
    let rollout = client.call(async |mut admin| admin.command_rollout(asked).await).await?;
    output::print(words.output.format, &Rollout::from(rollout), |rollout| {
        format!("{} → {}: {}, {}\n", rollout.service, rollout.peer, view::phase(&rollout.phase), rollout.message)
    })
}
