use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

fn literal(first: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = first.to_vec();
    if value.len() < 0x7f {
        field.push(u8::try_from(value.len()).unwrap());
    } else {
        let rest = value.len() - 0x7f;
        field.extend([0x7f, 0x80 | u8::try_from(rest & 0x7f).unwrap(), u8::try_from(rest >> 7).unwrap()]);
    }
    [field, value.to_vec()].concat()
}

/// A connection whose headers say `authority`, in every way a field can be put beside it.
fn connection(authority: &[u8]) -> Vec<u8> {
    let block = [
        vec![0x3f, 0xe1, 0x1f],                        // table size update, long
        vec![0x83, 0x86],                              // :method, :scheme by index
        literal(&[0x44], b"/Some/Path%2F"),            // :path, a value that stays
        literal(&[0x41], authority),                   // :authority, kept in the table
        literal(&[0x40, 2, b't', b'e'], b"trail%ers"), // by literal name
        literal(b"@\x0a:authority", authority),        // as the C core puts it
        literal(b"@\x09:authorit", b"/y%"),            // almost
        literal(b"@\x0b:authority2", b"/y%"),          // and more
        literal(&[0x0f, 0x00], b"not/indexed"),        // name by long index
        literal(&[0x11], authority),                   // :authority, never indexed
        vec![0xbe, 0xff, 0x80, 0x01],                  // references, the last one long
    ]
    .concat();
    let (one, two) = block.split_at(block.len() / 3);
    let padded = [&[3][..], &[0; 5], &block, &[b'/'; 3]].concat();
    [
        PREFACE.to_vec(),
        frame(4, 0, b"/%/%/%"),
        frame(HEADERS, 0, one),
        frame(CONTINUATION, 4, two),
        frame(0, 1, b"body/with%2Fslashes"),
        frame(HEADERS, 4 | PADDED | PRIORITY, &padded),
        frame(0, 0, b""),
    ]
    .concat()
}

fn passed(mut bytes: Vec<u8>, pieces: &[usize]) -> Vec<u8> {
    let mut scrub = Scrub::default();
    let mut rest = &mut bytes[..];
    for piece in pieces.iter().cycle() {
        let (now, later) = rest.split_at_mut((*piece).min(rest.len()));
        scrub.pass(now);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    bytes
}

#[test]
fn only_what_cannot_be_in_an_authority_changes() {
    for (given, becomes) in [
        ("%2Frun%2Fagent.sock", "-2Frun-2Fagent.sock"),
        ("/run/agent.sock", "-run-agent.sock"),
        ("localhost", "localhost"),
        ("[::1]:80", "[::1]:80"),
        ("", ""),
    ] {
        assert_eq!(passed(connection(given.as_bytes()), &[usize::MAX]), connection(becomes.as_bytes()), "{given}");
    }
    let long = "/%20".repeat(100);
    assert_eq!(passed(connection(long.as_bytes()), &[1]), connection(long.replace(['/', '%'], "-").as_bytes()));
}

#[test]
fn what_is_not_http_2_passes_untouched() {
    for other in [b"GET /%2F HTTP/1.1\r\nhost: /x\r\n\r\n".to_vec(), vec![0xff; 100]] {
        assert_eq!(passed(other.clone(), &[7]), other);
    }
    let broken = [PREFACE.to_vec(), frame(HEADERS, PADDED, &[9, 0]), connection(b"/x")].concat();
    assert_eq!(passed(broken.clone(), &[usize::MAX]), broken);
    let endless = [PREFACE.to_vec(), frame(HEADERS, 4, &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, b'/'])].concat();
    assert_eq!(passed(endless.clone(), &[usize::MAX]), endless);
}

proptest! {
    #[test]
    fn it_does_not_matter_in_which_pieces_it_comes(pieces in proptest::collection::vec(1..40_usize, 1..20)) {
        prop_assert_eq!(passed(connection(b"%2Fa%2Fb"), &pieces), connection(b"-2Fa-2Fb"));
    }

    #[test]
    fn garbage_neither_panics_nor_grows(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut scrub = Scrub::default();
        scrub.pass(&mut PREFACE.to_vec());
        scrub.pass(&mut bytes);
    }
}
