//! How trust ends: at once, everywhere, and for good.

use std::time::Duration;

use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_proto::admin as wire;
use symbolon_proto::node as node_wire;
use tokio::time::Instant;

use super::super::Rig;
use super::super::link::{establish, imported, live, of_b, peer, two};
use super::super::rig::{register, until};
use super::world::{B, held, shown};

/// What is promised.
const SOON: Duration = Duration::from_secs(1);

async fn delete(rig: &Rig) -> wire::Relationship {
    let asked = wire::DeleteRelationshipRequest { trust_domain: B.into() };
    rig.admin().delete_relationship(asked).await.unwrap().into_inner()
}

/// The trust domains of the bundles that a node is told, once `wanted` says so.
async fn told(down: &mut tonic::Streaming<node_wire::NodeUpdate>, wanted: impl Fn(&[String]) -> bool) {
    loop {
        let update = down.message().await.unwrap().expect("the stream goes on");
        let Some(node_wire::node_update::Update::Bundles(bundles)) = update.update else { continue };
        let mut domains: Vec<_> = bundles.bundles.into_keys().collect();
        domains.sort();
        if wanted(&domains) {
            return;
        }
    }
}

#[tokio::test]
async fn f_18_fault_015_an_ended_peer_is_gone_everywhere_within_a_second() {
    let (a, b) = two().await;
    establish(&a, &b).await;
    live(&a).await;
    live(&b).await;
    b.entry("n1", "payments").await;
    let mut theirs = b.node("n1").await;
    assert_eq!(register(&mut theirs, vec![of_b("pay-1", 7001)]).await.refusals, []);
    until("B's endpoint at A", async || (!imported(&a).await.is_empty()).then_some(())).await;
    let known = shown(&a, B).await.unwrap();
    assert_eq!((known.profile.as_str(), known.state.as_str(), known.source.as_str()), ("link", "FRESH", "link"));
    // A node of A's, told of both bundles.
    let mut ours = a.node("n2").await;
    let mut down = ours.client.sync(tokio_stream::pending()).await.unwrap().into_inner();
    told(&mut down, |domains| domains == ["a.example", B]).await;

    let began = Instant::now();
    assert_eq!(delete(&a).await.state, "TERMINATED");
    let everywhere = async {
        told(&mut down, |domains| domains == ["a.example"]).await;
        until("the imports are gone", async || imported(&a).await.is_empty().then_some(())).await;
        until("A's link is gone", async || (peer(&a).await.state == "PENDING").then_some(())).await;
        until("B's link is cut", async || (!peer(&b).await.last_error.is_empty()).then_some(())).await;
        assert_eq!(held(&a, B).await, None);
    };
    everywhere.await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());

    // B dials again and again, and A lets nobody of it in.
    let refused = a.running.metrics().counter("symbolon_handshakes_refused", "");
    let before = refused.value(&[("reason", "unknown_trust_domain")]);
    until("B was refused", async || (refused.value(&[("reason", "unknown_trust_domain")]) > before).then_some(()))
        .await;
    assert_eq!((peer(&a).await.state.as_str(), shown(&a, B).await.unwrap().state.as_str()), ("PENDING", "TERMINATED"));

    // An invitation does not bring it back either, nor does the bundle by hand, before the operator begins anew.
    let invite = wire::InvitePeerRequest { peer: "b".into(), ttl_seconds: 60 };
    let token = a.admin().invite_peer(invite).await.unwrap().into_inner().token;
    let accepted = b.admin().accept_peer(wire::AcceptPeerRequest { peer: "a".into(), token }).await;
    assert!(accepted.unwrap_err().message().contains("ended"));
    let jwks = b.admin().show_bundle(wire::ShowBundleRequest::default()).await.unwrap().into_inner().jwks;
    let set = wire::SetBundleRequest { trust_domain: B.into(), jwks, force: true };
    assert!(a.admin().set_bundle(set).await.unwrap_err().message().contains("ended"));

    // Nor does a restart.
    let a = a.restart().await;
    assert_eq!((held(&a, B).await, imported(&a).await), (None, vec![]));
    assert_eq!((peer(&a).await.state.as_str(), shown(&a, B).await.unwrap().state.as_str()), ("PENDING", "TERMINATED"));
}

#[tokio::test]
async fn f_18_trust_that_was_ended_begins_anew_by_the_operators_word_and_a_new_token() {
    let (a, b) = two().await;
    establish(&a, &b).await;
    live(&a).await;
    delete(&a).await;
    let again = super::world::relationship(B, "link", "", "", b"");
    assert_eq!(a.admin().set_relationship(again).await.unwrap().into_inner().state, "PENDING");
    establish(&a, &b).await;
    live(&a).await;
    assert_eq!(shown(&a, B).await.unwrap().state, "FRESH");
}

