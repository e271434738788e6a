use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Metrics;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::new_key;
use symbolon_kit::spiffe::{jwt, wit};
use symbolon_kit::supervise::Tasks;
use symbolon_proto::ids::TrustDomain;
use zeroize::Zeroizing;

use super::*;
use crate::identity::attest::{Evidence, Progress};
use crate::identity::audit::Audit;
use crate::identity::audit::folder::{Files, Segment, Volume};
use crate::identity::{Config, authority, entries};

/// A disk that can be full.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<AtomicBool>);

struct DiskFile(Box<dyn Segment>, Disk);

impl Volume for Disk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Segment>> {
        Ok(Box::new(DiskFile(Files.open(path)?, self.clone())))
    }
}

impl Segment for DiskFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.1.0.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { self.0.append(bytes) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.0.cut(length)
    }
}

struct World {
    identity: Identity,
    clock: Clock,
    disk: Disk,
    tasks: Tasks,
    drain: Drain,
    _folder: tempfile::TempDir,
}

async fn world(signatures_per_second: u32) -> World {
    world_with(signatures_per_second, false).await
}

async fn world_with(signatures_per_second: u32, wit: bool) -> World {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let store = crate::store::redb::open(&at("store.redb")).unwrap();
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    let ticking = clock.clone();
    let (metrics, drain, disk) = (Metrics::new(), Drain::new(), Disk::default());
    let tasks = Tasks::new(drain.clone());
    let config = Config {
        trust_domain: "a.example".parse().unwrap(),
        key_dir: at("keys"),
        audit_dir: at("unused"),
        minting: Settings { signatures_per_second, ..Settings::default() },
        ca_ttl: Duration::from_hours(24),
        svid_ttl: Duration::from_hours(1),
        node_ttl: Duration::from_hours(24),
        x509pop: None,
        fence: at("tokens.fence"),
        authority: authority::Settings { wit, ..authority::Settings::default() },
        refresh_hint: Duration::from_mins(1),
    };
    let mut identity =
        Identity::start(config, store.clone(), clock.clone(), &metrics, &tasks, drain.clone()).await.unwrap();
    let (volume, store) = (Arc::new(disk.clone()), crate::store::redb::open(&at("heads.redb")).unwrap());
    identity.audit = Audit::start_on(volume, at("audit"), store, clock, &metrics, &tasks, drain.clone()).await.unwrap();
    World { identity, clock: ticking, disk, tasks, drain, _folder: folder }
}

impl World {
    async fn entry(&self, node: &str, name: &str) -> String {
        let new = entries::New {
            spiffe_id: format!("spiffe://a.example/{name}"),
            node: node.to_owned(),
            selectors: vec!["unix:uid:1".to_owned()],
            ..entries::New::default()
        };
        self.identity.entries.create(new).await.unwrap().id.to_string()
    }

    /// Lets the node in; the serial of its certificate.
    async fn join(&self, node: &str) -> String {
        let token = self.identity.tokens.create(&node.parse().unwrap(), Duration::from_mins(1)).await.unwrap().token;
        match self.attest(&token, &new_key().unwrap().1).await.unwrap() {
            Progress::Done(admitted) => admitted.minted.serial,
            Progress::Challenge(_) => panic!("a join token needs no proof"),
        }
    }

    async fn attest(&self, token: &str, csr: &[u8]) -> Result<Progress, Refusal> {
        self.identity.attest(Evidence::JoinToken(Zeroizing::new(token.to_owned())), csr).await
    }

    async fn mint(&self, serial: &str, entries: &[&str]) -> Result<Vec<Result<Minted, Refusal>>, Refusal> {
        let order = |entry: &&str| Order { entry_id: (*entry).to_owned(), csr: new_key().unwrap().1.into() };
        self.identity.mint_batch(&"n1".parse().unwrap(), serial, entries.iter().map(order).collect()).await
    }

