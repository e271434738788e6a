//! `symbolon bundle`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use symbolon_kit::text::printable;
use symbolon_proto::admin as wire;

use super::client::Client;
use super::failure::{BAD_INPUT, Failure};
use super::federation::relationships;
use super::output::{self, Format, Output, Table};

/// The largest bundle file that is read.
const MAX_BYTES: u64 = 1024 * 1024;
/// How soon a watcher sees a change.
const WATCH: std::time::Duration = std::time::Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Show(Show),
    Watch(Watch),
    Set(Set),
}

/// List the trust bundles that are held: our own, and those of other trust domains, with who brought them and for how long they hold.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon bundle list
  symbolon bundle list -o json")]
pub struct List {
    #[command(flatten)]
    output: Output,
}

/// Show a trust bundle now and again at each change, until Ctrl-C. Ends with status 1 when it is no longer held.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon bundle watch                          our own
  symbolon bundle watch b.example -o json        one JSON document per change")]
pub struct Watch {
    /// The trust domain; ours if left out
    trust_domain: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Show a trust bundle: our own, or a peer's as we hold it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon bundle show                           our own, its authorities as a table
  symbolon bundle show -o spiffe > bundle.json   the SPIFFE JWKS document, as a sidecar takes it for bootstrapBundle
  symbolon bundle show b.example                 a peer's")]
pub struct Show {
    /// The trust domain; ours if left out
    trust_domain: Option<String>,
    /// The form of the output; spiffe: the JWKS document
    #[arg(short = 'o', long = "output", value_enum, default_value_t = BundleFormat::Table, value_name = "FORMAT")]
    format: BundleFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BundleFormat {
    Table,
    Json,
    Yaml,
    Spiffe,
}

/// Replace a peer's bundle by hand, e.g. after its authority was compromised or lost. Connections of that trust domain that the new
/// bundle does not verify end at once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon bundle set b.example b.json
  symbolon bundle set b.example b.json --force    although its sequence is not newer")]
pub struct Set {
    /// The peer's trust domain
    trust_domain: String,
    /// A SPIFFE JWKS document
    file: PathBuf,
    /// Even if its sequence is not newer than that of the bundle we hold
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    trust_domain: String,
    sequence: u64,
    refresh_hint_seconds: u32,
    authorities: Vec<Authority>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    kind: String,
    subject: String,
    sha256: String,
    not_before: String,
    not_after: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    trust_domain: String,
    sequence: u64,
    /// own, endpoint, link or operator.
    source: String,
    trusted_until: Option<String>,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(options) => output::print(options.output.format, &list(client).await?, |lines| {
            let mut table = Table::new(["TRUST DOMAIN", "SEQUENCE", "SOURCE", "TRUSTED UNTIL"]);
            for line in lines {
                let until = line.trusted_until.clone().unwrap_or_else(|| "-".into());
                table.row([line.trust_domain.clone(), line.sequence.to_string(), line.source.clone(), until]);
            }
            table.to_string()
        }),
        Command::Watch(options) => watch(client, options).await,
        Command::Show(options) => {
            let asked = wire::ShowBundleRequest { trust_domain: options.trust_domain.unwrap_or_default() };
            let shown = client.call(async |mut admin| admin.show_bundle(asked).await).await?;
            let format = match options.format {
                BundleFormat::Spiffe => return output::write(&shown.jwks),
                BundleFormat::Table => Format::Table,
                BundleFormat::Json => Format::Json,
                BundleFormat::Yaml => Format::Yaml,
            };
            output::print(format, &Bundle::from(shown), table)
        }
        Command::Set(options) => {
            let jwks = read(&options.file)?.into();
            let asked = wire::SetBundleRequest { trust_domain: options.trust_domain, jwks, force: options.force };
            let set = client.call(async |mut admin| admin.set_bundle(asked).await).await?;
            output::print(options.output.format, &Bundle::from(set), table)
        }
    }
}

async fn list(client: &Client) -> Result<Vec<Line>, Failure> {
    let own = client.call(async |mut admin| admin.show_bundle(wire::ShowBundleRequest::default()).await).await?;
    let until = own.authorities.iter().map(|one| one.not_after).max();
    let own = Line {
        trust_domain: own.trust_domain,
        sequence: own.sequence,
        source: "own".into(),
        trusted_until: until.map(output::moment),
    };
    let theirs = relationships(client).await?.into_iter().filter(|one| !one.source.is_empty()).map(|one| Line {
        trust_domain: one.trust_domain,
        sequence: one.sequence,
        source: one.source,
        trusted_until: one.trusted_until,
    });
    Ok(std::iter::once(own).chain(theirs).collect())
}

/// Asks again and again: the admin API tells of a bundle only who asks.
async fn watch(client: &Client, options: Watch) -> Result<(), Failure> {
    let asked = wire::ShowBundleRequest { trust_domain: options.trust_domain.unwrap_or_default() };
    let mut last = None;
    loop {
        let shown = client.call(async |mut admin| admin.show_bundle(asked.clone()).await).await?;
        if last.as_ref() != Some(&shown.jwks) {
            last = Some(shown.jwks.clone());
            output::print(options.output.format, &Bundle::from(shown), table)?;
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// A bundle file, of bounded size.
pub(super) fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let refused = |why: String| Failure::new(BAD_INPUT, format!("{} {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| refused(format!("cannot be read: {e}")))?.len();
    if size > MAX_BYTES {
        return Err(refused("is larger than 1 MiB: no bundle is".into()));
    }
    std::fs::read(path).map_err(|e| refused(format!("cannot be read: {e}")))
}

fn table(bundle: &Bundle) -> String {
    let mut table = Table::new(["KIND", "SUBJECT", "SHA-256", "NOT BEFORE", "NOT AFTER"]);
    for one in &bundle.authorities {
        let sha256 = one.sha256.chars().take(16).collect();
        table.row([one.kind.clone(), one.subject.clone(), sha256, one.not_before.clone(), one.not_after.clone()]);
    }
    let hint = std::time::Duration::from_secs(bundle.refresh_hint_seconds.into());
    format!(
        "Trust domain: {}\nSequence:     {}\nRefresh hint: {}\n\n{table}",
        printable(&bundle.trust_domain),
        bundle.sequence,
        output::span(hint)
    )
}

impl From<wire::ShowBundleResponse> for Bundle {
    fn from(shown: wire::ShowBundleResponse) -> Self {
        let authority = |one: wire::Authority| Authority {
            kind: one.kind,
            subject: one.subject,
            sha256: one.sha256,
            not_before: output::moment(one.not_before),
            not_after: output::moment(one.not_after),
        };
        Self {
            trust_domain: shown.trust_domain,
            sequence: shown.sequence,
            refresh_hint_seconds: shown.refresh_hint,
            authorities: shown.authorities.into_iter().map(authority).collect(),
        }
    }
}
