//! The authorities' lives by hand and by schedule, below an upstream authority, and in a PKCS#11 token.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer as RcgenIssuer, KeyUsagePurpose};
use symbolon_kit::spiffe::svid::key_id;
use symbolon_kit::spiffe::verify::Usage;

use super::authority::{mint, stepped};
use super::*;
use crate::identity::authority::slots::Refused;
use crate::identity::authority::{ChangeError, Order, Step, View, Word};
use crate::identity::keys::{self, KeyError};
use crate::identity::upstream::{self, UpstreamError};

const PROPAGATION: Duration = Duration::from_secs(180); // three times the refresh hint

fn order(word: Word, step: Step, id: &str) -> Order {
    Order { word, step, id: id.to_owned(), force: false }
}

/// The authorities of a kind, in words: `active`, `published`...
fn states(identity: &Identity, word: Word) -> Vec<&'static str> {
    identity.authorities.list().iter().filter(|view| view.word == word).map(|view| view.state).collect()
}

fn of(identity: &Identity, word: Word, state: &str) -> View {
    let list = identity.authorities.list();
    list.iter()
        .find(|view| view.word == word && view.state == state)
        .unwrap_or_else(|| panic!("{state}: {list:?}"))
        .clone()
}

fn refused(done: Result<(), ChangeError>) -> Refused {
    match done {
        Err(ChangeError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

fn verifies(identity: &Identity, world: &World, minted: &Minted) -> bool {
    let now = world.clock.now();
    [Usage::Client, Usage::Server].into_iter().all(|usage| anchors(identity).verify(&minted.chain, usage, now).is_ok())
}

#[tokio::test]
async fn prepare_activate_taint_revoke() {
    for word in [Word::X509, Word::Jwt] {
        let mut world = world();
        world.config.authority.wit = true;
        let identity = world.start().await;
        let change = async |step, id: &str| identity.authorities.change(order(word, step, id)).await;
        let first = of(&identity, word, "active").id;
        let minted = mint(&identity.issuer, SVID_TTL).unwrap();
        assert!(matches!(refused(change(Step::Taint, &first).await), Refused::OnlyOne(_)));
        change(Step::Prepare, "").await.unwrap();
        let second = of(&identity, word, "published").id;
        assert!(matches!(refused(change(Step::Prepare, "").await), Refused::Pending(_)));
        assert!(matches!(refused(change(Step::Activate, &second[..6]).await), Refused::TooSoon { .. }));
        assert!(matches!(refused(change(Step::Taint, &first).await), Refused::TooSoon { .. }));
        world.clock.advance(PROPAGATION);
        change(Step::Activate, &second[..6]).await.unwrap();
        assert_eq!(states(&identity, word), ["old", "active"]);
        assert!(verifies(&identity, &world, &minted), "what the old one signed is valid");
        assert!(matches!(refused(change(Step::Revoke, &first).await), Refused::NotTainted(_)));
        let mut taints = identity.authorities.taints();
        change(Step::Taint, &first).await.unwrap();
        assert!(taints.has_changed().unwrap(), "told at once");
        let tainted = taints.borrow_and_update().clone();
        let (x509, tokens) =
            if word == Word::X509 { (vec![first.clone()], vec![]) } else { (vec![], vec![first.clone()]) };
        assert_eq!(
            (tainted.x509.iter().cloned().collect::<Vec<_>>(), tainted.jwt.iter().cloned().collect()),
            (x509, tokens)
        );
        assert!(verifies(&identity, &world, &minted), "and still valid until it is replaced");
        assert!(matches!(refused(change(Step::Revoke, &first).await), Refused::StillUsed { .. }));
        world.clock.advance(PROPAGATION);
        let before = identity.bundles.own().unwrap();
        change(Step::Revoke, &first).await.unwrap();
        let after = identity.bundles.own().unwrap();
        assert!(after.sequence > before.sequence, "B-1");
        assert_eq!(verifies(&identity, &world, &minted), word != Word::X509);
        assert_eq!((after.x509.len(), after.jwt.len(), after.wit.len()), (1, 1, 1), "the revoked is out of the bundle");
        assert!(verifies(&identity, &world, &mint(&identity.issuer, SVID_TTL).unwrap()));
        assert!(matches!(refused(change(Step::Revoke, &second).await), Refused::State { state: "active", .. }));
        // A restart finds all of it, and the taint is told again.
        let again = world.start().await;
        assert_eq!(states(&again, word), ["revoked", "active"]);
        assert_eq!(again.bundles.own(), Some(after));
        assert_eq!(*again.authorities.taints().borrow(), tainted);
    }
}

#[tokio::test]
async fn the_bundle_holds_the_keys_of_tokens() {
    let mut world = world();
    let identity = world.start().await;
    let own = identity.bundles.own().unwrap();
    assert_eq!((own.jwt.len(), own.wit.len()), (1, 0));
    assert_eq!(own.jwt[0].kid, of(&identity, Word::Jwt, "active").id, "J-10: under its kid");
    world.config.authority.wit = true;
    let with = world.start().await.bundles.own().unwrap();
    assert_eq!((with.x509.len(), with.jwt.len(), with.wit.len()), (1, 1, 1), "switched on");
    world.config.authority.wit = false;
    let without = world.start().await.bundles.own().unwrap();
    assert_eq!(without.wit.len(), 0, "and off");
    assert!(without.sequence > with.sequence && with.sequence > own.sequence);
}

#[tokio::test]
async fn fault_021_a_stolen_key_tainted_in_a_hurry_and_revoked() {
    let world = world();
    let identity = world.start().await;
    let stolen = of(&identity, Word::X509, "active").id;
    let minted = mint(&identity.issuer, SVID_TTL).unwrap();
    let mut taints = identity.authorities.taints();
    let force = |step| Order { force: true, ..order(Word::X509, step, &stolen) };
    identity.authorities.change(force(Step::Taint)).await.unwrap();
    assert_eq!(states(&identity, Word::X509), ["tainted", "active"], "another was made, published, and signs");
    assert!(taints.borrow_and_update().x509.contains(&stolen));
    assert_eq!(world.keys().len(), 1, "the stolen key is destroyed here");
    // Everybody replaces what it signed; both are valid meanwhile, so that no request fails.
    let replaced = mint(&identity.issuer, SVID_TTL).unwrap();
    assert!(verifies(&identity, &world, &minted) && verifies(&identity, &world, &replaced));
    identity.authorities.change(force(Step::Revoke)).await.unwrap();
    assert!(!verifies(&identity, &world, &minted) && verifies(&identity, &world, &replaced));
    let lines = identity.audit.last(100).await.unwrap().0.join("\n");
    for kind in ["authority_prepared", "authority_activated", "authority_tainted", "authority_revoked"] {
        assert!(lines.contains(kind), "{kind} is in the audit log");
    }
}

#[tokio::test]
async fn unknown_and_ambiguous_ids_are_told() {
    let identity = world().start().await;
    let change = async |word, step, id: &str| refused(identity.authorities.change(order(word, step, id)).await);
    assert!(matches!(change(Word::X509, Step::Taint, "zz").await, Refused::Unknown(_)));
    assert!(matches!(change(Word::X509, Step::Taint, "").await, Refused::Unknown(_)));
    assert!(matches!(change(Word::Wit, Step::Prepare, "").await, Refused::Unknown(_)), "not switched on");
    assert!(matches!(change(Word::Upstream, Step::Taint, "ab").await, Refused::Unknown(_)));
    assert!(matches!(change(Word::Upstream, Step::Prepare, "").await, Refused::Unknown(_) | Refused::Upstream));
}

#[tokio::test]
async fn the_schedule_and_the_countdown_of_tokens_are_their_own() {
    let mut world = world();
    world.config.authority.jwt_ttl = Some(Duration::from_secs(6 * 3600));
    let (mut authority, issuer, bundles) = stepped(&world, world.store.clone()).await;
    let x509 = issuer.active_certificate();
    world.clock.advance(Duration::from_secs(3 * 3600));
    authority.catch_up().await.unwrap();
    let own = bundles.own().unwrap();
    assert_eq!((own.x509.len(), own.jwt.len()), (1, 2), "half of six hours");
    world.clock.advance(Duration::from_secs(2 * 3600));
    authority.catch_up().await.unwrap();
    assert_eq!((issuer.active_certificate(), bundles.own()), (x509, Some(own)), "handed over");
}

// === below an upstream authority ===

/// A corporate hierarchy, in files.
struct Corporate {
    folder: tempfile::TempDir,
    root: RcgenIssuer<'static, KeyPair>,
    root_der: Vec<u8>,
}

fn ca(name: &str, now: SystemTime, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + CA_TTL * 365).into();
    change(&mut params);
    params
}

impl Corporate {
    fn new(now: SystemTime, name: &str) -> Self {
        Self::with(now, name, |_| {})
    }

    fn with(now: SystemTime, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = (ca(name, now, change), KeyPair::generate().unwrap());
        let root_der = params.self_signed(&key).unwrap().der().to_vec();
        Self { folder: tempfile::tempdir().unwrap(), root: RcgenIssuer::new(params, key), root_der }
    }

    /// An issuing authority below the root, in the files.
    fn issue(&self, now: SystemTime, change: impl FnOnce(&mut CertificateParams)) -> upstream::Config {
        let key = KeyPair::generate().unwrap();
        let issued = ca("Issuing", now, change).signed_by(&key, &self.root).unwrap();
        self.write(&[issued.der()], &key.serialize_pem(), true)
    }

    fn write(&self, chain: &[&[u8]], key: &str, roots: bool) -> upstream::Config {
        let path = |name: &str| self.folder.path().join(name);
        let config = upstream::Config {
            certificate: path("ca.pem"),
            key: path("ca.key"),
            roots: roots.then(|| path("roots.pem")),
        };
        std::fs::write(&config.certificate, pem(chain)).unwrap();
        std::fs::write(path("roots.pem"), pem(&[&self.root_der])).unwrap();
        let _ = std::fs::remove_file(&config.key);
        std::fs::write(&config.key, key).unwrap();
        std::fs::set_permissions(&config.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        config
    }
}

fn pem(certificates: &[&[u8]]) -> String {
    use base64::Engine as _;
    let one = |der: &&[u8]| {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    certificates.iter().map(one).collect()
}

#[tokio::test]
async fn below_a_corporate_root_the_chain_is_served_and_the_root_published() {
    let mut world = world();
    let corporate = Corporate::new(world.clock.now(), "Corporate Root");
    world.config.authority.upstream = Some(corporate.issue(world.clock.now(), |_| {}));
    let identity = world.start().await;
    let own = identity.bundles.own().unwrap();
    assert_eq!(own.x509, [CertificateDer::from(corporate.root_der.clone())], "the root, not what is between");
    let minted = mint(&identity.issuer, SVID_TTL).unwrap();
    assert_eq!(minted.chain.len(), 3, "leaf, ours, the issuing one");
    assert!(verifies(&identity, &world, &minted));
    let (_, ours) = x509_parser::parse_x509_certificate(&minted.chain[1]).unwrap();
    let constraints = ours.basic_constraints().unwrap().unwrap().value;
    assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(0)), "it signs leaves only");
    let active = of(&identity, Word::X509, "active");
    assert_eq!((active.issuer.as_str(), key_id(&minted.chain[1]).unwrap()), ("CN=Issuing", active.id.to_string()));
    let above = of(&identity, Word::Upstream, "active");
    assert_eq!((above.issuer.as_str(), above.note.as_str()), ("CN=Corporate Root", ""));
    // A restart keeps it.
    let again = world.start().await;
    assert_eq!(again.bundles.own(), Some(own));
    assert!(verifies(&again, &world, &mint(&again.issuer, SVID_TTL).unwrap()));
}

#[tokio::test]
async fn a_root_itself_may_be_the_upstream_authority() {
    let mut world = world();
    let now = world.clock.now();
    let corporate = Corporate::new(now, "Corporate Root");
    let key = corporate.root.key().serialize_pem();
    world.config.authority.upstream = Some(corporate.write(&[&corporate.root_der], &key, false));
    let identity = world.start().await;
    let minted = mint(&identity.issuer, SVID_TTL).unwrap();
    assert_eq!(minted.chain.len(), 2, "leaf and ours: the root is in the bundle");
    assert!(verifies(&identity, &world, &minted));
}

#[tokio::test]
async fn another_upstream_authority_takes_over_and_the_first_is_tainted_and_revoked() {
    let mut world = world();
    let one = Corporate::new(world.clock.now(), "One");
    let config = one.issue(world.clock.now(), |_| {});
    world.config.authority.upstream = Some(config.clone());
    let identity = world.start().await;
    let minted = mint(&identity.issuer, SVID_TTL).unwrap();
    let first = of(&identity, Word::Upstream, "active").id;
    let change = async |word, step, id: &str| identity.authorities.change(order(word, step, id)).await;
    assert!(matches!(refused(change(Word::Upstream, Step::Taint, &first).await), Refused::UpstreamInUse(_)));
    assert!(matches!(refused(change(Word::Upstream, Step::Activate, &first).await), Refused::Upstream));
    // The operator lays the files of another one there.
    let two = Corporate::new(world.clock.now(), "Two");
    let laid = two.issue(world.clock.now(), |_| {});
    for (from, to) in [
        (&laid.certificate, &config.certificate),
        (&laid.key, &config.key),
        (laid.roots.as_ref().unwrap(), config.roots.as_ref().unwrap()),
    ] {
        std::fs::copy(from, to).unwrap();
    }
    change(Word::X509, Step::Prepare, "").await.unwrap();
    assert_eq!(identity.bundles.own().unwrap().x509.len(), 2, "published before anything is signed below it");
    world.clock.advance(PROPAGATION);
    change(Word::Upstream, Step::Taint, &first[..8]).await.unwrap();
    assert_eq!(states(&identity, Word::X509), ["tainted", "active"]);
    let replaced = mint(&identity.issuer, SVID_TTL).unwrap();
    assert!(verifies(&identity, &world, &minted) && verifies(&identity, &world, &replaced));
    world.clock.advance(PROPAGATION);
    change(Word::Upstream, Step::Revoke, &first).await.unwrap();
    assert_eq!(identity.bundles.own().unwrap().x509, [CertificateDer::from(two.root_der.clone())]);
    assert!(!verifies(&identity, &world, &minted) && verifies(&identity, &world, &replaced));
}

#[tokio::test]
async fn an_upstream_authority_that_is_not_fit_is_refused_in_words() {
    let mut world = world();
    let now = world.clock.now();
    let uri_constraint = |params: &mut CertificateParams| {
        // NameConstraints { permittedSubtrees [0] { GeneralSubtree { [6] "a.example" } } }
        let mut der = vec![0x30, 0x0f, 0xa0, 0x0d, 0x30, 0x0b, 0x86, 0x09];
        der.extend(b"a.example");
        params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 30], der));
    };
    let root = Corporate::new(now, "Corporate Root");
    let mut refused = async |config: upstream::Config| {
        world.config.authority.upstream = Some(config);
        match world.try_start().await {
            Err(Error::Upstream(error)) => (error.label(), error.to_string()),
            other => panic!("{other:?}"),
        }
    };
    let (label, text) = refused(root.issue(now, uri_constraint)).await;
    assert_eq!(label, "upstream_uri_constraints");
    assert!(text.contains("CN=Issuing has a name constraint on URIs"), "{text}");
    let constrained = Corporate::with(now, "Constrained", uri_constraint);
    assert_eq!(refused(constrained.issue(now, |_| {})).await.0, "upstream_uri_constraints", "on the root as well");
    let no_ca = |params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa;
    assert!(refused(root.issue(now, no_ca)).await.1.contains("not CA:TRUE"));
    let no_usage = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert!(refused(root.issue(now, no_usage)).await.1.contains("lacks keyCertSign"));
    let short = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    assert!(refused(root.issue(now, short)).await.1.contains("path length is too short"));
    let shorter = Corporate::with(now, "Shorter", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)));
    assert!(refused(shorter.issue(now, |_| {})).await.1.contains("CN=Shorter allows no authority below it"));
    let ended = |params: &mut CertificateParams| params.not_after = (now - Duration::from_secs(1)).into();
    assert_eq!(refused(root.issue(now, ended)).await.0, "upstream_expired");
    let later = |params: &mut CertificateParams| params.not_before = (now + Duration::from_secs(3600)).into();
    assert!(refused(root.issue(now, later)).await.1.contains("not valid yet"));
    let only_servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    assert_eq!(refused(root.issue(now, only_servers)).await.0, "upstream_refused", "what it signs would be refused");
    let other = Corporate::new(now, "Other");
    let mut without = root.issue(now, |_| {});
    std::fs::write(without.roots.as_ref().unwrap(), pem(&[&other.root_der])).unwrap();
    assert_eq!(refused(without.clone()).await.0, "upstream_no_root");
    without.roots = None;
    assert_eq!(refused(without).await.0, "upstream_no_root");
    let stranger = root.issue(now, |_| {});
    std::fs::write(&stranger.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert_eq!(refused(stranger.clone()).await.0, "upstream_key_mismatch");
    std::fs::set_permissions(&stranger.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (label, text) = refused(stranger.clone()).await;
    assert!(label == "upstream_key" && text.contains("0644"), "bad input 136: {text}");
    std::fs::write(&stranger.certificate, "garbage").unwrap();
    std::fs::set_permissions(&stranger.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(refused(stranger.clone()).await.0, "upstream_file");
    std::fs::remove_file(&stranger.certificate).unwrap();
    assert_eq!(refused(stranger).await.0, "upstream_file");
    assert_eq!(world.keys(), [], "nothing was made");
}

#[tokio::test]
async fn fault_048_the_end_of_a_certificate_made_by_hand_is_counted_down_and_survived_as_long_as_can_be() {
    let mut world = world();
    let now = world.clock.now();
    let corporate = Corporate::new(now, "Corporate Root");
    let config = corporate.issue(now, |params| params.not_after = (now + CA_TTL * 2).into());
    world.config.authority.upstream = Some(config.clone());
    let (mut authority, issuer, _) = stepped(&world, world.store.clone()).await;
    let metrics = authority.expires();
    let end = now + CA_TTL * 2;
    assert_eq!(metrics.value(&[("kind", "upstream")]), symbolon_kit::clock::unix_secs(end));
    assert_eq!(metrics.value(&[("kind", "x509")]), symbolon_kit::clock::unix_secs(now + CA_TTL));
    assert_eq!(metrics.value(&[("kind", "jwt")]), symbolon_kit::clock::unix_secs(now + CA_TTL));
    // It is forgotten. The last authority below it ends with it, and no other one is tried in vain.
    for _ in 0..47 {
        world.clock.advance(Duration::from_secs(3600));
        authority.catch_up().await.unwrap();
    }
    let last = issuer.active_certificate().unwrap();
    assert_eq!(symbolon_kit::spiffe::svid::validity(&last).unwrap().1, end);
    assert_eq!(mint(&issuer, SVID_TTL * 4).unwrap().not_after, end);
    world.clock.advance(Duration::from_secs(3601));
    let error = authority.catch_up().await.unwrap_err();
    assert!(matches!(error, Error::Upstream(UpstreamError::Expired { .. })), "{error}");
    assert_eq!(mint(&issuer, SVID_TTL).unwrap_err(), Refusal::Unavailable);
    // A new one in the files, and it signs again by itself.
    corporate.issue(world.clock.now(), |_| {});
    authority.catch_up().await.unwrap();
    mint(&issuer, SVID_TTL).unwrap();
}

#[tokio::test]
async fn from_self_signed_to_below_a_root_without_a_gap() {
    let mut world = world();
    let before = world.start().await;
    let minted = mint(&before.issuer, SVID_TTL).unwrap();
    let corporate = Corporate::new(world.clock.now(), "Corporate Root");
    world.config.authority.upstream = Some(corporate.issue(world.clock.now(), |_| {}));
    let (mut authority, issuer, bundles) = stepped(&world, world.store.clone()).await;
    assert_eq!(bundles.own().unwrap().x509.len(), 2, "prepared at once, below the root");
    assert_eq!(mint(&issuer, SVID_TTL).unwrap().chain.len(), 1, "but it does not sign yet");
    world.clock.advance(PROPAGATION);
    authority.catch_up().await.unwrap();
    let replaced = mint(&issuer, SVID_TTL).unwrap();
    assert_eq!(replaced.chain.len(), 3);
    let anchors = Anchors::new(&bundles.all());
    for one in [&minted, &replaced] {
        anchors.verify(&one.chain, Usage::Server, world.clock.now()).unwrap();
    }
}

// === keys elsewhere ===

#[tokio::test]
async fn with_keys_in_memory_a_restart_makes_new_authorities_and_keeps_the_old_ones_in_the_bundle() {
    let mut world = world();
    world.config.authority.keys = keys::Place::Memory;
    let first = world.start().await;
    assert_eq!(of(&first, Word::X509, "active").key_manager, "memory");
    let minted = mint(&first.issuer, SVID_TTL).unwrap();
    let again = world.start().await;
    assert_eq!((states(&again, Word::X509), states(&again, Word::Jwt)), (vec!["old", "active"], vec!["old", "active"]));
    assert!(verifies(&again, &world, &minted) && verifies(&again, &world, &mint(&again.issuer, SVID_TTL).unwrap()));
}

#[tokio::test]
async fn a_lost_key_is_replaced_only_if_the_operator_says_so() {
    let mut world = world();
    let first = world.start().await;
    let minted = mint(&first.issuer, SVID_TTL).unwrap();
    std::fs::remove_file(&world.keys()[0].0).unwrap();
    assert!(matches!(world.try_start().await, Err(Error::LostKey { error: KeyError::Missing { .. } })));
    assert_eq!((world.keys().len(), first.bundles.own().unwrap().x509.len()), (0, 1), "nothing was made in its place");
    world.config.authority.replace_lost_keys = true;
    let again = world.start().await;
    assert_eq!(states(&again, Word::X509), ["old", "active"]);
    assert!(verifies(&again, &world, &minted), "what the lost one signed is valid until it ends");
    world.config.authority.replace_lost_keys = false;
    world.start().await;
}

#[tokio::test]
async fn a_lost_store_next_to_kept_keys_refuses_to_start() {
    let mut world = world();
    world.start().await;
    world.store = store::redb::open(&world.folder.path().join("other.redb")).unwrap();
    world.config.audit_dir = world.folder.path().join("other-audit");
    world.config.fence = world.folder.path().join("other-fence");
    let error = world.try_start().await.unwrap_err();
    assert!(matches!(&error, Error::LostStore { names } if names.len() == 1), "{error}");
    assert!(error.to_string().contains("x509-"), "{error}");
    for (key, _) in world.keys() {
        std::fs::rename(&key, world.folder.path().join("moved")).unwrap();
    }
    let jwt = std::fs::read_dir(&world.config.key_dir).unwrap().next().unwrap().unwrap();
    assert!(matches!(world.try_start().await, Err(Error::LostStore { .. })), "the one of tokens counts too");
    std::fs::remove_file(jwt.path()).unwrap();
    world.start().await;
}

#[test]
fn an_authority_lives_in_a_pkcs_11_token() {
    use crate::identity::keys::pkcs11::tests::{config, in_its_own_process};
    in_its_own_process("identity::tests::authority_life::an_authority_lives_in_a_pkcs_11_token", |folder: &Path| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = world();
            world.config.authority.keys = keys::Place::Pkcs11(config(folder));
            let identity = world.start().await;
            assert_eq!(of(&identity, Word::X509, "active").key_manager, "pkcs11");
            let minted = mint(&identity.issuer, SVID_TTL).unwrap();
            assert!(verifies(&identity, &world, &minted));
            assert!(!world.config.key_dir.exists(), "no key is on disk");
            let again = world.start().await;
            assert!(verifies(&again, &world, &mint(&again.issuer, SVID_TTL).unwrap()));
            let first = of(&again, Word::X509, "active").id;
            let force = |step| Order { force: true, ..order(Word::X509, step, &first) };
            again.authorities.change(force(Step::Taint)).await.unwrap();
            again.authorities.change(force(Step::Revoke)).await.unwrap();
            assert!(!verifies(&again, &world, &minted));
            assert!(verifies(&again, &world, &mint(&again.issuer, SVID_TTL).unwrap()));
            world.start().await;
        });
    });
}
