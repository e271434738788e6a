//! The authority over its life, and what it signs.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use rcgen::SanType;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, spiffe_id, validity};
use symbolon_kit::spiffe::verify::{Usage, VerifyError};
use x509_parser::extensions::ParsedExtension;

use super::*;
use crate::identity::audit::Audit;
use crate::identity::authority::{Authorities, Authority};
use crate::identity::bundles::Bundles;
use crate::identity::issue::Issuer;
use crate::identity::keys::disk::Disk;
use crate::identity::keys::{KeyError, KeyManager};
use crate::store::{Committed, Event, Key, LeaseId, Prefix, Store, Stored, Txn};

/// The authority without its task, for tests that step it.
pub(super) async fn stepped(world: &World, store: SharedStore) -> (Authority, Issuer, Bundles) {
    let keys = Arc::new(Disk::open(&world.config.key_dir).unwrap());
    let (authority, _, issuer, bundles) = try_stepped(world, store, keys).await.unwrap();
    (authority, issuer, bundles)
}

pub(super) async fn try_stepped(
    world: &World,
    store: SharedStore,
    keys: Arc<dyn KeyManager>,
) -> Result<(Authority, Authorities, Issuer, Bundles), Error> {
    let (config, clock, metrics, drain) = (&world.config, world.clock.clone(), Metrics::new(), Drain::new());
    let bundles = Bundles::load(config, store.clone(), clock.clone()).await.unwrap();
    let tasks = Tasks::new(drain.clone());
    let (folder, kept) = (config.audit_dir.clone(), world.store.clone());
    let audit = Audit::start(folder, kept, clock.clone(), &metrics, &tasks, drain).await.unwrap();
    let made = Authority::with_keys(config, store, clock, bundles.clone(), audit, &metrics, keys).await;
    made.map(|(authority, handle, issuer)| (authority, handle, issuer, bundles))
}

pub(super) fn mint(issuer: &Issuer, ttl: Duration) -> Result<Minted, Refusal> {
    let id = "spiffe://a.example/shop".parse().unwrap();
    issuer.mint(&profile::Request::parse(&plain_csr())?.key_for(&id, &[])?, &id, ttl, &[])
}

#[tokio::test]
async fn the_first_start_makes_an_authority_and_publishes_it() {
    let world = world();
    let identity = world.start().await;
    let keys = world.keys();
    assert_eq!(keys.len(), 1);
    assert_eq!((keys[0].1, mode(&world.config.key_dir)), (0o600, 0o700));
    let own = identity.bundles.own().expect("published before anything is signed (I8)");
    assert_eq!(own.x509, [identity.issuer.active_certificate().unwrap()]);
    assert_eq!(own.refresh_hint, world.config.refresh_hint);
    let parsed = Bundle::parse_jwks(&world.config.trust_domain, &own.to_jwks(), world.clock.now()).unwrap();
    assert_eq!((parsed.warnings.len(), &parsed.bundle), (0, &*own), "others can read it");
}

#[tokio::test]
async fn x_4_x_6_x_8_x_9_the_authoritys_certificate() {
    let world = world();
    let identity = world.start().await;
    let der = identity.issuer.active_certificate().unwrap();
    let (_, root) = x509_parser::parse_x509_certificate(&der).unwrap();
    let san = root.subject_alternative_name().unwrap().unwrap();
    let names: Vec<_> = san.value.general_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["URI(spiffe://a.example)"], "X-4: its ID, without path");
    let constraints = root.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    let usage = root.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
    assert_eq!(root.raw_serial().len(), 20);
    assert!(root.verify_signature(None).is_ok(), "X-15: self-signed");
}

#[tokio::test]
async fn bad_136_a_key_that_others_can_read_refuses_to_start() {
    let world = world();
    world.start().await;
    let (path, _) = &world.keys()[0];
    for wide in [0o644, 0o640, 0o604, 0o660] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(wide)).unwrap();
        let error = world.try_start().await.unwrap_err();
        assert!(matches!(error, Error::Key(KeyError::Mode { mode, .. }) if mode == wide), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    world.start().await;
}

