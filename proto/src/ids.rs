//! SPIFFE IDs and trust domains: the one canonical parser (SPIFFE-ID.md §2). Inside the programs an identifier cannot be wrong.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest SPIFFE ID, scheme included, in bytes (SPIFFE-ID.md §2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// Longest trust domain name, in bytes (SPIFFE-ID.md §2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// First path segment that only Symbolon's own processes carry; no tenant can register below it.
pub const RESERVED_SEGMENT: &str = "symbolon";

const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE ID or trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    #[error("does not begin with spiffe://")]
    Scheme,
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    #[error("the trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")]
    TrustDomainTooLong,
    #[error("the trust domain may hold only a-z, 0-9, '.', '-' and '_'")]
    TrustDomainCharacter,
    #[error("a path segment may hold only a-z, A-Z, 0-9, '.', '-' and '_'")]
    PathCharacter,
    #[error("a path segment is empty, or the path ends with '/'")]
    EmptySegment,
    #[error("a path segment is '.' or '..'")]
    DotSegment,
    #[error("the path is empty: a workload's ID needs one")]
    NoPath,
    #[error("a path begins with '/'")]
    PathStart,
}

/// The name of a trust domain, in canonical lower case, e.g. `a.example`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID in canonical form: scheme and trust domain in lower case, the path as it was given. The path may be empty
/// (the ID of a trust domain itself); [`SpiffeId::workload`] refuses that.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

// === impl TrustDomain ===

impl TrustDomain {
    /// The name, without the scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID of the trust domain itself, `spiffe://<name>`.
    pub fn id(&self) -> SpiffeId {
        SpiffeId { text: format!("{SCHEME}{}", self.0).into(), trust_domain: self.clone() }
    }

    /// An ID in this trust domain. `path` is what follows the name: empty, or `/` and segments.
    ///
    /// # Errors
    /// What [`SpiffeId`]'s parser says of the path.
    pub fn with_path(&self, path: &str) -> Result<SpiffeId, IdError> {
        if !path.is_empty() && !path.starts_with('/') {
            return Err(IdError::PathStart); // or it would lengthen the trust domain's name
        }
        format!("{SCHEME}{}{path}", self.0).parse()
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    /// Accepts the bare name, in either case (SPIFFE-ID.md §2.4: case-insensitive).
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::EmptyTrustDomain);
        }
        if text.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(IdError::TrustDomainTooLong);
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
            return Err(IdError::TrustDomainCharacter);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl SpiffeId ===

impl SpiffeId {
    /// Parses an ID that a workload may carry: one with a path (X509-SVID.md §3.1).
    ///
    /// # Errors
    /// [`IdError::NoPath`] for a trust domain's own ID, else as `from_str`.
    pub fn workload(text: &str) -> Result<Self, IdError> {
        let id: Self = text.parse()?;
        if id.path().is_empty() { Err(IdError::NoPath) } else { Ok(id) }
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain it belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What follows the trust domain: empty, or begins with `/`.
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.trust_domain.0.len()..]
    }

    /// Whether the path lies below `/symbolon/`, which only Symbolon's own processes carry.
    pub fn is_reserved(&self) -> bool {
        self.path().split('/').nth(1) == Some(RESERVED_SEGMENT)
    }

    /// Whether this ID matches `pattern`, whose path segments may be `*` (one segment) and whose last may be `**` (the rest,
    /// at least one segment). Everything else is literal; the trust domain never has a wildcard.
    pub fn matches(&self, pattern: &str) -> bool {
        let Some(rest) = pattern.strip_prefix(SCHEME) else { return false };
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !domain.eq_ignore_ascii_case(self.trust_domain.as_str()) {
            return false;
        }
        let mut have = self.path().split('/').skip(1);
        let mut want = path.split('/').skip(1).peekable();
        while let Some(segment) = want.next() {
            let Some(actual) = have.next() else { return false };
            if segment == "**" && want.peek().is_none() {
                return true;
            }
            if segment != "*" && segment != actual {
                return false;
            }
        }
        have.next().is_none()
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(IdError::TooLong);
        }
        let Some((scheme, rest)) = text.split_at_checked(SCHEME.len()) else { return Err(IdError::Scheme) };
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(IdError::Scheme);
        }
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain: TrustDomain = domain.parse()?;
        for segment in path.split('/').skip(1) {
            match segment {
                "" => return Err(IdError::EmptySegment),
                "." | ".." => return Err(IdError::DotSegment),
                _ if segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) => {}
                _ => return Err(IdError::PathCharacter),
            }
        }
        Ok(Self { text: format!("{SCHEME}{trust_domain}{path}").into(), trust_domain })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
