//! Real sockets, real handshakes, two trust domains.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::routing::get;
use futures::StreamExt as _;
use tokio::task::JoinHandle;
use tower::ServiceExt as _;

use super::*;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::spiffe::svid::Svid;
use crate::spiffe::testing::{Ca, HOUR, noon, table};

/// The longest that anything here may take.
const SOON: Duration = Duration::from_secs(10);

struct Server {
    address: String,
    refused: Counter,
    drain: Drain,
    running: JoinHandle<()>,
}

async fn server(identity: &Identity, limits: Limits) -> Server {
    let who = |Extension(peer): Extension<PeerIdentity>| async move {
        peer.id.map_or_else(|| "anonymous".to_owned(), |id| id.to_string())
    };
    let stream = || async {
        let first = futures::stream::once(async { Ok::<_, std::io::Error>("tick") });
        Body::from_stream(first.chain(futures::stream::pending()))
    };
    let routes = Router::new().route("/who", get(who)).route("/stream", get(stream));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (refused, drain) = (Metrics::new().counter("refused", "Handshakes refused."), Drain::new());
    let routes = tonic::service::Routes::from(routes);
    let running = tokio::spawn(serve(listener, identity.clone(), routes, limits, refused.clone(), drain.clone()));
    Server { address, refused, drain, running }
}

impl Server {
    fn channel(&self, identity: &Identity, expect: &str) -> Channel {
        channel(vec![self.address.clone()], identity, Expect::Id(expect.parse().unwrap()))
    }

    /// Waits until handshakes were refused for `reason`; it is counted after the client has learned of it.
    async fn refused(&self, reason: &str) {
        let counted = async {
            while self.refused.value(&[("reason", reason)]) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, counted).await.unwrap_or_else(|_| panic!("nothing was refused for {reason}"));
    }
}

fn identity(clock: &Clock, svid: Option<&Svid>, trusted: &[&Ca]) -> Identity {
    let identity = Identity::new(clock.clone());
    if let Some(svid) = svid {
        identity.set_svid(svid);
    }
    identity.set_bundles(&table(trusted));
    identity
}

fn clock() -> Clock {
    Clock::manual(noon())
}

async fn open(channel: &Channel, path: &str) -> Result<Body, String> {
    let request = Request::get(path).body(tonic::body::Body::empty()).unwrap();
    match tokio::time::timeout(SOON, channel.clone().oneshot(request)).await.expect("an answer in time") {
        Ok(answer) => Ok(Body::new(answer.into_body())),
        Err(error) => Err(format!("{error:?}")),
    }
}

async fn who(channel: &Channel) -> Result<String, String> {
    let body = open(channel, "/who").await?;
    let bytes = axum::body::to_bytes(body, 1024).await.map_err(|e| format!("{e:?}"))?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// An open stream that has begun.
async fn streaming(channel: &Channel) -> axum::body::BodyDataStream {
    let mut stream = open(channel, "/stream").await.unwrap().into_data_stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), "tick");
    stream
}

async fn ends(mut stream: axum::body::BodyDataStream) {
    let last = tokio::time::timeout(SOON, stream.next()).await.expect("the stream should have ended");
    assert!(!matches!(last, Some(Ok(_))), "{last:?}");
}

/// Two trust domains that know each other, and a server in the second.
struct World {
    clock: Clock,
    a: Ca,
    b: Ca,
    b_identity: Identity,
    server: Server,
}

const B: &str = "spiffe://b.example/symbolon/controlplane/0";

async fn world() -> World {
    let (clock, a, b) = (clock(), Ca::new("a.example"), Ca::new("b.example"));
    let b_identity = identity(&clock, Some(&b.svid("/symbolon/controlplane/0")), &[&a, &b]);
    let server = server(&b_identity, Limits::default()).await;
    World { clock, a, b, b_identity, server }
}

#[tokio::test]
async fn two_trust_domains_recognise_each_other() {
    let World { clock, a, b, server, .. } = world().await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a, &b]);
    assert_eq!(who(&server.channel(&client, B)).await.unwrap(), "spiffe://a.example/shop");
    let pattern = Expect::Pattern("spiffe://b.example/symbolon/controlplane/*".into());
    let by_pattern = channel(vec![server.address.clone()], &client, pattern);
    assert_eq!(who(&by_pattern).await.unwrap(), "spiffe://a.example/shop");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_anonymous() {
    let World { clock, b, server, .. } = world().await;
    let client = identity(&clock, None, &[&b]);
    assert_eq!(who(&server.channel(&client, B)).await.unwrap(), "anonymous");
}

#[tokio::test]
async fn an_anonymous_channel_is_named_once_it_has_an_svid() {
    let World { clock, a, b, server, .. } = world().await;
    let client = identity(&clock, None, &[&b]);
    let channel = server.channel(&client, B);
    let stream = streaming(&channel).await;
    client.set_svid(&a.svid("/shop"));
    ends(stream).await;
    assert_eq!(who(&channel).await.unwrap(), "spiffe://a.example/shop");
}

