//! An Envoy as xDS sees it: one aggregated Delta stream, subscriptions that follow what came, everything acknowledged, and a memory
//! over reconnects.
//!
//! ```text
//!  CDS *, LDS *, RTDS ──► clusters name assignments (EDS), listeners name routes (RDS); each answer is acknowledged by its nonce
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;
use symbolon_kit::net::unix_channel;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::soon;

pub const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub const RTDS: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";

/// Before a new stream.
const AGAIN: Duration = Duration::from_millis(50);

/// One resource as it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub version: String,
    pub bytes: Vec<u8>,
}

/// What one answer brought.
#[derive(Clone, Debug)]
pub struct Answer {
    pub type_url: String,
    pub names: Vec<String>,
    pub removed: Vec<String>,
}

/// All that it holds, and how it came to hold it.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub resources: BTreeMap<String, BTreeMap<String, Resource>>,
    /// Since the last stream was opened.
    pub answers: Vec<Answer>,
    /// How many streams were opened.
    pub streams: usize,
    /// How the last one that ended did.
    pub ended: Option<Status>,
}

/// A scripted Envoy.
#[derive(Debug)]
pub struct Proxy {
    held: watch::Sender<Held>,
    running: JoinHandle<()>,
}

impl Proxy {
    pub(super) async fn start(socket: &Path, id: &str) -> anyhow::Result<Self> {
        let held = watch::Sender::new(Held::default());
        let running = tokio::spawn(run(socket.to_owned(), id.to_owned(), held.clone()));
        Ok(Self { held, running })
    }

    pub fn held(&self) -> Held {
        self.held.borrow().clone()
    }

