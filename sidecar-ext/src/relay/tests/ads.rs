use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::super::*;
use super::rig::*;

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

fn subscribe(id: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { node: node(id), type_url: CDS.into(), ..Default::default() }
}

/// An open stream of a scripted client.
struct Client {
    to: mpsc::Sender<DeltaDiscoveryRequest>,
    from: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    /// Opens a stream; headers come at once, whatever the control plane does.
    async fn open(rig: &Rig) -> Self {
        let (to, requests) = mpsc::channel(64);
        let call = async { rig.ads().await.delta_aggregated_resources(ReceiverStream::new(requests)).await };
        Self { to, from: soon("headers", call).await.unwrap().into_inner() }
    }

    async fn say(&self, request: DeltaDiscoveryRequest) {
        soon("room to send", self.to.send(request)).await.unwrap();
    }

    async fn hear(&mut self) -> DeltaDiscoveryResponse {
        soon("an answer", self.from.message()).await.unwrap().unwrap()
    }

    async fn end(&mut self) -> Status {
        soon("the end", self.from.message()).await.expect_err("an error, not an answer")
    }
}

async fn received(stream: &mut AdsStream) -> DeltaDiscoveryRequest {
    let message = soon("a request", stream.from.message()).await.unwrap().unwrap();
    DeltaDiscoveryRequest::decode(message).unwrap()
}

fn answer(nonce: &str) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse { nonce: nonce.into(), type_url: CDS.into(), ..Default::default() }
}

async fn send(stream: &AdsStream, nonce: &str) {
    stream.to.send(Ok(answer(nonce).encode_to_vec().into())).await.unwrap();
}

#[tokio::test]
async fn each_client_has_a_stream_of_its_own() {
    let mut rig = Rig::new().await;
    let (mut one, mut two) = (Client::open(&rig).await, Client::open(&rig).await);
    one.say(subscribe(OURS)).await;
    let mut first = rig.control.stream().await;
    two.say(subscribe(OURS)).await;
    let second = rig.control.stream().await;
    assert_eq!(first.method, "delta");
    assert_eq!(received(&mut first).await, subscribe(OURS));
    send(&first, "1").await;
    send(&second, "2").await;
    assert_eq!(one.hear().await, answer("1"));
    assert_eq!(two.hear().await, answer("2"));
    let ack = DeltaDiscoveryRequest { type_url: CDS.into(), response_nonce: "1".into(), ..Default::default() };
    one.say(ack.clone()).await;
    assert_eq!(received(&mut first).await, ack, "later messages pass as they are");
    drop(one);
    soon("the upstream stream's end", first.to.closed()).await;
    assert!(!second.to.is_closed());
}

