//! The sidecar's configuration file: what the operator writes ([`File`]), parsed once into what cannot be wrong ([`Config`]).
//! `workloads` may change while the sidecar runs; everything else is read at the start.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use symbolon_kit::config::{ConfigError, duration};
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use crate::attest::Kind;
use crate::selector::Selectors;

/// Workloads of one node.
const MAX_WORKLOADS: usize = 1000;
/// The longest workload name, one DNS label.
const MAX_NAME_BYTES: usize = 63;

/// The whole file, as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct File {
    /// The mesh this node joins, e.g. `a.example`.
    pub trust_domain: String,
    /// Control plane replicas, `host:port`.
    pub control_plane: Vec<String>,
    /// The trust domain's bundle (SPIFFE JWKS): the first connection is verified by it.
    pub bootstrap_bundle: PathBuf,
    /// Spent at the first start. Prefer `joinTokenFile`.
    #[serde(default)]
    pub join_token: Option<String>,
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
    /// Other evidence than a join token.
    #[serde(default)]
    pub attest: Option<AttestFile>,
    /// What is found out about callers.
    #[serde(default = "default_workload_attestors")]
    pub workload_attestors: Vec<String>,
    /// Keys, certificates and last-known-good state; made with mode 0700.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    #[serde(default)]
    pub sockets: Sockets,
    #[serde(default)]
    pub sds_header: Header,
    /// `/livez`, `/readyz`, `/metrics`; plain HTTP.
    #[serde(default = "default_http")]
    pub http: String,
    /// How often each workload's health is looked at.
    #[serde(default = "default_health_interval", with = "duration")]
    pub health_interval: Duration,
    /// Envoy's `--concurrency` for bootstraps printed here.
    #[serde(default)]
    pub envoy_concurrency: Option<u32>,
    #[serde(default)]
    pub workloads: Vec<WorkloadFile>,
}

/// How this node says who it is, if not by a join token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AttestFile {
    pub x509pop: X509PopFile,
}

/// A certificate that this node had before, and its key; read again at each attestation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct X509PopFile {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM; readable by its owner only.
    pub key: PathBuf,
}

/// Unix sockets that Envoy and the workloads of this node use. Relative paths are taken from where the sidecar runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Sockets {
    /// Workload API and SDS.
    pub agent: PathBuf,
    /// ADS and LRS.
    pub xds: PathBuf,
}

/// Whether SDS demands the header that the Workload API does, `workload.spiffe.io: true`. A program that can be tricked into opening a
/// connection sends none; Envoy sends it if its configuration says so (`initial_metadata`), as the control plane's does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Header {
    #[default]
    Required,
    /// For an Envoy whose configuration cannot be changed.
    Optional,
}

/// One workload, as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadFile {
    /// Unique on this node.
    pub name: String,
    /// `<svc>.<ns>`; absent: it offers nothing.
    #[serde(default)]
    pub service: Option<String>,
    /// Its SPIFFE ID.
    pub identity: String,
    /// Narrows who on this node may have that identity; absent: whoever matches the registration entry.
    #[serde(default)]
    pub selectors: Vec<String>,
    /// Where the application listens.
    #[serde(default)]
    pub address: Option<String>,
    /// Where its Envoy accepts mTLS.
    #[serde(default)]
    pub inbound: Option<String>,
    /// Where its Envoy accepts the application's own requests.
    #[serde(default)]
    pub outbound: Option<String>,
    #[serde(default)]
    pub health: Option<HealthFile>,
    /// Services it calls, `<svc>.<ns>`.
    #[serde(default)]
    pub upstreams: Vec<String>,
    /// Its capacity beside others of the service.
    #[serde(default = "default_weight")]
    pub weight: u32,
}

/// How a workload's health is seen, as it is written: `{http: /healthz}` or `{tcp: true}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthFile {
    #[serde(default)]
    pub http: Option<String>,
    #[serde(default)]
    pub tcp: Option<bool>,
}

