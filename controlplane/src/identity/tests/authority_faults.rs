//! What the authorities survive: a crash at every point, clocks, and key managers that are slow or fail.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use symbolon_kit::spiffe::verify::Usage;

use super::authority::{mint, stepped, try_stepped};
use super::*;
use crate::identity::authority::slots::Refused;
use crate::identity::authority::{Authorities, Authority};
use crate::identity::bundles::{Bundles, Source};
use crate::identity::issue::Issuer;
use crate::identity::keys::disk::Disk;
use crate::identity::keys::{KeyError, KeyManager, SigningKey};
use crate::store::{Committed, Event, Key, LeaseId, Prefix, Store, Stored, Txn};

/// Burns down with each thing that is done to disk: at its end nothing more is done, as after kill -9. At an odd end the last thing is
/// done, but nobody hears of it.
#[derive(Debug)]
struct Fuse(AtomicI64);

impl Fuse {
    /// Whether it is done, and whether that is told.
    fn burn(&self) -> (bool, bool) {
        match self.0.fetch_sub(1, Ordering::Relaxed) {
            2.. => (true, true),
            1 => (true, false),
            _ => (false, false),
        }
    }
}

#[derive(Debug)]
struct Mortal {
    store: SharedStore,
    keys: Disk,
    fuse: Arc<Fuse>,
}

impl Mortal {
    fn key<T>(&self, work: impl FnOnce() -> Result<T, KeyError>) -> Result<T, KeyError> {
        let dead = || KeyError::Unusable("kill -9".into());
        let (done, told) = self.fuse.burn();
        let result = if done { work()? } else { return Err(dead()) };
        if told { Ok(result) } else { Err(dead()) }
    }
}

impl KeyManager for Mortal {
    fn kind(&self) -> &'static str {
        "mortal"
    }

    fn generate(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        self.key(|| self.keys.generate(name))
    }

    fn load(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        self.keys.load(name)
    }

    fn remove(&self, name: &str) -> Result<(), KeyError> {
        self.key(|| self.keys.remove(name))
    }

    fn names(&self) -> Result<Vec<String>, KeyError> {
        self.keys.names()
    }
}

impl Store for Mortal {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Stored>, store::Error>> {
        self.store.get(key)
    }

    fn range(&self, prefix: Prefix) -> BoxFuture<'_, Result<(Vec<Stored>, u64), store::Error>> {
        self.store.range(prefix)
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, store::Error>> {
        let dead = || store::Error::Io { doing: "commit", why: "kill -9".into() };
        let (done, told) = self.fuse.burn();
        Box::pin(async move {
            let result = if done { self.store.commit(txn).await? } else { return Err(dead()) };
            if told { Ok(result) } else { Err(dead()) }
        })
    }