    async fn log(&self) -> Vec<serde_json::Value> {
        let (lines, _) = self.identity.audit.last(1_000).await.unwrap();
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn end(self) {
        self.drain.start();
        assert!(self.tasks.join(Duration::from_secs(5)).await);
    }
}

#[tokio::test]
async fn a_batch_is_answered_in_order_and_all_of_it_that_was_signed_is_in_the_log() {
    let world = world(1_000).await;
    let (mine, other) = (world.entry("n1", "mine").await, world.entry("n2", "other").await);
    let serial = world.join("n1").await;
    let answers = world.mint(&serial, &[&mine, &other, "none", "", &mine]).await.unwrap();
    let told: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().map(|minted| minted.id.as_str()).map_err(Refusal::label)).collect();
    let (node, mine_id) = ("spiffe://a.example/symbolon/node/n1", "spiffe://a.example/mine");
    assert_eq!(told, [Ok(mine_id), Err("not_your_entry"), Err("unknown_entry"), Ok(node), Ok(mine_id)]);
    let log = world.log().await;
    for minted in answers.iter().flatten() {
        let record = log.iter().find(|record| record["serial"] == minted.serial).expect("it is in the log");
        assert_eq!((&record["kind"], &record["by"]), (&"issued_x509".into(), &node.into()));
        assert_eq!(record["id"], minted.id.as_str());
    }
    let joined: Vec<_> = log.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    assert_eq!(joined[2..5], ["token_used", "node_attested", "issued_x509"]);
    let entry = log.iter().find(|record| record["id"] == mine_id).unwrap();
    assert_eq!(entry["entry"], mine.as_str());
    assert!(entry["revision"].as_u64().unwrap() > 0);
    world.end().await;
}

#[tokio::test]
async fn fault_044_no_credential_leaves_without_its_record() {
    let world = world(1_000).await;
    let mine = world.entry("n1", "mine").await;
    let serial = world.join("n1").await;
    let before = world.log().await.len();
    world.disk.0.store(true, Ordering::Relaxed);
    for answer in world.mint(&serial, &[&mine, "", "none"]).await.unwrap() {
        assert!(matches!(answer, Err(Refusal::NotRecorded | Refusal::UnknownEntry)), "{answer:?}");
    }
    let own = "spiffe://a.example/symbolon/controlplane/0".parse().unwrap();
    assert_eq!(world.identity.own_svid(&own, new_key().unwrap().1).await.unwrap_err(), Refusal::NotRecorded);
    let token = world.identity.tokens.create(&"n2".parse().unwrap(), Duration::from_mins(1)).await.unwrap().token;
    let (_, csr) = new_key().unwrap();
    assert_eq!(world.attest(&token, &csr).await.unwrap_err(), Refusal::NotRecorded);
    assert_eq!(world.log().await.len(), before);

    world.disk.0.store(false, Ordering::Relaxed);
    assert!(world.mint(&serial, &[&mine, ""]).await.unwrap().iter().all(Result::is_ok), "and it recovers");
    assert!(world.attest(&token, &csr).await.is_ok(), "the token is not lost either");
    world.end().await;
}

#[tokio::test]
async fn a_node_that_asks_for_too_much_is_told_when_to_ask_again() {
    let world = world(10).await;
    let serial = world.join("n1").await;
    let many = vec!["none"; 500];
    while world.mint(&serial, &many).await.is_ok() {}
    let refused = world.mint(&serial, &many).await.unwrap_err();
    assert!(matches!(refused, Refusal::TooFast(wait) if wait > Duration::from_secs(10)), "{refused:?}");
    world.end().await;
}

fn bundles_of(world: &World) -> impl Fn(&TrustDomain) -> Option<Arc<Bundle>> {
    let all = world.identity.bundles.all();
    move |trust_domain| all.get(trust_domain).cloned()
}

#[tokio::test]
async fn a_jwt_svid_says_what_the_entry_grants_is_named_in_the_log_and_not_written_there() {
    let world = world(1_000).await;
    let now = world.clock.now();
    let usual = world.entry("n1", "usual").await;
    let brief = entries::New {
        spiffe_id: "spiffe://a.example/brief".into(),
        node: "n1".into(),
        selectors: vec!["unix:uid:2".into()],
        jwt_ttl: Some(Duration::from_mins(1)),
        ..entries::New::default()
    };
    let brief = world.identity.entries.create(brief).await.unwrap().id.to_string();
    let other = world.entry("n2", "other").await;
    let order = |entry: &str, audience: &[&str]| JwtOrder {
        entry_id: entry.to_owned(),
        audience: audience.iter().map(|one| (*one).to_owned()).collect(),
    };
    let orders = vec![
        order(&usual, &["db", "cache"]),
        order(&brief, &["db"]),
        order(&other, &["db"]),
        order("", &["db"]),
        order(&usual, &[]),
        order(&usual, &[""]),
        order(&usual, &["x".repeat(20_000).as_str()]),
        order(&usual, &["x"; 1_000]),
    ];
    let answers = world.identity.mint_jwts(&"n1".parse().unwrap(), orders).await.unwrap();
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err().map(Refusal::label)).collect();
    let bad = "bad_audience";
    assert_eq!(refused, ["not_your_entry", "unknown_entry", bad, bad, bad, bad]);
    let minted: Vec<_> = answers.into_iter().flatten().collect();
    for (minted, lifetime) in minted.iter().zip([300, 60]) {
        assert_eq!(minted.expires_at, now + Duration::from_secs(lifetime));
        let claims = jwt::verify(minted.token.as_str(), "db", bundles_of(&world), now).unwrap();
        assert_eq!((&claims.sub, claims.exp), (&minted.id, minted.expires_at));
        assert_eq!(claims.all()["jti"], minted.jti.as_str());
        let record = world.log().await.into_iter().find(|record| record["jti"] == minted.jti.as_str()).unwrap();
        assert_eq!((&record["kind"], &record["kid"]), (&"issued_jwt".into(), &(*minted.kid).into()));
        assert_eq!(record["audience"][0], "db");
    }
    assert!(jwt::verify(minted[0].token.as_str(), "cache", bundles_of(&world), now).is_ok());
    assert!(jwt::verify(minted[0].token.as_str(), "queue", bundles_of(&world), now).is_err());
    let text = serde_json::to_string(&world.log().await).unwrap();
    assert!(!text.contains(minted[0].token.as_str()) && !text.contains("eyJ"), "{text}");
    world.end().await;
}

