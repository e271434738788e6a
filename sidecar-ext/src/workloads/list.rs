//! The list of workloads as the sidecar's file gives it, parsed into a form that cannot be wrong. A mistake is an error of the
//! parser, which knows the line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Deref;

use serde::Deserialize;
use symbolon_proto::ids::SpiffeId;

/// Most workloads on one node.
pub const MAX_WORKLOADS: usize = 256;
const MAX_UPSTREAMS: usize = 256;
const MAX_SELECTORS: usize = 32;
const MAX_WEIGHT: u32 = 1_000_000;

/// The workloads of one node; names are unique. Read with `#[serde(default)] workloads: List`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Workload>")]
pub struct List(Vec<Workload>);

/// One workload of this node, from the file or (a later issue) from Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Spec")]
pub struct Workload {
    /// Unique on the node.
    pub name: String,
    /// `<service>.<namespace>`; `None`: offers nothing.
    pub service: Option<String>,
    pub identity: SpiffeId,
    /// Selectors that a caller must match besides those of its registration entry; `kind:name:value`.
    pub selectors: Vec<String>,
    /// Where the application listens.
    pub address: Option<SocketAddr>,
    /// Where its Envoy accepts mTLS.
    pub inbound: Option<SocketAddr>,
    /// Where its Envoy accepts the application's requests.
    pub outbound: Option<SocketAddr>,
    /// `None`: nobody checks; taken for healthy.
    pub health: Option<Health>,
    /// What the application calls: `<service>.<namespace>` or `<service>.<namespace>.<peer>`.
    pub upstreams: Vec<String>,
    /// Capacity, relative to the service's other endpoints; at least 1.
    pub weight: u32,
}

/// How a workload is checked, and how often the answer must repeat before it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub probe: Probe,
    /// Successes in a row that make an unhealthy workload healthy.
    pub rise: u32,
    /// Failures in a row that make a healthy workload unhealthy.
    pub fall: u32,
}

/// One check of a workload's `address`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// GET this path; 2xx and 3xx are well.
    Http(String),
    /// A connection that opens is well.
    Tcp,
}

/// Why a workload or a list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    #[error("workload {workload}: {reason}")]
    Field { workload: String, reason: &'static str },
    #[error("identity {0:?}: {1}")]
    Identity(String, symbolon_proto::ids::IdError),
    #[error("workload {0:?} is listed twice: give each a name of its own")]
    Twice(String),
    #[error("workloads {0} and {1} both listen on {2}")]
    SharedAddress(String, String, SocketAddr),
    #[error("more than {MAX_WORKLOADS} workloads")]
    TooMany,
}

/// A workload as written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    name: Option<String>,
    service: Option<String>,
    identity: String,
    #[serde(default)]
    selectors: Vec<String>,
    address: Option<SocketAddr>,
    inbound: Option<SocketAddr>,
    outbound: Option<SocketAddr>,
    health: Option<HealthSpec>,
    #[serde(default)]
    upstreams: Vec<String>,
    #[serde(default = "one")]
    weight: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HealthSpec {
    http: Option<String>,
    #[serde(default)]
    tcp: bool,
    #[serde(default = "one")]
    rise: u32,
    #[serde(default = "two")]
    fall: u32,
}

const fn one() -> u32 {
    1
}

const fn two() -> u32 {
    2
}

// === impl List ===

impl Deref for List {
    type Target = [Workload];

    fn deref(&self) -> &[Workload] {
        &self.0
    }
}

impl TryFrom<Vec<Workload>> for List {
    type Error = ListError;

    fn try_from(all: Vec<Workload>) -> Result<Self, ListError> {
        if all.len() > MAX_WORKLOADS {
            return Err(ListError::TooMany);
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = all.iter().find(|workload| !names.insert(workload.name.as_str())) {
            return Err(ListError::Twice(twice.name.clone()));
        }
        let (mut inbound, mut outbound) =
            (Vec::<(SocketAddr, &Workload)>::new(), Vec::<(SocketAddr, &Workload)>::new());
        for workload in &all {
            claim(&mut inbound, workload.inbound, workload, |_| false)?;
            // Workloads of one identity share one Envoy, hence may share its outbound listener.
            claim(&mut outbound, workload.outbound, workload, |other| other.identity == workload.identity)?;
        }
        Ok(Self(all))
    }
}

fn claim<'a>(
    taken: &mut Vec<(SocketAddr, &'a Workload)>,
    address: Option<SocketAddr>,
    workload: &'a Workload,
    may_share: impl Fn(&Workload) -> bool,
) -> Result<(), ListError> {
    let Some(address) = address else { return Ok(()) };
    match taken.iter().find(|(other, owner)| *other == address && !may_share(owner)) {
        Some((_, owner)) => Err(ListError::SharedAddress(owner.name.clone(), workload.name.clone(), address)),
        None => {
            taken.push((address, workload));
            Ok(())
        }
    }
}

// === impl Workload ===

impl TryFrom<Spec> for Workload {
    type Error = ListError;

