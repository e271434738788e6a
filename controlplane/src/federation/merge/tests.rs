use proptest::prelude::*;

use super::super::policy::Quotas;
use super::super::testing::{a_bundle, a_capacity, a_service, a_shard, endpoint, policy, put, service};
use super::*;

const PAYMENTS: &str = "payments.shop";

fn reason(put: Put) -> Reason {
    match put {
        Put::Refused(refused) => refused.reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn taken(imports: &mut Imports, key: &str, revision: u64, resource: &wire::Resource) {
    assert!(matches!(imports.put(&policy(), key, revision, resource), Put::Took(_)), "{key}");
}

fn ids(imports: &Imports) -> Vec<String> {
    let imported = imports.service(&service(PAYMENTS), 100).expect("the service");
    imported.endpoints.iter().map(|endpoint| endpoint.id.to_string()).collect()
}

/// A service of two shards, and a capacity.
fn scene() -> Imports {
    let mut imports = Imports::default();
    taken(&mut imports, "service/payments.shop", 1, &a_service(PAYMENTS));
    taken(&mut imports, "capacity/payments.shop", 2, &a_capacity(PAYMENTS, 1_000_000));
    taken(&mut imports, "shard/payments.shop/0", 3, &a_shard(PAYMENTS, 0, [1, 3]));
    taken(&mut imports, "shard/payments.shop/10", 4, &a_shard(PAYMENTS, 10, [2, 3]));
    imports
}

#[test]
fn shards_are_joined() {
    let mut imports = scene();
    assert_eq!(ids(&imports), ["n1/pay", "n2/pay", "n3/pay"]);
    let imported = imports.service(&service(PAYMENTS), 100).expect("the service");
    assert_eq!(imported.capacity, Some(300), "clamped to what the endpoints can be worth");
    assert_eq!(imported.identities.len(), 1);
    assert_eq!(imports.usage(), Usage { services: 1, endpoints: 4 });
    assert!(imports.remove("shard/payments.shop/10"));
    assert_eq!(ids(&imports), ["n1/pay", "n3/pay"]);
    assert!(imports.remove("service/payments.shop"));
    assert_eq!(imports.service(&service(PAYMENTS), 100), None);
    assert_eq!(imports.usage(), Usage { services: 0, endpoints: 2 });
}

#[test]
fn bad_116_an_older_revision_changes_nothing() {
    let mut imports = scene();
    let before = (ids(&imports), imports.digest());
    let older = imports.put(&policy(), "shard/payments.shop/0", 2, &a_shard(PAYMENTS, 0, [9]));
    assert_eq!(reason(older), Reason::StaleRevision);
    assert_eq!((ids(&imports), imports.digest()), before);
}

#[test]
fn bad_118_the_same_revision_with_other_content_is_quarantined() {
    let mut imports = scene();
    let before = (ids(&imports), imports.digest());
    let other = imports.put(&policy(), "shard/payments.shop/0", 3, &a_shard(PAYMENTS, 0, [9]));
    assert_eq!(reason(other), Reason::StaleRevision);
    assert_eq!((ids(&imports), imports.digest()), before, "the first content stays");
    // The first again is no quarrel, and ends the quarantine.
    taken(&mut imports, "shard/payments.shop/0", 3, &a_shard(PAYMENTS, 0, [1, 3]));
    assert_eq!((ids(&imports), imports.digest()), before);
}

#[test]
fn a_refused_resource_leaves_the_last_good_one() {
    let mut imports = scene();
    let mut outside = endpoint(7);
    outside.address = "127.0.0.1".into();
    let shard = wire::EndpointShard { service: PAYMENTS.into(), shard: 0, endpoints: vec![outside] };
    let shard = put(wire::resource::R::Shard(shard));
    assert_eq!(reason(imports.put(&policy(), "shard/payments.shop/0", 9, &shard)), Reason::AddressNotGranted);
    assert_eq!(ids(&imports), ["n1/pay", "n2/pay", "n3/pay"]);
    let mut theirs = SetDigest::default();
    for (key, revision) in [
        ("service/payments.shop", 1),
        ("capacity/payments.shop", 2),
        ("shard/payments.shop/0", 9),
        ("shard/payments.shop/10", 4),
    ] {
        theirs.toggle(key, revision);
    }
    assert_eq!(imports.digest(), theirs, "both sides agree on what was said");
    taken(&mut imports, "shard/payments.shop/0", 10, &a_shard(PAYMENTS, 0, [5]));
    assert_eq!(ids(&imports), ["n2/pay", "n3/pay", "n5/pay"]);
}

#[test]
fn bad_124_keys_are_bounded_even_if_all_are_refused() {
    let mut narrow = policy();
    narrow.quotas = Quotas { services: 1, endpoints: 4, ..Quotas::default() };
    let mut imports = Imports::default();
    for n in 0..1_000u64 {
        imports.put(&narrow, &format!("service/s{n}.bank"), n, &a_service(&format!("s{n}.bank")));
    }
    assert_eq!(imports.keys().count(), Imports::most_keys(&narrow));
    let long = "x".repeat(300);
    assert_eq!(reason(Imports::default().put(&narrow, &long, 1, &a_bundle("b.example"))), Reason::Malformed);
}

#[test]
fn an_orphan_is_in_force_but_not_in_the_digest() {
    let mut imports = scene();
    let with = imports.digest();
    imports.orphan("shard/payments.shop/10");
    assert_ne!(imports.digest(), with);
    assert_eq!(ids(&imports).len(), 3);
    assert_eq!(imports.put(&policy(), "shard/payments.shop/10", 4, &a_shard(PAYMENTS, 10, [2, 3])), Put::Same);
    assert_eq!(imports.digest(), with, "named again");
}

#[test]
fn what_is_stored_comes_back_unless_grants_were_narrowed() {
    let imports = scene();
    let records: Vec<_> = imports.keys().map(|key| (key.clone(), imports.record(key).expect("a record"))).collect();
    let mut again = Imports::default();
    for (key, record) in records.clone() {
        again.restore(&policy(), &key, record).expect("still granted");
    }
    assert_eq!((ids(&again), again.digest(), again.usage()), (ids(&imports), imports.digest(), imports.usage()));
    let mut narrow = policy();
    narrow.grants.addresses.clear();
    let mut less = Imports::default();
    let refused = records.into_iter().filter(|(key, record)| less.restore(&narrow, key, record.clone()).is_err());
    assert_eq!(refused.count(), 2);
    assert_eq!((ids(&less).len(), less.digest()), (0, imports.digest()));
}

#[test]
fn what_was_refused_is_taken_once_it_is_granted() {
    let mut imports = Imports::default();
    let mut narrow = policy();
    narrow.grants.names.clear();
    assert_eq!(reason(imports.put(&narrow, "service/payments.shop", 5, &a_service(PAYMENTS))), Reason::NameNotGranted);
    assert!(imports.has_refused());
    assert!(matches!(imports.put(&policy(), "service/payments.shop", 5, &a_service(PAYMENTS)), Put::Took(_)));
    assert!(!imports.has_refused() && imports.service(&service(PAYMENTS), 100).is_some());
}

fn operation() -> impl Strategy<Value = (u8, u64, Option<Vec<u32>>)> {
    (0u8..4, 1u64..30, prop::option::of(prop::collection::vec(0u32..20, 0..6)))
}

fn apply(imports: &mut Imports, (shard, revision, endpoints): &(u8, u64, Option<Vec<u32>>)) {
    if let Some(endpoints) = endpoints {
        let key = format!("shard/payments.shop/{shard}");
        imports.put(&policy(), &key, *revision, &a_shard(PAYMENTS, (*shard).into(), endpoints.clone()));
    }
}

proptest! {
    #[test]
    fn merging_is_idempotent_and_forgets_the_order(
        operations in prop::collection::vec(operation(), 0..20), swaps in prop::collection::vec(any::<prop::sample::Index>(), 20),
    ) {
        // One content per (key, revision): an honest peer never says two.
        let unique: BTreeMap<_, _> = operations.iter().map(|op| ((op.0, op.1), op.2.clone())).collect();
        let mut operations: Vec<_> = unique.into_iter().map(|((shard, revision), e)| (shard, revision, e)).collect();
        let run = |operations: &[(u8, u64, Option<Vec<u32>>)], times: usize| {
            let mut imports = Imports::default();
            taken(&mut imports, "service/payments.shop", 1, &a_service(PAYMENTS));
            for operation in operations {
                for _ in 0..times {
                    apply(&mut imports, operation);
                }
            }
            (ids(&imports), imports.digest(), imports.usage())
        };
        let once = run(&operations, 1);
        prop_assert_eq!(&once, &run(&operations, 2));
        for (n, with) in swaps.iter().enumerate().take(operations.len()) {
            let with = with.index(operations.len());
            operations.swap(n, with);
        }
        prop_assert_eq!(&once, &run(&operations, 1));
    }
}
