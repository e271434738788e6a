//! Selectors: what is true of a process or of a node, as text `kind:name:value`. A registration entry demands some, an attested
//! caller has some; the entry is the caller's if it has all that are demanded. One grammar for both programs: what the control plane
//! takes into an entry is exactly what an attestor can find true, in the same spelling.
//!
//! A new attestor is a new row of [`ROWS`]: Kubernetes will bring `k8s:ns:…` and `k8s:sa:…` of workloads.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest selector; a path may be 4,096 bytes.
const MAX_BYTES: usize = 4096 + 64;

/// One selector in canonical form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Arc<str>);

/// What is true of one caller, or demanded of it.
pub type Selectors = BTreeSet<Selector>;

/// What a selector speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Workload,
    Node,
}

/// Why a text is not a selector that any attestor could ever find true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error(
        "a selector is unix:uid:N, unix:gid:N, unix:supplementary_gid:N, unix:path:/P, unix:sha256:HEX, systemd:id:UNIT or \
         systemd:fragment_path:/P; of a node join_token:node:NAME, x509pop:ca:fingerprint:HEX, x509pop:subject:cn:NAME or \
         x509pop:serialnumber:HEX"
    )]
    Unknown,
    #[error("an id is a decimal number below 4294967296")]
    Id,
    #[error("a path begins with '/' and holds no control characters")]
    Path,
    #[error("a SHA-256 is 64 hexadecimal digits")]
    Sha256,
    #[error("a fingerprint or serial number is hexadecimal digits, two for each byte")]
    Hex,
    #[error("a name is 1 to 255 bytes without control characters")]
    Name,
}

/// What may follow a prefix.
#[derive(Clone, Copy, Debug)]
enum Value {
    Id,
    Path,
    Sha256,
    Hex,
    Name,
}

/// Every kind and name that some attestor produces.
const ROWS: [(&str, Value, Subject); 11] = [
    ("unix:uid:", Value::Id, Subject::Workload),
    ("unix:gid:", Value::Id, Subject::Workload),
    ("unix:supplementary_gid:", Value::Id, Subject::Workload),
    ("unix:path:", Value::Path, Subject::Workload),
    ("unix:sha256:", Value::Sha256, Subject::Workload),
    ("systemd:id:", Value::Name, Subject::Workload),
    ("systemd:fragment_path:", Value::Path, Subject::Workload),
    ("join_token:node:", Value::Name, Subject::Node),
    ("x509pop:ca:fingerprint:", Value::Hex, Subject::Node),
    ("x509pop:subject:cn:", Value::Name, Subject::Node),
    ("x509pop:serialnumber:", Value::Hex, Subject::Node),
];

// === impl Subject ===

impl Subject {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Node => "node",
        }
    }
}

// === impl Selector ===

impl Selector {
    pub fn uid(uid: u32) -> Self {
        Self(format!("unix:uid:{uid}").into())
    }

    pub fn gid(gid: u32) -> Self {
        Self(format!("unix:gid:{gid}").into())
    }

    pub fn supplementary_gid(gid: u32) -> Self {
        Self(format!("unix:supplementary_gid:{gid}").into())
    }

    /// Of an executable's path as the kernel tells it.
    pub fn path(path: &str) -> Self {
        Self(format!("unix:path:{path}").into())
    }

