//! Selectors: what is true of a process, as text `kind:name:value`. A registration entry demands some, an attested caller has
//! some; the entry is the caller's if it has all that are demanded.

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

/// Why a text is not a selector that this sidecar could ever find true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("a selector is unix:uid:N, unix:gid:N, unix:supplementary_gid:N, unix:path:/P or unix:sha256:HEX")]
    Unknown,
    #[error("an id is a decimal number below 4294967296")]
    Id,
    #[error("a path begins with '/' and holds no control characters")]
    Path,
    #[error("a SHA-256 is 64 hexadecimal digits")]
    Sha256,
}

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
        Self(format!("unix:sha256:{}", symbolon_kit::octets::hex(digest)).into())
    }

    /// A selector of a registration entry: kept as it is, since an unknown one must stay a demand that nobody meets.
    pub fn demanded(text: &str) -> Self {
        text.parse().unwrap_or_else(|_| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_BYTES {
            return Err(SelectorError::TooLong);
        }
        let mut parts = text.splitn(3, ':');
        let (kind, name, value) = (parts.next(), parts.next(), parts.next());
        let (Some("unix"), Some(name), Some(value)) = (kind, name, value) else { return Err(SelectorError::Unknown) };
        let id = || -> Result<u32, SelectorError> {
            if value.bytes().all(|b| b.is_ascii_digit()) {
                value.parse().map_err(|_| SelectorError::Id)
            } else {
                Err(SelectorError::Id)
            }
        };
        match name {
            "uid" => id().map(Self::uid),
            "gid" => id().map(Self::gid),
            "supplementary_gid" => id().map(Self::supplementary_gid),
            "path" if value.starts_with('/') && !value.chars().any(char::is_control) => Ok(Self::path(value)),
            "path" => Err(SelectorError::Path),
            "sha256" if value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(Self(format!("unix:sha256:{}", value.to_ascii_lowercase()).into()))
            }
            "sha256" => Err(SelectorError::Sha256),
            _ => Err(SelectorError::Unknown),
        }
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
        ] {
            assert_eq!(given.parse::<Selector>().unwrap().as_str(), canonical);
        }
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
        ] {
            assert_eq!(given.parse::<Selector>(), Err(why), "{given:?}");
        }
        assert_eq!(format!("unix:path:/{}", "a".repeat(MAX_BYTES)).parse::<Selector>(), Err(SelectorError::TooLong));
    }
}
