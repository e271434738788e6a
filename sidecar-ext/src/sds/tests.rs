use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{Node, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, SpiffeCertValidatorConfig, secret::Type};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use envoy_types::pb::google::rpc::Status as RpcStatus;
use prost::Message as _;
use symbolon_kit::spiffe::svid::Svid;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::TYPE_URL;
use crate::config::Header;
use crate::identity::Holding;
use crate::svid::pem;
use crate::testing::{Agent, Ca, bundles, entry, eventually, my_uid, soon, view, with_header};

const WEB: &str = "spiffe://a.example/ns/shop/sa/web";
const FOREIGN: &str = "spiffe://a.example/ns/shop/sa/foreign";

/// A stream of Envoy's, played.
struct Delta {
    tx: mpsc::Sender<DeltaDiscoveryRequest>,
    rx: Streaming<DeltaDiscoveryResponse>,
}

struct Sotw {
    tx: mpsc::Sender<DiscoveryRequest>,
    rx: Streaming<DiscoveryResponse>,
}

fn valid(svid: &Svid) -> Holding {
    Holding::Valid(Arc::new(svid.clone()))
}

/// An agent that holds [`WEB`] for whoever runs this test, and [`FOREIGN`] for somebody else.
fn agent(ca: &Ca) -> (Agent, Svid) {
    let svid = ca.svid(WEB);
    let foreign = (entry("foreign", FOREIGN, &["unix:uid:4294967295"]), valid(&ca.svid(FOREIGN)));
    (Agent::start(view(ca, vec![foreign, (entry("web", WEB, &[&my_uid()]), valid(&svid))])), svid)
}

fn node(id: &str) -> Option<Node> {
    Some(Node { id: id.into(), ..Default::default() })
}

impl Delta {
    async fn open(agent: &Agent, node_id: &str, names: &[&str]) -> Self {
        let first = DeltaDiscoveryRequest { node: node(node_id), ..Self::subscribe(names) };
        Self::open_with(agent, first).await
    }

    async fn open_with(agent: &Agent, first: DeltaDiscoveryRequest) -> Self {
        let (tx, requests) = mpsc::channel(8);
        tx.send(first).await.unwrap();
        let mut client = SecretDiscoveryServiceClient::new(agent.channel());
        let rx = soon(client.delta_secrets(with_header(ReceiverStream::new(requests)))).await.unwrap().into_inner();
        Self { tx, rx }
    }

    fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: TYPE_URL.into(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        soon(self.rx.message()).await.unwrap().unwrap()
    }

    async fn say(&self, request: DeltaDiscoveryRequest) {
        self.tx.send(request).await.unwrap();
    }

    async fn answer(&self, nonce: &str, error: Option<&str>) {
        let error_detail = error.map(|text| RpcStatus { message: text.into(), ..Default::default() });
        let (type_url, response_nonce) = (TYPE_URL.into(), nonce.into());
        self.say(DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() }).await;
    }
}

impl Sotw {
    async fn open(agent: &Agent, names: &[&str]) -> Self {
        let (tx, requests) = mpsc::channel(8);
        tx.send(Self::request(names, "", "")).await.unwrap();
        let mut client = SecretDiscoveryServiceClient::new(agent.channel());
        let rx = soon(client.stream_secrets(with_header(ReceiverStream::new(requests)))).await.unwrap().into_inner();
        Self { tx, rx }
    }

    fn request(names: &[&str], version: &str, nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            node: node(WEB),
            type_url: TYPE_URL.into(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            version_info: version.into(),
            response_nonce: nonce.into(),
            ..Default::default()
        }
    }

    async fn next(&mut self) -> DiscoveryResponse {
        soon(self.rx.message()).await.unwrap().unwrap()
    }
}