/// A relationship that operators made: once ended it is listed; once more, and it is not.
#[tokio::test]
async fn f_18_deleting_twice_takes_it_out_of_the_list() {
    let world = super::world::World::start().await;
    let asked = world.b.asked.lock().unwrap().len();
    let ended = delete(&world.a).await;
    assert_eq!((ended.state.as_str(), ended.sequence, ended.trusted_until), ("TERMINATED", 0, 0));
    assert_eq!(world.held().await, None);
    let refresh = wire::RefreshRelationshipRequest { trust_domain: B.into() };
    assert!(world.a.admin().refresh_relationship(refresh).await.is_err(), "nothing polls it any more");
    assert_eq!(world.b.asked.lock().unwrap().len(), asked);
    delete(&world.a).await;
    assert_eq!(shown(&world.a, B).await, None);
    let unknown = wire::DeleteRelationshipRequest { trust_domain: B.into() };
    assert_eq!(world.a.admin().delete_relationship(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
    // And it can be made again.
    let made = world.set("https_web", &world.b.url("localhost"), "", &[]).await.unwrap();
    assert_ne!(made.state, "TERMINATED");
    world.is("FRESH").await;
}

/// Fault 15: a peer that revokes everything is honoured; others are not touched.
#[tokio::test]
async fn fault_015_a_peer_that_revokes_all_its_keys_touches_nobody_else() {
    let (a, b) = two().await;
    establish(&a, &b).await;
    live(&a).await;
    let c = super::world::Root::of("c.example");
    let first = super::world::bytes(&super::world::document("c.example", 1, &[&c]));
    a.admin().set_relationship(super::world::relationship("c.example", "manual", "", "", &first)).await.unwrap();
    let before = held(&a, "c.example").await;
    let of_b: serde_json::Value = serde_json::from_slice(&held(&a, B).await.unwrap()).unwrap();
    let sequence = of_b["spiffe_sequence"].as_u64().unwrap() + 1;
    let domain = B.parse().unwrap();
    let empty = Bundle::new(domain, sequence, Duration::from_secs(60), Vec::new()).to_jwks();
    let set = wire::SetBundleRequest { trust_domain: B.into(), jwks: empty.into(), force: false };
    a.admin().set_bundle(set).await.unwrap();
    until("B's connection ends", async || (peer(&a).await.state != "LIVE").then_some(())).await;
    assert_eq!(held(&a, "c.example").await, before);
    drop(b);
}

/// What operators do to trust is in the audit log; what goes against the order of sequences, signed by the authority.
#[tokio::test]
async fn i_4_an_override_is_signed_into_the_audit_log() {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    use symbolon_kit::octets::{hex, sha256};

    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let a = super::world::rig(folder.clone(), "").await;
    let (one, two) = (super::world::Root::of(B), super::world::Root::of(B));
    let bytes = |sequence, root| super::world::bytes(&super::world::document(B, sequence, &[root]));
    a.admin().set_relationship(super::world::relationship(B, "manual", "", "", &bytes(100, &one))).await.unwrap();
    let lower = bytes(5, &two);
    let set = |force| wire::SetBundleRequest { trust_domain: B.into(), jwks: lower.clone().into(), force };
    assert!(a.admin().set_bundle(set(false)).await.unwrap_err().message().contains("older"), "bad_053");
    a.admin().set_bundle(set(true)).await.unwrap();
    delete(&a).await;

    let mut lines = Vec::new();
    for file in std::fs::read_dir(folder.path().join("data/audit")).unwrap() {
        lines.extend(std::fs::read_to_string(file.unwrap().path()).unwrap().lines().map(str::to_owned));
    }
    let records: Vec<serde_json::Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |kind: &str| records.iter().find(|record| record["kind"] == kind && record["trust_domain"] == B);
    for kind in ["relationship_created", "bundle_set", "refused", "relationship_deleted"] {
        assert!(of(kind).is_some(), "{kind}: {records:#?}");
    }
    let signed = of("bundle_overridden").expect("it is recorded");
    let said = |name: &str| signed[name].as_str().unwrap_or_default();
    assert_eq!((said("sequence_before"), said("sequence")), ("100", "5"));
    assert_eq!(said("sha256"), hex(&sha256(&lower)));
    for part in [B, "100", "5", &hex(&sha256(&lower))] {
        assert!(said("statement").contains(part), "{}", said("statement"));
    }
    let own: serde_json::Value = serde_json::from_slice(&held(&a, "").await.unwrap()).unwrap();
    let keys = own["keys"].as_array().unwrap().iter();
    let authorities = keys.filter_map(|key| key["x5c"][0].as_str()).map(|x5c| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(x5c).unwrap()
    });
    let by = authorities.into_iter().find(|der| hex(&sha256(der)) == said("signed_by")).expect("one of ours");
    let (_, by) = x509_parser::parse_x509_certificate(&by).unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, by.public_key().subject_public_key.data.to_vec());
    let digits = said("signature").as_bytes().chunks(2);
    let signature: Vec<u8> =
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
    key.verify(said("statement").as_bytes(), &signature).expect("the authority said so");
}
