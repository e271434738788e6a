use std::sync::Arc;

use super::super::client::connect;
use super::*;
use crate::identity::Holding;
use crate::svid::pem;
use crate::testing::{Agent, Ca, bundles, entry, eventually, my_uid, now, soon, view};

const WEB: &str = "spiffe://a.example/ns/shop/sa/web";

fn watch(agent: &Agent, dir: &Path, is_ours: fn(&str) -> bool) -> Watch {
    let command = "n=$(cat $SYMBOLON_DIR/../told 2>/dev/null || echo 0); echo $((n + 1)) > $SYMBOLON_DIR/../told";
    Watch {
        client: connect(&agent.socket),
        socket: agent.socket.clone(),
        output: Output::Json,
        folder: folder(Some(&dir.join("svid")), is_ours).unwrap(),
        hook: Hook::Command(command.into()),
        clock: Clock::system(),
    }
}

fn told(dir: &Path) -> u32 {
    std::fs::read_to_string(dir.join("told")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn files_follow_the_stream_and_the_program_is_told_of_each_change() {
    let (ca, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let dir = tempfile::tempdir().unwrap();
    let first = Holding::Valid(Arc::new(ca.svid(WEB)));
    let agent = Agent::start(view(&ca, vec![(entry("web", WEB, &[&my_uid()]), first)]));
    agent.change(|view| view.bundles = bundles(&[&ca, &b]));
    let watching = tokio::spawn(watch(&agent, dir.path(), x509::is_ours).x509());
    let read = |name: &str| std::fs::read_to_string(dir.path().join("svid").join(name)).unwrap_or_default();
    let serial = || pem::decode((read("svid.0.key") + &read("svid.0.pem")).as_bytes()).map(|svid| svid.serial).ok();
    eventually(|| told(dir.path()) == 1).await;
    assert!(serial().is_some() && read("federated_bundle.b.example.pem").starts_with("-----BEGIN CERTIFICATE"));
    let next = ca.svid(WEB);
    agent.hold(0, Holding::Valid(Arc::new(next.clone())));
    eventually(|| told(dir.path()) == 2).await;
    assert_eq!(serial(), Some(next.serial.clone()));
    // A trust domain that is ended loses its file.
    agent.change(|view| view.bundles = bundles(&[&ca]));
    eventually(|| told(dir.path()) == 3).await;
    assert!(!dir.path().join("svid/federated_bundle.b.example.pem").exists());
    watching.abort();
}

#[tokio::test]
async fn w_5_it_holds_its_stream_and_comes_back_and_an_error_withdraws_nothing() {
    let ca = Ca::new("a.example");
    let dir = tempfile::tempdir().unwrap();
    let first = ca.svid(WEB);
    let agent =
        Agent::start(view(&ca, vec![(entry("web", WEB, &[&my_uid()]), Holding::Valid(Arc::new(first.clone())))]));
    let watching = tokio::spawn(watch(&agent, dir.path(), x509::is_ours).x509());
    let read = |name: &str| std::fs::read_to_string(dir.path().join("svid").join(name)).unwrap_or_default();
    let serial = || pem::decode((read("svid.0.key") + &read("svid.0.pem")).as_bytes()).map(|svid| svid.serial).ok();
    eventually(|| serial() == Some(first.serial.clone())).await;
    let held = agent.view.borrow().held.clone();
    agent.change(|view| view.hold(Vec::new()));
    eventually(|| agent.refused("no_identity") > 0).await; // the stream has ended, and it has asked again
    assert_eq!(serial(), Some(first.serial));
    let next = ca.svid(WEB);
    agent.change(|view| view.hold(held));
    agent.hold(0, Holding::Valid(Arc::new(next.clone())));
    eventually(|| serial() == Some(next.serial.clone())).await;
    watching.abort();
}

#[tokio::test]
async fn a_token_is_written_beside_the_bundles_that_verify_others() {
    let ca = Ca::new("a.example");
    let dir = tempfile::tempdir().unwrap();
    let held = vec![(entry("web", WEB, &[&my_uid()]), Holding::Valid(Arc::new(ca.svid(WEB))))];
    let agent = Agent::start(view(&ca, held));
    let watching = tokio::spawn(watch(&agent, dir.path(), jwt::is_ours).jwt(vec!["db".into()], None));
    eventually(|| told(dir.path()) == 1).await;
    let read = |name: &str| std::fs::read_to_string(dir.path().join("svid").join(name)).unwrap();
    assert_eq!(read("jwt_svid.0.token").split('.').count(), 3);
    assert!(read("jwt_bundle.a.example.json").contains("\"keys\""));
    watching.abort();
    let _ = soon(watching).await;
}

#[test]
fn a_token_is_renewed_at_half_its_life_and_not_without_pause() {
    let at = |seconds| now() + Duration::from_secs(seconds);
    let wait = |issued_at, expires_at| until_half(issued_at, expires_at, now()).as_secs();
    assert_eq!(wait(Some(now()), at(300)), 150);
    assert_eq!(wait(Some(now() - Duration::from_secs(100)), at(200)), 50);
    assert_eq!(wait(Some(now() - Duration::from_secs(290)), at(10)), 1);
    assert_eq!(wait(None, at(60)), 30);
}