#[tokio::test]
async fn bad_086_an_impostor_of_a_known_domain_is_refused() {
    let World { clock, a, b, server, .. } = world().await;
    let impostor = Ca::new("a.example");
    let client = identity(&clock, Some(&impostor.svid("/shop")), &[&a, &b]);
    who(&server.channel(&client, B)).await.unwrap_err();
    server.refused("unknown_issuer").await;
}

#[tokio::test]
async fn bad_087_a_known_authority_cannot_vouch_for_another_domain() {
    let World { clock, a, b, server, .. } = world().await;
    // A's authority signs an ID of B, which the server knows: not with B's authorities.
    let client = identity(&clock, Some(&a.svid_of("spiffe://b.example/shop", noon() + HOUR)), &[&a, &b]);
    who(&server.channel(&client, B)).await.unwrap_err();
    server.refused("unknown_issuer").await;
}

#[tokio::test]
async fn x_14_an_unknown_domain_is_refused() {
    let World { clock, a, b, server, .. } = world().await;
    let stranger = Ca::new("c.example");
    let client = identity(&clock, Some(&stranger.svid("/shop")), &[&a, &b]);
    who(&server.channel(&client, B)).await.unwrap_err();
    server.refused("unknown_trust_domain").await;
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused() {
    let World { clock, a, b, server, .. } = world().await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a, &b]);
    let error = who(&server.channel(&client, "spiffe://b.example/symbolon/controlplane/1")).await.unwrap_err();
    assert!(error.contains("was expected"), "{error}");
    let elsewhere = Expect::Pattern("spiffe://a.example/**".into());
    let error = who(&channel(vec![server.address.clone()], &client, elsewhere)).await.unwrap_err();
    assert!(error.contains("was expected"), "{error}");
}

#[tokio::test]
async fn a_server_of_an_unknown_domain_is_refused() {
    let World { clock, a, server, .. } = world().await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a]);
    let error = who(&server.channel(&client, B)).await.unwrap_err();
    assert!(error.contains("we hold no bundle"), "{error}");
}

#[tokio::test]
async fn the_first_address_that_answers_is_taken() {
    let World { clock, a, b, server, .. } = world().await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a, &b]);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let addresses = vec![closed.to_string(), server.address.clone()];
    let channel = channel(addresses, &client, Expect::Id(B.parse().unwrap()));
    assert_eq!(who(&channel).await.unwrap(), "spiffe://a.example/shop");
}

#[tokio::test]
async fn a_stream_lives_through_a_swap_of_keys_and_bundles() {
    let World { clock, a, b, b_identity, server } = world().await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a, &b]);
    let channel = server.channel(&client, B);
    let mut stream = streaming(&channel).await;
    let c = Ca::new("c.example");
    b_identity.set_svid(&b.svid("/symbolon/controlplane/0"));
    b_identity.set_bundles(&table(&[&a, &b, &c]));
    client.set_svid(&a.svid("/shop"));
    client.set_bundles(&table(&[&a, &b, &c]));
    // A new connection, of the domain that was added, proves that the swap is in force.
    let newcomer = identity(&clock, Some(&c.svid("/new")), &[&b]);
    assert_eq!(who(&server.channel(&newcomer, B)).await.unwrap(), "spiffe://c.example/new");
    assert!(futures::poll!(stream.next()).is_pending(), "the stream goes on");
    assert_eq!(who(&channel).await.unwrap(), "spiffe://a.example/shop");
}

#[tokio::test]
async fn a_distrusted_peers_connection_ends_and_cannot_come_back() {
    let World { clock, a, b, b_identity, server } = world().await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a, &b]);
    let local = identity(&clock, Some(&b.svid("/local")), &[&b]);
    let (channel, local_channel) = (server.channel(&client, B), server.channel(&local, B));
    let (stream, mut bystander) = (streaming(&channel).await, streaming(&local_channel).await);
    b_identity.set_bundles(&table(&[&b]));
    ends(stream).await;
    who(&channel).await.unwrap_err();
    server.refused("unknown_trust_domain").await;
    assert!(futures::poll!(bystander.next()).is_pending(), "others are not touched");
}

#[tokio::test]
async fn a_client_leaves_a_server_that_it_no_longer_trusts() {
    let World { clock, a, b, server, .. } = world().await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a, &b]);
    let channel = server.channel(&client, B);
    let stream = streaming(&channel).await;
    client.set_bundles(&table(&[&a]));
    ends(stream).await;
    who(&channel).await.unwrap_err();
}

#[tokio::test]
async fn no_stream_outlives_its_svid() {
    let World { clock, a, b, server, .. } = world().await;
    let client = identity(&clock, Some(&a.svid_until("/shop", noon() + HOUR / 2)), &[&a, &b]);
    let channel = server.channel(&client, B);
    let mut stream = streaming(&channel).await;
    clock.advance(HOUR / 2 - Duration::from_secs(1));
    assert_eq!(who(&channel).await.unwrap(), "spiffe://a.example/shop");
    assert!(futures::poll!(stream.next()).is_pending(), "it lives until the end");
    clock.advance(Duration::from_secs(2));
    ends(stream).await;
    who(&channel).await.unwrap_err();
    server.refused("validity").await;
    client.set_svid(&a.svid("/shop"));
    assert_eq!(who(&channel).await.unwrap(), "spiffe://a.example/shop");
}