    /// Returns when it holds what is wanted.
    ///
    /// # Errors
    /// If it never does; says what it holds instead.
    pub async fn until(&self, what: &str, is: impl Fn(&Held) -> bool) -> anyhow::Result<Held> {
        let mut held = self.held.subscribe();
        let found = soon(what, held.wait_for(is)).await.map(|found| found.map(|held| held.clone()));
        match found {
            Ok(found) => Ok(found?),
            Err(error) => Err(error.context(self.held().summary())),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Held {
    pub fn names(&self, type_url: &str) -> Vec<&str> {
        self.resources.get(type_url).into_iter().flat_map(BTreeMap::keys).map(String::as_str).collect()
    }

    /// The assignment of a cluster: (priority, address) of each endpoint.
    pub fn endpoints(&self, cluster: &str) -> Vec<(u32, String)> {
        let held = self.resources.get(EDS).and_then(|all| all.get(cluster));
        let assignment = held.and_then(|one| ClusterLoadAssignment::decode(one.bytes.as_slice()).ok());
        let localities = assignment.into_iter().flat_map(|assignment| assignment.endpoints);
        let mut found: Vec<_> = localities
            .flat_map(|locality| locality.lb_endpoints.into_iter().map(move |one| (locality.priority, one)))
            .map(|(priority, one)| (priority, address(one).unwrap_or_default()))
            .collect();
        found.sort();
        found
    }

    /// The weights of a federated service by cluster, as its routes have them; empty if it is routed whole.
    pub fn weights(&self, host: &str) -> Vec<(String, u32)> {
        let routes = self.resources.get(RDS).into_iter().flat_map(BTreeMap::values);
        let configs = routes.filter_map(|resource| RouteConfiguration::decode(resource.bytes.as_slice()).ok());
        let hosts = configs.flat_map(|config| config.virtual_hosts).filter(|found| found.name == host);
        let action = hosts.flat_map(|host| host.routes).find_map(|route| match route.action {
            Some(Action::Route(action)) => action.cluster_specifier,
            _ => None,
        });
        let Some(ClusterSpecifier::WeightedClusters(split)) = action else { return Vec::new() };
        split.clusters.into_iter().map(|one| (one.name, one.weight.map_or(0, |weight| weight.value))).collect()
    }

    fn summary(&self) -> String {
        let held: Vec<_> = self.resources.iter().map(|(kind, all)| (kind, all.keys().collect::<Vec<_>>())).collect();
        format!("held: {held:?}, ended: {:?}", self.ended)
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) {
        let of_type = self.resources.entry(response.type_url.clone()).or_default();
        let mut answer = Answer { type_url: response.type_url, names: Vec::new(), removed: response.removed_resources };
        for resource in response.resources {
            let bytes = resource.resource.map(|any| any.value).unwrap_or_default();
            of_type.insert(resource.name.clone(), Resource { version: resource.version, bytes });
            answer.names.push(resource.name);
        }
        for name in &answer.removed {
            of_type.remove(name);
        }
        self.answers.push(answer);
    }

    /// The names that follow from what is held: assignments of EDS clusters, routes of listeners (which bear the same name).
    fn follows(&self, type_url: &str) -> Vec<String> {
        let of = |kind: &str| self.resources.get(kind).into_iter().flatten();
        match type_url {
            EDS => of(CDS).filter(|(_, resource)| is_eds(resource)).map(|(name, _)| name.clone()).collect(),
            RDS => of(LDS).map(|(name, _)| name.clone()).collect(),
            RTDS => vec!["rtds".into()],
            _ => vec!["*".into()],
        }
    }
}

fn address(endpoint: LbEndpoint) -> Option<String> {
    let Some(HostIdentifier::Endpoint(endpoint)) = endpoint.host_identifier else { return None };
    let Some(Address::SocketAddress(socket)) = endpoint.address?.address else { return None };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    Some(format!("{}:{port}", socket.address))
}

fn is_eds(resource: &Resource) -> bool {
    const EDS_TYPE: i32 = 3;
    let cluster = Cluster::decode(resource.bytes.as_slice()).ok();
    cluster.is_some_and(|cluster| cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(EDS_TYPE)))
}

/// One stream after the other, each opened with what is held, as Envoy does.
async fn run(socket: PathBuf, id: String, held: watch::Sender<Held>) {
    loop {
        let ended = stream(&socket, &id, &held).await;
        held.send_modify(|held| held.ended = Some(ended));
        tokio::time::sleep(AGAIN).await;
    }
}

/// One stream, to its end.
async fn stream(socket: &Path, id: &str, held: &watch::Sender<Held>) -> Status {
    held.send_modify(|held| {
        held.answers.clear();
        held.streams += 1;
    });
    let mut client = AggregatedDiscoveryServiceClient::new(unix_channel(socket)).max_decoding_message_size(64 << 20);
    let (requests, receiver) = mpsc::channel(64);
    let mut session = Session { held: held.clone(), requests, subscribed: BTreeMap::new() };
    let node = Node { id: id.into(), cluster: "mesh".into(), user_agent_name: "envoy".into(), ..Node::default() };
    session.subscribe(CDS, Some(node)).await;
    for kind in [EDS, LDS, RDS, RTDS] {
        session.subscribe(kind, None).await;
    }
    match client.delta_aggregated_resources(ReceiverStream::new(receiver)).await {
        Ok(responses) => session.run(responses.into_inner()).await,
        Err(status) => status,
    }
}

struct Session {
    held: watch::Sender<Held>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    subscribed: BTreeMap<&'static str, Vec<String>>,
}

impl Session {
    async fn run(&mut self, mut responses: Streaming<DeltaDiscoveryResponse>) -> Status {
        loop {
            match responses.message().await {
                Ok(Some(response)) => self.take(response).await,
                Ok(None) => return Status::ok("ended"),
                Err(status) => return status,
            }
        }
    }

    async fn take(&mut self, response: DeltaDiscoveryResponse) {
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        let of = response.type_url.clone();
        self.held.send_modify(|held| held.take(response));
        let _ = self.requests.send(ack).await; // the stream has ended: `run` sees it
        match of.as_str() {
            CDS => self.subscribe(EDS, None).await,
            LDS => self.subscribe(RDS, None).await,
            _ => {}
        }
    }

    /// Asks for the names that are wanted and not asked for yet; the first time on a stream, says what is held of the type.
    async fn subscribe(&mut self, type_url: &'static str, node: Option<Node>) {
        let wanted = self.held.borrow().follows(type_url);
        let before = self.subscribed.insert(type_url, wanted.clone()).unwrap_or_default();
        let first = before.is_empty();
        let new: Vec<_> = wanted.iter().filter(|name| !before.contains(name)).cloned().collect();
        let old: Vec<_> = before.into_iter().filter(|name| !wanted.contains(name)).collect();
        if new.is_empty() && old.is_empty() {
            return;
        }
        let versions = match self.held.borrow().resources.get(type_url) {
            Some(known) if first => known.iter().map(|(name, held)| (name.clone(), held.version.clone())).collect(),
            _ => [].into(),
        };
        let request = DeltaDiscoveryRequest {
            node,
            type_url: type_url.into(),
            resource_names_subscribe: new,
            resource_names_unsubscribe: old,
            initial_resource_versions: versions,
            ..DeltaDiscoveryRequest::default()
        };
        let _ = self.requests.send(request).await; // the stream has ended: `run` sees it
    }
}
