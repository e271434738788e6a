//! How foreign endpoints are polled: by which profile, how often, and each for itself.

use std::sync::Arc;
use std::time::Duration;

use symbolon_proto::admin as wire;
use tokio::time::Instant;

use super::super::Rig;
use super::super::rig::until;
use super::hostile::{Answer, Hostile, Web};
use super::world::{B, Root, World, bytes, document, held, is, relationship, rig, shown, start};

const SERVER: &str = "spiffe://b.example/spire/server";

fn json(sequence: u64, roots: &[&Root]) -> Vec<u8> {
    bytes(&document(B, sequence, roots))
}

async fn refresh(rig: &Rig) -> wire::Relationship {
    let asked = wire::RefreshRelationshipRequest { trust_domain: B.into() };
    rig.admin().refresh_relationship(asked).await.unwrap().into_inner()
}

/// Self-serving: verified by the operator's bundle first, by what it served last then; and it follows a rotation that is published
/// before it is used.
#[tokio::test]
async fn f_16_a_self_serving_endpoint_is_followed_through_a_rotation() {
    let (one, two) = (Root::of(B), Root::of(B));
    let b = Hostile::spiffe(&one.svid(SERVER)).await;
    let a = rig(Arc::new(tempfile::tempdir().unwrap()), "").await;
    let set = async |id: &str, first: &[u8]| {
        a.admin().set_relationship(relationship(B, "https_spiffe", &b.url("127.0.0.1"), id, first)).await
    };
    let refused = set(SERVER, b"").await.unwrap_err();
    assert!(refused.message().contains("--bundle"), "F-14: without a bundle it could not be verified: {refused}");
    b.answers(Answer::Json(json(2, &[&one, &two])));
    set(SERVER, &json(1, &[&one])).await.unwrap();
    until("fetched", async || (shown(&a, B).await?.sequence == 2).then_some(())).await;
    assert_eq!(shown(&a, B).await.unwrap().source, "endpoint");

    // The endpoint moves to its second authority, which it has published.
    let moved = Hostile::spiffe(&two.svid(SERVER)).await;
    moved.answers(Answer::Json(json(3, &[&two])));
    let asked = relationship(B, "https_spiffe", &moved.url("127.0.0.1"), SERVER, b"");
    a.admin().set_relationship(asked).await.unwrap();
    until("fetched", async || (shown(&a, B).await?.sequence == 3).then_some(())).await;

    // An endpoint by the withdrawn authority proves nothing.
    b.answers(Answer::Json(json(9, &[&one])));
    set(SERVER, b"").await.unwrap();
    is(&a, B, "FAILING").await;
    assert_eq!(shown(&a, B).await.unwrap().sequence, 3);
}

/// The endpoint proves the ID that the operator named, and no other of the same trust domain.
#[tokio::test]
async fn f_15_an_endpoint_with_another_id_is_another_endpoint() {
    let root = Root::of(B);
    let a = rig(Arc::new(tempfile::tempdir().unwrap()), "").await;
    let other = Hostile::spiffe(&root.svid("spiffe://b.example/web")).await;
    other.answers(Answer::Json(json(9, &[&root])));
    let asked = relationship(B, "https_spiffe", &other.url("127.0.0.1"), SERVER, &json(1, &[&root]));
    a.admin().set_relationship(asked).await.unwrap();
    until("the wrong ID is said", async || {
        shown(&a, B).await?.last_error.contains("spiffe://b.example/web").then_some(())
    })
    .await;
    assert_eq!((shown(&a, B).await.unwrap().sequence, other.asked.lock().unwrap().len()), (1, 0));
}

