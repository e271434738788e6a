//! `symbolon peer`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use symbolon_kit::text::printable;
use symbolon_proto::admin as wire;

use super::client::Client;
use super::failure::{BAD_INPUT, FAILED, Failure};
use super::output::{self, Format, Output, Table};
use super::token::{lifetime, seconds};

/// A token is base64 of a few hundred bytes.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

#[derive(Debug, Subcommand)]
pub enum Command {
    Invite(Invite),
    Accept(Accept),
    List(List),
    Status(Status),
}

/// Make a one-time token for a peer of the configuration file. Its operator redeems it with `symbolon peer accept`; each side then
/// knows the other's bundle, and nothing else is trusted on first use.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon peer invite b
  symbolon peer invite b --ttl 1h -o json

Send the token over a channel that you trust: whoever redeems it first is that peer.")]
pub struct Invite {
    /// The peer's name in our configuration
    peer: String,
    /// How long it can be redeemed
    #[arg(long, default_value = "10m", value_parser = lifetime, value_name = "DURATION")]
    ttl: Duration,
    #[command(flatten)]
    output: Output,
}

/// Redeem a token that a peer's operator made with `symbolon peer invite`. Our configuration must already name the peer and what it
/// may say.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon peer accept a TOKEN
  symbolon peer accept a - < token.txt")]
pub struct Accept {
    /// The peer's name in our configuration
    peer: String,
    /// The token; `-` reads it from standard input
    token: String,
    #[command(flatten)]
    output: Output,
}

/// List all peers with the state of their links.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon peer list
  symbolon peer list -o json")]
pub struct List {
    #[command(flatten)]
    output: Output,
}

/// Show one peer in full: link, exchange, refusals. Ends with status 1 unless its link is LIVE.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon peer status b
  until symbolon peer status b >/dev/null; do sleep 1; done")]
pub struct Status {
    /// The peer's name in our configuration
    peer: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Invitation {
    peer: String,
    token: String,
    expires_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    name: String,
    trust_domain: String,
    state: String,
    role: String,
    address: String,
    imported_services: u32,
    imported_endpoints: u32,
    exported_services: u32,
    bundle_sequence: u64,
    /// `null`: never.
    last_heard_ms: Option<i64>,
    programmed_sequence: u64,
    head_sequence: u64,
    last_error: String,
    refusals: BTreeMap<String, u64>,
    trusted_until: Option<String>,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::Invite(options) => invite(client, options).await,
        Command::Accept(options) => accept(client, options).await,
        Command::List(options) => {
            let peers = peers(client).await?;
            output::print(options.output.format, &peers, |peers| table(peers))
        }
        Command::Status(options) => status(client, options).await,
    }
}

async fn invite(client: &Client, options: Invite) -> Result<(), Failure> {
    let asked = wire::InvitePeerRequest { peer: options.peer.clone(), ttl_seconds: seconds(options.ttl) };
    let made = client.call(async |mut admin| admin.invite_peer(asked).await).await?;
    let invitation = Invitation { peer: options.peer, token: made.token, expires_at: output::moment(made.expires_at) };
    output::print(options.output.format, &invitation, |invitation| {
        format!(
            "Token:   {}\nExpires: {}\n\nThe operator of {} runs: symbolon peer accept <our name there> <token>\n",
            invitation.token, invitation.expires_at, invitation.peer
        )
    })
}

async fn accept(client: &Client, options: Accept) -> Result<(), Failure> {
    let token = if options.token == "-" { from_stdin()? } else { options.token };
    let asked = wire::AcceptPeerRequest { peer: options.peer, token };
    let peer = Peer::from(client.call(async |mut admin| admin.accept_peer(asked).await).await?);
    output::print(options.output.format, &peer, |peer| {
        format!("{} ({}) is trusted from now on; its link is {}\n", peer.name, peer.trust_domain, peer.state)
    })
}

fn from_stdin() -> Result<String, Failure> {
    let mut token = String::new();
    let read = std::io::stdin().take(MAX_TOKEN_BYTES).read_to_string(&mut token);
    read.map_err(|error| Failure::new(BAD_INPUT, format!("cannot read the token from standard input: {error}")))?;
    Ok(token.trim().to_owned())
}

