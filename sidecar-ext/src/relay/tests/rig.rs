//! The relay on a Unix socket, stock clients on it, and a control plane that the test plays by hand.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_client::LoadReportingServiceClient;
use symbolon_kit::net;
use symbolon_proto::ads_raw::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use symbolon_proto::node::node_server::{Node as NodeApi, NodeServer};
use symbolon_proto::node::{
    AttestRequest, AttestResponse, LoadAck, LoadBatch, MintJwtRequest, MintJwtResponse, MintRequest, MintResponse,
    MintWitRequest, NodeReport, NodeUpdate,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Streaming};

use super::super::*;

/// The one identity that the tests' process may claim.
pub(super) const OURS: &str = "spiffe://a.example/ns/shop/sa/payments";
/// Far beyond what anything here takes; a hang is a failure.
const LONG: Duration = Duration::from_secs(20);

/// Fails rather than hangs.
pub(super) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(LONG, future).await.unwrap_or_else(|_| panic!("waited for {what} in vain"))
}

/// The relay, served.
pub(super) struct Rig {
    pub(super) metrics: Metrics,
    pub(super) control: ControlPlane,
    connected: watch::Sender<bool>,
    folder: TempDir,
    tasks: Tasks,
    drain: Drain,
}

struct ToTest {
    channel: Channel,
    connected: watch::Receiver<bool>,
}

impl Upstream for ToTest {
    fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

struct OursOnly;

impl Entitlements for OursOnly {
    fn may_claim(&self, caller: &Extensions, id: &SpiffeId) -> Result<(), String> {
        // The caller is known from the socket.
        assert!(caller.get::<tonic::transport::server::UdsConnectInfo>().is_some());
        if id.as_str() == OURS { Ok(()) } else { Err("no entry for it matches uid 1000".into()) }
    }
}

impl Rig {
    /// With a control plane that can be reached.
    pub(super) async fn new() -> Self {
        let rig = Self::with(Config::default()).await;
        rig.connected.send_replace(true);
        rig
    }

    /// With a control plane that is away until [`Self::connect`].
    pub(super) async fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("xds.sock")).unwrap();
        let control = ControlPlane::start().await;
        let channel = Endpoint::from_shared(format!("http://{}", control.address)).unwrap().connect_lazy();
        let (connected, up) = watch::channel(false);
        let (drain, metrics) = (Drain::new(), Metrics::new());
        let tasks = Tasks::new(drain.clone());
        let upstream = Arc::new(ToTest { channel, connected: up });
        let routes = start(config, upstream, Arc::new(OursOnly), &tasks, drain.clone(), &metrics);
        tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(UnixListenerStream::new(listener)));
        Self { metrics, control, connected, folder, tasks, drain }
    }

    pub(super) fn connect(&self) {
        self.connected.send_replace(true);
    }

    pub(super) fn disconnect(&self) {
        self.connected.send_replace(false);
    }

    pub(super) fn refused(&self, reason: &str) -> u64 {
        self.metrics.counter("symbolon_sidecar_relay_refused", "").value(&[("reason", reason)])
    }

    pub(super) async fn drained(&self) {
        self.drain.start();
        assert!(self.tasks.join(LONG).await, "every task ends with the drain");
    }

    fn channel(&self) -> Channel {
        net::unix_channel(self.folder.path().join("xds.sock"))
    }

    pub(super) async fn ads(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::new(self.channel())
    }

    pub(super) async fn lrs(&self) -> LoadReportingServiceClient<Channel> {
        LoadReportingServiceClient::new(self.channel())
    }
}

pub(super) fn node(id: &str) -> Option<Node> {
    Some(Node { id: id.into(), cluster: "node-1".into(), ..Node::default() })
}

/// A control plane without a mind of its own: streams that reach it are handed to the test.
pub(super) struct ControlPlane {
    address: SocketAddr,
    streams: mpsc::Receiver<AdsStream>,
    loads: mpsc::Receiver<LoadStream>,
}

