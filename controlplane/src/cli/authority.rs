//! `symbolon authority`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use symbolon_kit::clock::{Clock, unix_secs};
use symbolon_proto::admin as wire;
use symbolon_proto::admin::change_authority_request::Step;

use super::client::Client;
use super::failure::Failure;
use super::output::{self, Output, Table};

#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Prepare(Prepare),
    Activate(Activate),
    Taint(Taint),
    Revoke(Revoke),
}

/// List the authorities that sign for this trust domain: what each does now, and what becomes of it by itself.
#[derive(Debug, Args)]
#[command(
    after_help = "States: prepared, published (in the bundle, signs nothing yet), active (signs), old (signs no more, what it signed is
valid), tainted (what it signed is being replaced), revoked (out of the bundle).

Examples:
  symbolon authority list
  symbolon authority list --kind jwt -o json"
)]
pub struct List {
    /// Only this kind
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    #[command(flatten)]
    output: Output,
}

/// Make the next authority and publish it, before the schedule would.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon authority prepare                     the next X.509 authority
  symbolon authority prepare --kind jwt
  symbolon authority prepare --force             another one in place of the one that waits")]
pub struct Prepare {
    /// Of this kind
    #[arg(long, value_enum, default_value_t = Kind::X509)]
    kind: Kind,
    /// Even if one is prepared already: that one is revoked
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: Output,
}

/// Let a published authority sign from now on; also an old one, to go back to it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon authority activate 3f2a
  symbolon authority activate 3f2a --force       although not everybody may have it in the bundle yet")]
pub struct Activate {
    #[command(flatten)]
    which: Which,
    /// Before everybody had the time to fetch the bundle that has it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: Output,
}

/// Replace everything that an authority has signed, at once: every sidecar asks for new SVIDs, Envoys get them, tokens are dropped.
/// What was signed stays valid until `revoke`. If it is the active one, its successor takes over first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon authority taint 91c0
  symbolon authority taint 91c0 --force          the active one, though no successor is ready: one is made and signs at once
  symbolon authority taint --kind upstream 5d77  all authorities below an upstream root

After a theft: `authority prepare`, wait as `authority list` says, `authority taint OLD`, wait until sidecars have
replaced everything, `authority revoke OLD`. In a hurry: `taint OLD --force`, `revoke OLD`.")]
pub struct Taint {
    #[command(flatten)]
    which: Which,
    /// Though no successor is ready, or not everybody may have it in the bundle yet
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: Output,
}

/// Take an authority out of the bundle: nothing that it signed is accepted any more, here and at every peer. Never the active one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon authority revoke 91c0
  symbolon authority revoke 91c0 --force         though what it signed may still be in use")]
pub struct Revoke {
    #[command(flatten)]
    which: Which,
    /// Though it was not tainted, or what it signed may not be replaced yet
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: Output,
}

/// One authority.
#[derive(Debug, Args)]
pub struct Which {
    /// The beginning of its id, as `authority list` shows it
    id: String,
    /// Of this kind
    #[arg(long, value_enum, default_value_t = Kind::X509)]
    kind: Kind,
}

/// What an authority signs; upstream: all X.509 authorities below one root that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    X509,
    Jwt,
    Wit,
    Upstream,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    kind: String,
    id: String,
    state: String,
    not_before: String,
    not_after: String,
    key_manager: String,
    /// Empty: self-signed.
    issuer: String,
    next: String,
    /// `null`: no moment is known.
    next_at: Option<String>,
    note: String,
    #[serde(skip)]
    ends: i64,
    #[serde(skip)]
    next_secs: i64,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    let (step, kind, id, force, output) = match command {
        Command::List(options) => {
            let asked = wire::ListAuthoritiesRequest {};
            let listed = client.call(async |mut admin| admin.list_authorities(asked).await).await?;
            return print(listed, options.kind, options.output);
        }
        Command::Prepare(o) => (Step::Prepare, o.kind, String::new(), o.force, o.output),
        Command::Activate(o) => (Step::Activate, o.which.kind, o.which.id, o.force, o.output),
        Command::Taint(o) => (Step::Taint, o.which.kind, o.which.id, o.force, o.output),
        Command::Revoke(o) => (Step::Revoke, o.which.kind, o.which.id, o.force, o.output),
    };
    let asked = wire::ChangeAuthorityRequest { kind: kind.word().to_owned(), step: step.into(), id, force };
    let listed = client.call(async |mut admin| admin.change_authority(asked).await).await?;
    print(listed, Some(kind), output)
}

fn print(listed: wire::ListAuthoritiesResponse, kind: Option<Kind>, output: Output) -> Result<(), Failure> {
    let of_kind = |one: &wire::LocalAuthority| kind.is_none_or(|kind| kind.word() == one.kind);
    let authorities: Vec<_> = listed.authorities.into_iter().filter(of_kind).map(Authority::from).collect();
    output::print(output.format, &authorities, |authorities| table(authorities, unix_secs(Clock::system().now())))
}

fn table(authorities: &[Authority], now: i64) -> String {
    let mut table = Table::new(["KIND", "ID", "STATE", "ENDS", "KEY", "ISSUER", "NEXT", "NOTE"]);
    for one in authorities {
        let next = match one.next_secs {
            0 => one.next.clone(),
            at => format!("{} {}", one.next, until(at, now)),
        };
        table.row([
            one.kind.clone(),
            one.id.chars().take(16).collect(),
            one.state.clone(),
            until(one.ends, now),
            output::or_dash(&one.key_manager),
            if one.issuer.is_empty() { "itself".to_owned() } else { one.issuer.clone() },
            next,
            output::or_dash(&one.note),
        ]);
    }
    table.to_string()
}

fn until(at: i64, now: i64) -> String {
    let span = |seconds: i64| output::span(Duration::from_secs(seconds.unsigned_abs()));
    if at >= now { format!("in {}", span(at - now)) } else { format!("{} ago", span(at - now)) }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
            Self::Wit => "wit",
            Self::Upstream => "upstream",
        }
    }
}

impl From<wire::LocalAuthority> for Authority {
    fn from(one: wire::LocalAuthority) -> Self {
        Self {
            not_before: output::moment(one.not_before),
            not_after: output::moment(one.not_after),
            next_at: (one.next_at != 0).then(|| output::moment(one.next_at)),
            ends: one.not_after,
            next_secs: one.next_at,
            kind: one.kind,
            id: one.id,
            state: one.state,
            key_manager: one.key_manager,
            issuer: one.issuer,
            next: one.next,
            note: one.note,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_counts_down() {
        let one = wire::LocalAuthority {
            kind: "x509".into(),
            id: "0123456789abcdef0123".into(),
            state: "active".into(),
            not_after: 1_000_000 + 7_200,
            key_manager: "disk".into(),
            next: "hands over".into(),
            next_at: 1_000_000 + 60,
            ..wire::LocalAuthority::default()
        };
        let text = table(&[one.into()], 1_000_000);
        let row = text.lines().nth(1).unwrap();
        assert_eq!(
            row.split("   ").filter(|cell| !cell.is_empty()).map(str::trim).collect::<Vec<_>>(),
            ["x509", "0123456789abcdef", "active", "in 2h", "disk", "itself", "hands over in 1m", "-"]
        );
        assert_eq!(until(90, 100), "10s ago");
    }
}