/// What the sidecar runs by.
#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    pub control_plane: Vec<String>,
    pub bootstrap_bundle: PathBuf,
    pub evidence: Evidence,
    pub workload_attestors: BTreeSet<Kind>,
    pub data_dir: PathBuf,
    pub sockets: Sockets,
    pub sds_header: Header,
    pub http: SocketAddr,
    pub health_interval: Duration,
    pub envoy_concurrency: Option<u32>,
    pub workloads: Vec<Workload>,
}

/// How this node says who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Evidence {
    /// The node has joined already, or never will.
    None,
    JoinToken(Zeroizing<String>),
    /// Read when it is needed, so that a new token can be laid there later.
    JoinTokenFile(PathBuf),
    X509Pop(X509PopFile),
}

/// One workload of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub name: String,
    pub service: Option<String>,
    pub identity: SpiffeId,
    pub selectors: Selectors,
    pub address: Option<SocketAddr>,
    pub inbound: Option<SocketAddr>,
    pub outbound: Option<SocketAddr>,
    pub health: Option<HealthCheck>,
    pub upstreams: Vec<String>,
    pub weight: u32,
}

/// How a workload's health is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// GET of this path on its address answers 200 to 399.
    Http(String),
    /// Its address accepts a connection.
    Tcp,
}

/// Why the sidecar cannot run by this file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] ConfigError),
    #[error("{path}: {field}: {why}", path = path.display())]
    Field { path: PathBuf, field: String, why: String },
}

/// Reads and parses `path`, with overrides from `env`.
///
/// # Errors
/// If it cannot be read, or a field says what cannot be; names the field.
pub fn load(path: &Path, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, Error> {
    let file: File = symbolon_kit::config::load(path, env)?;
    Config::parse(file).map_err(|Wrong { field, why }| Error::Field { path: path.to_owned(), field, why })
}

/// A field that says what cannot be.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub field: String,
    pub why: String,
}

fn wrong(field: impl Into<String>, why: impl ToString) -> Wrong {
    Wrong { field: field.into(), why: why.to_string() }
}

// === impl Config ===

impl Config {
    /// # Errors
    /// The first field that says what cannot be.
    pub fn parse(file: File) -> Result<Self, Wrong> {
        let trust_domain: TrustDomain = file.trust_domain.parse().map_err(|why| wrong("trustDomain", why))?;
        if file.control_plane.is_empty() {
            return Err(wrong("controlPlane", "name at least one host:port"));
        }
        for (at, address) in file.control_plane.iter().enumerate() {
            check_host_port(address).map_err(|why| wrong(format!("controlPlane[{at}]"), why))?;
        }
        let evidence = match (file.join_token, file.join_token_file, file.attest) {
            (Some(token), None, None) => Evidence::JoinToken(Zeroizing::new(token)),
            (None, Some(path), None) => Evidence::JoinTokenFile(path),
            (None, None, Some(AttestFile { x509pop })) => Evidence::X509Pop(x509pop),
            (None, None, None) => Evidence::None,
            _ => return Err(wrong("joinToken", "give joinToken, joinTokenFile or attest, not both")),
        };
        let mut workload_attestors = BTreeSet::new();
        for (at, word) in file.workload_attestors.iter().enumerate() {
            workload_attestors.insert(word.parse().map_err(|why| wrong(format!("workloadAttestors[{at}]"), why))?);
        }
        if workload_attestors.is_empty() {
            return Err(wrong("workloadAttestors", "name at least one: unix, systemd"));
        }
        if file.sockets.agent == file.sockets.xds {
            return Err(wrong("sockets", "agent and xds need a socket each"));
        }
        if file.health_interval.is_zero() {
            return Err(wrong("healthInterval", "must be longer than nothing"));
        }
        if file.envoy_concurrency == Some(0) {
            return Err(wrong("envoyConcurrency", "Envoy needs one worker at least"));
        }
        let http = file.http.parse().map_err(|_| wrong("http", "must be ip:port"))?;
        let workloads = parse_workloads(file.workloads, &trust_domain)?;
        Ok(Self {
            trust_domain,
            control_plane: file.control_plane,
            bootstrap_bundle: file.bootstrap_bundle,
            evidence,
            workload_attestors,
            data_dir: file.data_dir,
            sockets: file.sockets,
            sds_header: file.sds_header,
            http,
            health_interval: file.health_interval,
            envoy_concurrency: file.envoy_concurrency,
            workloads,
        })
    }

