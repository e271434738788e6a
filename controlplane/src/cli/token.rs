//! `symbolon token`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use symbolon_kit::config::duration;
use symbolon_proto::admin::CreateTokenRequest;

use super::client::Client;
use super::failure::Failure;
use super::output::{self, Output};

#[derive(Debug, Subcommand)]
pub enum Command {
    Create(Create),
}

/// Make a one-time join token for a node. The token is shown once; whoever has it can be that node until it is used or expires.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon token create --node web-1
  symbolon token create --node web-1 --ttl 1h -o json

Put the token into the sidecar's file as joinToken, or into a file of its own as joinTokenFile. It serves
one key of one node; if the answer is lost on the way, the same key may ask again for some minutes.")]
pub struct Create {
    /// The node's name: the token yields spiffe://<trust domain>/symbolon/node/<name>
    #[arg(long, value_name = "NAME")]
    node: String,
    /// How long it can be used
    #[arg(long, default_value = "10m", value_parser = lifetime, value_name = "DURATION")]
    ttl: Duration,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    token: String,
    spiffe_id: String,
    expires_at: String,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    let Command::Create(options) = command;
    let asked = CreateTokenRequest { node: options.node, ttl_seconds: seconds(options.ttl) };
    let made = client.call(async |mut admin| admin.create_token(asked).await).await?;
    let token = Token { token: made.token, spiffe_id: made.spiffe_id, expires_at: output::moment(made.expires_at) };
    output::print(options.output.format, &token, |token| {
        format!("Token:    {}\nIdentity: {}\nExpires:  {}\n", token.token, token.spiffe_id, token.expires_at)
    })
}

/// A lifetime as an operator writes it: messages carry whole seconds, and 0 there means the default.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration::parse(text)?;
    if lifetime.subsec_nanos() == 0 && !lifetime.is_zero() {
        Ok(lifetime)
    } else {
        Err("a lifetime is whole seconds, at least one".into())
    }
}

/// Whole seconds as messages carry them.
pub(super) fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
