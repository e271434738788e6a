use super::*;
use crate::identity::audit::record::Kind;

/// A log of `count` records, line by line.
fn log_of(count: u64) -> (Vec<Vec<u8>>, Head) {
    let mut head = GENESIS;
    let line = |n| {
        let mut out = Vec::new();
        head.seal("2026-11-25T17:46:12.345Z", &Record::new(Kind::IssuedX509).with("serial", n), &mut out);
        out
    };
    ((0..count).map(line).collect(), head)
}

fn check(lines: &[Vec<u8>], known: &Head) -> Result<Head, Problem> {
    let (mut head, mut passed) = (GENESIS, None);
    follow(&*lines.concat(), &mut head, |head| {
        if head.count == known.count {
            passed = Some(head.hash);
        }
    })?;
    holds(known, &head, passed)?;
    Ok(head)
}

#[test]
fn a_log_as_it_was_written_is_intact_and_json() {
    let (lines, head) = log_of(10);
    assert_eq!(check(&lines, &head), Ok(head));
    for (index, line) in lines.iter().enumerate() {
        let json: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(json["seq"], index + 1);
        assert_eq!(json["kind"], "issued_x509");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let (lines, head) = log_of(3);
    let log = lines.concat();
    for bit in 0..log.len() * 8 {
        let mut flipped = log.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&[flipped], &head).is_err(), "bit {bit} of {:?}", String::from_utf8_lossy(&log));
    }
}

#[test]
fn a_cut_tail_is_found_at_every_length() {
    let (lines, head) = log_of(3);
    let log = lines.concat();
    for length in 0..log.len() {
        assert!(check(&[log[..length].to_vec()], &head).is_err(), "{length}");
    }
    let (short, _) = log_of(2);
    assert_eq!(check(&short, &head), Err(Problem::Missing { from: 3 }));
    assert_eq!(check(&[], &head), Err(Problem::MissingRange { from: 1, to: 3 }));
}

#[test]
fn a_removed_record_is_found_wherever_it_stood() {
    let (lines, head) = log_of(5);
    for at in 0..5 {
        let mut without = lines.clone();
        without.remove(at);
        assert_eq!(check(&without, &head), Err(Problem::Missing { from: at as u64 + 1 }));
    }
    let without_two = [&lines[..1], &lines[3..]].concat();
    assert_eq!(check(&without_two, &head), Err(Problem::MissingRange { from: 2, to: 3 }));
}

#[test]
fn reordered_repeated_and_inserted_records_are_found() {
    let (lines, head) = log_of(4);
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    assert_eq!(check(&swapped, &head), Err(Problem::Missing { from: 2 }));
    let mut repeated = lines.clone();
    repeated.insert(2, lines[1].clone());
    assert_eq!(check(&repeated, &head), Err(Problem::Order { expected: 3, found: 2 }));
    let mut inserted = lines;
    inserted.insert(2, b"{\"seq\":3}\n".to_vec());
    assert_eq!(check(&inserted, &head), Err(Problem::Malformed { after: 2 }));
}

#[test]
fn a_log_that_was_written_anew_is_found_by_who_knows_a_head_of_it() {
    let (lines, _) = log_of(4);
    let known = Head { count: 2, hash: [7; 32] };
    assert_eq!(check(&lines, &known), Err(Problem::Rewritten { seq: 2 }));
}

#[test]
fn numbers_have_one_spelling() {
    for seq in ["01", "+1", " 1", "", "18446744073709551616"] {
        let line = format!("{{\"seq\":{seq},\"at\":\"\",\"hash\":\"{}\"}}", "0".repeat(64));
        assert!(Line::parse(line.as_bytes()).is_none(), "{seq}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic_the_reader(log in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let mut head = GENESIS;
        let _ = follow(&*log, &mut head, |_| {}); // whatever it says
    }
}
