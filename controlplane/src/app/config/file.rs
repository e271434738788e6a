//! The configuration file as the operator writes it. Unknown fields are refused; the values are parsed in [`super::check`], once,
//! into types that cannot be wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use symbolon_kit::config::duration;

use crate::federation::Timing;
use crate::rollout::plan::{Policy, Step};

/// The whole file. See `docs/configuration.md`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct File {
    /// This mesh's trust domain, e.g. `a.example`. Never changes once the store exists.
    pub trust_domain: String,
    /// Keys and state; made with mode 0700.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    #[serde(default)]
    pub listen: Listen,
    #[serde(default)]
    pub identity: IdentityFile,
    /// Services of this mesh and who may import them.
    #[serde(default)]
    pub services: Vec<ServiceFile>,
    /// Local names joined with the same name at peers.
    #[serde(default)]
    pub federated_services: Vec<FederatedFile>,
    #[serde(default)]
    pub rollout_policy: PolicyFile,
    #[serde(default)]
    pub peers: Vec<PeerFile>,
    #[serde(default)]
    pub federation: FederationFile,
    /// Our own bundle endpoint; none is served without it.
    #[serde(default)]
    pub bundle_endpoint: Option<EndpointFile>,
    /// Trust domains beside the peers; see `docs/federation.md`.
    #[serde(default)]
    pub relationships: Vec<RelationshipFile>,
    /// How often nodes forward the load reports of their proxies.
    #[serde(default = "default_report_interval", with = "duration")]
    pub load_report_interval: Duration,
}

/// Where the control plane listens. Port 0 means any free port; the bound addresses are logged and written to
/// `<dataDir>/addresses.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Listen {
    /// Node API and xDS, mTLS.
    pub node: String,
    /// Federation link, mTLS.
    pub federation: String,
    /// `/metrics`, `/livez`, `/readyz`; plain HTTP.
    pub http: String,
    /// Admin API: a Unix socket, made in a folder of mode 0700.
    pub admin: PathBuf,
}

/// Lifetimes of what the authority signs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct IdentityFile {
    #[serde(with = "duration")]
    pub ca_ttl: Duration,
    /// Of SVIDs whose entry names no TTL.
    #[serde(with = "duration")]
    pub svid_ttl: Duration,
    /// Of nodes' own SVIDs: how long a node may be out of reach and still come back by itself.
    #[serde(with = "duration")]
    pub node_ttl: Duration,
    /// Of JWT-SVIDs whose entry names no TTL.
    #[serde(with = "duration")]
    pub jwt_ttl: Duration,
    /// How many SVIDs one node may have minted in the long run; a node that starts may have all of its workloads' at once.
    pub signatures_per_second: u32,
    /// Nodes may attest by a certificate that they had before.
    pub x509pop: Option<X509PopFile>,
    /// `spiffe_refresh_hint` of the bundle.
    #[serde(with = "duration")]
    pub refresh_hint: Duration,
    pub authority: AuthorityFile,
    pub key_manager: KeyManagerFile,
    /// An authority above ours; ours are their own roots if left out.
    pub upstream: Option<UpstreamFile>,
    pub incubating: IncubatingFile,
}

/// The schedule of authorities; SPIRE's, as far as nothing is said.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct AuthorityFile {
    /// How long before the active one's end its successor is prepared.
    #[serde(deserialize_with = "duration::optional")]
    pub prepare_before: Option<Duration>,
    /// How long before its end the active one hands over.
    #[serde(deserialize_with = "duration::optional")]
    pub activate_before: Option<Duration>,
    /// How long a new one must have been published before it signs.
    #[serde(deserialize_with = "duration::optional")]
    pub propagation: Option<Duration>,
    /// Of authorities that sign tokens.
    #[serde(deserialize_with = "duration::optional")]
    pub jwt_ttl: Option<Duration>,
}

/// Where the authorities' keys are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct KeyManagerFile {
    /// `disk`, `memory` or `pkcs11`.
    pub kind: String,
    /// `pkcs11`: the vendor's library.
    pub module: Option<PathBuf>,
    /// `pkcs11`: the token's label.
    pub token: Option<String>,
    /// `pkcs11`: a file of mode 0600 with the PIN of the token's user.
    pub pin_file: Option<PathBuf>,
    /// `pkcs11`: how long a signature may take.
    #[serde(with = "duration")]
    pub deadline: Duration,
}

/// An authority in files, above ours.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UpstreamFile {
    /// PEM: the certificate that signs ours, then those between it and its root.
    pub certificate: PathBuf,
    /// PEM, mode 0600.
    pub key: PathBuf,
    /// PEM: the roots; may be left out if the certificate is one itself.
    #[serde(default)]
    pub roots: Option<PathBuf>,
}

/// What the specifications have not settled yet: off unless it is switched on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct IncubatingFile {
    /// WIT-SVIDs.
    pub wit: bool,
}

/// Node attestation by proof of possession of a certificate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct X509PopFile {
    /// The authorities that may vouch for nodes, PEM.
    pub ca_bundle: PathBuf,
    /// How a node is named: text with `{fingerprint}`, `{commonName}` or `{serialNumber}`.
    #[serde(default)]
    pub name: Option<String>,
}

/// One service of this mesh.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceFile {
    pub name: String,
    #[serde(default)]
    pub export_to: Vec<String>,
}

/// One local name joined with peers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FederatedFile {
    pub name: String,
    pub peers: Vec<String>,
}

