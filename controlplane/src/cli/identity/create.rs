//! `symbolon identity create`.

use std::time::Duration;

use clap::Args;
use symbolon_kit::clock::{Clock, unix_secs};
use symbolon_kit::config::duration;
use symbolon_proto::admin as wire;

use super::view::{FederatesWith, Identity, parse_moment, table};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{self, Output};
use crate::cli::token::{lifetime, seconds};

/// Let callers on a node have an identity, if they match all selectors. The node's sidecar hears of it at once.
#[derive(Debug, Args)]
#[command(
    after_help = "Selectors: unix:uid:N, unix:gid:N, unix:supplementary_gid:N, unix:path:/P, unix:sha256:HEX, systemd:id:UNIT,
systemd:fragment_path:/P. They must match Envoy's own process too, since it is Envoy that asks for the key it
serves with. Of a node alias: join_token:node:NAME, x509pop:subject:cn:NAME, x509pop:ca:fingerprint:HEX,
x509pop:serialnumber:HEX.

Examples:
  symbolon identity create spiffe://a.example/ns/shop/sa/payments --node web-1 --selector unix:uid:1000
  symbolon identity create spiffe://a.example/ns/shop/sa/db --node db-1 --selector unix:uid:70 --ttl 2h --dns db.shop
  symbolon identity create spiffe://a.example/nodes/web --node-alias --selector x509pop:subject:cn:web
  symbolon identity create spiffe://a.example/ns/shop/sa/web --parent spiffe://a.example/nodes/web \\
    --selector systemd:id:shop.service --federates-with b.example --expires 24h"
)]
pub struct Create {
    /// The SPIFFE ID, e.g. spiffe://<trust domain>/ns/<namespace>/sa/<name>
    spiffe_id: String,
    /// The node whose callers may have it
    #[arg(long, value_name = "NAME", required_unless_present_any = ["parent", "node_alias"])]
    node: Option<String>,
    /// Instead of --node: the SPIFFE ID of a node, or of a node alias
    #[arg(long, value_name = "ID", conflicts_with = "node")]
    parent: Option<String>,
    /// The ID stands for every node that matches the selectors; other identities name it as their parent
    #[arg(long, conflicts_with_all = ["node", "parent"])]
    node_alias: bool,
    /// What a caller must match; all of them
    #[arg(long = "selector", required = true, value_name = "KIND:NAME:VALUE")]
    selectors: Vec<String>,
    /// Lifetime of its X.509-SVIDs; the control plane's default if left out
    #[arg(long, value_parser = lifetime, value_name = "DURATION")]
    ttl: Option<Duration>,
    /// Lifetime of its JWT-SVIDs; the control plane's default if left out
    #[arg(long, value_parser = lifetime, value_name = "DURATION")]
    jwt_ttl: Option<Duration>,
    /// A DNS name that its X.509-SVIDs carry beside the SPIFFE ID
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// A word that the Workload API passes on to the caller
    #[arg(long, default_value = "")]
    hint: String,
    /// Give its workloads the bundle of this trust domain. Without any of the --federates-with options they get every
    /// relationship's
    #[arg(long, value_name = "TRUST DOMAIN")]
    federates_with: Vec<String>,
    /// Give them the bundles of relationships that carry this label; all labels given
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    federates_with_label: Vec<(String, String)>,
    /// Give them the bundles of every relationship, but for the exceptions
    #[arg(long)]
    federates_with_all: bool,
    /// Never this trust domain's
    #[arg(long, value_name = "TRUST DOMAIN")]
    federates_with_except: Vec<String>,
    /// Give them no foreign bundle
    #[arg(long, conflicts_with_all = ["federates_with", "federates_with_label", "federates_with_all"])]
    federates_with_none: bool,
    /// When it ends by itself: a duration from now, or a moment such as 2027-01-31T00:00:00Z
    #[arg(long, value_parser = expiry, value_name = "WHEN")]
    expires: Option<i64>,
    #[command(flatten)]
    output: Output,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a label is written NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn expiry(text: &str) -> Result<i64, String> {
    match duration::parse(text) {
        Ok(span) => Ok(unix_secs(Clock::system().now()).saturating_add_unsigned(span.as_secs())),
        Err(_) => parse_moment(text),
    }
}

pub(super) async fn run(client: &Client, options: Create) -> Result<(), Failure> {
    let format = options.output.format;
    let asked = wire::CreateIdentityRequest { identity: Some(options.identity().into()) };
    let made = client.call(async |mut admin| admin.create_identity(asked).await).await?;
    output::print(format, &[Identity::from(made)], |made| table(made))
}

impl Create {
    fn identity(self) -> Identity {
        let said = self.federates_with_none
            || self.federates_with_all
            || !(self.federates_with.is_empty()
                && self.federates_with_label.is_empty()
                && self.federates_with_except.is_empty());
        let federates_with = said.then(|| FederatesWith {
            trust_domains: self.federates_with,
            labels: self.federates_with_label.into_iter().collect(),
            all: self.federates_with_all,
            except: self.federates_with_except,
        });
        Identity {
            spiffe_id: self.spiffe_id,
            node: self.node.unwrap_or_default(),
            parent: self.parent.unwrap_or_default(),
            node_alias: self.node_alias,
            selectors: self.selectors,
            ttl_seconds: self.ttl.map(seconds),
            jwt_ttl_seconds: self.jwt_ttl.map(seconds),
            dns_names: self.dns_names,
            hint: self.hint,
            federates_with,
            expires_at: self.expires,
            ..Identity::default()
        }
    }
}