/// F-5, I2: each trust domain's authorities vouch for its own identities only, and no bundle holds another's.
#[tokio::test]
async fn f_5_bundles_of_two_endpoints_are_never_merged() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let web = Web::new(folder.path());
    let a = rig(folder, &format!("federation: {{rootsFile: {:?}}}\n", web.roots)).await;
    let mut seen = vec![authorities(&held(&a, "").await.unwrap())];
    for domain in [B, "c.example", "d.example"] {
        let (endpoint, root) = (Hostile::web(&web).await, Root::of(domain));
        endpoint.answers(Answer::Json(bytes(&document(domain, 1, &[&root]))));
        a.admin()
            .set_relationship(relationship(domain, "https_web", &endpoint.url("localhost"), "", b""))
            .await
            .unwrap();
        is(&a, domain, "FRESH").await;
        seen.push(authorities(&held(&a, domain).await.unwrap()));
    }
    assert!(seen.iter().all(|one| one.len() == 1), "{seen:?}");
    let all: std::collections::BTreeSet<_> = seen.iter().flatten().collect();
    assert_eq!(all.len(), 4, "no authority stands in two bundles");
    // Nor may one serve another's: what C's endpoint says of B's authority is refused.
    let refused = a.running.metrics().counter("symbolon_bundle_fetches", "");
    let labels = [("trust_domain", "e.example"), ("result", "shared_root")];
    let (thief, root) = (Hostile::web(&web).await, Root::with(B, |params| params.subject_alt_names.clear()));
    let both = bytes(&document("f.example", 1, &[&root]));
    a.admin().set_relationship(relationship("f.example", "manual", "", "", &both)).await.unwrap();
    thief.answers(Answer::Json(bytes(&document("e.example", 1, &[&root]))));
    a.admin().set_relationship(relationship("e.example", "https_web", &thief.url("localhost"), "", b"")).await.unwrap();
    until("refused", async || (refused.value(&labels) == 1).then_some(())).await;
    assert_eq!(held(&a, "e.example").await, None);
}

/// The X.509 authorities in a document.
fn authorities(jwks: &[u8]) -> Vec<String> {
    let value: serde_json::Value = serde_json::from_slice(jwks).unwrap();
    value["keys"].as_array().unwrap().iter().filter_map(|key| key["x5c"][0].as_str().map(str::to_owned)).collect()
}

/// F-14: an endpoint whose ID is of another trust domain is verified by that one's bundle, which must come from somewhere.
#[tokio::test]
async fn f_14_an_endpoint_of_another_trust_domain_is_verified_by_its_bundle() {
    let (root, c) = (Root::of(B), Root::of("c.example"));
    let id = "spiffe://c.example/bundles";
    let b = Hostile::spiffe(&c.svid(id)).await;
    b.answers(Answer::Json(json(1, &[&root])));
    let a = rig(Arc::new(tempfile::tempdir().unwrap()), "").await;
    let asked = relationship(B, "https_spiffe", &b.url("127.0.0.1"), id, b"");
    let refused = a.admin().set_relationship(asked.clone()).await.unwrap_err();
    assert!(refused.message().contains("c.example"), "{refused}");
    let first = bytes(&document("c.example", 1, &[&c]));
    a.admin().set_relationship(relationship("c.example", "manual", "", "", &first)).await.unwrap();
    assert_eq!(shown(&a, "c.example").await.unwrap().state, "FRESH");
    a.admin().set_relationship(asked).await.unwrap();
    is(&a, B, "FRESH").await;
    // F-5, I2: the two stay apart.
    let of = |jwks: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&jwks).unwrap()["keys"].clone();
    assert_ne!(of(held(&a, B).await.unwrap()), of(held(&a, "c.example").await.unwrap()));
}

/// The host's name is what the certificate must have, by an authority of the Web.
#[tokio::test]
async fn f_10_the_web_profile_wants_the_hosts_name() {
    let world = World::start().await;
    world.set("https_web", &world.b.url("127.0.0.1"), "", &[]).await.unwrap();
    until("the wrong name is said", async || (world.fetches("certificate") == 1).then_some(())).await;
    assert_eq!(world.shown().await.state, "FAILING");
    let stranger = tempfile::tempdir().unwrap();
    let unknown = Hostile::web(&Web::new(stranger.path())).await;
    world.set("https_web", &unknown.url("localhost"), "", &[]).await.unwrap();
    until("the unknown authority is said", async || (world.fetches("certificate") == 2).then_some(())).await;
    assert_eq!(world.shown().await.sequence, 10, "what is held stays");
}

