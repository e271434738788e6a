//! Bad input 1 to 18 where it arrives: as a CSR in `Mint`, from a node with a good SVID. In detail: `identity`'s own tests. Row 19 is the
//! entry's, row 20 the batch's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, KeyUsagePurpose, SanType};
use symbolon_kit::spiffe::svid::new_key;
use symbolon_proto::node::minted::Outcome;
use symbolon_tests::mesh::Mesh;

/// What is asked, and the word it is refused with.
struct Row {
    name: &'static str,
    csr: Vec<u8>,
    reason: &'static str,
}

const SAN: [u64; 4] = [2, 5, 29, 17];
const PRIVATE: [u64; 8] = [1, 3, 6, 1, 4, 1, 55555, 1];

fn csr(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).expect("a request").der().to_vec()
}

fn asking(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    csr(&KeyPair::generate().expect("a key"), change)
}

fn extended(oid: &[u64], content: &[u8], critical: bool) -> Vec<u8> {
    asking(|params| params.custom_extensions = vec![extension(oid, content, critical)])
}

fn extension(oid: &[u64], content: &[u8], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

fn uris(uris: &[&str]) -> Vec<u8> {
    let name = |uri: &&str| SanType::URI((*uri).try_into().expect("ASCII"));
    asking(|params| params.subject_alt_names = uris.iter().map(name).collect())
}

fn dns(name: &str) -> Vec<u8> {
    asking(|params| params.subject_alt_names = vec![SanType::DnsName(name.try_into().expect("ASCII"))])
}

fn thousand(count: u64, kinds: u64) -> Vec<u8> {
    let one = |n: u64| extension(&[1, 3, 6, 1, 4, 1, 55555, n % kinds], &[5, 0], false);
    asking(|params| params.custom_extensions = (0..count).map(one).collect())
}

fn made_by_openssl(name: &str) -> anyhow::Result<Vec<u8>> {
    let all: serde_json::Value = serde_json::from_str(include_str!("../../data/csrs.json"))?;
    Ok(STANDARD.decode(all[name].as_str().unwrap_or_default())?)
}

fn rows(authority: &KeyPair) -> anyhow::Result<Vec<Row>> {
    let row = |name, csr, reason| Row { name, csr, reason };
    let good = asking(|_| {});
    let mut unproven = good.clone();
    if let Some(last) = unproven.last_mut() {
        *last ^= 1;
    }
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n", STANDARD.encode(&good)).into_bytes();
    let nul = b"\x30\x0f\x82\x0dshop.example\0";
    let other = b"\x30\x10\xa0\x0e\x06\x03\x2a\x03\x04\xa0\x07\x0c\x05shop\0";
    Ok(vec![
        row("bad_001_empty", Vec::new(), "bad_csr"),
        row("bad_001_pem", pem, "bad_csr"),
        row("bad_001_noise", vec![0xa5; 300], "bad_csr"),
        row("bad_002_trailing_byte", [good.as_slice(), &[0]].concat(), "bad_csr"),
        row("bad_003_too_large", [good.as_slice(), &[0; 16 * 1024]].concat(), "bad_csr"),
        row("bad_004_no_possession", unproven, "bad_csr"),
        row("bad_005_rsa_1024", made_by_openssl("rsa_1024")?, "weak_key"),
        row("bad_005_p192", made_by_openssl("p_192")?, "weak_key"),
        row("bad_005_explicit_curve", made_by_openssl("explicit_p256")?, "weak_key"),
        row("bad_006_the_authoritys_key", csr(authority, |_| {}), "weak_key"),
        row(
            "bad_009_two_uris",
            uris(&["spiffe://a.example/ns/shop/sa/payments", "spiffe://a.example/admin"]),
            "bad_csr",
        ),
        row("bad_010_another_workloads_id", uris(&["spiffe://a.example/ns/shop/sa/checkout"]), "not_granted"),
        row("bad_011_the_control_planes_id", uris(&["spiffe://a.example/symbolon/controlplane/0"]), "not_granted"),
        row("bad_011_a_nodes_id", uris(&["spiffe://a.example/symbolon/node/n1"]), "not_granted"),
        row("bad_012_another_domains_id", uris(&["spiffe://b.example/ns/shop/sa/payments"]), "not_granted"),
        row("bad_013_unregistered_dns", dns("bank.example"), "not_granted"),
        row("bad_014_nul_in_a_dns_name", extended(&SAN, nul, false), "not_granted"),
        row("bad_014_other_name", extended(&SAN, other, false), "not_granted"),
        row("bad_015_an_authority", extended(&[2, 5, 29, 19], &[0x30, 3, 1, 1, 0xff], true), "bad_csr"),
        row("bad_016_may_sign", asking(|csr| csr.key_usages = vec![KeyUsagePurpose::KeyCertSign]), "bad_csr"),
        row("bad_017_unknown_critical", extended(&PRIVATE, &[5, 0], true), "bad_csr"),
        row("bad_018_twice", thousand(2, 1), "bad_csr"),
        row("bad_018_a_thousand", thousand(1000, 1000), "bad_csr"),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_001_to_018_a_csr_that_is_refused_says_why_and_is_counted() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let entry = mesh.a.entry("n1", "payments").await?;
    let node = mesh.a.node("n1").await?;
    let (_, authority) = mesh.a.stolen_authority().await?;
    for row in rows(&authority)? {
        let refused = || mesh.a.counted("symbolon_node_api_refusals", &[("reason", row.reason)]);
        let before = refused();
        match node.mint(&entry, row.csr).await? {
            Outcome::Refusal(refusal) => assert_eq!(refusal.reason, row.reason, "{}: {}", row.name, refusal.detail),
            Outcome::Svid(svid) => panic!("{}: {} was minted", row.name, svid.spiffe_id),
        }
        assert_eq!(refused(), before + 1, "{}", row.name);
        // Nobody else is disturbed, and the same entry is minted for a good one: bad_008, the name is the entry's.
        match node.mint(&entry, new_key()?.1).await? {
            Outcome::Svid(svid) => assert_eq!(svid.spiffe_id, mesh.a.settings.id("payments")),
            Outcome::Refusal(refusal) => panic!("after {}: {refusal:?}", row.name),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_007_a_key_speaks_for_one_identity() -> anyhow::Result<()> {
    let mesh = Mesh::builder().start().await?;
    let (payments, checkout) = (mesh.a.entry("n1", "payments").await?, mesh.a.entry("n1", "checkout").await?);
    let node = mesh.a.node("n1").await?;
    let csr = new_key()?.1;
    assert!(matches!(node.mint(&payments, csr.clone()).await?, Outcome::Svid(_)));
    assert!(matches!(node.mint(&payments, csr.clone()).await?, Outcome::Svid(_)), "again, for the same identity");
    for other in [checkout.as_str(), ""] {
        let Outcome::Refusal(refusal) = node.mint(other, csr.clone()).await? else {
            panic!("minted for {other:?} too")
        };
        assert_eq!(refusal.reason, "key_in_use", "{refusal:?}");
    }
    assert_eq!(mesh.a.counted("symbolon_node_api_refusals", &[("reason", "key_in_use")]), 2);
    Ok(())
}
