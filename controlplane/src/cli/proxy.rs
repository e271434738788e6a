//! `symbolon proxy`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use symbolon_proto::admin as wire;

use super::client::Client;
use super::failure::Failure;
use super::output::{self, Output, Table};

/// The columns of the table, in sending order.
const TYPES: [&str; 5] = ["CDS", "EDS", "LDS", "RDS", "RTDS"];

#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
}

/// List the proxies and how far each has come: SYNCED, STALE (something is in flight), NOT SENT, REJECTED (Envoy refused a resource
/// and keeps the one before; its words are in the last column).
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon proxy list
  symbolon proxy list -o json")]
pub struct List {
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Proxy {
    id: String,
    node: String,
    version: String,
    connected: bool,
    connected_ms: i64,
    types: Vec<ProxyType>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyType {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    resources: u32,
    error: Option<String>,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    let Command::List(options) = command;
    let listed = client.call(async |mut admin| admin.list_proxies(wire::ListProxiesRequest {}).await).await?;
    let proxies: Vec<_> = listed.proxies.into_iter().map(Proxy::from).collect();
    output::print(options.output.format, &proxies, |proxies| table(proxies))
}

fn table(proxies: &[Proxy]) -> String {
    let mut table =
        Table::new(["NODE", "IDENTITY", "CONNECTED", "CDS", "EDS", "LDS", "RDS", "RTDS", "VERSION", "ERROR"]);
    for proxy in proxies {
        let of = |kind: &str| proxy.types.iter().find(|one| one.kind == kind);
        let status = |index: usize| match of(TYPES[index]) {
            Some(one) if one.resources > 0 => format!("{} {}", one.status, one.resources),
            Some(one) => one.status.clone(),
            None => "-".to_owned(),
        };
        let connected = Duration::from_millis(proxy.connected_ms.unsigned_abs());
        let errors: Vec<_> = proxy.types.iter().filter_map(|one| one.error.clone()).collect();
        table.row([
            proxy.node.clone(),
            proxy.id.clone(),
            if proxy.connected { output::span(connected) } else { "no".to_owned() },
            status(0),
            status(1),
            status(2),
            status(3),
            status(4),
            output::or_dash(&proxy.version),
            output::or_dash(&errors.join("; ")),
        ]);
    }
    table.to_string()
}

impl From<wire::Proxy> for Proxy {
    fn from(proxy: wire::Proxy) -> Self {
        let kind = |one: wire::ProxyType| ProxyType {
            kind: one.r#type,
            status: one.status,
            resources: one.resources,
            error: (!one.error.is_empty()).then_some(one.error),
        };
        Self {
            id: proxy.id,
            node: proxy.node,
            version: proxy.version,
            connected: proxy.connected,
            connected_ms: proxy.connected_ms,
            types: proxy.types.into_iter().map(kind).collect(),
        }
    }
}
