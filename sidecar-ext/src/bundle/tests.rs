use super::*;
use crate::testing::{Ca, now};

fn said<'a>(bundles: impl IntoIterator<Item = &'a Bundle>) -> wire::Bundles {
    wire::Bundles {
        trust_domain: "a.example".into(),
        bundles: bundles.into_iter().map(|bundle| (bundle.trust_domain.to_string(), bundle.to_jwks().into())).collect(),
        ..wire::Bundles::default()
    }
}

fn sequences(book: &Book) -> Vec<(&str, u64)> {
    book.trust().bundles.values().map(|bundle| (bundle.trust_domain.as_str(), bundle.sequence)).collect()
}

#[test]
fn the_full_state_is_taken_and_what_it_leaves_out_is_no_longer_trusted() {
    let (a, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let mut book = Book::new(a.bundle());
    assert_eq!(book.apply(&said([&a.bundle(), &b.bundle()]), now()), (true, vec![]));
    assert_eq!(sequences(&book), [("a.example", 1), ("b.example", 1)]);
    assert_eq!(book.apply(&said([&a.bundle(), &b.bundle()]), now()), (false, vec![]), "nothing new");
    assert_eq!(book.own_only().len(), 1);
    assert_eq!(book.apply(&said([&a.bundle()]), now()), (true, vec![]));
    assert_eq!(sequences(&book), [("a.example", 1)]);
    assert_eq!(book.apply(&said([]), now()), (false, vec![]), "the own bundle never goes");
    assert_eq!(sequences(&book), [("a.example", 1)]);
}

#[test]
fn an_older_or_broken_bundle_leaves_the_one_held() {
    let (a, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let mut book = Book::new(a.bundle_at(5));
    let _ = book.apply(&said([&a.bundle_at(5), &b.bundle_at(3)]), now());
    let (changed, rejected) = book.apply(&said([&a.bundle_at(4), &b.bundle_at(2)]), now());
    assert!(!changed);
    assert_eq!(rejected.iter().map(Rejected::label).collect::<Vec<_>>(), ["older", "older"]);
    let mut broken = said([&a.bundle_at(5)]);
    broken.bundles.insert("b.example".into(), b"{".as_slice().into());
    broken.bundles.insert("B/C".into(), b"{}".as_slice().into());
    let (changed, rejected) = book.apply(&broken, now());
    assert_eq!((changed, rejected.len()), (false, 2));
    assert_eq!(sequences(&book), [("a.example", 5), ("b.example", 3)]);
}

#[test]
fn bad_143_a_control_plane_of_another_trust_domain_is_not_heard() {
    let (a, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let mut book = Book::new(a.bundle());
    let other = wire::Bundles { trust_domain: "b.example".into(), ..said([&a.bundle_at(9), &b.bundle()]) };
    let (changed, rejected) = book.apply(&other, now());
    assert!(!changed);
    assert_eq!(rejected[0].label(), "other_trust_domain");
    assert_eq!(sequences(&book), [("a.example", 1)]);
}

#[test]
fn what_is_written_down_reads_back() {
    let (a, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let mut book = Book::new(a.bundle());
    let _ = book.apply(&said([&a.bundle_at(2), &b.bundle()]), now());
    let mut again = Book::new(a.bundle());
    assert_eq!(again.apply(&book.to_wire(), now()), (true, vec![]));
    assert_eq!(again.trust(), book.trust());
}

#[test]
fn taints_are_part_of_the_full_state_and_are_written_down() {
    let a = Ca::new("a.example");
    let mut book = Book::new(a.bundle());
    let tainted = wire::Bundles {
        tainted_x509: vec!["AB01".into()],
        tainted_jwt: vec!["Key-1".into()],
        incubating: true,
        ..said([&a.bundle()])
    };
    let before = book.trust().bundles.clone();
    assert_eq!(book.apply(&tainted, now()), (true, vec![]));
    assert_eq!(book.apply(&tainted, now()), (false, vec![]));
    assert!(book.trust().tainted.x509.contains("ab01") && book.trust().tainted.jwt.contains("Key-1"));
    assert!(book.trust().incubating);
    assert!(Arc::ptr_eq(&before, &book.trust().bundles), "the bundles themselves are the same");
    let mut again = Book::new(a.bundle());
    let _ = again.apply(&book.to_wire(), now());
    assert_eq!(again.trust(), book.trust());
    assert_eq!(book.apply(&said([&a.bundle()]), now()), (true, vec![]));
    assert_eq!(*book.trust().tainted, Tainted::default());
}

#[test]
fn more_taints_than_a_trust_domain_has_authorities_are_refused() {
    let a = Ca::new("a.example");
    let mut book = Book::new(a.bundle());
    let many = wire::Bundles { tainted_jwt: (0..300).map(|at| at.to_string()).collect(), ..said([&a.bundle()]) };
    let (changed, rejected) = book.apply(&many, now());
    assert!(!changed);
    assert_eq!(rejected[0].label(), "too_many");
}
