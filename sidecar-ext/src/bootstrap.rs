//! The Envoy bootstrap of one workload: ADS and LRS through the relay's socket, secrets from the agent's socket, nothing of the mesh
//! itself. A stock Envoy takes it unedited:
//!
//! ```text
//! symbolon-sidecar bootstrap --config sidecar.yaml --identity spiffe://a.example/ns/shop/sa/payments > envoy.yaml
//! envoy -c envoy.yaml
//! ```
//!
//! What was measured on Envoy 1.40, and why the parts are as they are: `spec/xds.md`. The layer `symbolon` must be answered by the
//! control plane, or Envoy opens no listener for 15 s.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use symbolon_proto::ids::SpiffeId;

/// The cluster of the agent's socket; secrets name it.
pub const AGENT_CLUSTER: &str = "symbolon_agent";
/// The cluster of the relay's socket.
pub const XDS_CLUSTER: &str = "symbolon_xds";
/// The RTDS layer, and the name of its one resource.
pub const RUNTIME_LAYER: &str = "symbolon";
/// Connections from downstream that one Envoy accepts; more are refused rather than run out of memory.
const MAX_DOWNSTREAM: u64 = 50_000;

/// What differs from one Envoy to another.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Becomes `node.id`.
    pub identity: SpiffeId,
    /// Becomes `node.cluster`: the node's name, for people; the control plane goes by the sidecar's certificate.
    pub node: String,
    pub agent_socket: PathBuf,
    pub xds_socket: PathBuf,
    /// `None`: no admin endpoint, since two Envoys on one machine cannot share a default.
    pub admin: Option<SocketAddr>,
}

/// How to write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Yaml,
    Json,
}

/// Why there is no bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the file lists no workloads: there is no Envoy to configure")]
    NoWorkloads,
    #[error("the file lists several identities: choose one with --identity\n  {}", join(.0))]
    Several(Vec<SpiffeId>),
    #[error("{wanted} is not an identity of this file; it lists\n  {}", join(listed))]
    Unknown { wanted: SpiffeId, listed: Vec<SpiffeId> },
    #[error("cannot be written: {0}")]
    Write(String),
    #[error("the path of a socket must be UTF-8: {0}")]
    Path(String),
    #[error("the path of a socket may have 107 bytes: run in a folder near it and give a relative path: {0}")]
    LongPath(String),
}

fn join(ids: &[SpiffeId]) -> String {
    ids.iter().map(SpiffeId::as_str).collect::<Vec<_>>().join("\n  ")
}

/// The identity to configure: the one asked for, or the only one there is.
///
/// # Errors
/// If there is none, or it must be chosen; the error lists them.
pub fn choose<'a>(
    identities: impl IntoIterator<Item = &'a SpiffeId>,
    wanted: Option<&SpiffeId>,
) -> Result<SpiffeId, Error> {
    let mut listed: Vec<SpiffeId> = identities.into_iter().cloned().collect();
    listed.sort();
    listed.dedup();
    match (wanted, listed.as_slice()) {
        (_, []) => Err(Error::NoWorkloads),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(Error::Several(listed)),
        (Some(wanted), _) if listed.contains(wanted) => Ok(wanted.clone()),
        (Some(wanted), _) => Err(Error::Unknown { wanted: wanted.clone(), listed }),
    }
}

/// The bootstrap as text.
///
/// # Errors
/// If the path of a socket is not what Envoy can open.
pub fn render(inputs: &Inputs, format: Format) -> Result<String, Error> {
    let bootstrap = bootstrap(inputs)?;
    match format {
        Format::Yaml => serde_saphyr::to_string(&bootstrap).map_err(|error| Error::Write(error.to_string())),
        Format::Json => serde_json::to_string_pretty(&bootstrap)
            .map(|text| text + "\n")
            .map_err(|error| Error::Write(error.to_string())),
    }
}

/// The bootstrap as a value.
///
/// # Errors
/// As [`render`].
pub fn bootstrap(inputs: &Inputs) -> Result<Value, Error> {
    let mut bootstrap = json!({
        "node": { "id": inputs.identity.as_str(), "cluster": inputs.node },
        "dynamic_resources": {
            "ads_config": ads(),
            "cds_config": from_ads(),
            "lds_config": from_ads(),
        },
        "cluster_manager": { "load_stats_config": grpc("GRPC", json!({ "cluster_name": XDS_CLUSTER })) },
        "layered_runtime": { "layers": [
            { "name": RUNTIME_LAYER, "rtds_layer": { "name": RUNTIME_LAYER, "rtds_config": from_ads() } },
            // The last layer wins: an operator's hand at the admin endpoint.
            { "name": "admin", "admin_layer": {} },
        ] },
        "static_resources": { "clusters": [
            socket_cluster(AGENT_CLUSTER, &inputs.agent_socket)?,
            socket_cluster(XDS_CLUSTER, &inputs.xds_socket)?,
        ] },
        "overload_manager": { "resource_monitors": [ {
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": MAX_DOWNSTREAM,
            },
        } ] },
    });
    if let Some(admin) = inputs.admin {
        let address = json!({ "address": admin.ip().to_string(), "port_value": admin.port() });
        bootstrap["admin"] = json!({ "address": { "socket_address": address } });
    }
    Ok(bootstrap)
}

fn ads() -> Value {
    // A lost stream means a restarted sidecar or control plane: come back soon. Envoy's own default waits up to 30 s.
    let retry = json!({ "retry_back_off": { "base_interval": "0.100s", "max_interval": "1s" } });
    let mut ads = grpc("DELTA_GRPC", json!({ "cluster_name": XDS_CLUSTER, "retry_policy": retry }));
    ads["set_node_on_first_message_only"] = json!(true); // 61 KB each
    ads
}

fn grpc(api: &str, envoy_grpc: Value) -> Value {
    json!({ "api_type": api, "transport_api_version": "V3", "grpc_services": [ { "envoy_grpc": envoy_grpc } ] })
}

fn from_ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
}

fn socket_cluster(name: &str, socket: &Path) -> Result<Value, Error> {
    let path = socket.to_str().ok_or_else(|| Error::Path(socket.display().to_string()))?;
    if path.len() > 107 {
        return Err(Error::LongPath(path.to_owned()));
    }
    let endpoint = json!({ "endpoint": { "address": { "pipe": { "path": path } } } });
    Ok(json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        } },
        "load_assignment": { "cluster_name": name, "endpoints": [ { "lb_endpoints": [ endpoint ] } ] },
    }))
}

#[cfg(test)]
mod tests;
