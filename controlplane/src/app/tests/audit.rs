//! The audit log through the ports: what nodes and operators do is in it, and whoever asks at the admin socket sees it.

use symbolon_kit::spiffe::svid::new_key;
use symbolon_proto::admin as wire;
use symbolon_proto::node;
use tonic::Streaming;

use super::Rig;

async fn tail(rig: &Rig, lines: u32, follow: bool) -> Streaming<wire::AuditRecord> {
    rig.admin().tail_audit(wire::TailAuditRequest { lines, follow }).await.unwrap().into_inner()
}

async fn all(rig: &Rig) -> Vec<serde_json::Value> {
    let (mut records, mut all) = (tail(rig, 10_000, false).await, Vec::new());
    while let Some(record) = records.message().await.unwrap() {
        all.push(serde_json::from_str(&record.json).unwrap());
    }
    all
}

async fn verify(rig: &Rig) -> wire::VerifyAuditResponse {
    rig.admin().verify_audit(wire::VerifyAuditRequest {}).await.unwrap().into_inner()
}

fn of<'a>(log: &'a [serde_json::Value], kind: &str) -> Vec<&'a serde_json::Value> {
    log.iter().filter(|record| record["kind"] == kind).collect()
}

#[tokio::test]
async fn what_nodes_and_operators_do_is_in_the_log_and_no_secret_is() {
    let rig = Rig::start().await;
    let entry = rig.entry("n1", "payments").await;
    let token = rig.token("n2").await;
    let mut node = rig.node("n1").await;
    let csr = |entry: &str| node::Csr { entry_id: entry.into(), csr: new_key().unwrap().1.into() };
    let asked =
        node::MintJwtRequest { orders: vec![node::JwtOrder { entry_id: entry.clone(), audience: vec!["db".into()] }] };
    let minted = node.client.mint_jwt(asked).await.unwrap().into_inner().results.remove(0).outcome;
    let Some(node::minted_jwt::Outcome::Svid(jwt)) = minted else { panic!("{minted:?}") };
    let asked = node::MintWitRequest { orders: Vec::new() };
    assert_eq!(node.client.mint_wit(asked).await.unwrap_err().code(), tonic::Code::Unimplemented);
    let asked = node::MintJwtRequest { orders: vec![node::JwtOrder::default(); 501] };
    assert_eq!(node.client.mint_jwt(asked).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    let asked = node::MintRequest { csrs: vec![csr(&entry), csr("none")] };
    assert_eq!(node.client.mint(asked).await.unwrap().into_inner().results.len(), 2);
    // A refusal stands before it is written down.
    let log = loop {
        let log = all(&rig).await;
        if of(&log, "refused").len() == 3 {
            break log;
        }
    };
    assert_eq!(of(&log, "entry_created")[0]["entry"], entry.as_str());
    assert_eq!(of(&log, "token_created").len(), 2);
    assert_eq!(of(&log, "token_used")[0]["node"], "n1");
    let issued: Vec<_> = of(&log, "issued_x509").into_iter().map(|one| one["id"].as_str().unwrap()).collect();
    let ids = ["symbolon/controlplane/0", "symbolon/node/n1", "ns/shop/sa/payments"];
    assert_eq!(issued, ids.map(|path| format!("spiffe://a.example/{path}")));
    assert_eq!(of(&log, "issued_jwt")[0]["id"], jwt.spiffe_id.as_str());
    let refused = of(&log, "refused")[2];
    assert_eq!((&refused["by"], &refused["reason"]), (&issued[1].into(), &"unknown_entry".into()));
    let text = serde_json::to_string(&log).unwrap();
    assert!(!text.contains(&token) && !text.contains(&jwt.token), "a token is never written down");
    assert!(verify(&rig).await.intact);
}

#[tokio::test]
async fn a_follower_gets_each_record_once_and_over_a_restart_the_chain_goes_on() {
    let rig = Rig::start().await;
    let mut records = tail(&rig, 1, true).await;
    let first: serde_json::Value = serde_json::from_str(&records.message().await.unwrap().unwrap().json).unwrap();
    let mut next = first["seq"].as_u64().unwrap();
    for n in 0..5 {
        rig.entry("n1", &format!("w{n}")).await;
        let record: serde_json::Value = serde_json::from_str(&records.message().await.unwrap().unwrap().json).unwrap();
        next += 1;
        assert_eq!((record["seq"].as_u64().unwrap(), record["kind"].as_str().unwrap()), (next, "entry_created"));
    }
    drop(records);
    let before = verify(&rig).await;
    let rig = rig.restart().await;
    let after = verify(&rig).await;
    assert!(before.intact && after.intact && after.records > before.records, "{before:?} {after:?}");
}

#[tokio::test]
async fn a_byte_flipped_on_disk_is_named_at_the_admin_socket() {
    let rig = Rig::start().await;
    rig.entry("n1", "payments").await;
    assert!(verify(&rig).await.intact);
    let folder = rig.folder();
    let file = std::fs::read_dir(folder.path().join("data/audit")).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("sa/payments", "sa/paymentz")).unwrap();
    let told = verify(&rig).await;
    assert!(!told.intact && told.problem.contains("was changed"), "{told:?}");
}

#[tokio::test]
async fn more_of_the_past_than_a_terminal_holds_is_refused() {
    let rig = Rig::start().await;
    let asked = wire::TailAuditRequest { lines: 10_001, follow: false };
    assert_eq!(rig.admin().tail_audit(asked).await.unwrap_err().code(), tonic::Code::InvalidArgument);
}
