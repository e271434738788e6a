//! `symbolon federation`: relationships with other trust domains, in SPIRE's words.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use symbolon_kit::text::printable;
use symbolon_proto::admin as wire;

use super::bundle::read;
use super::client::Client;
use super::failure::{FAILED, Failure, USAGE};
use super::output::{self, Format, Output, Table, or_dash};

#[derive(Debug, Subcommand)]
pub enum Command {
    Create(Create),
    Update(Update),
    List(List),
    Show(Show),
    Refresh(Refresh),
    Delete(Delete),
}

/// How a trust domain's bundle is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Profile {
    /// Its endpoint proves a SPIFFE ID
    HttpsSpiffe,
    /// Its endpoint proves its host name, to the Web's authorities
    HttpsWeb,
    /// The federation link brings it: only to begin anew with a peer in whom trust was ended
    Link,
    /// You bring it, with `symbolon bundle set`
    Manual,
}

/// What a relationship is.
#[derive(Clone, Debug, Args)]
pub struct What {
    /// The foreign trust domain
    trust_domain: String,
    /// How its bundle is had
    #[arg(long, value_enum, value_name = "PROFILE")]
    profile: Profile,
    /// Its bundle endpoint, https://…
    #[arg(long, value_name = "URL", default_value = "")]
    url: String,
    /// https_spiffe: the ID that its endpoint proves
    #[arg(long, value_name = "SPIFFE-ID", default_value = "")]
    endpoint_spiffe_id: String,
    /// Its first bundle, a SPIFFE JWKS document; https_spiffe needs it if the endpoint's ID is of the same trust domain
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// A word by which registration entries pick it, key=value; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// Begin to trust another trust domain: SVIDs of its own are verified by its own bundle, which is kept up to date as the profile
/// says. It is one-way: the other side decides for itself. After `delete` it is how trust begins anew.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon federation create b.example --profile https_spiffe --url https://b.example:8443/ \\
      --endpoint-spiffe-id spiffe://b.example/spire/server --bundle b.json
  symbolon federation create c.example --profile https_web --url https://bundles.c.example/ --label tier=partner
  symbolon federation create d.example --profile manual --bundle d.json")]
pub struct Create {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    output: Output,
}

/// Change a relationship that was made with `create`. The bundle that is held stays; all else is what you give.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon federation update c.example --profile https_web --url https://bundles.c.example:8444/")]
pub struct Update {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    output: Output,
}

/// List all relationships: those of the configuration file, its peers among them, and those made with `create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon federation list
  symbolon federation list -o json")]
pub struct List {
    #[command(flatten)]
    output: Output,
}

/// Show one relationship in full. Ends with status 1 unless it is FRESH.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon federation show b.example
  until symbolon federation show b.example >/dev/null; do sleep 1; done")]
pub struct Show {
    /// The foreign trust domain
    trust_domain: String,
    #[command(flatten)]
    output: Output,
}

/// Look at its bundle endpoint now, and not only when its refresh hint says so. Ends with status 1 if that fails.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon federation refresh b.example")]
pub struct Refresh {
    /// The foreign trust domain
    trust_domain: String,
    #[command(flatten)]
    output: Output,
}

/// End trust in another trust domain, now: its bundle goes from every sidecar, Workload API stream and Envoy, its connections end,
/// and what a peer exported is withdrawn. It stays in the list as TERMINATED, and no link and no endpoint brings it back, until
/// `create` begins anew. Deleting a TERMINATED one takes it out of the list.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon federation delete b.example")]
pub struct Delete {
    /// The foreign trust domain
    trust_domain: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Relationship {
    pub(super) trust_domain: String,
    profile: String,
    url: String,
    endpoint_spiffe_id: String,
    labels: BTreeMap<String, String>,
    /// By the configuration file.
    is_static: bool,
    state: String,
    pub(super) sequence: u64,
    /// `null`: never since the control plane started.
    fetched_at: Option<String>,
    next_at: Option<String>,
    pub(super) trusted_until: Option<String>,
    /// `null`: no bundle is held, or it has no X.509 authority.
    seconds_to_untrusted: Option<i64>,
    /// Who brought the bundle that is held: endpoint, link, operator; empty: none is held.
    pub(super) source: String,
    failures: u32,
    last_error: String,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(options) => {
            let before =
                relationships(client).await?.into_iter().find(|one| one.trust_domain == options.what.trust_domain);
            if before.is_some_and(|before| before.state != "TERMINATED") {
                let what = format!("there is a relationship with {} already", options.what.trust_domain);
                return Err(Failure::new(FAILED, what).next("change it with `symbolon federation update`"));
            }
            set(client, options.what, options.output).await
        }
        Command::Update(options) => {
            if !relationships(client).await?.iter().any(|one| one.trust_domain == options.what.trust_domain) {
                let what = format!("there is no relationship with {}", options.what.trust_domain);
                return Err(Failure::new(FAILED, what).next("make one with `symbolon federation create`"));
            }
            set(client, options.what, options.output).await
        }
        Command::List(options) => output::print(options.output.format, &relationships(client).await?, |all| table(all)),
        Command::Show(options) => {
            let all = relationships(client).await?;
            let known = all.iter().map(|one| one.trust_domain.clone()).collect::<Vec<_>>();
            let one = all.into_iter().find(|one| one.trust_domain == options.trust_domain).ok_or_else(|| {
                let what =
                    format!("there is no relationship with {}; with: {}", options.trust_domain, output::joined(&known));
                Failure::new(FAILED, printable(&what))
            })?;
            report(&one, options.output.format, "FRESH")
        }
        Command::Refresh(options) => {
            let asked = wire::RefreshRelationshipRequest { trust_domain: options.trust_domain };
            let one = client.call(async |mut admin| admin.refresh_relationship(asked).await).await?;
            report(&one.into(), options.output.format, "FRESH")
        }
        Command::Delete(options) => {
            let asked = wire::DeleteRelationshipRequest { trust_domain: options.trust_domain };
            let one = client.call(async |mut admin| admin.delete_relationship(asked).await).await?;
            report(&one.into(), options.output.format, "TERMINATED")
        }
    }
}

/// All of them, as the control plane knows them.
pub(super) async fn relationships(client: &Client) -> Result<Vec<Relationship>, Failure> {
    let asked = wire::ListRelationshipsRequest {};
    let listed = client.call(async |mut admin| admin.list_relationships(asked).await).await?;
    Ok(listed.relationships.into_iter().map(Relationship::from).collect())
}

async fn set(client: &Client, what: What, output: Output) -> Result<(), Failure> {
    let mut labels = BTreeMap::new();
    for (key, value) in what.labels {
        if labels.insert(key.clone(), value).is_some() {
            return Err(Failure::new(USAGE, format!("the label {key} is given twice")));
        }
    }
    let profile = what.profile.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let relationship = wire::Relationship {
        trust_domain: what.trust_domain,
        profile,
        endpoint: what.url,
        endpoint_spiffe_id: what.endpoint_spiffe_id,
        labels,
        ..wire::Relationship::default()
    };
    let bootstrap = what.bundle.as_ref().map(read).transpose()?.unwrap_or_default().into();
    let asked = wire::SetRelationshipRequest { relationship: Some(relationship), bootstrap };
    let one = Relationship::from(client.call(async |mut admin| admin.set_relationship(asked).await).await?);
    output::print(output.format, &one, details)
}

/// Prints it; another state than `wanted` is a failed check.
fn report(one: &Relationship, format: Format, wanted: &str) -> Result<(), Failure> {
    output::print(format, one, details)?;
    if one.state == wanted { Ok(()) } else { Err(Failure::silent(FAILED)) }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not key=value")?;
    if key.is_empty() || value.is_empty() {
        return Err("key and value must not be empty".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn table(all: &[Relationship]) -> String {
    let mut table = Table::new(["TRUST DOMAIN", "PROFILE", "STATE", "SEQUENCE", "SOURCE", "TRUSTED FOR", "LAST ERROR"]);
    for one in all {
        let sequence = if one.source.is_empty() { "-".into() } else { one.sequence.to_string() };
        table.row([
            one.trust_domain.clone(),
            one.profile.clone(),
            one.state.clone(),
            sequence,
            or_dash(&one.source),
            trusted_for(one),
            or_dash(&one.last_error.chars().take(80).collect::<String>()),
        ]);
    }
    table.to_string()
}

fn trusted_for(one: &Relationship) -> String {
    match one.seconds_to_untrusted {
        None => "-".into(),
        Some(seconds) if seconds <= 0 => "expired".into(),
        Some(seconds) => {
            let (days, hours) = (seconds / 86_400, seconds % 86_400 / 3600);
            if days > 0 {
                format!("{days}d{hours}h")
            } else {
                output::span(Duration::from_secs(seconds.unsigned_abs()))
            }
        }
    }
}

fn details(one: &Relationship) -> String {
    let labels: Vec<_> = one.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let or = |text: &Option<String>, other: &str| text.clone().unwrap_or_else(|| other.to_owned());
    let rows = [
        ("Trust domain", one.trust_domain.clone()),
        ("State", one.state.clone()),
        ("Profile", one.profile.clone()),
        ("URL", or_dash(&one.url)),
        ("Endpoint's ID", or_dash(&one.endpoint_spiffe_id)),
        ("Made by", if one.is_static { "the configuration file".into() } else { "an operator".into() }),
        ("Labels", output::joined(&labels)),
        ("Sequence", if one.source.is_empty() { "-".into() } else { one.sequence.to_string() }),
        ("Brought by", or_dash(&one.source)),
        ("Trusted until", format!("{} ({})", or(&one.trusted_until, "-"), trusted_for(one))),
        ("Last fetched", or(&one.fetched_at, "never")),
        ("Next look", or(&one.next_at, "-")),
        ("Failures", format!("{} in a row", one.failures)),
        ("Last error", or_dash(&one.last_error)),
    ];
    rows.iter().map(|(name, value)| format!("{:<15}{}\n", format!("{name}:"), printable(value))).collect()
}

impl From<wire::Relationship> for Relationship {
    fn from(one: wire::Relationship) -> Self {
        let moment = |at: i64| (at > 0).then(|| output::moment(at));
        let left = one.trusted_until - jiff::Timestamp::now().as_second();
        Self {
            trust_domain: one.trust_domain,
            profile: one.profile,
            url: one.endpoint,
            endpoint_spiffe_id: one.endpoint_spiffe_id,
            labels: one.labels.into_iter().collect(),
            is_static: one.is_static,
            state: one.state,
            sequence: one.sequence,
            fetched_at: moment(one.fetched_at),
            next_at: moment(one.next_at),
            trusted_until: moment(one.trusted_until),
            seconds_to_untrusted: (one.trusted_until > 0).then_some(left),
            source: one.source,
            failures: one.failures,
            last_error: one.last_error,
        }
    }
}
