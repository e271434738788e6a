//! The chain of lines, purely. A line is a JSON object that ends with its hash:
//!
//! ```text
//! {"seq":7,"at":"2026-11-25T17:46:12.345Z","kind":"issued_x509", …, "hash":"<64 digits>"}
//! ^------------------------- body ------------------------------^
//! ```
//!
//! The hash is the SHA-256 of the hash before it (32 bytes; zeros before the first) followed by the body. Sequence numbers begin at 1
//! and have no gaps. So nobody can change, take out, put in or exchange a line without changing the hash of every line after it; and
//! who knows the newest hash can tell that none is missing at the end.

use std::io::{self, BufRead};

use aws_lc_rs::digest;
use symbolon_kit::octets;

use super::record::Record;

/// A hash as it is.
pub type Hash = [u8; 32];

/// Before the first line.
pub const GENESIS: Head = Head { count: 0, hash: [0; 32] };
/// The longest line: the most that a record may hold, escaped.
const MAX_LINE: u64 = 4 * 1024 * 1024;
const HASH_MEMBER: &[u8] = b",\"hash\":\"";
/// Of what follows the body: the member, 64 digits, a quotation mark and a brace.
const TAIL: usize = HASH_MEMBER.len() + 64 + 2;

/// How far a log goes: the number of its last line, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub count: u64,
    pub hash: Hash,
}

/// A line, taken apart but not believed.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub seq: u64,
    body: &'a [u8],
    pub hash: Hash,
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("after record {after}: a line that is no record")]
    Malformed { after: u64 },
    #[error("the end of the log is cut in the middle of a line, after record {after}")]
    Torn { after: u64 },
    #[error("record {from} is missing")]
    Missing { from: u64 },
    #[error("records {from} to {to} are missing")]
    MissingRange { from: u64, to: u64 },
    #[error("record {found} stands where {expected} belongs: records were repeated or reordered")]
    Order { expected: u64, found: u64 },
    #[error("record {seq} was changed, or the one before it was")]
    Changed { seq: u64 },
    #[error("record {seq} is another one than was written: the log was rewritten")]
    Rewritten { seq: u64 },
    #[error("{file} cannot be read: {why}")]
    Unreadable { file: String, why: String },
}

// === impl Head ===

impl Head {
    /// Appends `record` as the next line; the head is then that line.
    pub fn seal(&mut self, at: &str, record: &Record, out: &mut Vec<u8>) {
        let start = out.len();
        self.count += 1;
        out.extend_from_slice(format!("{{\"seq\":{},\"at\":\"{at}\",", self.count).as_bytes());
        record.write(out);
        self.hash = hash(&self.hash, &out[start..]);
        out.extend_from_slice(HASH_MEMBER);
        out.extend_from_slice(octets::hex(&self.hash).as_bytes());
        out.extend_from_slice(b"\"}\n");
    }

    /// Takes the next line, if it is the next line.
    ///
    /// # Errors
    /// What is wrong with it; the head stays where it was.
    pub fn follow(&mut self, line: &[u8]) -> Result<(), Problem> {
        let line = Line::parse(line).ok_or(Problem::Malformed { after: self.count })?;
        let expected = self.count + 1;
        if line.seq != expected {
            return Err(gap(expected, line.seq));
        }
        if !line.follows(&self.hash) {
            return Err(Problem::Changed { seq: line.seq });
        }
        *self = line.head();
        Ok(())
    }
}

fn gap(expected: u64, found: u64) -> Problem {
    match found.checked_sub(expected) {
        Some(1) => Problem::Missing { from: expected },
        Some(more) if more > 1 => Problem::MissingRange { from: expected, to: found - 1 },
        _ => Problem::Order { expected, found },
    }
}

// === impl Line ===

impl<'a> Line<'a> {
    /// A line without its end; `None` if it does not look like one of ours.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let (body, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
        let digits = tail.strip_prefix(HASH_MEMBER)?.strip_suffix(b"\"}")?;
        let seq = body.strip_prefix(b"{\"seq\":")?;
        let length = seq.iter().position(|byte| *byte == b',')?;
        let seq = std::str::from_utf8(&seq[..length]).ok()?;
        let number: u64 = seq.parse().ok()?;
        (number.to_string() == seq).then_some(())?; // one way to write it
        Some(Self { seq: number, body, hash: unhex(digits)? })
    }

    /// Whether its hash is right if `previous` is that of the line before it.
    pub fn follows(&self, previous: &Hash) -> bool {
        hash(previous, self.body) == self.hash
    }

    pub fn head(&self) -> Head {
        Head { count: self.seq, hash: self.hash }
    }
}

/// Follows the lines of one file from `head` on, as far as they are right; and hands each to `seen`.
///
/// # Errors
/// The first that is wrong; `head` is the last that was right then.
pub fn follow(mut file: impl BufRead, head: &mut Head, mut seen: impl FnMut(&Head)) -> Result<(), Problem> {
    let mut line = Vec::new();
    loop {
        line.clear();
        match read_line(&mut file, &mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                return Err(Problem::Unreadable { file: "a file of the log".into(), why: error.to_string() });
            }
        }
        let Some(whole) = line.strip_suffix(b"\n") else { return Err(Problem::Torn { after: head.count }) };
        head.follow(whole)?;
        seen(head);
    }
}

/// A line with its end, or what there is of it.
pub fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    io::Read::take(file, MAX_LINE).read_until(b'\n', line)
}

/// Whether a log that goes as far as `found` still holds what was `known` of it. `passed` is the hash that it has at the place of
/// `known`, if it goes that far.
///
/// # Errors
/// What is missing, or that it is another log.
pub fn holds(known: &Head, found: &Head, passed: Option<Hash>) -> Result<(), Problem> {
    match passed {
        _ if known.count == found.count + 1 => Err(Problem::Missing { from: known.count }),
        _ if known.count > found.count => Err(Problem::MissingRange { from: found.count + 1, to: known.count }),
        Some(hash) if hash != known.hash => Err(Problem::Rewritten { seq: known.count }),
        _ => Ok(()),
    }
}

/// A hash from its 64 digits in lower case.
pub fn unhex(digits: &[u8]) -> Option<Hash> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    (digits.len() == 64).then_some(())?;
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(hash)
}

fn hash(previous: &Hash, body: &[u8]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(previous);
    context.update(body);
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests;
