//! A server on loopback and stock clients. A client says in its metadata who it is, where mTLS would: in `x-test-peer`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::net::PeerIdentity;
use symbolon_proto::ids::SpiffeId;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Server};
use tonic::{Request, Status, Streaming};

use crate::model::{AckTable, NodeName, ProxyKey};
use crate::snapshot::{Snapshot, SnapshotSet};
use crate::xds::{Admission, Handle, serve};

pub(super) const NODE: &str = "spiffe://a.example/symbolon/node/n1";
pub(super) const PROXY: &str = "spiffe://a.example/ns/shop/sa/checkout";
/// Longer than anything here takes; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(20);

/// Nodes of `a.example`; node `n1` may run what `/ns/shop/` holds.
struct Nodes;

impl Admission for Nodes {
    fn node_of(&self, id: &SpiffeId, _: &str) -> Option<NodeName> {
        let name = id.as_str().strip_prefix("spiffe://a.example/symbolon/node/")?;
        name.parse().ok()
    }

    fn may_run(&self, node: &NodeName, identity: &SpiffeId) -> bool {
        node.as_str() == "n1" && identity.matches("spiffe://a.example/ns/shop/**")
    }
}

pub(super) struct Bed {
    snapshots: watch::Sender<Arc<SnapshotSet>>,
    pub handle: Handle,
    pub metrics: Metrics,
    pub drain: Drain,
    pub channel: Channel,
}

pub(super) fn proxy(id: &str) -> ProxyKey {
    ProxyKey { node: "n1".parse().unwrap(), identity: id.parse().unwrap() }
}

impl Bed {
    pub(super) async fn new() -> Self {
        let (snapshots, receiver) = watch::channel(Arc::default());
        let (metrics, drain) = (Metrics::new(), Drain::new());
        let (service, handle) = serve(receiver, Arc::new(Nodes), &metrics, drain.clone());
        let service = InterceptedService::new(service, |mut request: Request<()>| {
            if let Some(peer) = request.metadata().get("x-test-peer") {
                let id = peer.to_str().unwrap().parse().ok();
                let address = SocketAddr::from(([127, 0, 0, 1], 1));
                request.extensions_mut().insert(PeerIdentity { id, serial: "01".into(), address });
            }
            Ok::<_, Status>(request)
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { snapshots, handle, metrics, drain, channel }
    }

    /// Publishes one snapshot for each proxy named.
    pub(super) fn publish(&self, generation: u64, proxies: &[(&str, Arc<Snapshot>)]) {
        let proxies: BTreeMap<_, _> = proxies.iter().map(|(id, snapshot)| (proxy(id), snapshot.clone())).collect();
        self.snapshots.send_replace(Arc::new(SnapshotSet { generation, proxies }));
    }

    /// The table once it is as wanted.
    pub(super) async fn acks(&self, wanted: impl Fn(&AckTable) -> bool) -> Arc<AckTable> {
        let mut acks = self.handle.acks();
        let table = timeout(LONG, acks.wait_for(|table| wanted(table))).await.expect("in time").unwrap();
        table.clone()
    }

    pub(super) fn client(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::new(self.channel.clone())
    }

    pub(super) async fn delta(&self, peer: Option<&str>) -> Wire<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
        let (requests, receiver) = mpsc::channel(64);
        let opened = self.client().delta_aggregated_resources(call(receiver, peer)).await;
        Wire { requests, responses: opened.map(tonic::Response::into_inner) }
    }

    pub(super) async fn sotw(&self, peer: Option<&str>) -> Wire<DiscoveryRequest, DiscoveryResponse> {
        let (requests, receiver) = mpsc::channel(64);
        let opened = self.client().stream_aggregated_resources(call(receiver, peer)).await;
        Wire { requests, responses: opened.map(tonic::Response::into_inner) }
    }
}

fn call<R>(requests: mpsc::Receiver<R>, peer: Option<&str>) -> Request<ReceiverStream<R>> {
    let mut request = Request::new(ReceiverStream::new(requests));
    if let Some(peer) = peer {
        request.metadata_mut().insert("x-test-peer", peer.parse().unwrap());
    }
    request
}

/// A client's end of a stream.
pub(super) struct Wire<Q, A> {
    pub requests: mpsc::Sender<Q>,
    responses: Result<Streaming<A>, Status>,
}

impl<Q, A> Wire<Q, A> {
    pub(super) async fn send(&self, request: Q) {
        // Refused by the server already: the test sees that when it reads.
        let _ = self.requests.send(request).await;
    }

    /// `Ok(None)` if the server ended the stream cleanly.
    pub(super) async fn receive(&mut self) -> Result<Option<A>, Status> {
        let responses = self.responses.as_mut().map_err(|status| status.clone())?;
        timeout(LONG, responses.message()).await.expect("an answer in time")
    }

    pub(super) async fn ask(&mut self, request: Q) -> A {
        self.send(request).await;
        self.receive().await.unwrap().unwrap()
    }

    /// How the stream ends, when nothing but its end may come.
    pub(super) async fn refusal(&mut self) -> Status {
        match self.receive().await {
            Err(status) => status,
            Ok(_) => panic!("not refused"),
        }
    }
}

/// A node as Envoy sends it.
pub(super) fn node(id: &str) -> Option<Node> {
    Some(Node { id: id.into(), cluster: "n1".into(), user_agent_name: "envoy".into(), ..Default::default() })
}

pub(super) fn from(id: &str, request: DeltaDiscoveryRequest) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { node: node(id), ..request }
}
