//! Item 2: what is minted, from what, and for how long.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use serde_json::json;
use symbolon_kit::spiffe::svid::{new_key, validity};
use symbolon_proto::node::minted::Outcome;
use symbolon_proto::workload::{X509BundlesRequest, X509svidRequest};
use symbolon_tests::mesh::sidecar::with_header;
use symbolon_tests::mesh::{Mesh, soon};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use super::shop::caller;

#[tokio::test(flavor = "multi_thread")]
async fn x_a_minted_svid_keeps_the_profile_and_its_name_comes_from_the_entry() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let entry = mesh.a.entry("n1", "payments").await?;
    let node = mesh.a.node("n1").await?;
    let mut serials = BTreeSet::new();
    let bundle = mesh.a.bundle("").await?;
    let issuer_end = bundle.authorities.iter().map(|authority| authority.not_after).max().unwrap_or_default();
    for _ in 0..3 {
        let Outcome::Svid(svid) = node.mint(&entry, new_key()?.1).await? else { panic!("refused") };
        let (_, leaf) = X509Certificate::from_der(&svid.chain[0])?;
        let names = leaf.subject_alternative_name()?.expect("names").value.general_names.clone();
        assert!(matches!(names[..], [GeneralName::URI("spiffe://a.example/ns/shop/sa/payments")]), "{names:?}");
        assert_eq!(leaf.subject().iter().count(), 0, "the name is the URI");
        assert!(!leaf.is_ca());
        let usage = leaf.key_usage()?.expect("key usage");
        assert!(
            usage.critical
                && usage.value.digital_signature()
                && !usage.value.key_cert_sign()
                && !usage.value.crl_sign()
        );
        let extended = leaf.extended_key_usage()?.expect("extended key usage").value;
        assert!(extended.server_auth && extended.client_auth && !extended.any);
        assert!(leaf.validity().not_after.timestamp() <= issuer_end, "it does not outlive its issuer");
        assert_eq!(leaf.validity().not_after.timestamp(), svid.expires_at);
        let unknown = leaf
            .extensions()
            .iter()
            .filter(|one| matches!(one.parsed_extension(), ParsedExtension::UnsupportedExtension { .. }));
        assert_eq!(unknown.count(), 0);
        assert!(leaf.raw_serial().len() >= 16, "random");
        serials.insert(leaf.raw_serial().to_vec());
    }
    assert_eq!(serials.len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn x_a_csr_that_names_somebody_else_gets_no_such_name() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let entry = mesh.a.entry("n1", "payments").await?;
    let node = mesh.a.node("n1").await?;
    for account in ["checkout", "payments"] {
        let mut params = CertificateParams::new(vec!["bank.example".to_owned()])?;
        params.subject_alt_names.push(SanType::URI(mesh.a.settings.id(account).try_into()?));
        params.distinguished_name.push(DnType::CommonName, "root");
        let csr = params.serialize_request(&KeyPair::generate()?)?.der().to_vec();
        match node.mint(&entry, csr).await? {
            Outcome::Refusal(refusal) => assert!(["bad_csr", "not_granted"].contains(&&*refusal.reason), "{refusal:?}"),
            Outcome::Svid(svid) => panic!("{}: asked for a name that is not the entry's", svid.spiffe_id),
        }
    }
    let refused = |reason| mesh.a.counted("symbolon_node_api_refusals", &[("reason", reason)]);
    assert_eq!(refused("bad_csr") + refused("not_granted"), 2);
    Ok(())
}

/// With a TTL of 13 s, and 10 s of it backdated, half-life is a second away; everybody's at once: the control plane's own, the
/// node's, the workload's.
#[tokio::test(flavor = "multi_thread")]
async fn at_half_life_the_next_svid_comes_before_the_old_one_ends() -> anyhow::Result<()> {
    let short = |config: &mut controlplane::app::Config| {
        config.identity.svid_ttl = Duration::from_secs(13);
        config.identity.node_ttl = Duration::from_secs(13);
    };
    let mesh = Mesh::builder().a(|a| a.tweak = short).start().await?;
    mesh.a.entry("n1", "checkout").await?;
    let sidecar = mesh.a.sidecar("n1", caller(&mesh.a, "checkout", &[])).await?;
    let mut answers = sidecar.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
    let (mut keys, mut ends) = (BTreeSet::new(), Vec::<SystemTime>::new());
    while keys.len() < 2 {
        let answer = soon("an SVID", answers.message()).await??.expect("the stream goes on");
        let svid = &answer.svids[0];
        let (_, leaf) = X509Certificate::from_der(&svid.x509_svid)?;
        let (_, end) = validity(&svid.x509_svid[..svid.x509_svid.len()].to_vec().into())?;
        let now = symbolon_kit::clock::Clock::system().now();
        assert!(end > now, "what is served is valid");
        assert!(ends.last().is_none_or(|old| *old > now), "no gap: the old one was valid until the new one was there");
        assert_eq!(leaf.subject_alternative_name()?.map(|names| names.value.general_names.len()), Some(1));
        keys.insert(svid.x509_svid_key.clone());
        ends.push(end);
    }
    assert!(ends[1] > ends[0]);
    // The conversation, and what is minted over it, outlives the node's and the control plane's own rotation.
    assert_eq!(sidecar.counted("symbolon_sidecar_svids_expired", &[]), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_say_their_sequence_and_when_to_look_again() -> anyhow::Result<()> {
    let mesh = Mesh::builder().linked().await?;
    mesh.a.entry("n1", "checkout").await?;
    let sidecar = mesh.a.sidecar("n1", json!([])).await?;
    let own = mesh.a.bundle("").await?;
    for bundle in [own.clone(), mesh.b().bundle("a.example").await?] {
        let jwks: serde_json::Value = serde_json::from_slice(&bundle.jwks)?;
        assert_eq!(jwks["spiffe_sequence"].as_u64(), Some(own.sequence), "{jwks}");
        assert_eq!(jwks["spiffe_refresh_hint"].as_u64(), Some(60), "{jwks}");
        assert_eq!(jwks["keys"][0]["use"], "x509-svid");
    }
    // And the node's workloads get both, each under its own trust domain.
    let asked = with_header(X509BundlesRequest {});
    let mut answers = sidecar.workload_api().fetch_x509_bundles(asked).await?.into_inner();
    loop {
        let answer = soon("bundles", answers.message()).await??.expect("the stream goes on");
        let domains: Vec<_> = answer.bundles.keys().map(String::as_str).collect();
        if domains.len() == 2 {
            assert!(domains.iter().all(|one| one.trim_end_matches('/').ends_with(".example")), "{domains:?}");
            return Ok(());
        }
    }
}
