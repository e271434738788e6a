//! What is written down, purely: a kind, and named facts in the order they were given.

use symbolon_kit::text::shown;

/// The longest text in a record, in characters, and the most items of a list.
const MAX_TEXT: usize = 2_048;
const MAX_LIST: usize = 64;
/// Stands for what looks like a credential.
const REDACTED: &str = "[redacted]";

/// One thing that happened; it gets its number and time when it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub(super) kind: Kind,
    facts: Vec<(&'static str, Fact)>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    IssuedX509,
    IssuedJwt,
    IssuedWit,
    Refused,
    TokenCreated,
    TokenUsed,
    NodeAttested,
    NodeEvicted,
    NodeBanned,
    NodeUnbanned,
    AuthorityPrepared,
    AuthorityActivated,
    AuthorityTainted,
    AuthorityRevoked,
    AuthorityExpired,
    EntryCreated,
    EntryUpdated,
    EntryDeleted,
    EntryExpired,
    BundleSet,
    BundleOverridden,
    BundleForgotten,
    RelationshipCreated,
    RelationshipUpdated,
    RelationshipDeleted,
    /// The control plane started.
    LogStarted,
    /// The first record of each file.
    LogSegment,
    /// A line that a crash had cut short was taken away.
    LogRepaired,
    /// The log was not as it was left.
    LogDamaged,
}

/// The value of a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Text(String),
    Number(i64),
    List(Vec<String>),
}

// === impl Record ===

impl Record {
    pub fn new(kind: Kind) -> Self {
        Self { kind, facts: Vec::with_capacity(8) }
    }

    /// Adds a fact. No credential may be one: what looks like a token or a private key is not written.
    #[must_use]
    pub fn with(mut self, name: &'static str, fact: impl Into<Fact>) -> Self {
        self.facts.push((name, fact.into()));
        self
    }

    /// What is signed of it: its kind and facts so far, as they stand in the log.
    pub(super) fn statement(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Its kind and facts, as members of a JSON object.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"kind\":");
        text(self.kind.word(), out);
        for (name, fact) in &self.facts {
            out.push(b',');
            text(name, out);
            out.push(b':');
            match fact {
                Fact::Text(value) => text(value, out),
                Fact::Number(value) => out.extend_from_slice(value.to_string().as_bytes()),
                Fact::List(values) => {
                    out.push(b'[');
                    for (index, value) in values.iter().take(MAX_LIST).enumerate() {
                        if index > 0 {
                            out.push(b',');
                        }
                        text(value, out);
                    }
                    out.push(b']');
                }
            }
        }
    }
}

/// A JSON string: bounded, without what may not be written.
fn text(value: &str, out: &mut Vec<u8>) {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    let bounded;
    let value = if is_credential(value) {
        REDACTED
    } else if value.len() <= MAX_TEXT {
        value
    } else {
        bounded = shown(value, MAX_TEXT);
        &bounded
    };
    out.push(b'"');
    if value.bytes().all(plain) {
        out.extend_from_slice(value.as_bytes());
    } else {
        value.chars().for_each(|letter| escaped(letter, out));
    }
    out.push(b'"');
}

/// In ASCII: what a terminal shows of a line is what stands in it.
fn escaped(letter: char, out: &mut Vec<u8>) {
    match letter {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        ' '..='~' => out.push(u8::try_from(letter).unwrap_or(b'?')),
        _ => letter
            .encode_utf16(&mut [0; 2])
            .iter()
            .for_each(|unit| out.extend_from_slice(format!("\\u{unit:04x}").as_bytes())),
    }
}

/// Whether somewhere in it stands a JWS in compact form, or a private key in PEM. Our records are made without either; this is for
/// texts that a caller chose.
fn is_credential(value: &str) -> bool {
    let is_base64url = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let is_jws = |at: usize| {
        let word = value[at..].split(|letter: char| letter.is_whitespace() || "\"',;()".contains(letter)).next();
        let mut parts = word.unwrap_or_default().split('.');
        parts.next().is_some_and(|header| header.len() > 8) && parts.next().is_some_and(is_base64url)
    };
    value.contains("PRIVATE KEY-----") || value.match_indices("eyJ").any(|(at, _)| is_jws(at))
}

