//! Peers' bundles: what is taken, what is kept.

use symbolon_kit::spiffe::bundle::BundleError;

use super::*;
use crate::identity::bundles::{Refused, Source};

/// A peer's control plane, as far as its bundle goes.
async fn peer(trust_domain: &str) -> (World, Identity) {
    let mut world = world();
    world.config.trust_domain = trust_domain.parse().unwrap();
    let identity = world.start().await;
    (world, identity)
}

fn with_sequence(bundle: &Bundle, sequence: u64) -> Bundle {
    Bundle { sequence, ..bundle.clone() }
}

#[tokio::test]
async fn a_peers_bundle_is_taken_kept_and_shown() {
    let (world, (_, b)) = (world(), peer("b.example").await);
    let identity = world.start().await;
    let mut watch = identity.bundles.watch();
    watch.mark_unchanged();
    let (domain, offered) = (b.trust_domain.clone(), b.bundles.own().unwrap());
    identity.bundles.offer(&domain, &offered.to_jwks(), Source::Link).await.unwrap();
    assert!(watch.has_changed().unwrap());
    assert_eq!(watch.borrow_and_update().get(&domain), Some(&offered));
    identity.bundles.offer(&domain, &offered.to_jwks(), Source::Link).await.unwrap();
    assert!(!watch.has_changed().unwrap(), "the same again changes nothing");
    let again = world.start().await;
    assert_eq!(again.bundles.all().get(&domain), Some(&offered));
    let expiry = again.bundles.trusted_until(&domain).unwrap();
    assert_eq!(expiry, world.clock.now() + CA_TTL);
}

#[tokio::test]
async fn i_2_bundles_stay_apart() {
    let (world, (_, b)) = (world(), peer("b.example").await);
    let identity = world.start().await;
    identity.bundles.offer(&b.trust_domain, &b.bundles.own().unwrap().to_jwks(), Source::Link).await.unwrap();
    let all = identity.bundles.all();
    assert_eq!(all.len(), 2);
    assert_eq!(all[&b.trust_domain].x509, b.bundles.own().unwrap().x509);
    assert_eq!(all[&identity.trust_domain], identity.bundles.own().unwrap());
}

#[tokio::test]
async fn nobody_else_speaks_for_us() {
    let identity = world().start().await;
    let own = identity.bundles.own().unwrap();
    let offered = with_sequence(&own, own.sequence + 1).to_jwks();
    let refused = identity.bundles.offer(&identity.trust_domain, &offered, Source::Link).await.unwrap_err();
    assert!(matches!(refused, Refused::Ours(_)), "{refused}");
    assert_eq!(identity.bundles.own(), Some(own));
}

#[tokio::test]
async fn bad_035_what_cannot_be_read_changes_nothing() {
    let (world, (_, b)) = (world(), peer("b.example").await);
    let identity = world.start().await;
    let good = b.bundles.own().unwrap();
    identity.bundles.offer(&b.trust_domain, &good.to_jwks(), Source::Link).await.unwrap();
    for bad in ["", "{}", "{\"keys\":null,\"spiffe_sequence\":9999999999}", "<html>"] {
        let refused = identity.bundles.offer(&b.trust_domain, bad.as_bytes(), Source::Link).await.unwrap_err();
        assert!(matches!(refused, Refused::Bundle(_)), "{bad}: {refused}");
    }
    assert_eq!(identity.bundles.all().get(&b.trust_domain), Some(&good));
}

#[tokio::test]
async fn bad_040_an_explicit_newer_empty_bundle_is_honoured() {
    let (world, (_, b)) = (world(), peer("b.example").await);
    let identity = world.start().await;
    let good = b.bundles.own().unwrap();
    identity.bundles.offer(&b.trust_domain, &good.to_jwks(), Source::Link).await.unwrap();
    let empty = Bundle { x509: Vec::new(), ..with_sequence(&good, good.sequence + 1) };
    identity.bundles.offer(&b.trust_domain, &empty.to_jwks(), Source::Link).await.unwrap();
    assert_eq!(identity.bundles.all()[&b.trust_domain].x509, []);
    // And it stays so after a restart: the old bundle cannot come back.
    let again = world.start().await;
    let refused = again.bundles.offer(&b.trust_domain, &good.to_jwks(), Source::Link).await.unwrap_err();
    assert!(matches!(refused, Refused::Bundle(BundleError::Older { .. })), "{refused}");
}