#[tokio::test]
async fn a_key_that_is_gone_or_damaged_refuses_to_start() {
    let world = world();
    world.start().await;
    let (path, _) = &world.keys()[0];
    let pem = std::fs::read(path).unwrap();
    std::fs::write(path, &pem[..pem.len() / 2]).unwrap();
    assert!(matches!(world.try_start().await, Err(Error::Key(KeyError::File { what: "is not a private key", .. }))));
    std::fs::remove_file(path).unwrap();
    let error = world.try_start().await.unwrap_err();
    assert!(matches!(error, Error::LostKey { error: KeyError::Missing { .. } }), "{error}");
    assert!(error.to_string().contains("--replace-lost-keys"), "{error}");
    assert_eq!(world.keys(), [], "no new authority was made in its place");
}

#[tokio::test]
async fn a_restart_keeps_the_authority_and_the_bundle() {
    let world = world();
    let first = world.start().await;
    let minted = first.renew_node(&node("node-1"), &plain_csr()).unwrap();
    world.clock.advance(Duration::from_secs(60));
    let again = world.start().await;
    assert_eq!(again.issuer.active_certificate(), first.issuer.active_certificate());
    assert_eq!(again.bundles.own(), first.bundles.own());
    assert_eq!(world.keys().len(), 1);
    assert!(anchors(&again).verify(&minted.chain, Usage::Client, world.clock.now()).is_ok());
}

#[tokio::test]
async fn a_store_of_another_trust_domain_is_refused() {
    let mut world = world();
    world.start().await;
    world.config.trust_domain = "b.example".parse().unwrap();
    let error = world.try_start().await.unwrap_err();
    assert!(matches!(&error, Error::OtherTrustDomain { stored, .. } if stored.as_str() == "a.example"), "{error}");
    world.config.trust_domain = "a.example".parse().unwrap();
    world.start().await;
}

#[tokio::test]
async fn x_1_x_2_x_3_x_6_x_8_x_10_x_11_what_is_minted() {
    let world = world();
    let identity = world.start().await;
    let (key, csr) = new_key().unwrap();
    let id = "spiffe://a.example/symbolon/controlplane/0".parse().unwrap();
    let minted = identity.own_svid(&id, csr).await.unwrap();
    let svid = Svid::new(minted.chain.clone(), PrivateKey::from_pkcs8(key.pkcs8().to_vec())).unwrap();
    assert_eq!((&svid.id, &svid.serial, svid.not_after), (&id, &minted.serial, minted.not_after));
    assert_eq!(svid.not_after, world.clock.now() + SVID_TTL);
    assert!(svid.not_before < world.clock.now(), "backdated for clocks that differ");
    for usage in [Usage::Client, Usage::Server] {
        assert_eq!(anchors(&identity).verify(&minted.chain, usage, world.clock.now()).as_ref(), Ok(&id));
    }
    let (_, leaf) = x509_parser::parse_x509_certificate(&minted.chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
    let constraints = leaf.basic_constraints().unwrap().expect("others require it to be present");
    assert!(!constraints.value.ca);
    assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
    let usages = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usages.server_auth && usages.client_auth && !usages.any);
    let root = identity.issuer.active_certificate().unwrap();
    assert_eq!(key_id(&minted.chain[0], true), key_id(&root, false), "it names its issuer's key");
}

/// The authority key identifier, or the subject's.
fn key_id(der: &CertificateDer<'_>, of_authority: bool) -> Vec<u8> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let found = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) if of_authority => Some(id.key_identifier.as_ref()?.0.to_vec()),
        ParsedExtension::SubjectKeyIdentifier(id) if !of_authority => Some(id.0.to_vec()),
        _ => None,
    });
    found.expect("a key identifier")
}

