//! `symbolon identity`.

mod apply;
mod create;
mod explain;
mod view;

use clap::{Args, Subcommand};
use symbolon_proto::admin as wire;

use super::client::Client;
use super::failure::Failure;
use super::output::{self, Output};
use view::{Identity, table};

#[derive(Debug, Subcommand)]
pub enum Command {
    Create(create::Create),
    List(List),
    Explain(explain::Explain),
    Delete(Delete),
    Apply(apply::Apply),
}

/// List registered identities. What it prints as YAML or JSON, `identity apply` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon identity list
  symbolon identity list --node web-1 --selector unix:uid:1000
  symbolon identity list --spiffe-id spiffe://a.example/ns/shop/sa/db -o json
  symbolon identity list -o yaml > identities.yaml")]
pub struct List {
    /// Only those registered for this node, or below this SPIFFE ID of a node alias
    #[arg(long, value_name = "NAME|ID")]
    node: Option<String>,
    /// Only those of this SPIFFE ID
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// Only those that want this selector; all of them
    #[arg(long = "selector", value_name = "KIND:NAME:VALUE")]
    selectors: Vec<String>,
    #[command(flatten)]
    output: Output,
}

/// Delete registrations. The nodes that had them hear of it at once, and their workloads get no SVID of them any more.
#[derive(Debug, Args)]
#[command(after_help = "An SVID that was issued before stays valid until it expires, for peers that do not ask us.

Examples:
  symbolon identity delete 5d2c41fa0b7e9933
  symbolon identity delete 5d2c41fa0b7e9933 0123456789abcdef -o json")]
pub struct Delete {
    /// As `identity list` shows it
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(options) => create::run(client, options).await,
        Command::List(options) => list(client, options).await,
        Command::Explain(options) => explain::run(client, options).await,
        Command::Delete(options) => delete(client, options).await,
        Command::Apply(options) => apply::run(client, options).await,
    }
}

async fn list(client: &Client, options: List) -> Result<(), Failure> {
    let listed = client.call(async |mut admin| admin.list_identities(wire::ListIdentitiesRequest {}).await).await?;
    let wanted = |one: &Identity| {
        options.node.as_ref().is_none_or(|node| [&one.node, &one.parent].contains(&node))
            && options.spiffe_id.as_ref().is_none_or(|id| one.spiffe_id == *id)
            && options.selectors.iter().all(|selector| one.selectors.contains(selector))
    };
    let identities: Vec<_> = listed.identities.into_iter().map(Identity::from).filter(wanted).collect();
    output::print(options.output.format, &identities, |identities| table(identities))
}

async fn delete(client: &Client, options: Delete) -> Result<(), Failure> {
    let mut gone = Vec::new();
    for entry_id in options.entries {
        let asked = wire::DeleteIdentityRequest { entry_id };
        gone.push(Identity::from(client.call(async |mut admin| admin.delete_identity(asked).await).await?));
    }
    output::print(options.output.format, &gone, |gone| table(gone))
}
