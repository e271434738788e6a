//! `symbolon node`.

use clap::{Args, Subcommand};
use serde::Serialize;
use symbolon_proto::admin as wire;
use wire::change_node_request::Change;

use super::client::Client;
use super::failure::{FAILED, Failure};
use super::output::{self, Output, Table};

#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Show(Show),
    Evict(Evict),
    Ban(Ban),
    Unban(Unban),
}

/// List the nodes that have attested, and those that are banned.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon node list
  symbolon node list -o json")]
pub struct List {
    #[command(flatten)]
    output: Output,
}

/// Show one node.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon node show web-1
  symbolon node show web-1 -o yaml")]
pub struct Show {
    #[arg(value_name = "NODE")]
    name: String,
    #[command(flatten)]
    output: Output,
}

/// Make a node attest again: its certificates count no more and its connections end at once. One that joined by a token needs a new
/// token; one that attests by a certificate comes back by itself. To keep a node out, ban it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon node evict web-1
  symbolon node evict web-1 && symbolon token create --node web-1")]
pub struct Evict {
    #[arg(value_name = "NODE")]
    name: String,
    #[command(flatten)]
    output: Output,
}

/// Keep a node out, whatever evidence it brings, until it is unbanned: its certificates count no more and its connections end at
/// once. What its workloads hold already is good until it expires. A node that never came can be banned too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon node ban web-1 --reason 'disk found in a skip'
  symbolon node ban web-1")]
pub struct Ban {
    #[arg(value_name = "NODE")]
    name: String,
    /// Shown in `node list`, in the log, and to the node
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    output: Output,
}

/// Let a banned node attest again. Certificates that it had do not come back.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon node unban web-1")]
pub struct Unban {
    #[arg(value_name = "NODE")]
    name: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    name: String,
    spiffe_id: String,
    /// `attested`, `evicted` or `banned`.
    standing: &'static str,
    reason: String,
    attestor: String,
    selectors: Vec<String>,
    can_reattest: bool,
    connected: bool,
    attested_at: String,
    expires_at: String,
    serial: String,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(options) => {
            let nodes = list(client).await?;
            output::print(options.output.format, &nodes, |nodes| table(nodes))
        }
        Command::Show(options) => {
            let node = list(client).await?.into_iter().find(|node| node.name == options.name);
            let missing = || {
                Failure::new(FAILED, format!("no node {} has attested", options.name)).next("see `symbolon node list`")
            };
            output::print(options.output.format, &node.ok_or_else(missing)?, card)
        }
        Command::Evict(options) => change(client, options.name, Change::Evict, String::new(), options.output).await,
        Command::Ban(options) => change(client, options.name, Change::Ban, options.reason, options.output).await,
        Command::Unban(options) => change(client, options.name, Change::Unban, String::new(), options.output).await,
    }
}

async fn list(client: &Client) -> Result<Vec<Node>, Failure> {
    let listed = client.call(async |mut admin| admin.list_nodes(wire::ListNodesRequest {}).await).await?;
    Ok(listed.nodes.into_iter().map(Node::from).collect())
}

async fn change(client: &Client, name: String, change: Change, reason: String, output: Output) -> Result<(), Failure> {
    let asked = wire::ChangeNodeRequest { name, change: change.into(), reason };
    let changed = client.call(async |mut admin| admin.change_node(asked).await).await?;
    output::print(output.format, &[Node::from(changed)], |nodes| table(nodes))
}

fn table(nodes: &[Node]) -> String {
    let mut table = Table::new(["NODE", "STANDING", "CONNECTED", "BY", "ATTESTED", "EXPIRES", "REASON"]);
    for node in nodes {
        table.row([
            node.name.clone(),
            node.standing.to_owned(),
            if node.connected { "yes" } else { "no" }.to_owned(),
            output::or_dash(&node.attestor),
            node.attested_at.clone(),
            node.expires_at.clone(),
            output::or_dash(&node.reason),
        ]);
    }
    table.to_string()
}

fn card(node: &Node) -> String {
    let mut table = Table::new(["NODE", &node.name]);
    for (name, value) in [
        ("SPIFFE ID", node.spiffe_id.clone()),
        ("STANDING", node.standing.to_owned()),
        ("REASON", output::or_dash(&node.reason)),
        ("ATTESTED BY", output::or_dash(&node.attestor)),
        ("SELECTORS", output::joined(&node.selectors)),
        ("COMES BACK", if node.can_reattest { "by itself" } else { "with a new token" }.to_owned()),
        ("CONNECTED", if node.connected { "yes" } else { "no" }.to_owned()),
        ("ATTESTED", node.attested_at.clone()),
        ("EXPIRES", node.expires_at.clone()),
        ("SERIAL", output::or_dash(&node.serial)),
    ] {
        table.row([name.to_owned(), value]);
    }
    table.to_string()
}

impl From<wire::Node> for Node {
    fn from(node: wire::Node) -> Self {
        let moment = |at: i64| if at == 0 { "-".to_owned() } else { output::moment(at) };
        Self {
            standing: match (node.banned, node.serial.is_empty()) {
                (true, _) => "banned",
                (false, true) => "evicted",
                (false, false) => "attested",
            },
            name: node.name,
            spiffe_id: node.spiffe_id,
            reason: node.reason,
            attestor: node.attestor,
            selectors: node.selectors,
            can_reattest: node.can_reattest,
            connected: node.connected,
            attested_at: moment(node.attested_at),
            expires_at: moment(node.expires_at),
            serial: node.serial,
        }
    }
}
