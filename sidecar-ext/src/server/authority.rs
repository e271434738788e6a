//! Lets gRPC's C core and Java speak to us over a Unix socket. They send the socket's path as HTTP/2's `:authority`
//! (`%2Frun%2Fagent.sock`, `/run/agent.sock`), which no URI allows, and h2 ends such a stream (grpc/grpc#38142, hyperium/h2#487). The
//! name means nothing here: each byte of it that cannot be is replaced by `-` on its way in. Nothing changes length, so neither frames
//! nor the header table of the connection are disturbed, and later references to the entry hold.
//!
//! ```text
//!  Preface ──► Head ──► Payload ──► Head …            any other frame: passed
//!                └────► Block ────► Head …            HEADERS, CONTINUATION: walked field by field (RFC 7541 §6)
//!                                                     Start ─► Index ─► Length ─► Text ─► Start
//! ```
//! Whatever it does not understand it passes on, and from there on everything: h2 is the judge of it.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// In HPACK's static table, number 1; the C core spells it out all the same.
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_INDEX: u8 = 1;

/// The incoming half of one connection.
#[derive(Debug)]
pub(super) struct Scrub {
    at: At,
    field: Field,
}

/// Where in the frames the next byte lies.
#[derive(Debug)]
enum At {
    Preface(usize),
    Head {
        bytes: [u8; HEAD_BYTES],
        have: usize,
    },
    /// The byte that says how much padding ends a HEADERS frame.
    PadLength {
        left: usize,
        priority: usize,
    },
    /// A header block: `skip` bytes before it, `left` of it, `padding` after it.
    Block {
        skip: usize,
        left: usize,
        padding: usize,
    },
    Payload {
        left: usize,
    },
    /// Not HTTP/2 as we know it.
    Lost,
}

/// Where in a header block the next byte lies.
#[derive(Clone, Copy, Debug)]
enum Field {
    Start,
    /// An integer goes on; then what `then` says.
    Index {
        then: Then,
    },
    Length {
        text: Text,
    },
    MoreLength {
        text: Text,
        so_far: usize,
        shift: u32,
        huffman: bool,
    },
    Bytes {
        text: Text,
        left: usize,
        huffman: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Start,
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    /// Of [`AUTHORITY`], so many bytes are here; `None`: it is another name.
    Name(Option<usize>),
    Value,
    Authority,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { at: At::Preface(0), field: Field::Start }
    }
}

impl Scrub {
    /// Takes the next bytes of the connection, in whatever pieces they come.
    pub(super) fn pass(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if matches!(self.at, At::Lost) {
                return;
            }
            let taken = self.step(rest);
            rest = &mut rest[taken..];
        }
    }

    /// Takes at least one byte.
    fn step(&mut self, bytes: &mut [u8]) -> usize {
        match &mut self.at {
            At::Lost => bytes.len(),
            At::Preface(have) => {
                let matches = PREFACE.get(*have) == Some(&bytes[0]);
                *have += 1;
                if !matches {
                    self.at = At::Lost;
                } else if *have == PREFACE.len() {
                    self.at = At::head();
                }
                1
            }
            At::Head { bytes: head, have } => {
                head[*have] = bytes[0];
                *have += 1;
                if *have == HEAD_BYTES {
                    self.at = At::after(*head);
                }
                1
            }
            At::PadLength { left, priority } => {
                let padding = usize::from(bytes[0]);
                let block = (*left - 1).checked_sub(padding + *priority);
                self.at = block.map_or(At::Lost, |left| At::block(*priority, left, padding));
                1
            }
            At::Payload { left } => {
                let taken = (*left).min(bytes.len());
                *left -= taken;
                if *left == 0 {
                    self.at = At::head();
                }
                taken
            }
            At::Block { skip, left, padding } => {
                if *skip > 0 {
                    *skip -= 1;
                } else if *left > 0 {
                    *left -= 1;
                    if !self.field.step(&mut bytes[0]) {
                        self.at = At::Lost;
                        return 1;
                    }
                }
                if (*skip, *left) == (0, 0) {
                    self.at = At::payload(*padding);
                }
                1
            }
        }
    }
}