    fn try_from(spec: Spec) -> Result<Self, ListError> {
        let identity = SpiffeId::workload(&spec.identity)
            .map_err(|error| ListError::Identity(spec.identity.chars().take(100).collect(), error))?;
        let name = spec.name.unwrap_or_else(|| identity.path().rsplit('/').next().unwrap_or_default().to_owned());
        let refuse = |reason| Err(ListError::Field { workload: name.chars().take(100).collect(), reason });
        if !is_name(&name) {
            return refuse("name: 1 to 63 of a-z, A-Z, 0-9, '.', '-' and '_'");
        }
        if identity.is_reserved() {
            return refuse("identity: /symbolon/ is for Symbolon's own processes");
        }
        if spec.service.as_deref().is_some_and(|service| !is_reference(service, 2..=2)) {
            return refuse("service: <service>.<namespace>, each a DNS label");
        }
        if spec.service.is_some() && (spec.address.is_none() || spec.inbound.is_none()) {
            return refuse("service: needs address and inbound");
        }
        if spec.inbound.is_some() && spec.address.is_none() {
            return refuse("inbound: needs address, where the application listens");
        }
        if spec.upstreams.len() > MAX_UPSTREAMS || !spec.upstreams.iter().all(|name| is_reference(name, 2..=3)) {
            return refuse("upstreams: at most 256 of <service>.<namespace> or <service>.<namespace>.<peer>");
        }
        if !spec.upstreams.is_empty() && spec.outbound.is_none() {
            return refuse("upstreams: need outbound, where its Envoy accepts the application's requests");
        }
        if spec.selectors.len() > MAX_SELECTORS || !spec.selectors.iter().all(|text| is_selector(text)) {
            return refuse("selectors: at most 32 of kind:name:value");
        }
        if [spec.address, spec.inbound, spec.outbound].iter().flatten().any(|at| at.port() == 0) {
            return refuse("port 0 cannot be reached");
        }
        if spec.inbound.is_some_and(|at| at.ip().is_unspecified()) {
            return refuse("inbound: others must reach it, so it needs an address of its own");
        }
        if !(1..=MAX_WEIGHT).contains(&spec.weight) {
            return refuse("weight: 1 to 1000000");
        }
        let health = match spec.health {
            None => None,
            Some(_) if spec.address.is_none() => return refuse("health: needs address, where the application listens"),
            Some(health) => match Health::try_from(health) {
                Ok(health) => Some(health),
                Err(reason) => return refuse(reason),
            },
        };
        Ok(Self {
            service: spec.service,
            identity,
            selectors: spec.selectors,
            address: spec.address,
            inbound: spec.inbound,
            outbound: spec.outbound,
            health,
            upstreams: spec.upstreams,
            weight: spec.weight,
            name,
        })
    }
}

impl TryFrom<HealthSpec> for Health {
    type Error = &'static str;

    fn try_from(spec: HealthSpec) -> Result<Self, &'static str> {
        let probe = match (spec.http, spec.tcp) {
            (Some(path), false) if is_path(&path) => Probe::Http(path),
            (Some(_), false) => return Err("health.http: a path of visible ASCII that begins with /"),
            (None, true) => Probe::Tcp,
            _ => return Err("health: either http: PATH or tcp: true"),
        };
        if !(1..=100).contains(&spec.rise) || !(1..=100).contains(&spec.fall) {
            return Err("health: rise and fall are 1 to 100");
        }
        Ok(Self { probe, rise: spec.rise, fall: spec.fall })
    }
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Labels as the control plane's `model::ServiceRef` takes them.
fn is_reference(text: &str, labels: std::ops::RangeInclusive<usize>) -> bool {
    labels.contains(&text.split('.').count())
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn is_selector(text: &str) -> bool {
    let mut parts = text.splitn(3, ':');
    text.len() <= 4096 && parts.next().is_some_and(|kind| !kind.is_empty()) && {
        parts.next().is_some_and(|name| !name.is_empty()) && parts.next().is_some_and(|value| !value.is_empty())
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}
