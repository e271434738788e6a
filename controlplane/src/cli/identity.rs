//! `symbolon identity`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use symbolon_proto::admin as wire;

use super::client::Client;
use super::failure::Failure;
use super::output::{self, Output, Table};
use super::token::{lifetime, seconds};

#[derive(Debug, Subcommand)]
pub enum Command {
    Create(Create),
    List(List),
}

/// Let callers on a node have an identity, if they match all selectors. The node's sidecar hears of it at once.
#[derive(Debug, Args)]
#[command(
    after_help = "Selectors: unix:uid:N, unix:gid:N, unix:supplementary_gid:N, unix:path:/P, unix:sha256:HEX. They must match
Envoy's own process too, since it is Envoy that asks for the key it serves with.

Examples:
  symbolon identity create spiffe://a.example/ns/shop/sa/payments --node web-1 --selector unix:uid:1000
  symbolon identity create spiffe://a.example/ns/shop/sa/db --node db-1 --selector unix:uid:70 --ttl 2h --dns db.shop"
)]
pub struct Create {
    /// The SPIFFE ID, e.g. spiffe://<trust domain>/ns/<namespace>/sa/<name>
    spiffe_id: String,
    /// The node whose callers may have it
    #[arg(long, value_name = "NAME")]
    node: String,
    /// What a caller must match; all of them
    #[arg(long = "selector", required = true, value_name = "KIND:NAME:VALUE")]
    selectors: Vec<String>,
    /// Lifetime of its SVIDs; the control plane's default if left out
    #[arg(long, value_parser = lifetime, value_name = "DURATION")]
    ttl: Option<Duration>,
    /// A DNS name that its SVIDs carry beside the SPIFFE ID
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// A word that the Workload API passes on to the caller
    #[arg(long, default_value = "")]
    hint: String,
    #[command(flatten)]
    output: Output,
}

/// List all registered identities.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon identity list
  symbolon identity list -o json")]
pub struct List {
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    entry_id: String,
    spiffe_id: String,
    node: String,
    selectors: Vec<String>,
    /// `null`: the control plane's default.
    ttl_seconds: Option<u32>,
    dns_names: Vec<String>,
    hint: String,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(options) => {
            let identity = wire::Identity {
                spiffe_id: options.spiffe_id,
                node: options.node,
                selectors: options.selectors,
                ttl_seconds: options.ttl.map_or(0, seconds),
                dns_names: options.dns_names,
                hint: options.hint,
                ..wire::Identity::default()
            };
            let asked = wire::CreateIdentityRequest { identity: Some(identity) };
            let made = client.call(async |mut admin| admin.create_identity(asked).await).await?;
            output::print(options.output.format, &[Identity::from(made)], |made| table(made))
        }
        Command::List(options) => {
            let listed =
                client.call(async |mut admin| admin.list_identities(wire::ListIdentitiesRequest {}).await).await?;
            let identities: Vec<_> = listed.identities.into_iter().map(Identity::from).collect();
            output::print(options.output.format, &identities, |identities| table(identities))
        }
    }
}

fn table(identities: &[Identity]) -> String {
    let mut table = Table::new(["ENTRY", "SPIFFE ID", "NODE", "SELECTORS", "TTL", "DNS NAMES"]);
    for one in identities {
        let ttl = one.ttl_seconds.map_or_else(|| "default".to_owned(), |s| output::span(Duration::from_secs(s.into())));
        table.row([
            one.entry_id.clone(),
            one.spiffe_id.clone(),
            one.node.clone(),
            output::joined(&one.selectors),
            ttl,
            output::joined(&one.dns_names),
        ]);
    }
    table.to_string()
}

impl From<wire::Identity> for Identity {
    fn from(identity: wire::Identity) -> Self {
        Self {
            entry_id: identity.entry_id,
            spiffe_id: identity.spiffe_id,
            node: identity.node,
            selectors: identity.selectors,
            ttl_seconds: (identity.ttl_seconds > 0).then_some(identity.ttl_seconds),
            dns_names: identity.dns_names,
            hint: identity.hint,
        }
    }
}