impl At {
    fn head() -> Self {
        Self::Head { bytes: [0; HEAD_BYTES], have: 0 }
    }

    fn payload(left: usize) -> Self {
        if left == 0 { Self::head() } else { Self::Payload { left } }
    }

    fn block(skip: usize, left: usize, padding: usize) -> Self {
        if skip + left == 0 { Self::payload(padding) } else { Self::Block { skip, left, padding } }
    }

    fn after([a, b, c, kind, flags, ..]: [u8; HEAD_BYTES]) -> Self {
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
        match kind {
            HEADERS if flags & PADDED != 0 && length > 0 => Self::PadLength { left: length, priority },
            HEADERS => length.checked_sub(priority).map_or(Self::Lost, |left| Self::block(priority, left, 0)),
            CONTINUATION => Self::block(0, length, 0),
            _ => Self::payload(length),
        }
    }
}

impl Field {
    /// Takes one byte; false if it is not HPACK.
    fn step(&mut self, byte: &mut u8) -> bool {
        *self = match *self {
            Self::Start => Self::first(*byte),
            Self::Index { then } if *byte & 0x80 != 0 => Self::Index { then },
            Self::Index { then: Then::Start } => Self::Start,
            Self::Index { then: Then::Value } => Self::Length { text: Text::Value },
            Self::Length { text } => {
                let (huffman, length) = (*byte & 0x80 != 0, usize::from(*byte & 0x7f));
                if length == 0x7f {
                    Self::MoreLength { text, so_far: length, shift: 0, huffman }
                } else {
                    Self::text(text, length, huffman)
                }
            }
            Self::MoreLength { shift, .. } if shift > 21 => return false,
            Self::MoreLength { text, so_far, shift, huffman } => {
                let so_far = so_far + (usize::from(*byte & 0x7f) << shift);
                if *byte & 0x80 == 0 {
                    Self::text(text, so_far, huffman)
                } else {
                    Self::MoreLength { text, so_far, shift: shift + 7, huffman }
                }
            }
            Self::Bytes { text: Text::Name(matched), left, huffman } => {
                let matched = matched.filter(|at| !huffman && AUTHORITY.get(*at) == Some(byte)).map(|at| at + 1);
                Self::text(Text::Name(matched), left - 1, huffman)
            }
            Self::Bytes { text, left, huffman } => {
                // Huffman's bits are left alone: neither the C core nor Java uses them for this.
                if text == Text::Authority && !huffman && !may_be_in_authority(*byte) {
                    *byte = b'-';
                }
                Self::text(text, left - 1, huffman)
            }
        };
        true
    }

    /// The byte that begins a field (RFC 7541 §6).
    fn first(byte: u8) -> Self {
        let literal = |mask: u8| match byte & mask {
            0 => Self::Length { text: Text::Name(Some(0)) },
            AUTHORITY_INDEX => Self::Length { text: Text::Authority },
            index if index == mask => Self::Index { then: Then::Value },
            _ => Self::Length { text: Text::Value },
        };
        let number = |mask: u8| if byte & mask == mask { Self::Index { then: Then::Start } } else { Self::Start };
        match byte {
            0x80.. => number(0x7f),
            0x40.. => literal(0x3f),
            0x20.. => number(0x1f),
            _ => literal(0x0f),
        }
    }

    fn text(text: Text, left: usize, huffman: bool) -> Self {
        match (left, text) {
            (0, Text::Name(Some(all))) if all == AUTHORITY.len() => Self::Length { text: Text::Authority },
            (0, Text::Name(_)) => Self::Length { text: Text::Value },
            (0, _) => Self::Start,
            _ => Self::Bytes { text, left, huffman },
        }
    }
}

/// What RFC 3986 §3.2 allows, but for `%`: a host that is percent-encoded is no host that h2 takes.
fn may_be_in_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@[]".contains(&byte)
}

#[cfg(test)]
mod tests;