#[tokio::test]
async fn an_entrys_names_and_lifetime_are_its_svids() {
    let world = world();
    let identity = world.start().await;
    let (dns_names, ttl) = (vec!["shop.example".to_owned()], Some(SVID_TTL * 2));
    let entry = identity.entries.create(NewEntry { dns_names, ttl, ..new_entry() }).await.unwrap();
    let minted = identity.mint_for_entry(&node("node-1"), &entry.id, &plain_csr()).unwrap();
    assert_eq!(minted.not_after, world.clock.now() + SVID_TTL * 2);
    assert_eq!(spiffe_id(&minted.chain[0]).unwrap(), entry.spiffe_id);
    let (_, leaf) = x509_parser::parse_x509_certificate(&minted.chain[0]).unwrap();
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    let names: Vec<_> = san.value.general_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["URI(spiffe://a.example/shop)", "DNSName(shop.example)"]);
}

#[tokio::test]
async fn the_same_key_gets_another_serial() {
    let identity = world().start().await;
    let csr = plain_csr();
    let serial = || identity.renew_node(&node("node-1"), &csr).unwrap().serial;
    let (one, two) = (serial(), serial());
    assert_ne!(one, two);
    assert_eq!((one.len(), two.len()), (40, 40), "20 bytes");
}

#[tokio::test]
async fn bad_019_nothing_outlives_its_issuer() {
    let world = world();
    let (_, issuer, _) = stepped(&world, world.store.clone()).await;
    let (_, end) = validity(&issuer.active_certificate().unwrap()).unwrap();
    for ttl in [CA_TTL * 2, Duration::from_secs(100 * 365 * 24 * 3600), Duration::MAX] {
        let minted = mint(&issuer, ttl).unwrap();
        assert_eq!(minted.not_after, end);
        assert_eq!(validity(&minted.chain[0]).unwrap().1, end);
    }
}

#[tokio::test]
async fn i_6_an_expired_authority_signs_nothing() {
    let world = world();
    let (mut authority, issuer, bundles) = stepped(&world, world.store.clone()).await;
    world.clock.advance(CA_TTL + Duration::from_secs(1));
    assert_eq!(mint(&issuer, SVID_TTL).unwrap_err(), Refusal::Unavailable);
    authority.catch_up().await.unwrap();
    let minted = mint(&issuer, SVID_TTL).unwrap();
    assert!(Anchors::new(&bundles.all()).verify(&minted.chain, Usage::Server, world.clock.now()).is_ok());
    assert_eq!((bundles.own().unwrap().x509.len(), world.keys().len()), (2, 2), "the expired one is kept for a while");
    let expired = bundles.own().unwrap().x509[0].clone();
    world.clock.advance(CA_TTL - Duration::from_secs(1));
    authority.catch_up().await.unwrap();
    assert!(!bundles.own().unwrap().x509.contains(&expired), "and then forgotten");
    assert_eq!(world.keys().len(), 2, "its key too; there is the one that signs and the next");
}

#[tokio::test]
async fn i_1_nothing_is_signed_for_another_trust_domain() {
    let world = world();
    let (_, issuer, _) = stepped(&world, world.store.clone()).await;
    let foreign = "spiffe://b.example/shop".parse().unwrap();
    let key = profile::Request::parse(&plain_csr()).unwrap().key_for(&foreign, &[]).unwrap();
    assert!(matches!(issuer.mint(&key, &foreign, SVID_TTL, &[]), Err(Refusal::NotGranted(_))));
}