#[tokio::test]
async fn bad_047_a_root_belongs_to_one_domain() {
    let (world, (_, b)) = (world(), peer("b.example").await);
    let identity = world.start().await;
    identity.bundles.offer(&b.trust_domain, &b.bundles.own().unwrap().to_jwks(), Source::Link).await.unwrap();
    // Corporate roots carry no SPIFFE ID, so only the book can see that one is shared.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let shared = params.self_signed(&key).unwrap().der().clone();
    let of = |domain: &TrustDomain, sequence, roots: &[&CertificateDer<'static>]| {
        let roots = roots.iter().map(|root| (*root).clone()).collect();
        Bundle::new(domain.clone(), sequence, Duration::from_secs(60), roots).to_jwks()
    };
    let (c, d) = ("c.example".parse().unwrap(), "d.example".parse().unwrap());
    identity.bundles.offer(&c, &of(&c, 1, &[&shared]), Source::Link).await.unwrap();
    let refused = identity.bundles.offer(&d, &of(&d, 1, &[&shared]), Source::Link).await.unwrap_err();
    assert!(matches!(&refused, Refused::SharedRoot(other) if *other == c), "{refused}");
    assert_eq!(identity.bundles.all().get(&d), None);
    // Our own root in a peer's bundle names us, and is refused for that already.
    let own = identity.issuer.active_certificate().unwrap();
    let refused = identity.bundles.offer(&d, &of(&d, 1, &[&own]), Source::Link).await.unwrap_err();
    assert!(matches!(&refused, Refused::Bundle(BundleError::OtherTrustDomain { .. })), "{refused}");
    identity.bundles.offer(&c, &of(&c, 2, &[&shared]), Source::Link).await.expect("its own root is no conflict");
}

#[tokio::test]
async fn bad_053_bad_054_i_4_sequences_only_rise() {
    let (world, (_, b)) = (world(), peer("b.example").await);
    let (_, other) = peer("b.example").await;
    let domain = b.trust_domain.clone();
    let good = b.bundles.own().unwrap();
    let forged = with_sequence(&other.bundles.own().unwrap(), good.sequence);
    world.start().await.bundles.offer(&domain, &good.to_jwks(), Source::Link).await.unwrap();
    let identity = world.start().await; // the high-water mark is in the store
    let offer = async |bundle: &Bundle| identity.bundles.offer(&domain, &bundle.to_jwks(), Source::Link).await;
    let older = offer(&with_sequence(&good, good.sequence - 1)).await.unwrap_err();
    assert!(matches!(older, Refused::Bundle(BundleError::Older { .. })), "{older}");
    let equivocation = offer(&forged).await.unwrap_err();
    assert!(matches!(equivocation, Refused::Bundle(BundleError::SameSequence(_))), "{equivocation}");
    assert_eq!(identity.bundles.all()[&domain], good);
    offer(&with_sequence(&good, good.sequence + 1)).await.unwrap();
}

#[tokio::test]
async fn i_4_our_sequence_rises_even_when_the_store_was_lost() {
    let (world, lost) = (world(), world());
    let before = world.start().await.bundles.own().unwrap();
    lost.clock.advance(Duration::from_secs(10));
    let after = lost.start().await.bundles.own().unwrap();
    assert!(after.sequence > before.sequence);
    assert_ne!(after.x509, before.x509);
}

#[tokio::test]
async fn a_peers_expired_root_is_remembered_with_its_sequence() {
    let (world, (_, b)) = (world(), peer("b.example").await);
    let good = b.bundles.own().unwrap();
    world.start().await.bundles.offer(&b.trust_domain, &good.to_jwks(), Source::Link).await.unwrap();
    world.clock.advance(CA_TTL + Duration::from_secs(1));
    let again = world.start().await;
    let known = again.bundles.all()[&b.trust_domain].clone();
    assert_eq!((known.sequence, known.x509.len()), (good.sequence, 0));
    again
        .bundles
        .offer(&b.trust_domain, &good.to_jwks(), Source::Link)
        .await
        .expect("the same document is no equivocation");
}

/// Writes `value` where the bundle of `domain` is stored.
async fn damage(world: &World, key: store::Key) {
    let mut value = world.store.get(&key).await.unwrap().unwrap().value;
    let last = value.len() - 3;
    value[last] ^= 1;
    world.store.commit(store::Txn::new().put(key, value)).await.unwrap();
}

