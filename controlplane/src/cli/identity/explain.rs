//! `symbolon identity explain`.

use clap::Args;
use serde::Serialize;
use symbolon_proto::admin as wire;

use super::view::{Identity, table};
use crate::cli::client::Client;
use crate::cli::failure::{FAILED, Failure};
use crate::cli::output::{self, Output, Table};

/// Say which identities a caller gets, and of those nearest to it what it lacks.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 it gets an identity, 1 it gets none.

Examples:
  symbolon identity explain --node web-1 --pid 4711
  symbolon identity explain --node web-1 --selector unix:uid:1000 --selector unix:path:/usr/bin/shop
  symbolon identity explain --selector unix:uid:1000 -o json")]
pub struct Explain {
    /// The node that the caller runs on; with --selector it may be left out, and every node's entries count
    #[arg(long, value_name = "NAME", required_unless_present = "selectors")]
    node: Option<String>,
    /// The caller's process: the node itself says who that is
    #[arg(long, conflicts_with = "selectors", required_unless_present = "selectors", requires = "node")]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// What is true of the caller
    #[arg(long = "selector", value_name = "KIND:NAME:VALUE")]
    selectors: Vec<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    node: String,
    selectors: Vec<String>,
    granted: Vec<Identity>,
    nearest: Vec<Near>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Near {
    identity: Identity,
    missing: Vec<String>,
    why: String,
}

pub(super) async fn run(client: &Client, options: Explain) -> Result<(), Failure> {
    let asked = wire::ExplainIdentityRequest {
        node: options.node.unwrap_or_default(),
        pid: options.pid.unwrap_or(0),
        selectors: options.selectors,
    };
    let told = client.call(async |mut admin| admin.explain_identity(asked).await).await?;
    let near = told.nearest.into_iter().map(|near| Near {
        identity: Identity::from(near.identity.unwrap_or_default()),
        missing: near.missing,
        why: near.why,
    });
    let explained = Explained {
        node: told.node,
        selectors: told.selectors,
        granted: told.granted.into_iter().map(Identity::from).collect(),
        nearest: near.collect(),
    };
    output::print(options.output.format, &explained, shown)?;
    if explained.granted.is_empty() { Err(Failure::silent(FAILED)) } else { Ok(()) }
}

fn shown(told: &Explained) -> String {
    let place = if told.node.is_empty() { "on any node".to_owned() } else { format!("on {}", told.node) };
    let mut text = format!("A caller {place} with {}\n\n", output::joined(&told.selectors));
    if told.granted.is_empty() {
        text += "gets no identity.\n";
    } else {
        text += &format!("gets:\n{}", table(&told.granted));
    }
    if !told.nearest.is_empty() {
        let mut nearest = Table::new(["ENTRY", "SPIFFE ID", "NODE", "WHY NOT"]);
        for near in &told.nearest {
            let (one, why) = (&near.identity, near.why.clone());
            nearest.row([one.entry_id.clone(), one.spiffe_id.clone(), one.held_by(), why]);
        }
        text += &format!("\nNearest that it does not get:\n{nearest}");
    }
    text
}
