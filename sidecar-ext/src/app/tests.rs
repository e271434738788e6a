//! The whole sidecar in this process, against a control plane that is scripted but for the wire.

use symbolon_proto::node::node_report::Report;
use symbolon_proto::workload::X509svidRequest;
use symbolon_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;

use super::*;
use crate::testing::{eventually, soon, with_header};
use crate::upstream::tests::ControlPlane;

fn config(dir: &Path, control_plane: &ControlPlane) -> PathBuf {
    std::fs::write(dir.join("bundle.json"), control_plane.script.ca.bundle().to_jwks()).unwrap();
    std::fs::write(dir.join("token"), "good").unwrap();
    let text = format!(
        "trustDomain: a.example\ncontrolPlane: ['{address}']\nbootstrapBundle: {dir}/bundle.json\njoinTokenFile: {dir}/token\n\
         dataDir: {dir}/data\nsockets: {{agent: {dir}/run/agent.sock, xds: {dir}/run/xds.sock}}\nhttp: 127.0.0.1:0\n\
         workloads:\n- {{name: web, identity: 'spiffe://a.example/ns/shop/sa/web'}}\n",
        address = control_plane.address,
        dir = dir.display(),
    );
    let file = dir.join("sidecar.yaml");
    std::fs::write(&file, text).unwrap();
    file
}

async fn start(file: &Path) -> Running {
    let config = crate::config::load(file, []).unwrap();
    build(config, file.to_owned(), Seams { clock: Clock::system(), seed: 1 }).await.unwrap().spawn().unwrap()
}

async fn ready(running: &Running) {
    eventually(|| running.readiness.pending().is_empty()).await;
}

async fn fetch(dir: &Path) -> String {
    let mut client = SpiffeWorkloadApiClient::new(symbolon_kit::net::unix_channel(dir.join("run/agent.sock")));
    let answer = soon(client.fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap();
    soon(answer.into_inner().message()).await.unwrap().unwrap().svids[0].spiffe_id.clone()
}

#[tokio::test]
async fn it_joins_mints_serves_reports_and_drains() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start().await;
    let file = config(dir.path(), &control_plane);
    let running = start(&file).await;
    ready(&running).await;
    assert_eq!(fetch(dir.path()).await, "spiffe://a.example/ns/shop/sa/web");
    let Report::Workloads(report) = soon(control_plane.heard.recv()).await.unwrap() else { panic!() };
    assert_eq!(report.workloads[0].name, "web");
    assert!(running.drain(Duration::from_secs(10)).await, "everything ends");
    assert!(!dir.path().join("run/agent.sock").exists());
}

#[tokio::test]
async fn restarted_without_its_control_plane_it_serves_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    let file = config(dir.path(), &control_plane);
    let running = start(&file).await;
    ready(&running).await;
    assert!(running.drain(Duration::from_secs(10)).await);
    drop(control_plane);
    let text = std::fs::read_to_string(&file).unwrap();
    let at = text.find("controlPlane").unwrap()..text.find("\nbootstrapBundle").unwrap();
    std::fs::write(&file, text.replace(&text[at], "controlPlane: ['127.0.0.1:9']")).unwrap();
    let running = start(&file).await;
    assert_eq!(fetch(dir.path()).await, "spiffe://a.example/ns/shop/sa/web");
    ready(&running).await;
    assert!(running.drain(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn whatever_cannot_be_had_is_named_and_nothing_runs() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    let file = config(dir.path(), &control_plane);
    std::fs::create_dir(dir.path().join("run")).unwrap();
    std::fs::write(dir.path().join("run/xds.sock"), "in the way").unwrap();
    let config = crate::config::load(&file, []).unwrap();
    let refused = build(config.clone(), file.clone(), Seams::real()).await.unwrap_err();
    assert!(format!("{refused:#}").contains("sockets.xds"), "{refused:#}");
    assert!(!dir.path().join("run/agent.sock").exists(), "what was bound before is gone");
    std::fs::write(dir.path().join("bundle.json"), "{}").unwrap();
    let refused = build(config, file, Seams::real()).await.unwrap_err();
    assert!(format!("{refused:#}").contains("bootstrapBundle"), "{refused:#}");
}
