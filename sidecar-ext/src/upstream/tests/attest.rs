//! How a node gets in, back in, and what it says when it does not.

use std::time::SystemTime;

use symbolon_kit::spiffe::svid::new_key;

use super::*;

impl Run {
    fn start_at(control_plane: &ControlPlane, dir: &Path, evidence: Evidence, clock: Clock) -> Self {
        Self::try_start(control_plane, dir, evidence, clock).unwrap()
    }

    fn skew(&self) -> i64 {
        self.metrics.gauge("symbolon_sidecar_clock_skew_seconds", "").value(&[])
    }
}

fn attempts(control_plane: &ControlPlane) -> u32 {
    *lock(&control_plane.script.attempts)
}

/// A clock that stands so many seconds off.
fn clock_off_by(seconds: i64) -> Clock {
    let offset = Duration::from_secs(seconds.unsigned_abs());
    Clock::manual(if seconds < 0 { now() - offset } else { now() + offset })
}

#[tokio::test]
async fn an_answer_that_is_lost_does_not_cost_the_token() {
    let control_plane = ControlPlane::start().await;
    *lock(&control_plane.script.lost) = 2;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    run.connected().await;
    assert_eq!(run.failures("unanswered"), 2);
    assert!(!data.join("node.pending").exists(), "the key of the attestation is now the node's");
    run.stop().await;
}

#[tokio::test]
async fn fault_029_a_sidecar_killed_in_the_middle_of_attestation_goes_on_with_its_key() {
    let control_plane = ControlPlane::start().await;
    *lock(&control_plane.script.lost) = u32::MAX;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    eventually(|| run.failures("unanswered") > 0).await;
    run.stop().await; // the token is spent, and nobody has what it was spent for
    assert!(data.join("node.pending").exists());
    *lock(&control_plane.script.lost) = 0;
    let run = Run::start(&control_plane, &data, token("good"));
    run.connected().await;
    assert_eq!(run.failures("refused"), 0);
    run.stop().await;
}

#[tokio::test]
async fn fault_029_a_key_that_was_cut_short_on_disk_is_replaced() {
    let control_plane = ControlPlane::start().await;
    let (_dir, data) = data();
    Keep::open(&data).unwrap().save("node.pending", b"cut short").unwrap();
    let run = Run::start(&control_plane, &data, token("good"));
    run.connected().await;
    run.stop().await;
}

#[tokio::test]
async fn a_key_on_disk_that_serves_another_attempt_is_written_before_it_is_shown() {
    let control_plane = ControlPlane::start().await;
    *lock(&control_plane.script.lost) = u32::MAX;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    eventually(|| lock(&control_plane.script.spent).contains_key("good")).await;
    let kept = std::fs::read(data.join("node.pending")).unwrap();
    let csr = symbolon_kit::spiffe::svid::csr_of(&symbolon_kit::spiffe::svid::PrivateKey::from_pkcs8(kept)).unwrap();
    assert_eq!(lock(&control_plane.script.spent)["good"], csr_key(&csr));
    assert_ne!(csr_key(&new_key().unwrap().1), csr_key(&csr));
    run.stop().await;
}

#[tokio::test]
async fn an_evicted_node_that_joined_by_a_token_comes_back_by_the_next_one() {
    let control_plane = ControlPlane::start().await;
    let (dir, data) = data();
    let file = dir.path().join("token");
    std::fs::write(&file, "good").unwrap();
    let run = Run::start(&control_plane, &data, Evidence::JoinTokenFile(file.clone()));
    run.connected().await;
    control_plane.script.refuses.send_replace(Some("node_gone"));
    control_plane.drain.start(); // as the control plane ends the connections of an evicted node
    let control_plane = control_plane.again().await;
    eventually(|| attempts(&control_plane) > 1).await; // the old token is tried, and refused
    lock(&control_plane.script.tokens).insert("second".into());
    std::fs::write(&file, "second").unwrap();
    until(&mut control_plane.script.refuses.subscribe(), Option::is_none).await;
    run.connected().await;
    assert_eq!(run.handle.heard().entries.borrow().as_ref().unwrap().len(), 1, "and nothing was withdrawn meanwhile");
    run.stop().await;
}

