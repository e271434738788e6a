use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::super::client::connect;
use super::super::folder::Folder;
use super::*;
use crate::identity::Holding;
use crate::testing::{Agent, Ca, bundles, entry, my_uid, view};

const WEB: &str = "spiffe://a.example/ns/shop/sa/web";

#[test]
fn certificates_are_parted_where_der_says_and_garbage_is_refused() {
    let (one, two) = (Ca::new("a.example").bundle().x509[0].clone(), Ca::new("b.example").bundle().x509[0].clone());
    let row = [&one[..], &two[..]].concat();
    assert_eq!(certificates(&row).unwrap(), [one, two]);
    assert!(certificates(&[]).unwrap().is_empty());
    for garbage in [&row[..row.len() - 1], &[0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x89, 0], &[0x31, 0]]
    {
        assert!(certificates(garbage).is_err(), "{garbage:?}");
    }
}

#[tokio::test]
async fn what_a_workload_gets_is_printed_and_written() {
    let (ca, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let svid = ca.svid(WEB);
    let agent =
        Agent::start(view(&ca, vec![(entry("web", WEB, &[&my_uid()]), Holding::Valid(Arc::new(svid.clone())))]));
    agent.change(|view| view.bundles = bundles(&[&ca, &b]));
    let fetched = read(ask(&mut connect(&agent.socket)).await.unwrap()).unwrap();

    let table = table(&fetched);
    assert!(table.starts_with("SPIFFE ID") && table.contains(WEB) && table.contains(&svid.serial), "{table}");
    assert!(table.contains("federated trust domains: b.example"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&render_json(&fetched)).unwrap();
    assert_eq!(
        (json["svids"][0]["spiffeId"].as_str(), json["svids"][0]["serial"].as_str()),
        (Some(WEB), Some(svid.serial.as_str()))
    );
    assert!(json["federatedBundles"]["b.example"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE"));
    assert!(!render_json(&fetched).contains("PRIVATE KEY"), "keys are written, never printed");

    let dir = tempfile::tempdir().unwrap();
    Folder::open(dir.path(), is_ours).unwrap().replace(&files(&fetched).unwrap()).unwrap();
    let kept = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let both = kept("svid.0.key") + &kept("svid.0.pem");
    assert_eq!(crate::svid::pem::decode(both.as_bytes()).unwrap().serial, svid.serial);
    assert_eq!(std::fs::metadata(dir.path().join("svid.0.key")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(
        (kept("bundle.0.pem"), kept("federated_bundle.b.example.pem")),
        (certificates_pem(&ca.bundle().x509), certificates_pem(&b.bundle().x509))
    );
}

#[test]
fn times_are_readable() {
    assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)), "2026-09-21T14:13:20Z");
}