pub(super) struct AdsStream {
    pub(super) method: &'static str,
    pub(super) from: Streaming<Bytes>,
    pub(super) to: mpsc::Sender<Result<Bytes, Status>>,
}

pub(super) struct LoadStream {
    from: Streaming<LoadBatch>,
    to: mpsc::Sender<Result<LoadAck, Status>>,
}

impl ControlPlane {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (streams_tx, streams) = mpsc::channel(16);
        let (loads_tx, loads) = mpsc::channel(16);
        let ads = AggregatedDiscoveryServiceServer::new(PlaneAds(streams_tx)).max_decoding_message_size(32 << 20);
        let node = NodeServer::new(PlaneNode(loads_tx));
        let server = Server::builder().add_service(ads).add_service(node);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, streams, loads }
    }

    /// The next ADS stream that reached it.
    pub(super) async fn stream(&mut self) -> AdsStream {
        soon("an ADS stream", self.streams.recv()).await.unwrap()
    }

    /// The next stream of load.
    pub(super) async fn load(&mut self) -> LoadStream {
        soon("a stream of load", self.loads.recv()).await.unwrap()
    }

    /// Whether any ADS stream has reached it by now.
    pub(super) fn was_called(&mut self) -> bool {
        self.streams.try_recv().is_ok()
    }
}

impl LoadStream {
    pub(super) async fn batch(&mut self) -> LoadBatch {
        soon("a batch", self.from.message()).await.unwrap().unwrap()
    }

    pub(super) async fn ack(&self, batch: &LoadBatch, report_every_ms: u64) {
        let ack = LoadAck { proxy: batch.proxy.clone(), sequence: batch.sequence, report_every_ms };
        self.to.send(Ok(ack)).await.unwrap();
    }

    pub(super) async fn fail(&self, status: Status) {
        self.to.send(Err(status)).await.unwrap();
    }
}

struct PlaneAds(mpsc::Sender<AdsStream>);

impl PlaneAds {
    async fn take(&self, method: &'static str, request: Request<Streaming<Bytes>>) -> Response<Answers<Bytes>> {
        let (to, answers) = mpsc::channel(4);
        let _ = self.0.send(AdsStream { method, from: request.into_inner(), to }).await;
        Response::new(ReceiverStream::new(answers))
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for PlaneAds {
    type StreamAggregatedResourcesStream = Answers<Bytes>;
    type DeltaAggregatedResourcesStream = Answers<Bytes>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Answers<Bytes>>, Status> {
        Ok(self.take("sotw", request).await)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Answers<Bytes>>, Status> {
        Ok(self.take("delta", request).await)
    }
}

struct PlaneNode(mpsc::Sender<LoadStream>);

#[tonic::async_trait]
impl NodeApi for PlaneNode {
    type AttestStream = Answers<AttestResponse>;
    type SyncStream = Answers<NodeUpdate>;
    type ReportLoadStream = Answers<LoadAck>;

    async fn attest(&self, _: Request<Streaming<AttestRequest>>) -> Result<Response<Answers<AttestResponse>>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn mint_jwt(&self, _: Request<MintJwtRequest>) -> Result<Response<MintJwtResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn mint_wit(&self, _: Request<MintWitRequest>) -> Result<Response<MintJwtResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn mint(&self, _: Request<MintRequest>) -> Result<Response<MintResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn sync(&self, _: Request<Streaming<NodeReport>>) -> Result<Response<Answers<NodeUpdate>>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn report_load(&self, request: Request<Streaming<LoadBatch>>) -> Result<Response<Answers<LoadAck>>, Status> {
        let (to, acks) = mpsc::channel(4);
        let _ = self.0.send(LoadStream { from: request.into_inner(), to }).await;
        Ok(Response::new(ReceiverStream::new(acks)))
    }
}