    fn watch(&self, prefix: Prefix, revision: u64) -> BoxStream<'static, Result<Event, store::Error>> {
        self.store.watch(prefix, revision)
    }

    fn grant_lease(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, store::Error>> {
        self.store.grant_lease(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), store::Error>> {
        self.store.keep_alive(lease)
    }
}

async fn with_fuse(world: &World, length: i64) -> Result<(Authority, Authorities, Issuer, Bundles), Error> {
    let fuse = Arc::new(Fuse(AtomicI64::new(length)));
    let mortal = |fuse| Mortal { store: world.store.clone(), keys: Disk::open(&world.config.key_dir).unwrap(), fuse };
    try_stepped(world, Arc::new(mortal(fuse.clone())), Arc::new(mortal(fuse))).await
}

/// A life: the first start, a handover by schedule, one by hand, a theft.
async fn life(world: &World, authority: &mut Authority, step: u32) -> Result<(), String> {
    let active = authority.active_x509().ok_or("nothing signs")?;
    match step {
        0 => world.clock.advance(CA_TTL / 2),
        1 => world.clock.advance(CA_TTL / 3),
        2 => return authority.by_hand("prepare", "", false).await,
        3 => return authority.by_hand("taint", &active, true).await,
        4 => return authority.by_hand("revoke", "tainted", true).await,
        _ => world.clock.advance(CA_TTL * 2),
    }
    authority.catch_up().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn fault_001_fault_005_killed_at_every_point_of_its_life_it_goes_on_where_it_was() {
    const STEPS: u32 = 6;
    let before = world();
    let (mut authority, ..) = with_fuse(&before, i64::MAX).await.unwrap();
    for step in 0..STEPS {
        // Before the first thing is done, after it, before the second...
        for length in 0.. {
            let world = copy(&before);
            let survived = match with_fuse(&world, length).await {
                Ok((mut mortal, ..)) => life(&world, &mut mortal, step).await.is_ok(),
                Err(_) => false,
            };
            afterwards(&world, &format!("step {step}, killed after {length}")).await;
            if survived {
                assert!(length > 0, "step {step}: the fuse is seen");
                break;
            }
            assert!(length < 100, "step {step} never ends");
        }
        life(&before, &mut authority, step).await.unwrap();
    }
}

/// A world like this one, as if its machine had just stopped.
fn copy(world: &World) -> World {
    let folder = tempfile::tempdir().unwrap();
    for part in ["", "keys", "audit"] {
        let (from, to) = (world.folder.path().join(part), folder.path().join(part));
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|file| file.path().is_file()) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    World { clock: Clock::manual(world.clock.now()), ..world_in(folder) }
}

#[tokio::test]
async fn fault_001_killed_at_every_point_of_its_first_start() {
    for length in 0.. {
        let world = world();
        let survived = with_fuse(&world, length).await.is_ok();
        afterwards(&world, &format!("killed after {length}")).await;
        if survived {
            assert!(length > 10, "a start of two authorities does more than that: {length}");
            return;
        }
    }
}

/// What a start finds after a crash: something signs, all that signs was published, and no key is left behind.
async fn afterwards(world: &World, at: &str) {
    let published_before: Vec<_> = stored_bundle(world).await;
    let (mut authority, _, issuer, bundles) =
        with_fuse(world, i64::MAX).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    authority.catch_up().await.unwrap();
    let own = bundles.own().unwrap();
    let active = issuer.active_certificate().unwrap();
    assert!(own.x509.contains(&active), "{at}: published");
    let minted = mint(&issuer, SVID_TTL).unwrap();
    Anchors::new(&bundles.all()).verify(&minted.chain, Usage::Server, world.clock.now()).unwrap();
    let keys = Disk::open(&world.config.key_dir).unwrap();
    let on_disk: BTreeSet<_> = keys.names().unwrap().into_iter().collect();
    assert_eq!(on_disk, authority.key_names(), "{at}: no key is lost, none left behind");
    // Whatever signed before the crash was published: what is published now has all of it that was not revoked.
    let revoked = authority.revoked_roots();
    for root in published_before.iter().filter(|root| !revoked.contains(root)) {
        let expired = symbolon_kit::spiffe::svid::validity(root).unwrap().1 < world.clock.now();
        assert!(own.x509.contains(root) || expired, "{at}: nothing is withdrawn by a crash");
    }
}

async fn stored_bundle(world: &World) -> Vec<CertificateDer<'static>> {
    let bundles = Bundles::load(&world.config, world.store.clone(), world.clock.clone()).await.unwrap();
    bundles.own().map_or_else(Vec::new, |own| own.x509.clone())
}

// === clocks ===

#[tokio::test]
async fn fault_007_a_clock_an_hour_ahead_or_behind_changes_nothing() {
    for forward in [true, false] {
        let world = world();
        let (mut authority, issuer, bundles) = stepped(&world, world.store.clone()).await;
        world.clock.advance(CA_TTL / 2);
        authority.catch_up().await.unwrap();
        let (active, own) = (issuer.active_certificate(), bundles.own());
        world.clock.set(forward, Duration::from_secs(3600));
        authority.catch_up().await.unwrap();
        assert_eq!((issuer.active_certificate(), bundles.own()), (active.clone(), own.clone()), "forward: {forward}");
        mint(&issuer, SVID_TTL).unwrap();
        world.clock.set(!forward, Duration::from_secs(3600));
        authority.catch_up().await.unwrap();
        assert_eq!((issuer.active_certificate(), bundles.own()), (active, own), "and back");
    }
}

#[tokio::test]
async fn fault_007_a_clock_a_year_ahead_costs_no_authority_and_heals_when_it_is_set_right() {
    let world = world();
    let year = Duration::from_secs(365 * 24 * 3600);
    let (mut authority, issuer, bundles) = stepped(&world, world.store.clone()).await;
    let (active, minted) = (issuer.active_certificate().unwrap(), mint(&issuer, SVID_TTL).unwrap());
    world.clock.set(true, year);
    authority.catch_up().await.unwrap();
    let then = issuer.active_certificate().unwrap();
    assert_ne!(then, active, "by this clock the other has ended (I6)");
    assert!(bundles.own().unwrap().x509.contains(&active), "whose clock is right still verifies by it");
    world.clock.set(false, year);
    authority.catch_up().await.unwrap();
    assert_eq!(issuer.active_certificate().unwrap(), active, "valid now, so it signs again");
    for one in [&minted, &mint(&issuer, SVID_TTL).unwrap()] {
        Anchors::new(&bundles.all()).verify(&one.chain, Usage::Server, world.clock.now()).unwrap();
    }
    // A restart in between finds the same.
    let (_, restarted, _) = stepped(&world, world.store.clone()).await;
    assert_eq!(restarted.active_certificate().unwrap(), active);
}

#[tokio::test]
async fn fault_007_a_step_in_the_middle_of_a_rotation_does_not_shorten_the_wait() {
    let world = world();
    let (mut authority, _, issuer, _) = try_stepped(&world, world.store.clone(), disk(&world)).await.unwrap();
    let first = issuer.active_certificate();
    let active = authority.active_x509().unwrap();
    authority.by_hand("prepare", "", false).await.unwrap();
    world.clock.set(true, Duration::from_secs(3600));
    authority.catch_up().await.unwrap();
    let error = authority.by_hand("taint", &active, false).await.unwrap_err();
    assert_eq!(error, Refused::TooSoon { id: "".into(), wait: Duration::ZERO }.label());
    world.clock.advance(Duration::from_secs(180));
    authority.by_hand("taint", &active, false).await.unwrap();
    assert_ne!(issuer.active_certificate(), first);
}

fn disk(world: &World) -> Arc<dyn KeyManager> {
    Arc::new(Disk::open(&world.config.key_dir).unwrap())
}

// === rotations together, and faster than others look ===

#[tokio::test]
async fn fault_019_fault_020_peers_that_rotate_together_never_meet_an_authority_they_do_not_know() {
    const HOUR: Duration = Duration::from_secs(3600);
    let (mut a, mut b) = (world(), world());
    (a.config.authority.propagation, b.config.authority.propagation) = (Some(HOUR), Some(HOUR));
    b.config.trust_domain = "b.example".parse().unwrap();
    b.clock = a.clock.clone();
    let (mut a_authority, a_issuer, a_bundles) = stepped(&a, a.store.clone()).await;
    let (mut b_authority, _, b_bundles) = stepped(&b, b.store.clone()).await;
    // Each hears of the other's bundle by the link, within the propagation time, through five lives of both.
    let sync = async || {
        let (from_a, from_b) = (a_bundles.own().unwrap(), b_bundles.own().unwrap());
        let _ = b_bundles.offer(&from_a.trust_domain, &from_a.to_jwks(), Source::Link).await;
        let _ = a_bundles.offer(&from_b.trust_domain, &from_b.to_jwks(), Source::Link).await;
    };
    sync().await;
    let mut signed = BTreeSet::new();
    for _ in 0..5 * 24 {
        a_authority.catch_up().await.unwrap();
        b_authority.catch_up().await.unwrap();
        let minted = mint(&a_issuer, SVID_TTL).unwrap();
        signed.insert(a_issuer.active_certificate().unwrap().to_vec());
        let at_b = Anchors::new(&b_bundles.all());
        at_b.verify(&minted.chain, Usage::Client, a.clock.now()).expect("B knows the authority before it signs");
        a.clock.advance(HOUR);
        sync().await;
    }
    assert!(signed.len() >= 5, "it rotated: {}", signed.len());
}

// === key managers ===

/// A key manager that is slow, or fails, as it is told.
#[derive(Debug)]
struct Distant {
    keys: Disk,
    /// Milliseconds that everything takes.
    latency: AtomicU64,
    disabled: std::sync::atomic::AtomicBool,
}

impl Distant {
    fn wait(&self) -> Result<(), KeyError> {
        std::thread::sleep(Duration::from_millis(self.latency.load(Ordering::Relaxed)));
        if self.disabled.load(Ordering::Relaxed) {
            Err(KeyError::Token("refuses: key disabled".into()))
        } else {
            Ok(())
        }
    }
}

impl KeyManager for Distant {
    fn kind(&self) -> &'static str {
        "distant"
    }

    fn generate(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        self.wait()?;
        self.keys.generate(name)
    }

    fn load(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        self.wait()?;
        self.keys.load(name)
    }

    fn remove(&self, name: &str) -> Result<(), KeyError> {
        self.wait()?;
        self.keys.remove(name)
    }

    fn names(&self) -> Result<Vec<String>, KeyError> {
        self.keys.names()
    }
}