#[tokio::test]
async fn fault_046_a_flipped_bit_leads_back_to_the_bundle_before() {
    use crate::store::keys;
    let (world, (_, b)) = (world(), peer("b.example").await);
    let identity = world.start().await;
    let (domain, first) = (b.trust_domain.clone(), b.bundles.own().unwrap());
    let second = with_sequence(&first, first.sequence + 1);
    for bundle in [&*first, &second] {
        identity.bundles.offer(&domain, &bundle.to_jwks(), Source::Link).await.unwrap();
    }
    damage(&world, keys::bundle(&domain)).await;
    let again = world.start().await;
    assert_eq!(again.bundles.all()[&domain], first, "the one before");
    again.bundles.offer(&domain, &second.to_jwks(), Source::Link).await.expect("the damaged one comes again");
    assert_eq!(*again.bundles.all()[&domain], second);
    // Both damaged: nothing of it is trusted, and the start does not fail for it.
    damage(&world, keys::bundle(&domain)).await;
    damage(&world, keys::bundle_before(&domain)).await;
    let again = world.start().await;
    assert_eq!(again.bundles.all().get(&domain), None);
    assert!(again.bundles.own().is_some());
    again.bundles.offer(&domain, &second.to_jwks(), Source::Link).await.unwrap();
    // Our own is published again, and its sequence does not fall behind what was seen.
    let own = again.bundles.own().unwrap();
    damage(&world, keys::bundle(&again.trust_domain)).await;
    world.clock.advance(Duration::from_secs(5));
    let again = world.start().await.bundles.own().unwrap();
    assert_eq!(again.x509, own.x509);
    assert!(again.sequence >= own.sequence, "{} {}", again.sequence, own.sequence);
}

#[tokio::test]
async fn f_18_an_end_is_at_once_and_outlives_offers_and_restarts() {
    let (world, (_, b)) = (world(), peer("b.example").await);
    let identity = world.start().await;
    let (domain, good) = (b.trust_domain.clone(), b.bundles.own().unwrap());
    identity.bundles.offer(&domain, &good.to_jwks(), Source::Link).await.unwrap();
    assert_eq!(identity.bundles.source(&domain), Source::Link);
    let watch = identity.bundles.watch();
    identity.bundles.end(&domain).await.unwrap();
    assert_eq!(watch.borrow().get(&domain), None);
    let newer = with_sequence(&good, good.sequence + 1).to_jwks();
    for source in [Source::Link, Source::Endpoint] {
        let refused = identity.bundles.offer(&domain, &newer, source).await.unwrap_err();
        assert!(matches!(refused, Refused::Ended(_)), "{refused}");
    }
    assert!(matches!(identity.bundles.set(&domain, &newer, true).await.unwrap_err(), Refused::Ended(_)));
    let again = world.start().await;
    assert_eq!((again.bundles.all().get(&domain), again.bundles.ended()), (None, [domain.clone()].into()));
    assert!(again.bundles.offer(&domain, &newer, Source::Link).await.is_err());
    again.bundles.allow(&domain).await.unwrap();
    again.bundles.offer(&domain, &good.to_jwks(), Source::Endpoint).await.expect("it begins anew, with any sequence");
    let again = world.start().await;
    assert_eq!((again.bundles.source(&domain), again.bundles.ended().len()), (Source::Endpoint, 0));
    // Nobody ends trust in ourselves.
    again.bundles.end(&again.trust_domain).await.unwrap();
    assert!(again.bundles.own().is_some());
}

/// An offer that is being written when trust ends does not bring it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_18_an_end_wins_over_an_offer_that_is_on_its_way() {
    let (world, (_, b)) = (world(), peer("b.example").await);
    let identity = world.start().await;
    let (domain, good) = (b.trust_domain.clone(), b.bundles.own().unwrap());
    for round in 1..30 {
        let (bundles, newer, of) =
            (identity.bundles.clone(), with_sequence(&good, good.sequence + round).to_jwks(), domain.clone());
        let offering = tokio::spawn(async move { bundles.offer(&of, &newer, Source::Link).await.is_ok() });
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        identity.bundles.end(&domain).await.unwrap();
        let _ = offering.await.unwrap();
        assert_eq!(identity.bundles.all().get(&domain), None, "round {round}");
        let again = world.start().await;
        assert_eq!(again.bundles.all().get(&domain), None, "round {round}, after a restart");
        identity.bundles.allow(&domain).await.unwrap();
    }
}

#[tokio::test]
async fn bad_045_a_bundle_whose_every_authority_has_expired_withdraws_nothing() {
    let (world, (_, b)) = (world(), peer("b.example").await);
    let identity = world.start().await;
    let (domain, good) = (b.trust_domain.clone(), b.bundles.own().unwrap());
    identity.bundles.offer(&domain, &good.to_jwks(), Source::Link).await.unwrap();
    world.clock.advance(CA_TTL + Duration::from_secs(1));
    let newer = with_sequence(&good, good.sequence + 1).to_jwks();
    let refused = identity.bundles.offer(&domain, &newer, Source::Endpoint).await.unwrap_err();
    assert!(matches!(&refused, Refused::Bundle(BundleError::Unusable(_))), "{refused}");
    assert_eq!(identity.bundles.all()[&domain].sequence, good.sequence);
}