/// How a federated service is ramped; see `docs/rollouts.md`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PolicyFile {
    pub steps: Vec<StepFile>,
    /// How long the peer's offer must have stood still before a run begins.
    #[serde(with = "duration")]
    pub initial_delay: Duration,
    #[serde(with = "duration")]
    pub interval: Duration,
    #[serde(with = "duration")]
    pub backoff: Duration,
    #[serde(with = "duration")]
    pub max_backoff: Duration,
    #[serde(with = "duration")]
    pub max_hold: Duration,
    /// `fairShare` (by capacity) or `all`.
    pub shift: String,
    /// Percent of the traffic that stays local at the last step.
    pub holdback: u32,
    /// Share of failing requests that is never a reason to roll back, e.g. 0.001.
    pub error_tolerance: f64,
    /// How many times the local error rate the remote one may be.
    pub rho: f64,
    /// The chance of a false rollback per step.
    pub alpha: f64,
    /// The most that one remote endpoint counts for, whatever weight the peer claims.
    pub max_endpoint_weight: u32,
}

/// One step of the ramp.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StepFile {
    /// Percent of the fair share.
    pub weight: u32,
    /// Time with evidence, from the acknowledgement of the weights.
    #[serde(with = "duration")]
    pub min_duration: Duration,
    #[serde(default)]
    pub min_requests: u64,
}

/// A peer, and what it may say. Nothing of this is ever taken from the wire.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PeerFile {
    pub name: String,
    pub trust_domain: String,
    /// Its federation link, host:port; usually learned from its token.
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub grants: GrantsFile,
    /// By which registration entries pick it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What a peer may assert to us.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct GrantsFile {
    /// SPIFFE IDs, a segment may be `*` and the last `**`.
    pub identities: Vec<String>,
    /// Services, `<svc>.<ns>` or `*.<ns>`.
    pub names: Vec<String>,
    /// Address ranges, CIDR. Loopback only where a range names it.
    pub addresses: Vec<String>,
}

/// Timing of the link.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct FederationFile {
    #[serde(with = "duration")]
    pub beat: Duration,
    #[serde(with = "duration")]
    pub suspect_after: Duration,
    #[serde(with = "duration")]
    pub stale_after: Duration,
    #[serde(with = "duration")]
    pub expired_after: Duration,
    /// What the token tells the peer to dial; the bound federation address if empty.
    pub advertise: Vec<String>,
    /// PEM: the authorities by which `https_web` bundle endpoints are verified; the machine's own if left out.
    pub roots_file: Option<PathBuf>,
}

/// Our own bundle endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EndpointFile {
    #[serde(default = "default_endpoint")]
    pub listen: String,
    /// `https_spiffe` or `https_web`.
    pub profile: String,
    /// `https_spiffe`: the ID that it proves; the control plane's own if left out.
    #[serde(default)]
    pub spiffe_id: Option<String>,
    /// `https_web`: PEM, leaf first; looked at again and again.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// `https_web`: PEM, mode 0600.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// A trust domain whose SVIDs we verify.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RelationshipFile {
    pub trust_domain: String,
    /// `https_spiffe`, `https_web` or `manual`.
    pub profile: String,
    #[serde(default)]
    pub url: String,
    /// `https_spiffe`: the ID that its endpoint proves.
    #[serde(default)]
    pub endpoint_spiffe_id: String,
    /// Its first bundle, SPIFFE JWKS; read while none is held.
    #[serde(default)]
    pub bootstrap_bundle: Option<PathBuf>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

// === defaults ===

fn default_data_dir() -> PathBuf {
    "/var/lib/symbolon".into()
}

fn default_endpoint() -> String {
    "0.0.0.0:8444".into()
}

fn default_report_interval() -> Duration {
    Policy::default().report_every
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            node: "0.0.0.0:8081".into(),
            federation: "0.0.0.0:8443".into(),
            http: "127.0.0.1:8080".into(),
            admin: "/run/symbolon/admin/admin.sock".into(),
        }
    }
}

impl Default for IdentityFile {
    fn default() -> Self {
        Self {
            ca_ttl: Duration::from_hours(24),
            svid_ttl: Duration::from_hours(1),
            node_ttl: Duration::from_hours(24),
            jwt_ttl: Duration::from_mins(5),
            signatures_per_second: 1_000,
            x509pop: None,
            authority: AuthorityFile::default(),
            key_manager: KeyManagerFile::default(),
            upstream: None,
            incubating: IncubatingFile::default(),
            refresh_hint: Duration::from_mins(5),
        }
    }
}

impl Default for KeyManagerFile {
    fn default() -> Self {
        Self { kind: "disk".into(), module: None, token: None, pin_file: None, deadline: Duration::from_secs(5) }
    }
}

impl Default for PolicyFile {
    fn default() -> Self {
        let policy = Policy::default();
        let step = |step: Step| StepFile {
            weight: step.weight,
            min_duration: step.min_duration,
            min_requests: step.min_requests,
        };
        Self {
            steps: policy.steps.into_iter().map(step).collect(),
            initial_delay: policy.initial_delay,
            interval: policy.interval,
            backoff: policy.backoff,
            max_backoff: policy.max_backoff,
            max_hold: policy.max_hold,
            shift: policy.shift.as_str().into(),
            holdback: policy.holdback,
            error_tolerance: policy.error_tolerance,
            rho: policy.rho,
            alpha: policy.alpha,
            max_endpoint_weight: policy.max_endpoint_weight,
        }
    }
}

impl Default for FederationFile {
    fn default() -> Self {
        let timing = Timing::default();
        Self {
            beat: timing.beat,
            suspect_after: timing.suspect_after,
            stale_after: timing.stale_after,
            expired_after: timing.expired_after,
            advertise: Vec::new(),
            roots_file: None,
        }
    }
}