#[tokio::test]
async fn fault_040_a_slow_key_manager_does_not_stop_the_runtime_and_a_disabled_one_not_the_authority() {
    let world = world();
    let distant = Arc::new(Distant {
        keys: Disk::open(&world.config.key_dir).unwrap(),
        latency: AtomicU64::new(0),
        disabled: false.into(),
    });
    let (mut authority, handle, issuer, bundles) =
        try_stepped(&world, world.store.clone(), distant.clone()).await.unwrap();
    let own = bundles.own();
    distant.latency.store(300, Ordering::Relaxed);
    world.clock.advance(CA_TTL / 2);
    // This runtime has one thread: were it to wait for the key, nothing else could be done meanwhile.
    let mut done_meanwhile = 0;
    {
        let work = authority.catch_up();
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => break outcome.unwrap(),
                () = tokio::task::yield_now() => {
                    assert!(!handle.list().is_empty() && bundles.own().is_some() && mint(&issuer, SVID_TTL).is_ok());
                    done_meanwhile += 1;
                }
            }
        }
    }
    assert!(done_meanwhile > 10, "{done_meanwhile} mints while the key manager took its time");
    assert_ne!(bundles.own(), own, "and the next authority was prepared");
    // Disabled: the handover fails, is told, and the active one goes on.
    distant.latency.store(0, Ordering::Relaxed);
    distant.disabled.store(true, Ordering::Relaxed);
    let (active, own) = (issuer.active_certificate(), bundles.own());
    world.clock.advance(CA_TTL / 3);
    let error = authority.catch_up().await.unwrap_err();
    assert_eq!(error.label(), "key_token", "{error}");
    assert_eq!((issuer.active_certificate(), bundles.own()), (active.clone(), own));
    mint(&issuer, SVID_TTL).unwrap();
    distant.disabled.store(false, Ordering::Relaxed);
    authority.catch_up().await.unwrap();
    assert_ne!(issuer.active_certificate(), active, "made up for");
}
