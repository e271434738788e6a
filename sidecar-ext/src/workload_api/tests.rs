use std::process::{Command, Stdio};
use std::sync::Arc;

use prost::Message as _;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid};
use symbolon_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use symbolon_proto::workload::*;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::attest::tests::{CHILD, OtherName};
use crate::bundle::Shelf;
use crate::identity::Holding;
use crate::testing::{Agent, Ca, STREAMS, bundles, entry, my_uid, soon, view, with_header, workload};

mod tokens;

const WEB: &str = "spiffe://a.example/ns/shop/sa/web";
const JOB: &str = "spiffe://a.example/ns/shop/sa/job";

fn valid(svid: &Svid) -> Holding {
    Holding::Valid(Arc::new(svid.clone()))
}

/// An agent that holds [`WEB`] for whoever runs this test.
fn agent(ca: &Ca) -> (Agent, Svid) {
    let svid = ca.svid(WEB);
    (Agent::start(view(ca, vec![(entry("web", WEB, &[&my_uid()]), valid(&svid))])), svid)
}

fn client(agent: &Agent) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(agent.channel())
}

async fn svids(agent: &Agent) -> tonic::Streaming<X509svidResponse> {
    soon(client(agent).fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap().into_inner()
}

async fn refusal(agent: &Agent) -> tonic::Status {
    soon(client(agent).fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap_err()
}

/// The serial of the only SVID in a message, whose key belongs to its certificate.
fn serial(message: &X509svidResponse) -> String {
    let [svid] = &message.svids[..] else { panic!("{} SVIDs", message.svids.len()) };
    let key = PrivateKey::from_pkcs8(svid.x509_svid_key.to_vec());
    Svid::new(vec![svid.x509_svid.to_vec().into()], key).unwrap().serial
}

#[tokio::test]
async fn w_7_an_svid_is_der_leaf_first_with_its_pkcs8_key_and_bundle() {
    let (ca, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let (agent, svid) = agent(&ca);
    agent.change(|view| view.bundles = bundles(&[&ca, &b]));
    let message = soon(svids(&agent).await.message()).await.unwrap().unwrap();
    assert_eq!(serial(&message), svid.serial);
    let got = &message.svids[0];
    assert_eq!(got.spiffe_id, WEB);
    assert_eq!(got.bundle, ca.bundle().x509[0].to_vec());
    // W-8: by the ID of the trust domain, the own one apart.
    let federated: Vec<_> = message.federated_bundles.iter().map(|(id, der)| (id.as_str(), der.to_vec())).collect();
    assert_eq!(federated, [("spiffe://b.example", b.bundle().x509[0].to_vec())]);
}

#[tokio::test]
async fn w_8_bundles_hold_the_own_trust_domain_and_the_federated_ones_and_follow_changes() {
    let (ca, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let (agent, _) = agent(&ca);
    let asked = client(&agent).fetch_x509_bundles(with_header(X509BundlesRequest {})).await;
    let mut stream = asked.unwrap().into_inner();
    let first = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(first.bundles.keys().collect::<Vec<_>>(), ["spiffe://a.example"]);
    agent.change(|view| view.bundles = bundles(&[&ca, &b]));
    let second = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(second.bundles.keys().collect::<Vec<_>>(), ["spiffe://a.example", "spiffe://b.example"]);
}

#[tokio::test]
async fn w_2_each_rotation_is_seen_once_in_order_without_a_gap() {
    let ca = Ca::new("a.example");
    let (agent, first) = agent(&ca);
    agent.change(|view| {
        view.held.extend(
            crate::testing::view(&ca, vec![(entry("job", JOB, &["unix:uid:4294967295"]), Holding::Pending)]).held,
        )
    });
    let mut stream = svids(&agent).await;
    assert_eq!(serial(&soon(stream.message()).await.unwrap().unwrap()), first.serial);
    for round in 0..20 {
        // Somebody else's rotation must not be heard; ours must, and before the next.
        agent.hold(1, valid(&ca.svid(JOB)));
        let next = ca.svid(WEB);
        agent.hold(0, valid(&next));
        agent.hold(1, valid(&ca.svid(JOB)));
        let message = soon(stream.message()).await.unwrap().unwrap();
        assert_eq!(serial(&message), next.serial, "round {round}");
    }
}

#[tokio::test]
async fn e_3_bad_148_without_the_exact_header_nothing_is_served() {
    let (agent, _) = agent(&Ca::new("a.example"));
    for values in [&[][..], &["True"], &["false"], &["true", "true"]] {
        let mut request = Request::new(X509svidRequest {});
        for value in values {
            request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
        }
        let refused = soon(client(&agent).fetch_x509svid(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{values:?}");
    }
    let bundles = soon(client(&agent).fetch_x509_bundles(X509BundlesRequest {})).await.unwrap_err();
    let jwt = soon(client(&agent).fetch_jwtsvid(JwtsvidRequest::default())).await.unwrap_err();
    let jwt_bundles = soon(client(&agent).fetch_jwt_bundles(JwtBundlesRequest {})).await.unwrap_err();
    let validate = soon(client(&agent).validate_jwtsvid(ValidateJwtsvidRequest::default())).await.unwrap_err();
    for refused in [bundles, jwt, jwt_bundles, validate] {
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    assert_eq!(agent.refused("header"), 8);
}

#[tokio::test]
async fn e_8_a_caller_without_an_identity_is_denied() {
    let ca = Ca::new("a.example");
    let agent = Agent::start(view(&ca, vec![(entry("web", WEB, &["unix:uid:4294967295"]), valid(&ca.svid(WEB)))]));
    assert_eq!(refusal(&agent).await.code(), Code::PermissionDenied);
    let bundles = client(&agent).fetch_x509_bundles(with_header(X509BundlesRequest {})).await;
    assert_eq!(bundles.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(agent.refused("no_identity"), 2);
}

#[tokio::test]
async fn e_7_until_everything_is_here_it_is_unavailable() {
    let ca = Ca::new("a.example");
    let (agent, svid) = agent(&ca);
    agent.change(|view| view.ready = false);
    assert_eq!(refusal(&agent).await.code(), Code::Unavailable);
    agent.change(|view| view.ready = true);
    for holding in [Holding::Pending, Holding::Failed] {
        agent.hold(0, holding);
        assert_eq!(refusal(&agent).await.code(), Code::Unavailable);
    }
    agent.hold(0, valid(&svid));
    assert!(soon(svids(&agent).await.message()).await.unwrap().is_some());
}

#[tokio::test]
async fn w_9_a_withdrawn_entry_ends_the_stream_with_permission_denied() {
    let (agent, _) = agent(&Ca::new("a.example"));
    let mut stream = svids(&agent).await;
    assert!(soon(stream.message()).await.unwrap().is_some());
    agent.change(|view| view.hold(Vec::new()));
    assert_eq!(soon(stream.message()).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_open_stream_waits_in_silence_for_one_identity_more() {
    let ca = Ca::new("a.example");
    let (agent, first) = agent(&ca);
    let mut stream = svids(&agent).await;
    assert_eq!(serial(&soon(stream.message()).await.unwrap().unwrap()), first.serial);
    let more = |of: Holding| {
        let web = (entry("web", WEB, &[&my_uid()]), valid(&first));
        view(&ca, vec![web, (entry("job", JOB, &[&my_uid()]), of)])
    };
    agent.change(|view| *view = more(Holding::Pending));
    assert_eq!(refusal(&agent).await.code(), Code::Unavailable, "whoever comes now has to wait (E-7)");
    let job = ca.svid(JOB);
    agent.change(|view| *view = more(valid(&job)));
    let both = soon(stream.message()).await.unwrap().unwrap();
    let ids: Vec<_> = both.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(ids, [WEB, JOB]);
    // Not if what it was told of is gone meanwhile.
    agent.change(|view| *view = crate::testing::view(&ca, vec![(entry("new", WEB, &[&my_uid()]), Holding::Pending)]));
    assert_eq!(soon(stream.message()).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn the_local_file_ends_a_stream_that_it_no_longer_allows() {
    let (agent, _) = agent(&Ca::new("a.example"));
    let mut stream = svids(&agent).await;
    assert!(soon(stream.message()).await.unwrap().is_some());
    agent.change(|view| view.narrow(&[workload("web", WEB, &["unix:path:/usr/bin/other"])]));
    assert_eq!(soon(stream.message()).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn i_6_an_expired_svid_is_not_served_on() {
    let (agent, _) = agent(&Ca::new("a.example"));
    let mut stream = svids(&agent).await;
    assert!(soon(stream.message()).await.unwrap().is_some());
    agent.hold(0, Holding::Failed);
    assert_eq!(soon(stream.message()).await.unwrap_err().code(), Code::Unavailable);
}

/// What one process gets that has four identities, with these hints.
async fn hinted(hints: [&str; 4]) -> Vec<X509svid> {
    let ca = Ca::new("a.example");
    let held = [JOB, WEB, WEB, WEB].iter().zip(hints).enumerate().map(|(at, (id, hint))| {
        let entry = crate::identity::Entry { hint: hint.into(), ..entry(&at.to_string(), id, &[&my_uid()]) };
        (entry, valid(&ca.svid(id)))
    });
    let agent = Agent::start(view(&ca, held.collect()));
    soon(svids(&agent).await.message()).await.unwrap().unwrap().svids
}

#[tokio::test]
async fn w_6_hints_are_unique_the_first_keeps_it_and_all_other_fields_are_set() {
    let svids = hinted(["same", "same", "", "own"]).await;
    assert_eq!(svids.iter().map(|svid| svid.hint.as_str()).collect::<Vec<_>>(), ["same", "", "", "own"]);
    for svid in svids {
        let set = [svid.x509_svid.len(), svid.x509_svid_key.len(), svid.bundle.len(), svid.spiffe_id.len()];
        assert!(set.iter().all(|length| *length > 0), "{set:?}");
    }
}

#[tokio::test]
async fn w_16_the_first_entry_is_the_default_and_a_hint_has_its_bound() {
    let (most, more) = ("h".repeat(1024), "h".repeat(1025));
    let svids = hinted(["", &most, &more, ""]).await;
    assert_eq!(svids[0].spiffe_id, JOB);
    assert_eq!(svids.iter().map(|svid| svid.hint.len()).collect::<Vec<_>>(), [0, 1024, 0, 0]);
}

#[tokio::test]
async fn bad_152_one_user_cannot_hold_all_streams() {
    let (agent, _) = agent(&Ca::new("a.example"));
    let mut open = Vec::new();
    for _ in 0..STREAMS {
        open.push(svids(&agent).await);
    }
    assert_eq!(refusal(&agent).await.code(), Code::ResourceExhausted);
    assert_eq!(agent.refused("quota"), 1);
    open.clear();
    // The places come back when the server hears of it.
    soon(async {
        while client(&agent).fetch_x509svid(with_header(X509svidRequest {})).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// As grpcurl asks: which services there are, and what the Workload API looks like. It needs no header, and gives no secret.
#[tokio::test]
async fn e_9_reflection_says_what_there_is_to_call() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

    let (agent, _) = agent(&Ca::new("a.example"));
    let ask = async |message: MessageRequest| -> ServerReflectionResponse {
        let mut client = ServerReflectionClient::new(agent.channel());
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let answer = soon(client.server_reflection_info(tokio_stream::iter([request]))).await.unwrap();
        soon(answer.into_inner().message()).await.unwrap().unwrap()
    };
    let Some(MessageResponse::ListServicesResponse(list)) =
        ask(MessageRequest::ListServices(String::new())).await.message_response
    else {
        panic!()
    };
    assert!(list.service.iter().any(|service| service.name == "SpiffeWorkloadAPI"), "{list:?}");
    let symbol = MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".into());
    let Some(MessageResponse::FileDescriptorResponse(files)) = ask(symbol).await.message_response else { panic!() };
    let file = prost_types::FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
    let methods: Vec<_> = file.service[0].method.iter().map(|method| method.name()).collect();
    assert!(methods.contains(&"FetchX509SVID") && methods.contains(&"ValidateJWTSVID"), "{methods:?}");
    assert_eq!(methods.len(), 7, "the specification's, and no other (W-1)");
}

#[tokio::test]
async fn e_1_the_endpoint_is_a_socket_of_this_machine() {
    use std::os::unix::fs::FileTypeExt as _;
    let (agent, _) = agent(&Ca::new("a.example"));
    assert!(std::fs::metadata(&agent.socket).unwrap().file_type().is_socket());
}

/// Nothing but HTTP/2 and gRPC's own headers, in the clear: who calls is seen by the kernel.
async fn plain_call() {
    let (agent, svid) = agent(&Ca::new("a.example"));
    let plain = tonic::transport::Endpoint::from_static("http://localhost");
    let socket = agent.socket.clone();
    let plain = plain.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    }));
    let mut client = SpiffeWorkloadApiClient::new(plain);
    let mut stream = soon(client.fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap().into_inner();
    assert_eq!(serial(&soon(stream.message()).await.unwrap().unwrap()), svid.serial);
}

#[tokio::test]
async fn e_2_it_is_grpc_on_a_unix_socket() {
    plain_call().await;
}

#[tokio::test]
async fn e_4_tls_is_not_needed() {
    plain_call().await;
}

#[tokio::test]
async fn e_6_what_a_caller_says_of_itself_counts_for_nothing() {
    let (agent, svid) = agent(&Ca::new("a.example"));
    let mut request = with_header(X509svidRequest {});
    request.metadata_mut().insert("authorization", "Bearer spiffe://a.example/ns/shop/sa/job".parse().unwrap());
    let mut stream = soon(client(&agent).fetch_x509svid(request)).await.unwrap().into_inner();
    assert_eq!(serial(&soon(stream.message()).await.unwrap().unwrap()), svid.serial, "as without it");
    agent.change(|view| view.hold(Vec::new()));
    let mut request = with_header(X509svidRequest {});
    request.metadata_mut().insert("authorization", "Bearer anything".parse().unwrap());
    assert_eq!(client(&agent).fetch_x509svid(request).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn w_10_each_call_gives_bundles_of_its_own_kind() {
    let (a, b, c) = (Ca::new("a.example"), Ca::new("b.example"), Ca::new("c.example"));
    let (agent, _) = agent(&a);
    let only_tokens = Bundle { x509: Vec::new(), ..b.bundle() };
    let only_x509 = c.bundle().with_tokens(Vec::new(), Vec::new());
    let table = [a.bundle(), only_tokens, only_x509].map(|bundle| (bundle.trust_domain.clone(), Arc::new(bundle)));
    let shelf = Shelf::new(a.trust_domain.clone(), Arc::new(table.into()));
    agent.change(|view| view.bundles = Arc::new(shelf));
    let mut x509 =
        soon(client(&agent).fetch_x509_bundles(with_header(X509BundlesRequest {}))).await.unwrap().into_inner();
    let x509 = soon(x509.message()).await.unwrap().unwrap().bundles;
    assert_eq!(x509.keys().collect::<Vec<_>>(), ["spiffe://a.example", "spiffe://c.example"]);
    let mut jwt = soon(client(&agent).fetch_jwt_bundles(with_header(JwtBundlesRequest {}))).await.unwrap().into_inner();
    let jwt = soon(jwt.message()).await.unwrap().unwrap().bundles;
    assert_eq!(jwt.keys().collect::<Vec<_>>(), ["spiffe://a.example", "spiffe://b.example"]);
    assert!(jwt.values().all(|jwks| !String::from_utf8_lossy(jwks).contains("x5c")));
}

#[tokio::test]
async fn a_drain_ends_streams_with_a_status_that_invites_to_come_back() {
    let (agent, _) = agent(&Ca::new("a.example"));
    let mut stream = svids(&agent).await;
    assert!(soon(stream.message()).await.unwrap().is_some());
    agent.drain.start();
    assert_eq!(soon(stream.message()).await.unwrap_err().code(), Code::Unavailable);
}

/// Not a test of its own: what a child process runs, which asks and says by its output what it got.
#[test]
fn as_child() {
    let Some(socket) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let mut client = SpiffeWorkloadApiClient::new(symbolon_kit::net::unix_channel(socket));
        match client.fetch_x509svid(with_header(X509svidRequest {})).await {
            Ok(mut answer) => answer.get_mut().message().await.unwrap().unwrap().svids[0].spiffe_id.clone(),
            Err(status) => format!("{:?}", status.code()),
        }
    });
    println!("outcome: {outcome};");
}

async fn ask_as(exe: std::path::PathBuf, agent: &Agent) -> String {
    let socket = agent.socket.clone();
    let child = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(exe);
        command.args(["--exact", "workload_api::tests::as_child", "--nocapture"]).env(CHILD, socket);
        command.stdin(Stdio::null()).output().unwrap()
    });
    let output = String::from_utf8(soon(child).await.unwrap().stdout).unwrap();
    let said = output.split_once("outcome: ").unwrap_or_else(|| panic!("{output}")).1;
    said.split_once(';').unwrap().0.to_owned()
}

#[tokio::test]
async fn a_process_of_another_path_gets_nothing() {
    let ca = Ca::new("a.example");
    let own = std::env::current_exe().unwrap().canonicalize().unwrap();
    let path = format!("unix:path:{}", own.display());
    let held = vec![(entry("web", WEB, &[&my_uid(), &path]), valid(&ca.svid(WEB)))];
    let agent = Agent::start(view(&ca, held));
    let stranger = OtherName::new("workload-api-stranger");
    assert_eq!(ask_as(own, &agent).await, WEB);
    assert_eq!(ask_as(stranger.0.clone(), &agent).await, "PermissionDenied");
}

#[tokio::test]
async fn a_workload_sees_only_whom_its_entries_are_federated_with() {
    let cas = ["a.example", "b.example", "c.example"].map(Ca::new);
    let only_b = |id: &str, spiffe_id: &str, federated: &[&str]| {
        let federates_with = federated.iter().map(|name| name.parse().unwrap()).collect();
        let entry = crate::identity::Entry { federates_with, ..entry(id, spiffe_id, &[&my_uid()]) };
        (entry, valid(&cas[0].svid(spiffe_id)))
    };
    let agent = Agent::start(view(&cas[0], vec![only_b("1", WEB, &[])]));
    agent.change(|view| view.bundles = bundles(&cas.each_ref()));
    let mut stream = svids(&agent).await;
    let message = soon(stream.message()).await.unwrap().unwrap();
    assert!(message.federated_bundles.is_empty(), "none is named");
    let grant = |held: Vec<_>| {
        let held = view(&cas[0], held).held;
        agent.change(|view| view.hold(held));
    };
    grant(vec![only_b("1", WEB, &["b.example"])]);
    let message = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(message.federated_bundles.into_keys().collect::<Vec<_>>(), ["spiffe://b.example"]);
    grant(vec![only_b("1", WEB, &["b.example"]), only_b("2", JOB, &["c.example", "d.example"])]);
    let message = soon(stream.message()).await.unwrap().unwrap();
    let named: Vec<_> = message.federated_bundles.into_keys().collect();
    assert_eq!(named, ["spiffe://b.example", "spiffe://c.example"], "both identities' together");
}

#[tokio::test]
async fn f_18_a_trust_domain_that_is_ended_is_gone_from_every_stream_at_once() {
    let (a, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let (agent, _) = agent(&a);
    agent.change(|view| view.bundles = bundles(&[&a, &b]));
    let mut with_svids = svids(&agent).await;
    let mut alone =
        soon(client(&agent).fetch_x509_bundles(with_header(X509BundlesRequest {}))).await.unwrap().into_inner();
    assert!(soon(with_svids.message()).await.unwrap().unwrap().federated_bundles.contains_key("spiffe://b.example"));
    assert_eq!(soon(alone.message()).await.unwrap().unwrap().bundles.len(), 2);
    agent.change(|view| view.bundles = bundles(&[&a]));
    assert!(soon(with_svids.message()).await.unwrap().unwrap().federated_bundles.is_empty());
    assert_eq!(
        soon(alone.message()).await.unwrap().unwrap().bundles.into_keys().collect::<Vec<_>>(),
        ["spiffe://a.example"]
    );
}