    /// The fields, other than `workloads`, in which `newer` differs: they take effect at the next start.
    pub fn needs_restart(&self, newer: &Self) -> Vec<&'static str> {
        [
            ("trustDomain", self.trust_domain != newer.trust_domain),
            ("controlPlane", self.control_plane != newer.control_plane),
            ("bootstrapBundle", self.bootstrap_bundle != newer.bootstrap_bundle),
            ("joinToken", self.evidence != newer.evidence),
            ("workloadAttestors", self.workload_attestors != newer.workload_attestors),
            ("dataDir", self.data_dir != newer.data_dir),
            ("sockets", self.sockets != newer.sockets),
            ("sdsHeader", self.sds_header != newer.sds_header),
            ("http", self.http != newer.http),
            ("healthInterval", self.health_interval != newer.health_interval),
            ("envoyConcurrency", self.envoy_concurrency != newer.envoy_concurrency),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

fn parse_workloads(files: Vec<WorkloadFile>, trust_domain: &TrustDomain) -> Result<Vec<Workload>, Wrong> {
    if files.len() > MAX_WORKLOADS {
        return Err(wrong("workloads", format!("more than {MAX_WORKLOADS}")));
    }
    let (mut names, mut inbounds) = (BTreeSet::new(), BTreeSet::new());
    let mut workloads = Vec::with_capacity(files.len());
    for (at, file) in files.into_iter().enumerate() {
        let workload = Workload::parse(file, trust_domain)
            .map_err(|Wrong { field, why }| Wrong { field: format!("workloads[{at}].{field}"), why })?;
        if !names.insert(workload.name.clone()) {
            return Err(wrong(format!("workloads[{at}].name"), format!("{} is there twice", workload.name)));
        }
        if let Some(inbound) = workload.inbound.filter(|inbound| !inbounds.insert(*inbound)) {
            return Err(wrong(format!("workloads[{at}].inbound"), format!("{inbound} is another workload's already")));
        }
        workloads.push(workload);
    }
    Ok(workloads)
}

// === impl Workload ===

impl Workload {
    /// # Errors
    /// The first field that says what cannot be.
    pub fn parse(file: WorkloadFile, trust_domain: &TrustDomain) -> Result<Self, Wrong> {
        check_label(&file.name).map_err(|why| wrong("name", why))?;
        let identity = SpiffeId::workload(&file.identity).map_err(|why| wrong("identity", why))?;
        if identity.trust_domain() != trust_domain {
            return Err(wrong("identity", format!("is not in trust domain {trust_domain}")));
        }
        if identity.is_reserved() {
            return Err(wrong("identity", "paths below /symbolon/ are for Symbolon's own processes"));
        }
        if let Some(service) = &file.service {
            check_service(service).map_err(|why| wrong("service", why))?;
        }
        for (at, upstream) in file.upstreams.iter().enumerate() {
            check_upstream(upstream).map_err(|why| wrong(format!("upstreams[{at}]"), why))?;
        }
        let mut selectors = Selectors::new();
        for (at, text) in file.selectors.iter().enumerate() {
            selectors.insert(text.parse().map_err(|why| wrong(format!("selectors[{at}]"), why))?);
        }
        let address = address_of("address", file.address)?;
        let inbound = envoy_address("inbound", file.inbound)?;
        let outbound = envoy_address("outbound", file.outbound)?;
        let health = file.health.map(parse_health).transpose()?;
        if health.is_some() && address.is_none() {
            return Err(wrong("health", "is looked at on the workload's address, which is not given"));
        }
        if file.service.is_some() && (address.is_none() || inbound.is_none()) {
            return Err(wrong("service", "a workload that offers one needs address and inbound"));
        }
        if !file.upstreams.is_empty() && outbound.is_none() {
            return Err(wrong("upstreams", "are called through outbound, which is not given"));
        }
        Ok(Self {
            name: file.name,
            service: file.service,
            identity,
            selectors,
            address,
            inbound,
            outbound,
            health,
            upstreams: file.upstreams,
            weight: file.weight.max(1),
        })
    }
}

fn address_of(field: &str, text: Option<String>) -> Result<Option<SocketAddr>, Wrong> {
    let Some(text) = text else { return Ok(None) };
    let address: SocketAddr = text.parse().map_err(|_| wrong(field, "must be ip:port"))?;
    if address.port() == 0 {
        return Err(wrong(field, "needs a port other than 0"));
    }
    Ok(Some(address))
}

/// Where an Envoy listens: an address that others can be told, so one of this node's own and not all of them.
fn envoy_address(field: &str, text: Option<String>) -> Result<Option<SocketAddr>, Wrong> {
    match address_of(field, text)? {
        Some(address) if address.ip().to_canonical().is_unspecified() => {
            Err(wrong(field, format!("must be one address, not {}", address.ip())))
        }
        address => Ok(address),
    }
}

fn parse_health(file: HealthFile) -> Result<HealthCheck, Wrong> {
    match (file.http, file.tcp) {
        (Some(path), None) if path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok() => {
            Ok(HealthCheck::Http(path))
        }
        (Some(_), None) => Err(wrong("health.http", "must be a path that begins with '/'")),
        (None, Some(true)) => Ok(HealthCheck::Tcp),
        _ => Err(wrong("health", "is {http: PATH} or {tcp: true}")),
    }
}

fn check_host_port(text: &str) -> Result<(), &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => Ok(()),
        _ => Err("must be host:port"),
    }
}