#[tokio::test]
async fn a_banned_node_says_so_and_asks_on_until_the_ban_is_lifted() {
    let control_plane = ControlPlane::start().await;
    control_plane.script.refuses.send_replace(Some("node_banned"));
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    eventually(|| run.failures("not_allowed") > 1).await;
    assert!(lock(&control_plane.script.tokens).contains("good"), "the token is not spent");
    control_plane.script.refuses.send_replace(None);
    run.connected().await;
    run.stop().await;
}

#[tokio::test]
async fn a_superseded_certificate_is_no_reason_to_attest() {
    let control_plane = ControlPlane::start().await;
    let (_dir, data) = data();
    let run = Run::start(&control_plane, &data, token("good"));
    run.connected().await;
    control_plane.script.refuses.send_replace(Some("node_superseded"));
    control_plane.drain.start();
    let control_plane = control_plane.again().await;
    until(&mut run.handle.connected(), |connected| !*connected).await;
    control_plane.script.refuses.send_replace(None);
    run.connected().await;
    assert_eq!(attempts(&control_plane), 1);
    run.stop().await;
}

#[tokio::test]
async fn fault_008_a_node_whose_clock_is_two_minutes_off_joins_and_is_told() {
    for off in [-120, 120, 0] {
        let control_plane = ControlPlane::start().await;
        let (_dir, data) = data();
        let run = Run::start_at(&control_plane, &data, token("good"), clock_off_by(off));
        run.connected().await;
        assert!((run.skew() - off).abs() <= 2, "{off}: {}", run.skew());
        run.stop().await;
        // A restart takes what was kept for valid too, though it begins in its future.
        let run = Run::start_at(&control_plane, &data, Evidence::None, clock_off_by(off));
        run.connected().await;
        assert_eq!(attempts(&control_plane), 1);
        run.stop().await;
    }
}

#[tokio::test]
async fn fault_008_a_clock_that_hides_the_control_plane_is_named() {
    let mut control_plane = ControlPlane::start().await;
    control_plane.stop().await;
    *lock(&control_plane.script.since) = now() - Duration::from_secs(10); // it was started just now
    control_plane = control_plane.listen().await;
    let (_dir, data) = data();
    let run = Run::start_at(&control_plane, &data, token("good"), clock_off_by(-120));
    eventually(|| run.failures("clock") > 0).await;
    assert_eq!(run.failures("refused") + run.failures("unanswered"), 0);
    run.stop().await;

    let anonymous = Identity::new(clock_off_by(-120));
    let trusted = control_plane.script.ca.bundle();
    anonymous.set_bundles(&BundleTable::from([(trusted.trust_domain.clone(), Arc::new(trusted))]));
    let says = offer(&control_plane, &anonymous, "good").await.unwrap_err().to_string();
    assert!(says.contains("Compare the clocks") && says.contains("not yet valid"), "{says}");
    assert!(says.contains(&format!("{}", time::OffsetDateTime::from(now()).year())), "with the time here: {says}");
    let _: SystemTime = now();
}

#[tokio::test]
async fn a_certificate_to_attest_with_is_read_with_care() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("node.crt"), dir.path().join("node.key"));
    let file = crate::config::X509PopFile { certificate: certificate.clone(), key: key.clone() };
    let says = || join::Offer::read(&Evidence::X509Pop(file.clone())).map(|_| ()).map_err(|why| why.to_string());
    assert!(says().unwrap_err().contains("node.key"));
    let pair = rcgen::generate_simple_self_signed(vec!["n1".to_owned()]).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    std::fs::write(&certificate, pair.cert.pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(says().unwrap_err().contains("chmod 600"), "bad input 136");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(says(), Ok(()));
    std::fs::write(&certificate, "").unwrap();
    assert!(says().unwrap_err().contains("node.crt"));
}
