use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::clock::{Clock, unix_secs};
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::supervise::Tasks;
use symbolon_proto::admin::{ListIdentitiesRequest, ListServicesRequest, ShowBundleRequest, WatchRolloutRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use super::Rig;
use super::rig::{GRACE, register, workload};
use crate::app::own_svid::OwnSvid;
use crate::identity::{self, Identity};

#[tokio::test]
async fn what_was_acknowledged_is_there_from_the_first_answer_after_a_restart() {
    let rig = Rig::start().await;
    rig.entry("n1", "payments").await;
    let workloads = vec![workload("pay-1", 7001), workload("pay-2", 7002)];
    assert_eq!(register(&mut rig.node("n1").await, workloads).await.refusals, []);
    let services =
        async |rig: &Rig| rig.admin().list_services(ListServicesRequest::default()).await.unwrap().into_inner();
    let identities =
        async |rig: &Rig| rig.admin().list_identities(ListIdentitiesRequest::default()).await.unwrap().into_inner();
    let bundle = async |rig: &Rig| rig.admin().show_bundle(ShowBundleRequest::default()).await.unwrap().into_inner();
    let before = (services(&rig).await, identities(&rig).await, bundle(&rig).await);
    assert_eq!(before.0.services[0].endpoints.len(), 2);
    let rig = rig.restart().await;
    assert_eq!((services(&rig).await, identities(&rig).await, bundle(&rig).await), before);
}

#[tokio::test]
async fn stopping_ends_streams_with_a_reason_and_readiness_first() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1").await;
    let mut down = node.client.sync(tokio_stream::pending()).await.unwrap().into_inner();
    let watch = WatchRolloutRequest { service: "payments.shop".into(), ..WatchRolloutRequest::default() };
    let mut rollout = rig.admin().watch_rollout(watch).await.unwrap().into_inner();
    assert_eq!(rollout.message().await.unwrap().unwrap().phase, "Idle");
    let http = rig.running.addresses().http;
    // A connection that is open hears that we are stopping.
    let mut asking = tokio::net::TcpStream::connect(http).await.unwrap();
    asking.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 512];
    let read = asking.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    let readiness = rig.running.readiness().clone();
    let stopping = tokio::spawn(rig.running.drain(GRACE));
    let ended = loop {
        match down.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(readiness.pending(), ["stopping"]);
    assert!(stopping.await.unwrap(), "everything ends by itself within the grace");
}

#[tokio::test]
async fn a_second_control_plane_in_the_same_folder_is_refused() {
    let rig = Rig::start().await;
    let error = Rig::start_in(rig.folder()).await.err().unwrap();
    assert!(format!("{error:#}").contains("another control plane serves"), "{error:#}");
}

#[tokio::test]
async fn bad_136_a_key_file_that_others_can_read_stops_the_start() {
    let rig = Rig::start().await;
    let folder = rig.folder();
    assert!(rig.running.drain(GRACE).await);
    let keys = std::fs::read_dir(folder.path().join("data/keys")).unwrap();
    for key in keys {
        std::fs::set_permissions(key.unwrap().path(), PermissionsExt::from_mode(0o644)).unwrap();
    }
    let error = loop {
        match Rig::start_in(folder.clone()).await {
            Err(error) if format!("{error:#}").contains("another process has it open") => {
                tokio::task::yield_now().await;
            }
            Err(error) => break error,
            Ok(_) => panic!("it started"),
        }
    };
    assert!(format!("{error:#}").contains("chmod 600"), "{error:#}");
}

#[tokio::test]
async fn the_bound_addresses_are_written_down() {
    let rig = Rig::start().await;
    let file = std::fs::read(rig.folder().path().join("data/addresses.json")).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(written["node"], rig.running.addresses().node.to_string());
    assert_ne!(rig.running.addresses().node.port(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_own_svid_is_renewed_at_half_life() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let clock = Clock::manual(Clock::system().now());
    let (tasks, drain, metrics) = (Tasks::default(), Drain::new(), Metrics::new());
    let config = identity::Config {
        trust_domain: "a.example".parse().unwrap(),
        key_dir: folder.path().join("keys"),
        audit_dir: folder.path().join("audit"),
        minting: identity::mint::Settings::default(),
        ca_ttl: Duration::from_hours(24),
        svid_ttl: Duration::from_hours(1),
        node_ttl: Duration::from_hours(24),
        x509pop: None,
        fence: folder.path().join("tokens.fence"),
        refresh_hint: Duration::from_secs(10),
        authority: identity::authority::Settings::default(),
    };
    let store = crate::store::redb::open(&folder.path().join("store.redb")).unwrap();
    let identity = Identity::start(config, store, clock.clone(), &Metrics::new(), &tasks, drain.clone()).await.unwrap();
    let tls = symbolon_kit::tls::Identity::new(clock.clone());
    let id = "spiffe://a.example/symbolon/controlplane/0".parse().unwrap();
    let own = OwnSvid::start(identity, id, tls, clock.clone(), 7, &metrics).await.unwrap();
    let running = tokio::spawn(own.run(drain.clone()));
    let expires = metrics.gauge("symbolon_own_svid_expires_seconds", "");
    let first = expires.value(&[]);
    assert!((first - unix_secs(clock.now()) - 3600).abs() <= 1);
    clock.advance(Duration::from_secs(3600 * 44 / 100));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(expires.value(&[]), first, "not before");
    clock.advance(Duration::from_secs(3600 * 12 / 100));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(expires.value(&[]) > first + 1500, "renewed");
    drain.start();
    running.await.unwrap();
}