/// A DNS label (RFC 1123).
fn check_label(text: &str) -> Result<(), &'static str> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(inner) {
        return Err("must be 1 to 63 of a-z, 0-9 and '-'");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("must not begin or end with '-'");
    }
    Ok(())
}

fn check_service(text: &str) -> Result<(), &'static str> {
    match text.split_once('.') {
        Some((service, namespace)) if check_label(service).is_ok() && check_label(namespace).is_ok() => Ok(()),
        _ => Err("must be <service>.<namespace>, each 1 to 63 of a-z, 0-9 and '-'"),
    }
}

/// A service, or an imported one, `<service>.<namespace>.<peer>`.
fn check_upstream(text: &str) -> Result<(), &'static str> {
    let labels: Vec<_> = text.split('.').collect();
    if matches!(labels.len(), 2 | 3) && labels.iter().all(|label| check_label(label).is_ok()) {
        Ok(())
    } else {
        Err("must be <service>.<namespace> or <service>.<namespace>.<peer>")
    }
}

impl Default for Sockets {
    fn default() -> Self {
        Self { agent: "/run/symbolon/agent.sock".into(), xds: "/run/symbolon/xds.sock".into() }
    }
}

impl std::fmt::Debug for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::JoinToken(_) => f.write_str("JoinToken(redacted)"),
            Self::JoinTokenFile(path) => write!(f, "JoinTokenFile({})", path.display()),
            Self::X509Pop(file) => write!(f, "X509Pop({})", file.certificate.display()),
        }
    }
}

fn default_data_dir() -> PathBuf {
    "/var/lib/symbolon-sidecar".into()
}

fn default_workload_attestors() -> Vec<String> {
    vec!["unix".into(), "systemd".into()]
}

fn default_http() -> String {
    "127.0.0.1:8082".into()
}

fn default_health_interval() -> Duration {
    Duration::from_secs(5)
}

fn default_weight() -> u32 {
    1
}

#[cfg(test)]
mod tests;