// === impl Kind ===

impl Kind {
    /// As the log and metrics say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::IssuedX509 => "issued_x509",
            Self::IssuedJwt => "issued_jwt",
            Self::IssuedWit => "issued_wit",
            Self::Refused => "refused",
            Self::TokenCreated => "token_created",
            Self::TokenUsed => "token_used",
            Self::NodeAttested => "node_attested",
            Self::NodeEvicted => "node_evicted",
            Self::NodeBanned => "node_banned",
            Self::NodeUnbanned => "node_unbanned",
            Self::AuthorityPrepared => "authority_prepared",
            Self::AuthorityActivated => "authority_activated",
            Self::AuthorityTainted => "authority_tainted",
            Self::AuthorityRevoked => "authority_revoked",
            Self::AuthorityExpired => "authority_expired",
            Self::EntryCreated => "entry_created",
            Self::EntryUpdated => "entry_updated",
            Self::EntryDeleted => "entry_deleted",
            Self::EntryExpired => "entry_expired",
            Self::BundleSet => "bundle_set",
            Self::BundleOverridden => "bundle_overridden",
            Self::BundleForgotten => "bundle_forgotten",
            Self::RelationshipCreated => "relationship_created",
            Self::RelationshipUpdated => "relationship_updated",
            Self::RelationshipDeleted => "relationship_deleted",
            Self::LogStarted => "log_started",
            Self::LogSegment => "log_segment",
            Self::LogRepaired => "log_repaired",
            Self::LogDamaged => "log_damaged",
        }
    }
}

// === impl Fact ===

impl From<&str> for Fact {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Fact {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for Fact {
    fn from(value: i64) -> Self {
        Self::Number(value)
    }
}

impl From<u64> for Fact {
    fn from(value: u64) -> Self {
        Self::Number(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<Vec<String>> for Fact {
    fn from(values: Vec<String>) -> Self {
        Self::List(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(record: &Record) -> String {
        let mut out = Vec::new();
        record.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_record_is_members_of_a_json_object() {
        let record = Record::new(Kind::EntryCreated)
            .with("id", "spiffe://a.example/x")
            .with("ttl", 60u64)
            .with("selectors", vec!["unix:uid:1".to_owned(), "unix:path:/a\"b\n".to_owned()]);
        let text = written(&record);
        assert_eq!(
            text,
            r#""kind":"entry_created","id":"spiffe://a.example/x","ttl":60,"selectors":["unix:uid:1","unix:path:/a\"b\n"]"#
        );
        assert!(serde_json::from_str::<serde_json::Value>(&format!("{{{text}}}")).is_ok());
    }

    #[test]
    fn credentials_are_not_written() {
        let jws = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
        for value in [
            jws.to_owned(),
            format!("Bearer {jws}"),
            format!("asks for \"{jws}\""),
            "-----BEGIN EC PRIVATE KEY-----\nMHc".to_owned(),
        ] {
            let text = written(&Record::new(Kind::Refused).with("detail", value.clone()));
            assert_eq!(text, r#""kind":"refused","detail":"[redacted]""#, "{value}");
        }
        let text =
            written(&Record::new(Kind::Refused).with("detail", "eyJ is no token, spiffe://a.example/eyJ neither"));
        assert!(!text.contains(REDACTED), "{text}");
    }

    #[test]
    fn bad_164_texts_are_bounded_and_escaped() {
        let record = Record::new(Kind::Refused)
            .with("detail", "x".repeat(100_000))
            .with("list", vec!["a\r\nb".to_owned(); 1_000]);
        let text = written(&record);
        assert!(text.len() < 4_000, "{}", text.len());
        let strange = "\u{202e}\u{1f980}\u{7f}\0é\\\"";
        let text = written(&Record::new(Kind::Refused).with("detail", strange));
        assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{text}");
        let json: serde_json::Value = serde_json::from_str(&format!("{{{text}}}")).unwrap();
        assert_eq!(json["detail"], strange);
        assert!(!text.contains(['\n', '\r']));
    }
}