#[tokio::test]
async fn xds_1_state_of_the_world_is_relayed_too() {
    let mut rig = Rig::new().await;
    let (to, requests) = mpsc::channel(4);
    let mut answers =
        rig.ads().await.stream_aggregated_resources(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let request = DiscoveryRequest { node: node(OURS), type_url: CDS.into(), ..Default::default() };
    to.send(request.clone()).await.unwrap();
    let mut stream = rig.control.stream().await;
    assert_eq!(stream.method, "sotw");
    let message = soon("a request", stream.from.message()).await.unwrap().unwrap();
    assert_eq!(DiscoveryRequest::decode(message).unwrap(), request);
    let answer = DiscoveryResponse { nonce: "1".into(), ..Default::default() };
    stream.to.send(Ok(answer.encode_to_vec().into())).await.unwrap();
    assert_eq!(soon("an answer", answers.message()).await.unwrap().unwrap(), answer);
}

#[tokio::test]
async fn a_client_is_held_while_the_control_plane_is_away() {
    let mut rig = Rig::with(Config::default()).await;
    let mut client = Client::open(&rig).await;
    client.say(subscribe(OURS)).await;
    for at in 0..50 {
        client.say(DeltaDiscoveryRequest { response_nonce: at.to_string(), ..Default::default() }).await;
    }
    assert!(!rig.control.was_called());
    let gone = Client::open(&rig).await;
    gone.say(subscribe(OURS)).await;
    drop(gone); // held clients may leave
    rig.connect();
    let mut stream = rig.control.stream().await;
    assert_eq!(received(&mut stream).await, subscribe(OURS));
    for at in 0..50 {
        assert_eq!(received(&mut stream).await.response_nonce, at.to_string(), "nothing said meanwhile is lost");
    }
    send(&stream, "1").await;
    client.hear().await;
}

#[tokio::test]
async fn an_upstream_stream_that_ends_makes_the_client_say_again_what_it_has() {
    let mut rig = Rig::new().await;
    for end in [Some(Status::internal("broken")), Some(Status::unavailable("restart")), None] {
        let mut client = Client::open(&rig).await;
        client.say(subscribe(OURS)).await;
        let stream = rig.control.stream().await;
        send(&stream, "1").await;
        client.hear().await;
        if let Some(status) = end {
            stream.to.send(Err(status)).await.unwrap();
        }
        drop(stream);
        assert_eq!(client.end().await.code(), Code::Unavailable);
    }
    // A verdict on the client as it is passes through, with its reason.
    let mut client = Client::open(&rig).await;
    client.say(subscribe(OURS)).await;
    rig.control.stream().await.to.send(Err(Status::permission_denied("no such workload"))).await.unwrap();
    let status = client.end().await;
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no such workload"));
}

#[tokio::test]
async fn bad_a_client_that_is_not_who_it_says_gets_no_stream() {
    let mut rig = Rig::new().await;
    let nameless = DeltaDiscoveryRequest { type_url: CDS.into(), ..Default::default() };
    for (request, code, reason, says) in [
        (
            subscribe("spiffe://a.example/other"),
            Code::PermissionDenied,
            "not_yours",
            "no entry for it matches uid 1000",
        ),
        (subscribe("spiffe://a.example"), Code::InvalidArgument, "bad_id", "the path is empty"),
        (subscribe("payments"), Code::InvalidArgument, "bad_id", "does not begin with spiffe://"),
        (subscribe(""), Code::InvalidArgument, "no_node", "node.id"),
        (nameless, Code::InvalidArgument, "no_node", "node.id"),
    ] {
        let before = rig.refused(reason);
        let mut client = Client::open(&rig).await;
        client.say(request).await;
        let status = client.end().await;
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(says), "{status}");
        assert_eq!(rig.refused(reason), before + 1);
    }
    assert!(!rig.control.was_called());
}

#[tokio::test]
async fn bad_too_long_a_message_ends_that_stream_only() {
    let mut rig = Rig::with(Config { from_client: 100_000, ..Config::default() }).await;
    rig.connect();
    let huge = DeltaDiscoveryRequest {
        resource_names_subscribe: (0..20_000).map(|at| format!("{at:08}")).collect(),
        ..subscribe(OURS)
    };
    let mut other = Client::open(&rig).await;
    other.say(subscribe(OURS)).await;
    let stream = rig.control.stream().await;
    let mut client = Client::open(&rig).await;
    client.say(huge.clone()).await; // the first
    assert_eq!(client.end().await.code(), Code::ResourceExhausted);
    let mut client = Client::open(&rig).await;
    client.say(subscribe(OURS)).await;
    let _relayed = rig.control.stream().await;
    client.say(huge).await; // a later one
    assert_eq!(client.end().await.code(), Code::ResourceExhausted);
    assert_eq!(rig.refused("too_long"), 2);
    send(&stream, "1").await;
    other.hear().await;
}

#[tokio::test]
async fn bad_streams_are_bounded_and_must_say_who_they_are() {
    let config = Config { streams: 2, first_message: Duration::from_millis(50), ..Config::default() };
    let rig = Rig::with(config).await;
    let mut mute = Client::open(&rig).await;
    assert_eq!(mute.end().await.code(), Code::DeadlineExceeded);
    let held = Client::open(&rig).await;
    held.say(subscribe(OURS)).await;
    let second = Client::open(&rig).await;
    second.say(subscribe(OURS)).await;
    let (_to, requests) = mpsc::channel::<DeltaDiscoveryRequest>(1);
    let refused = rig.ads().await.delta_aggregated_resources(ReceiverStream::new(requests)).await;
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!((rig.refused("late"), rig.refused("too_many_streams")), (1, 1));
}

#[tokio::test]
async fn the_drain_ends_every_stream() {
    let mut rig = Rig::new().await;
    let mut relayed = Client::open(&rig).await;
    relayed.say(subscribe(OURS)).await;
    let _stream = rig.control.stream().await;
    rig.disconnect();
    let mut held = Client::open(&rig).await;
    held.say(subscribe(OURS)).await;
    let mut mute = Client::open(&rig).await;
    rig.drained().await;
    for client in [&mut relayed, &mut held, &mut mute] {
        assert_eq!(client.end().await.code(), Code::Unavailable);
    }
}