fn secret(of: &DeltaDiscoveryResponse) -> Secret {
    let [resource] = &of.resources[..] else { panic!("one secret per response: {of:?}") };
    let any = resource.resource.as_ref().unwrap();
    assert_eq!((any.type_url.as_str(), of.type_url.as_str()), (TYPE_URL, TYPE_URL));
    let secret = Secret::decode(any.value.as_slice()).unwrap();
    assert_eq!(secret.name, resource.name);
    secret
}

/// The serial of a certificate whose key belongs to it.
fn serial(secret: &Secret) -> String {
    let Some(Type::TlsCertificate(certificate)) = &secret.r#type else { panic!("{secret:?}") };
    let inline =
        |source: &Option<envoy_types::pb::envoy::config::core::v3::DataSource>| match source.clone().unwrap().specifier
        {
            Some(Specifier::InlineBytes(bytes)) => bytes,
            other => panic!("{other:?}"),
        };
    let text = [inline(&certificate.private_key), inline(&certificate.certificate_chain)].concat();
    pem::decode(&text).unwrap().serial
}

/// Trust domains of a validator.
fn domains(secret: &Secret) -> Vec<String> {
    let Some(Type::ValidationContext(context)) = &secret.r#type else { panic!("{secret:?}") };
    let custom = context.custom_validator_config.as_ref().unwrap();
    assert_eq!(custom.name, "envoy.tls.cert_validator.spiffe");
    let config = SpiffeCertValidatorConfig::decode(custom.typed_config.as_ref().unwrap().value.as_slice()).unwrap();
    assert!(config.trust_domains.is_empty() && context.trusted_ca.is_none(), "bundles are never pooled");
    let Some(Specifier::InlineString(map)) = config.trust_bundles.unwrap().specifier else { panic!() };
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    map["trust_domains"].as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn every_name_that_envoy_uses_is_answered_one_secret_per_response() {
    let (ca, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let (agent, svid) = agent(&ca);
    agent.change(|view| view.bundles = bundles(&[&ca, &b]));
    let names = ["ALL", "ROOTCA", "default", WEB, "spiffe://b.example"];
    let mut stream = Delta::open(&agent, WEB, &names).await;
    for _ in names {
        let response = stream.next().await;
        let secret = secret(&response);
        match secret.name.as_str() {
            "ALL" => assert_eq!(domains(&secret), ["a.example", "b.example"]),
            "ROOTCA" => assert_eq!(domains(&secret), ["a.example"]),
            "spiffe://b.example" => assert_eq!(domains(&secret), ["b.example"]),
            "default" | WEB => assert_eq!(serial(&secret), svid.serial),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn i_10_a_name_that_is_not_the_callers_is_told_removed_and_harms_no_other() {
    let (agent, svid) = agent(&Ca::new("a.example"));
    for name in [FOREIGN, "spiffe://c.example", "nonsense", "*"] {
        let mut stream = Delta::open(&agent, WEB, &[name]).await;
        let response = stream.next().await;
        assert_eq!(
            (response.removed_resources.as_slice(), response.resources.len()),
            ([name.to_owned()].as_slice(), 0)
        );
        stream.say(Delta::subscribe(&[WEB])).await;
        assert_eq!(serial(&secret(&stream.next().await)), svid.serial, "after {name}");
    }
    let denied = agent.metrics.counter("symbolon_sidecar_secrets_denied", "");
    let reasons = ["not_entitled", "unknown_trust_domain", "unknown_name"];
    assert_eq!(reasons.map(|reason| denied.value(&[("reason", reason)])), [1, 1, 2]);
}

#[tokio::test]
async fn a_rotation_is_pushed_once_and_others_are_not() {
    let ca = Ca::new("a.example");
    let (agent, _) = agent(&ca);
    let mut stream = Delta::open(&agent, WEB, &[WEB]).await;
    stream.next().await;
    for _ in 0..10 {
        agent.hold(0, valid(&ca.svid(FOREIGN)));
        let next = ca.svid(WEB);
        agent.hold(1, valid(&next));
        assert_eq!(serial(&secret(&stream.next().await)), next.serial);
    }
}

#[tokio::test]
async fn acknowledgements_travel_up_as_one_state_per_proxy() {
    let (ca, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let (mut agent, svid) = agent(&ca);
    agent.change(|view| view.bundles = bundles(&[&ca, &b]));
    // Envoy opens a stream per secret.
    let (mut certificate, mut validator) =
        (Delta::open(&agent, WEB, &[WEB]).await, Delta::open(&agent, WEB, &["ALL"]).await);
    let nonce = certificate.next().await.nonce;
    certificate.answer(&nonce, None).await;
    let ack = soon(agent.acks.recv()).await.unwrap();
    assert_eq!(
        (ack.proxy.as_str(), ack.svid_serial.as_str(), ack.bundle_sequences.len()),
        (WEB, svid.serial.as_str(), 0)
    );
    let nonce = validator.next().await.nonce;
    validator.answer(&nonce, None).await;
    let ack = soon(agent.acks.recv()).await.unwrap();
    assert_eq!(ack.svid_serial, svid.serial);
    assert_eq!(
        ack.bundle_sequences.into_iter().collect::<Vec<_>>(),
        [("a.example".into(), 1), ("b.example".into(), 1)]
    );
    agent.change(|view| view.bundles = bundles(&[&ca]));
    let nonce = validator.next().await.nonce;
    validator.answer(&nonce, None).await;
    let ack = soon(agent.acks.recv()).await.unwrap();
    assert_eq!(
        ack.bundle_sequences.into_keys().collect::<Vec<_>>(),
        ["a.example"],
        "what is trusted no longer is gone"
    );
}

#[tokio::test]
async fn a_rejected_secret_is_not_sent_again_until_it_changes_and_is_not_acknowledged() {
    let ca = Ca::new("a.example");
    let (mut agent, _) = agent(&ca);
    let mut stream = Delta::open(&agent, WEB, &[WEB]).await;
    let nonce = stream.next().await.nonce;
    stream.answer(&nonce, Some("no such key")).await;
    let answered = agent.metrics.counter("symbolon_sidecar_secrets_answered", "");
    eventually(|| answered.value(&[("outcome", "rejected")]) == 1).await;
    let next = ca.svid(WEB);
    agent.hold(1, valid(&next));
    let response = stream.next().await;
    assert_eq!(serial(&secret(&response)), next.serial, "the next thing that is heard is the next version");
    stream.answer(&response.nonce, None).await;
    assert_eq!(soon(agent.acks.recv()).await.unwrap().svid_serial, next.serial);
    assert_eq!(answered.value(&[("outcome", "rejected")]), 1);
}

#[tokio::test]
async fn nobody_acknowledges_in_anothers_name() {
    let (mut agent, _) = agent(&Ca::new("a.example"));
    for claimed in [FOREIGN, "garbage", ""] {
        let mut stream = Delta::open(&agent, claimed, &[WEB]).await;
        let nonce = stream.next().await.nonce;
        stream.answer(&nonce, None).await;
        stream.say(Delta::subscribe(&["ALL"])).await;
        stream.next().await; // the acknowledgement was read before this was asked
    }
    assert!(agent.acks.try_recv().is_err());
}

#[tokio::test]
async fn a_client_that_comes_back_is_not_sent_what_it_has() {
    let (agent, _) = agent(&Ca::new("a.example"));
    let mut stream = Delta::open(&agent, WEB, &[WEB, "ALL"]).await;
    let has: Vec<_> = [stream.next().await, stream.next().await]
        .iter()
        .map(|response| (response.resources[0].name.clone(), response.resources[0].version.clone()))
        .collect();
    drop(stream);
    let first = DeltaDiscoveryRequest {
        initial_resource_versions: has.into_iter().filter(|(name, _)| name == WEB).collect(),
        ..Delta::subscribe(&[WEB, "ALL"])
    };
    let mut again = Delta::open_with(&agent, first).await;
    assert_eq!(secret(&again.next().await).name, "ALL");
    again.say(Delta::subscribe(&["ROOTCA"])).await;
    assert_eq!(secret(&again.next().await).name, "ROOTCA", "nothing else was owed");
    // Subscribing again without a version is asking again.
    again.say(Delta::subscribe(&[WEB])).await;
    assert_eq!(secret(&again.next().await).name, WEB);
}

#[tokio::test]
async fn an_identity_that_is_not_minted_yet_is_waited_for() {
    let ca = Ca::new("a.example");
    let (agent, svid) = agent(&ca);
    agent.hold(1, Holding::Pending);
    let mut stream = Delta::open(&agent, WEB, &[WEB, "ROOTCA"]).await;
    assert_eq!(secret(&stream.next().await).name, "ROOTCA");
    agent.hold(1, valid(&svid));
    assert_eq!(serial(&secret(&stream.next().await)), svid.serial);
}

#[tokio::test]
async fn sotw_says_the_same() {
    let ca = Ca::new("a.example");
    let (mut agent, svid) = agent(&ca);
    let names = ["ALL", FOREIGN, WEB];
    let mut stream = Sotw::open(&agent, &names).await;
    let (all, web) = (stream.next().await, stream.next().await);
    let read = |response: &DiscoveryResponse| Secret::decode(response.resources[0].value.as_slice()).unwrap();
    assert_eq!((all.resources.len(), domains(&read(&all))), (1, vec!["a.example".to_owned()]));
    assert_eq!((web.resources.len(), serial(&read(&web))), (1, svid.serial.clone()));
    stream.tx.send(Sotw::request(&names, &web.version_info, &web.nonce)).await.unwrap();
    assert_eq!(soon(agent.acks.recv()).await.unwrap().svid_serial, svid.serial);
    let next = ca.svid(WEB);
    agent.hold(1, valid(&next));
    assert_eq!(serial(&read(&stream.next().await)), next.serial);
    // A name that is no longer wanted is no longer sent; asked for again, it is.
    stream.tx.send(Sotw::request(&["ALL"], "", "")).await.unwrap();
    stream.tx.send(Sotw::request(&["ALL", WEB], "", "")).await.unwrap();
    assert_eq!(serial(&read(&stream.next().await)), next.serial);
}

#[tokio::test]
async fn a_fetch_answers_once_with_what_the_caller_may_have() {
    let (agent, svid) = agent(&Ca::new("a.example"));
    let mut client = SecretDiscoveryServiceClient::new(agent.channel());
    let answer =
        soon(client.fetch_secrets(with_header(Sotw::request(&[FOREIGN, WEB], "", "")))).await.unwrap().into_inner();
    let [one] = &answer.resources[..] else { panic!() };
    assert_eq!(serial(&Secret::decode(one.value.as_slice()).unwrap()), svid.serial);
}

#[tokio::test]
async fn bad_149_the_header_is_required_here_too() {
    let (agent, _) = agent(&Ca::new("a.example"));
    let mut client = SecretDiscoveryServiceClient::new(agent.channel());
    let delta = client.delta_secrets(tokio_stream::pending()).await.unwrap_err();
    let sotw = client.stream_secrets(tokio_stream::pending()).await.unwrap_err();
    let fetch = client.fetch_secrets(Sotw::request(&[WEB], "", "")).await.unwrap_err();
    assert_eq!([delta, sotw, fetch].map(|status| status.code()), [Code::InvalidArgument; 3]);
}

#[tokio::test]
async fn another_type_and_too_many_names_end_the_stream_with_the_reason() {
    let (agent, _) = agent(&Ca::new("a.example"));
    let many: Vec<_> = (0..600).map(|at| format!("name-{at}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    for (first, code) in [
        (
            DeltaDiscoveryRequest { type_url: "type.googleapis.com/envoy.x".into(), ..Delta::subscribe(&[WEB]) },
            Code::InvalidArgument,
        ),
        (Delta::subscribe(&many), Code::ResourceExhausted),
        (Delta::subscribe(&[&"n".repeat(3000)]), Code::ResourceExhausted),
    ] {
        let mut stream = Delta::open_with(&agent, first).await;
        assert_eq!(soon(stream.rx.message()).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn bad_149_an_operator_may_do_without_the_header_on_sds_alone() {
    let ca = Ca::new("a.example");
    let held = vec![(entry("web", WEB, &[&my_uid()]), valid(&ca.svid(WEB)))];
    let agent = Agent::start_with(view(&ca, held), Header::Optional, 4);
    let mut client = SecretDiscoveryServiceClient::new(agent.channel());
    let answer = soon(client.fetch_secrets(Sotw::request(&[WEB], "", ""))).await.unwrap().into_inner();
    assert_eq!(answer.resources.len(), 1);
    let mut api = symbolon_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient::new(agent.channel());
    let refused = api.fetch_x509svid(symbolon_proto::workload::X509svidRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn f_18_a_trust_domain_that_is_ended_or_not_the_callers_is_taken_out_of_envoy() {
    let (a, b, d) = (Ca::new("a.example"), Ca::new("b.example"), Ca::new("d.example"));
    let (agent, _) = agent(&a);
    agent.change(|view| view.bundles = bundles(&[&a, &b, &d]));
    let mut stream = Delta::open(&agent, WEB, &["ALL", "spiffe://b.example", "spiffe://d.example"]).await;
    assert_eq!(domains(&secret(&stream.next().await)), ["a.example", "b.example"], "its entry names no d.example");
    assert_eq!(domains(&secret(&stream.next().await)), ["b.example"]);
    assert_eq!(stream.next().await.removed_resources, ["spiffe://d.example"]);
    agent.change(|view| view.bundles = bundles(&[&a, &d]));
    assert_eq!(domains(&secret(&stream.next().await)), ["a.example"]);
    assert_eq!(stream.next().await.removed_resources, ["spiffe://b.example"]);
}

/// A thousand proxies of as many identities: what changes for one costs the others next to nothing, and a rotation of all reaches all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_each_hear_of_their_own_rotation_once() {
    const STREAMS: usize = 1000;
    let ca = Ca::new("a.example");
    let names: Vec<_> = (0..STREAMS).map(|at| format!("spiffe://a.example/w{at}")).collect();
    let held = |names: &[String]| {
        let one = |name: &String| (entry(name, name, &[&my_uid()]), valid(&ca.svid(name)));
        names.iter().map(one).collect::<Vec<_>>()
    };
    let agent = Agent::start_with(view(&ca, held(&names)), Header::Required, STREAMS);
    let mut streams = Vec::new();
    for name in &names {
        streams.push(Delta::open(&agent, name, &[name, "ALL"]).await);
    }
    for stream in &mut streams {
        assert_eq!(stream.next().await.resources[0].name, "ALL");
        stream.next().await;
    }
    // Batch by batch, as the cache publishes them.
    let began = tokio::time::Instant::now();
    for batch in 0..STREAMS / 50 {
        let fresh = held(&names[batch * 50..(batch + 1) * 50]);
        agent.change(|view| {
            for (at, (_, holding)) in fresh.into_iter().enumerate() {
                view.held[batch * 50 + at].holding = holding;
            }
        });
    }
    for (stream, name) in streams.iter_mut().zip(&names) {
        let response = stream.next().await;
        assert_eq!(response.resources[0].name, *name);
    }
    println!("{STREAMS} streams heard of their rotation within {:?}", began.elapsed());
    agent.change(|view| view.bundles = bundles(&[&ca, &Ca::new("b.example")]));
    for stream in &mut streams {
        assert_eq!(stream.next().await.resources[0].name, "ALL", "and of nothing else before the next change");
    }
}
