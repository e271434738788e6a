//! The control plane's configuration: [`mod@file`] is what the operator writes, [`check`] makes it the typed [`Config`], and says of
//! everything that is wrong what, where and under which stable code. `symbolon lint` prints the findings; `symbolon serve` binds
//! no port while there are any.

pub mod check;
pub mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use symbolon_kit::config::ConfigError;
use symbolon_proto::ids::{SpiffeId, TrustDomain};

use crate::federation::{PeerConfig, Timing};
use crate::identity::X509PopConfig;
use crate::identity::authority::Settings;
use crate::identity::mint;
use crate::model::{FederatedDefinition, ServiceDefinition};
use crate::rollout::plan::Policy;
use crate::trust::{self, Relationship};

pub use file::File;

/// The configuration, parsed: nothing in it can be wrong by itself.
#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    pub data_dir: PathBuf,
    pub listen: Listen,
    pub identity: Lifetimes,
    pub minting: mint::Settings,
    pub authority: Settings,
    /// `None`: nodes cannot attest by a certificate.
    pub x509pop: Option<X509PopConfig>,
    pub services: Vec<ServiceDefinition>,
    pub federated: Vec<FederatedDefinition>,
    pub policy: Policy,
    pub peers: Vec<PeerConfig>,
    pub timing: Timing,
    /// What a token tells the peer to dial; empty: the bound federation address.
    pub advertise: Vec<String>,
    /// How often nodes forward load reports.
    pub report_every: Duration,
    pub bundle_endpoint: Option<BundleEndpoint>,
    /// Those of the peers among them.
    pub relationships: Vec<Relationship>,
    /// Files with first bundles of theirs.
    pub bootstrap: BTreeMap<TrustDomain, PathBuf>,
    pub roots_file: Option<PathBuf>,
    /// Not the operator's to say.
    pub polling: trust::Timing,
    pub fetching: trust::Limits,
}

/// Our own bundle endpoint.
#[derive(Clone, Debug)]
pub struct BundleEndpoint {
    pub listen: SocketAddr,
    pub proof: Proof,
}

/// How it proves itself.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By this ID; the control plane's own if `None`.
    Spiffe(Option<SpiffeId>),
    Web(trust::endpoint::Files),
}

/// Where to listen; port 0 means any free one.
#[derive(Clone, Debug)]
pub struct Listen {
    pub node: SocketAddr,
    pub federation: SocketAddr,
    pub http: SocketAddr,
    pub admin: PathBuf,
}

/// Lifetimes of what the authority signs.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    pub ca_ttl: Duration,
    pub svid_ttl: Duration,
    pub node_ttl: Duration,
    pub refresh_hint: Duration,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub code: Code,
    /// 0 when no line can be named.
    pub line: usize,
    /// The field, e.g. `peers[0].grants.addresses`.
    pub field: String,
    pub message: String,
}

/// What kind of thing is wrong; the number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The file does not have the shape of a configuration.
    Shape = 1,
    TrustDomain = 2,
    Listen = 3,
    Lifetime = 4,
    Name = 5,
    Duplicate = 6,
    UnknownPeer = 7,
    RolloutPolicy = 8,
    Grant = 9,
    Federation = 10,
    Address = 11,
    Relationship = 12,
    BundleEndpoint = 13,
    KeyManager = 14,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot even be read.
    #[error("{0}")]
    Unreadable(ConfigError),
    #[error("{}", list(path, findings))]
    Findings { path: PathBuf, findings: Vec<Finding> },
}

/// Reads, overrides from `env`, and checks the file.
///
/// # Errors
/// All that is wrong with it.
pub fn load(path: &Path, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, Refused> {
    let file: File = symbolon_kit::config::load(path, env).map_err(|error| match error.line {
        0 if !error.message.starts_with("environment variable") => Refused::Unreadable(error),
        line => Refused::Findings {
            path: path.to_owned(),
            findings: vec![Finding { code: Code::Shape, line, field: String::new(), message: error.message }],
        },
    })?;
    check::check(&file).map_err(|mut findings| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for (finding, value) in &mut findings {
            finding.line = line_of(&text, value);
        }
        Refused::Findings {
            path: path.to_owned(),
            findings: findings.into_iter().map(|(finding, _)| finding).collect(),
        }
    })
}

/// The line on which `value` stands, if it stands on one only: better no line than a wrong one.
fn line_of(text: &str, value: &str) -> usize {
    let stands = |line: &str| {
        let code = line.split(" #").next().unwrap_or_default();
        code.split([' ', ',', '[', ']', '{', '}', '"', '\'']).any(|word| word == value)
    };
    let mut lines = text.lines().enumerate().filter(|(_, line)| !value.is_empty() && stands(line));
    match (lines.next(), lines.next()) {
        (Some((index, _)), None) => index + 1,
        _ => 0,
    }
}

fn list(path: &Path, findings: &[Finding]) -> String {
    let lines: Vec<_> = findings.iter().map(|finding| finding.at(path)).collect();
    lines.join("\n")
}

impl Finding {
    /// `file:line: SYM0007: field: what is wrong`.
    pub fn at(&self, path: &Path) -> String {
        let line = if self.line == 0 { String::new() } else { format!(":{}", self.line) };
        let field = if self.field.is_empty() { String::new() } else { format!("{}: ", self.field) };
        format!("{}{line}: {}: {field}{}", path.display(), self.code, self.message)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SYM{:04}", *self as u16)
    }
}

#[cfg(test)]
mod tests;