    pub fn sha256(digest: &[u8]) -> Self {
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("unix:sha256:{hex}").into())
    }

    /// Of a node that joined by a token made for `name`.
    pub fn joined_as(name: &str) -> Self {
        Self(format!("join_token:node:{name}").into())
    }

    /// A selector of a registration entry: kept as it is, since an unknown one must stay a demand that nobody meets.
    pub fn demanded(text: &str) -> Self {
        text.parse().unwrap_or_else(|_| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it speaks of; `None` for one that no attestor produces.
    pub fn subject(&self) -> Option<Subject> {
        row(&self.0).map(|(_, _, subject)| subject)
    }

    /// Kind and name, with the last colon: `unix:uid:` of `unix:uid:1000`.
    pub fn prefix(&self) -> &str {
        row(&self.0).map_or(&self.0, |(prefix, ..)| prefix)
    }
}

fn row(text: &str) -> Option<(&'static str, Value, Subject)> {
    ROWS.into_iter().find(|(prefix, ..)| text.starts_with(prefix))
}

impl Value {
    /// The canonical spelling of `text`, if it is such a value.
    fn canonical(self, text: &str) -> Result<String, SelectorError> {
        let hexadecimal = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        let printable = |text: &str| !text.chars().any(char::is_control);
        match self {
            Self::Id if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse::<u32>().map(|id| id.to_string()).map_err(|_| SelectorError::Id)
            }
            Self::Id => Err(SelectorError::Id),
            Self::Path if text.starts_with('/') && printable(text) => Ok(text.to_owned()),
            Self::Path => Err(SelectorError::Path),
            Self::Sha256 if text.len() == 64 && hexadecimal(text) => Ok(text.to_ascii_lowercase()),
            Self::Sha256 => Err(SelectorError::Sha256),
            Self::Hex if (2..=128).contains(&text.len()) && text.len().is_multiple_of(2) && hexadecimal(text) => {
                Ok(text.to_ascii_lowercase())
            }
            Self::Hex => Err(SelectorError::Hex),
            Self::Name if (1..=255).contains(&text.len()) && printable(text) => Ok(text.to_owned()),
            Self::Name => Err(SelectorError::Name),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_BYTES {
            return Err(SelectorError::TooLong);
        }
        let (prefix, value, _) = row(text).ok_or(SelectorError::Unknown)?;
        let value = value.canonical(&text[prefix.len()..])?;
        Ok(Self(format!("{prefix}{value}").into()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_one_meaning() {
        let hex = "AB".repeat(32);
        for (given, canonical) in [
            ("unix:uid:01000", "unix:uid:1000".to_owned()),
            ("unix:supplementary_gid:0", "unix:supplementary_gid:0".to_owned()),
            ("unix:path:/usr/bin/a:b", "unix:path:/usr/bin/a:b".to_owned()),
            (&format!("unix:sha256:{hex}"), format!("unix:sha256:{}", hex.to_lowercase())),
            ("systemd:id:pay@1.service", "systemd:id:pay@1.service".to_owned()),
            ("x509pop:ca:fingerprint:0AFF", "x509pop:ca:fingerprint:0aff".to_owned()),
            ("x509pop:subject:cn:web 1", "x509pop:subject:cn:web 1".to_owned()),
        ] {
            assert_eq!(given.parse::<Selector>().unwrap().as_str(), canonical);
        }
        assert_eq!(Selector::sha256(&[0xab; 32]).as_str(), format!("unix:sha256:{}", hex.to_lowercase()));
    }

    #[test]
    fn what_could_never_be_true_is_refused() {
        for (given, why) in [
            ("", SelectorError::Unknown),
            ("unix:uid", SelectorError::Unknown),
            ("unix:user:root", SelectorError::Unknown),
            ("k8s:ns:shop", SelectorError::Unknown),
            ("unix:uid:", SelectorError::Id),
            ("unix:uid:+1", SelectorError::Id),
            ("unix:uid:4294967296", SelectorError::Id),
            ("unix:path:bin/a", SelectorError::Path),
            ("unix:path:/a\nb", SelectorError::Path),
            ("unix:sha256:12", SelectorError::Sha256),
            ("systemd:id:", SelectorError::Name),
            ("systemd:fragment_path:x", SelectorError::Path),
            ("x509pop:serialnumber:abc", SelectorError::Hex),
            ("x509pop:ca:fingerprint:", SelectorError::Hex),
            ("x509pop:ca:x", SelectorError::Unknown),
        ] {
            assert_eq!(given.parse::<Selector>(), Err(why), "{given:?}");
        }
        assert_eq!(format!("unix:path:/{}", "a".repeat(MAX_BYTES)).parse::<Selector>(), Err(SelectorError::TooLong));
    }

    #[test]
    fn each_speaks_of_a_workload_or_of_a_node() {
        let of = |text: &str| text.parse::<Selector>().unwrap().subject();
        assert_eq!(of("unix:uid:1"), Some(Subject::Workload));
        assert_eq!(of("x509pop:serialnumber:01"), Some(Subject::Node));
        let unknown = Selector::demanded("k8s:ns:shop");
        assert_eq!((unknown.subject(), unknown.prefix()), (None, "k8s:ns:shop"));
        assert_eq!(Selector::joined_as("web-1").prefix(), "join_token:node:");
        assert_eq!(of(Selector::joined_as("web-1").as_str()), Some(Subject::Node));
    }

    /// Bad input 33: a selector's value is what it says, never a pattern.
    #[test]
    fn bad_033_wildcards_and_regular_expressions_match_only_themselves() {
        let caller: Selectors = ["unix:path:/bin/shop", "unix:uid:1000"].map(|text| text.parse().unwrap()).into();
        for demanded in ["unix:path:/bin/*", "unix:path:/bin/sh.p", "unix:path:/bin/(shop|x)", "unix:path:/BIN/SHOP"] {
            assert!(!Selectors::from([demanded.parse().unwrap()]).is_subset(&caller), "{demanded}");
        }
        assert!(Selectors::from(["unix:path:/bin/shop".parse().unwrap()]).is_subset(&caller));
    }
}