/// No profile is tried in place of another.
#[tokio::test]
async fn f_7_a_profile_that_fails_falls_back_to_nothing() {
    let world = World::start().await;
    // A server of the Web's, asked for a SPIFFE ID.
    world.set("https_spiffe", &world.b.url("localhost"), SERVER, &[]).await.unwrap();
    until("no SVID", async || (world.fetches("certificate") == 1).then_some(())).await;
    // A server with an SVID, asked by the Web's rules.
    let spiffe = Hostile::spiffe(&world.root.svid(SERVER)).await;
    world.set("https_web", &spiffe.url("localhost"), "", &[]).await.unwrap();
    until("no Web certificate", async || (world.fetches("certificate") == 2).then_some(())).await;
    assert_eq!(world.shown().await.sequence, 10, "what is held stays");
}

/// One that is polled every 300 ms.
async fn polled() -> (Rig, Hostile, Root) {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let web = Web::new(folder.path());
    let (b, root) = (Hostile::web(&web).await, Root::of(B));
    b.answers(Answer::Json(json(1, &[&root])));
    let lines = format!("federation: {{rootsFile: {:?}}}\n", web.roots);
    let hasty = |config: &mut crate::app::Config| config.polling.longest_interval = INTERVAL;
    let a = Rig::start_with(folder, "a", "p", &lines, hasty).await.unwrap();
    a.admin().set_relationship(relationship(B, "https_web", &b.url("localhost"), "", b"")).await.unwrap();
    is(&a, B, "FRESH").await;
    (a, b, root)
}

const INTERVAL: Duration = Duration::from_millis(300);

#[tokio::test]
async fn f_3_an_endpoint_is_polled_by_its_hint() {
    let (a, b, root) = polled().await;
    for sequence in 2..5 {
        b.answers(Answer::Json(json(sequence, &[&root])));
        until("followed without a word", async || (shown(&a, B).await?.sequence == sequence).then_some(())).await;
    }
}

/// After a failure it waits for the next interval, too: no sooner, and for as long as it takes.
#[tokio::test]
async fn f_17_a_failure_waits_for_the_next_interval() {
    let (a, b, root) = polled().await;
    b.answers(Answer::Raw(b"HTTP/1.1 500 Oh no\r\n\r\n".to_vec()));
    is(&a, B, "FAILING").await;
    let (before, began) = (b.asked.lock().unwrap().len(), Instant::now());
    until("it goes on", async || (b.asked.lock().unwrap().len() >= before + 3).then_some(())).await;
    assert!(began.elapsed() >= INTERVAL * 2, "{:?}", began.elapsed());
    is(&a, B, "STALE").await;
    assert_eq!(shown(&a, B).await.unwrap().sequence, 1, "stale, and kept");
    b.answers(Answer::Json(json(9, &[&root])));
    is(&a, B, "FRESH").await;
}

/// One endpoint hangs: the others' bundles come all the same, and the relationship with it ends in no time.
#[tokio::test]
async fn fault_017_an_endpoint_that_hangs_delays_nobody_and_can_be_deleted() {
    let world = World::start().await;
    let mut hanging = Vec::new();
    for n in 0..20 {
        let one = Hostile::web(&world.web).await;
        let domain = format!("slow-{n}.example");
        let asked = relationship(&domain, "https_web", &one.url("localhost"), "", b"");
        world.a.admin().set_relationship(asked).await.unwrap();
        hanging.push((domain, one));
    }
    until("all hang", async || hanging.iter().all(|(_, one)| !one.asked.lock().unwrap().is_empty()).then_some(()))
        .await;
    world.b.answers(Answer::Json(json(11, &[&world.root])));
    let began = Instant::now();
    assert_eq!(world.refresh().await.sequence, 11);
    for (domain, _) in &hanging {
        let asked = wire::DeleteRelationshipRequest { trust_domain: domain.clone() };
        let ended = world.a.admin().delete_relationship(asked).await.unwrap().into_inner();
        assert_eq!(ended.state, "TERMINATED");
    }
    // All of it took less than one deadline.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(world.a.running.drain(Duration::from_secs(10)).await, "nor do they hold up the end");
}