#[tokio::test]
async fn fault_044_no_token_leaves_without_its_record() {
    let world = world(1_000).await;
    let mine = world.entry("n1", "mine").await;
    world.disk.0.store(true, Ordering::Relaxed);
    let orders = vec![JwtOrder { entry_id: mine, audience: vec!["db".into()] }];
    let answers = world.identity.mint_jwts(&"n1".parse().unwrap(), orders).await.unwrap();
    assert_eq!(answers.into_iter().map(Result::unwrap_err).collect::<Vec<_>>(), [Refusal::NotRecorded]);
    world.disk.0.store(false, Ordering::Relaxed);
    world.end().await;
}

#[tokio::test]
async fn no_token_outlives_its_authority() {
    let world = world(1_000).await;
    let id = "spiffe://a.example/mine".parse().unwrap();
    let minted = world.identity.issuer.mint_jwt(&id, &["db".into()], Duration::from_hours(10_000)).unwrap();
    let end = world.identity.authorities.list().iter().find(|one| one.word.word() == "jwt").unwrap().not_after;
    assert!(minted.expires_at <= end && minted.expires_at > end - Duration::from_secs(1));
    let foreign = "spiffe://b.example/mine".parse().unwrap();
    let refused = world.identity.issuer.mint_jwt(&foreign, &["db".into()], Duration::from_mins(1)).unwrap_err();
    assert_eq!(refused.label(), "not_granted");
    world.end().await;
}

#[tokio::test]
async fn t_2_wit_svids_are_bound_to_the_keys_of_their_csrs_and_only_where_they_are_switched_on() {
    let off = world(1_000).await;
    let order = |entry: &str, csr: Vec<u8>| vec![WitOrder { entry_id: entry.to_owned(), csr: csr.into() }];
    let node: NodeName = "n1".parse().unwrap();
    let refused = off.identity.mint_wits(&node, order("none", new_key().unwrap().1)).await.unwrap_err();
    assert_eq!(refused, Refusal::Incubating);
    off.end().await;

    let world = world_with(1_000, true).await;
    let mine = world.entry("n1", "mine").await;
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let mut answers = world.identity.mint_wits(&node, order(&mine, csr)).await.unwrap();
    let minted = answers.remove(0).unwrap();
    let now = world.clock.now();
    let bound = wit::verify(minted.token.as_str(), bundles_of(&world), now).unwrap();
    let signing = &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let holder = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(signing, &key.serialize_der()).unwrap();
    let proof = holder.sign(&aws_lc_rs::rand::SystemRandom::new(), b"a nonce").unwrap();
    assert!(bound.clone().proven_by(b"another", proof.as_ref()).is_err());
    assert_eq!(bound.proven_by(b"a nonce", proof.as_ref()).unwrap().sub, minted.id);
    let refused = world.identity.mint_wits(&node, order(&mine, vec![0x30, 0])).await.unwrap().remove(0);
    assert_eq!(refused.unwrap_err().label(), "bad_csr");
    assert!(
        world.log().await.iter().any(|record| record["kind"] == "issued_wit" && record["jti"] == minted.jti.as_str())
    );
    world.end().await;
}

#[test]
fn refusals_are_safe_to_show_and_say_what_to_do() {
    let texts = [
        (Refusal::TooFast(Duration::from_millis(1_500)), "try again in 1500 ms"),
        (Refusal::Overloaded, "try again"),
        (Refusal::NotRecorded, "audit log"),
    ];
    for (refusal, words) in texts {
        assert!(refusal.to_string().contains(words), "{refusal}");
    }
}