async fn peers(client: &Client) -> Result<Vec<Peer>, Failure> {
    let listed = client.call(async |mut admin| admin.list_peers(wire::ListPeersRequest {}).await).await?;
    Ok(listed.peers.into_iter().map(Peer::from).collect())
}

async fn status(client: &Client, options: Status) -> Result<(), Failure> {
    let peers = peers(client).await?;
    let known: Vec<_> = peers.iter().map(|peer| peer.name.clone()).collect();
    let Some(peer) = peers.into_iter().find(|peer| peer.name == options.peer) else {
        let what = format!("{:?} is not one of the peers ({})", options.peer, known.join(", "));
        return Err(Failure::new(BAD_INPUT, what).next("peers are named in the configuration file, under peers"));
    };
    output::print(options.output.format, &peer, full)?;
    match (peer.state.as_str(), options.output.format) {
        ("LIVE", _) => Ok(()),
        (_, Format::Json | Format::Yaml) => Err(Failure::silent(FAILED)),
        (state, Format::Table) => {
            let failure = Failure::new(FAILED, format!("the link to {} is {state}", peer.name));
            Err(match (state, peer.last_error.as_str()) {
                ("PENDING", _) => failure.next("exchange trust first: symbolon peer invite | accept"),
                (_, "") => failure,
                (_, why) => failure.next(printable(why)),
            })
        }
    }
}

fn heard(peer: &Peer) -> String {
    match peer.last_heard_ms {
        Some(ms) => format!("{} ago", output::span(Duration::from_millis(ms.unsigned_abs()))),
        None => "never".to_owned(),
    }
}

fn table(peers: &[Peer]) -> String {
    let mut table = Table::new(["NAME", "TRUST DOMAIN", "STATE", "ROLE", "IMPORTED", "EXPORTED", "HEARD", "ERROR"]);
    for peer in peers {
        table.row([
            peer.name.clone(),
            peer.trust_domain.clone(),
            peer.state.clone(),
            output::or_dash(&peer.role),
            format!("{} services, {} endpoints", peer.imported_services, peer.imported_endpoints),
            format!("{} services", peer.exported_services),
            heard(peer),
            output::or_dash(&peer.last_error),
        ]);
    }
    table.to_string()
}

fn full(peer: &Peer) -> String {
    let refusals: Vec<_> = peer.refusals.iter().map(|(reason, count)| format!("{reason}={count}")).collect();
    let rows = [
        ("Name", peer.name.clone()),
        ("Trust domain", peer.trust_domain.clone()),
        ("State", peer.state.clone()),
        ("Role", output::or_dash(&peer.role)),
        ("Address", output::or_dash(&peer.address)),
        ("Last heard", heard(peer)),
        ("Imported", format!("{} services, {} endpoints", peer.imported_services, peer.imported_endpoints)),
        ("Exported", format!("{} services", peer.exported_services)),
        ("Programmed there", format!("{} of {}", peer.programmed_sequence, peer.head_sequence)),
        ("Bundle sequence", peer.bundle_sequence.to_string()),
        ("Trusted until", peer.trusted_until.clone().unwrap_or_else(|| "-".to_owned())),
        ("Refused", output::joined(&refusals)),
        ("Last error", output::or_dash(&peer.last_error)),
    ];
    rows.iter().map(|(name, value)| format!("{:18}{}\n", format!("{name}:"), printable(value))).collect()
}

impl From<wire::Peer> for Peer {
    fn from(peer: wire::Peer) -> Self {
        Self {
            name: peer.name,
            trust_domain: peer.trust_domain,
            state: peer.state,
            role: peer.role,
            address: peer.address,
            imported_services: peer.imported_services,
            imported_endpoints: peer.imported_endpoints,
            exported_services: peer.exported_services,
            bundle_sequence: peer.bundle_sequence,
            last_heard_ms: (peer.last_heard_ms >= 0).then_some(peer.last_heard_ms),
            programmed_sequence: peer.programmed_seq,
            head_sequence: peer.head_seq,
            last_error: peer.last_error,
            refusals: peer.refusals,
            trusted_until: (peer.trusted_until > 0).then(|| output::moment(peer.trusted_until)),
        }
    }
}