/// Static relationships come from the file, override the operator's, and are not the operator's to change.
#[tokio::test]
async fn relationships_of_the_file_win_and_bootstrap_once() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let root = Root::of(B);
    std::fs::write(folder.path().join("b.json"), json(5, &[&root])).unwrap();
    let b = Hostile::spiffe(&root.svid(SERVER)).await;
    b.answers(Answer::Json(json(7, &[&root])));
    let lines = format!(
        "relationships:\n- {{trustDomain: {B}, profile: https_spiffe, url: \"{}\", endpointSpiffeId: \"{SERVER}\", \
         bootstrapBundle: {:?}, labels: {{tier: gold}}}}\n",
        b.url("127.0.0.1"),
        folder.path().join("b.json")
    );
    let a = rig(folder.clone(), &lines).await;
    is(&a, B, "FRESH").await;
    until("fetched", async || (shown(&a, B).await?.sequence == 7).then_some(())).await;
    let known = shown(&a, B).await.unwrap();
    assert!(known.is_static);
    assert_eq!(known.labels.get("tier").map(String::as_str), Some("gold"));
    let asked = relationship(B, "https_web", "https://b.example/", "", b"");
    let refused = a.admin().set_relationship(asked).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert_eq!(refresh(&a).await.state, "FRESH");
    // After a restart the file's first bundle is not what counts.
    assert!(a.running.drain(Duration::from_secs(10)).await);
    b.answers(Answer::Silence);
    let a = again(folder, &lines).await;
    assert_eq!(shown(&a, B).await.unwrap().sequence, 7);
}

/// Starts in a folder whose store may still be held for a moment.
async fn again(folder: Arc<tempfile::TempDir>, lines: &str) -> Rig {
    loop {
        match start(folder.clone(), lines).await {
            Ok(rig) => return rig,
            Err(error) if format!("{error:#}").contains("another process") => tokio::task::yield_now().await,
            Err(error) => panic!("{error:#}"),
        }
    }
}

/// What operators made outlives a restart; what no relationship names any more is forgotten.
#[tokio::test]
async fn f_18_a_trust_domain_that_nothing_names_is_forgotten_at_the_start() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let (root, c) = (Root::of(B), Root::of("c.example"));
    std::fs::write(folder.path().join("b.json"), json(5, &[&root])).unwrap();
    let file = folder.path().join("b.json");
    let lines = format!("relationships:\n- {{trustDomain: {B}, profile: manual, bootstrapBundle: {file:?}}}\n");
    let a = rig(folder.clone(), &lines).await;
    let first = bytes(&document("c.example", 1, &[&c]));
    a.admin().set_relationship(relationship("c.example", "manual", "", "", &first)).await.unwrap();
    assert!(held(&a, B).await.is_some() && held(&a, "c.example").await.is_some());
    assert!(a.running.drain(Duration::from_secs(10)).await);
    let a = again(folder.clone(), "").await;
    assert_eq!(held(&a, B).await, None, "the file names it no more");
    assert_eq!(shown(&a, "c.example").await.map(|one| one.state), Some("FRESH".into()));
    // And should the file name it again, it begins again.
    assert!(a.running.drain(Duration::from_secs(10)).await);
    let a = again(folder, &lines).await;
    assert!(held(&a, B).await.is_some());
}