#[tokio::test]
async fn an_expired_root_ends_connections_too() {
    let (clock, b) = (clock(), Ca::new("b.example"));
    // The root ends before the SVID that it signed, which no authority of ours would do.
    let a = Ca::with("a.example", |params| params.not_after = (noon() + HOUR / 2).into());
    let server =
        server(&identity(&clock, Some(&b.svid("/symbolon/controlplane/0")), &[&a, &b]), Limits::default()).await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&b]);
    let stream = streaming(&server.channel(&client, B)).await;
    clock.advance(HOUR / 2 + Duration::from_secs(1));
    ends(stream).await;
}

#[tokio::test]
async fn connect_unverified_gives_the_chain_to_check() {
    let World { clock, b, b_identity: _, server, .. } = world().await;
    let nobody = identity(&clock, None, &[]);
    let (channel, chain) = connect_unverified(std::slice::from_ref(&server.address), &nobody).await.unwrap();
    assert_eq!(who(&channel).await.unwrap(), "anonymous");
    let anchors = crate::spiffe::verify::Anchors::new(&table(&[&b]));
    let id = anchors.verify(&chain, crate::spiffe::verify::Usage::Server, noon()).unwrap();
    assert_eq!(id.as_str(), B);
}

#[tokio::test]
async fn a_slow_handshake_delays_nobody_and_is_cut_off() {
    let (clock, a, b) = (clock(), Ca::new("a.example"), Ca::new("b.example"));
    let limits = Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = server(&identity(&clock, Some(&b.svid("/symbolon/controlplane/0")), &[&a, &b]), limits).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(&server.address).await.unwrap());
    }
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a, &b]);
    assert_eq!(who(&server.channel(&client, B)).await.unwrap(), "spiffe://a.example/shop");
    server.refused("timeout").await;
}

#[tokio::test]
async fn what_is_not_tls_is_counted_as_such() {
    let World { server, .. } = world().await;
    let socket = tokio::net::TcpStream::connect(&server.address).await.unwrap();
    socket.writable().await.unwrap();
    socket.try_write(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    server.refused("not_tls").await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let (clock, a, b) = (clock(), Ca::new("a.example"), Ca::new("b.example"));
    let limits = Limits { connections: 1, ..Limits::default() };
    let server = server(&identity(&clock, Some(&b.svid("/symbolon/controlplane/0")), &[&a, &b]), limits).await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a, &b]);
    let first = server.channel(&client, B);
    let stream = streaming(&first).await;
    who(&server.channel(&client, B)).await.unwrap_err();
    server.refused("too_many_connections").await;
    drop((stream, first));
    let again = async {
        while who(&server.channel(&client, B)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, again).await.expect("the slot is free again");
}

#[tokio::test]
async fn a_drain_waits_for_calls_but_not_forever() {
    let World { clock, a, b, server, .. } = world().await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a, &b]);
    let stream = streaming(&server.channel(&client, B)).await;
    server.drain.start();
    ends(stream).await; // it never ends by itself
    tokio::time::timeout(SOON, server.running).await.expect("the listener returns").unwrap();
    who(&channel(vec![server.address], &client, Expect::Id(B.parse().unwrap()))).await.unwrap_err();
}

/// A relay in between that at some moment passes nothing on, and closes nothing: a partition.
async fn relay(to: String, partition: tokio_util::sync::CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            () = partition.cancelled() => std::future::pending().await,
        }
    });
    address
}

#[tokio::test]
async fn both_sides_notice_a_partition() {
    let (clock, a, b) = (clock(), Ca::new("a.example"), Ca::new("b.example"));
    let limits = Limits { connections: 1, ..Limits::default() };
    let server = server(&identity(&clock, Some(&b.svid("/symbolon/controlplane/0")), &[&a, &b]), limits).await;
    let client = identity(&clock, Some(&a.svid("/shop")), &[&a, &b]);
    let partition = tokio_util::sync::CancellationToken::new();
    let address = relay(server.address.clone(), partition.clone()).await;
    let mut stream = streaming(&channel(vec![address], &client, Expect::Id(B.parse().unwrap()))).await;
    partition.cancel();
    tokio::time::pause(); // nothing arrives any more, so only timers can move on
    let begun = tokio::time::Instant::now();
    let last = tokio::time::timeout(Duration::from_secs(60), stream.next()).await.expect("the client notices");
    assert!(!matches!(last, Some(Ok(_))), "{last:?}");
    assert!(begun.elapsed() <= Duration::from_secs(15), "{:?}", begun.elapsed());
    tokio::time::advance(Duration::from_secs(5)).await; // the server counts from its own last frame
    tokio::time::resume();
    let again = async {
        while who(&server.channel(&client, B)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, again).await.expect("the server let go of the only connection that it allows");
}