#[tokio::test]
async fn i_8_a_new_authority_is_published_long_before_it_signs() {
    let world = world();
    let (mut authority, issuer, bundles) = stepped(&world, world.store.clone()).await;
    let (first, sequence) = (issuer.active_certificate().unwrap(), bundles.own().unwrap().sequence);
    let old = mint(&issuer, CA_TTL).unwrap();

    world.clock.advance(CA_TTL / 2);
    authority.catch_up().await.unwrap();
    let own = bundles.own().unwrap();
    assert_eq!((own.x509.len(), own.x509[0] == first), (2, true), "prepared: in the bundle");
    assert!(own.sequence > sequence);
    assert_eq!(issuer.active_certificate(), Some(first.clone()), "and signs nothing yet");
    let (_, restarted, _) = stepped(&world, world.store.clone()).await;
    assert_eq!(restarted.active_certificate(), Some(first.clone()), "nor after a restart");

    world.clock.advance(CA_TTL / 3);
    authority.catch_up().await.unwrap();
    assert_eq!(issuer.active_certificate(), Some(own.x509[1].clone()), "activated when a sixth remains");
    assert_eq!(bundles.own(), Some(own), "nothing else changed");
    let verifies =
        |minted: &Minted| Anchors::new(&bundles.all()).verify(&minted.chain, Usage::Server, world.clock.now());
    verifies(&old).unwrap();
    verifies(&mint(&issuer, SVID_TTL).unwrap()).unwrap();

    world.clock.advance(CA_TTL / 6 + Duration::from_secs(1));
    authority.catch_up().await.unwrap();
    assert!(matches!(verifies(&old), Err(VerifyError::Validity)), "expired is never accepted (I6)");
    world.clock.advance(CA_TTL);
    authority.catch_up().await.unwrap();
    assert!(!bundles.own().unwrap().x509.contains(&first), "forgotten a while after it expired");
    assert!(matches!(verifies(&old), Err(VerifyError::Validity | VerifyError::UnknownIssuer(_))));
}

/// A store that can be told to refuse commits.
#[derive(Debug)]
pub(super) struct Failing {
    pub(super) inner: SharedStore,
    pub(super) fails: AtomicBool,
}

impl Store for Failing {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Stored>, store::Error>> {
        self.inner.get(key)
    }

    fn range(&self, prefix: Prefix) -> BoxFuture<'_, Result<(Vec<Stored>, u64), store::Error>> {
        self.inner.range(prefix)
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, store::Error>> {
        if self.fails.load(Ordering::Relaxed) {
            let full = store::Error::Io { doing: "commit", why: "no space left on device".into() };
            return Box::pin(async { Err(full) });
        }
        self.inner.commit(txn)
    }

    fn watch(&self, prefix: Prefix, revision: u64) -> BoxStream<'static, Result<Event, store::Error>> {
        self.inner.watch(prefix, revision)
    }

    fn grant_lease(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, store::Error>> {
        self.inner.grant_lease(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), store::Error>> {
        self.inner.keep_alive(lease)
    }
}

#[tokio::test]
async fn fault_003_a_full_disk_delays_the_schedule_and_nothing_else() {
    let world = world();
    let store = Arc::new(Failing { inner: world.store.clone(), fails: AtomicBool::new(false) });
    let (mut authority, issuer, bundles) = stepped(&world, store.clone()).await;
    let (first, published) = (issuer.active_certificate(), bundles.own());
    for (due, step) in [("prepare", CA_TTL / 2), ("activate", CA_TTL / 3)] {
        let before = (issuer.active_certificate(), bundles.own());
        world.clock.advance(step);
        store.fails.store(true, Ordering::Relaxed);
        authority.catch_up().await.unwrap_err();
        authority.catch_up().await.unwrap_err();
        assert_eq!((issuer.active_certificate(), bundles.own()), before, "{due}: nothing took effect");
        mint(&issuer, SVID_TTL).unwrap();
        store.fails.store(false, Ordering::Relaxed);
        authority.catch_up().await.unwrap();
        assert_ne!((issuer.active_certificate(), bundles.own()), before, "{due}: made up for");
    }
    assert_ne!((issuer.active_certificate(), bundles.own()), (first, published));
    // What is in force is what a restart finds.
    let (_, restarted, found) = stepped(&world, world.store.clone()).await;
    assert_eq!((restarted.active_certificate(), found.own()), (issuer.active_certificate(), bundles.own()));
}

#[tokio::test]
async fn the_csrs_own_id_may_be_the_granted_one() {
    let world = world();
    let identity = world.start().await;
    let entry = identity.entries.create(new_entry()).await.unwrap();
    let csr = csr(|params| params.subject_alt_names = vec![SanType::URI(entry.spiffe_id.as_str().try_into().unwrap())]);
    assert_eq!(identity.mint_for_entry(&node("node-1"), &entry.id, &csr).unwrap().id, entry.spiffe_id);
}
