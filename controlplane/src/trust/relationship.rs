//! A relationship with another trust domain, as the operator wrote it down: its name, how its bundle is had, and labels by which
//! registration entries pick it. Everything is explicit (F-7, F-8); nothing falls back to anything.

use symbolon_proto::ids::{IdError, SpiffeId, TrustDomain};

use super::url::{EndpointUrl, NotAUrl};
use crate::model::Labels;

/// The most labels on one, and the longest key or value.
const MAX_LABELS: usize = 64;
const MAX_LABEL_BYTES: usize = 128;

/// One relationship; they are one-way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relationship {
    pub trust_domain: TrustDomain,
    pub profile: Profile,
    pub labels: Labels,
}

/// How its bundle is had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The endpoint proves a SPIFFE ID, by the bundle of that ID's trust domain.
    HttpsSpiffe { url: EndpointUrl, id: SpiffeId },
    /// The endpoint proves its host name, by the Web's authorities.
    HttpsWeb { url: EndpointUrl },
    /// The federation link brings it.
    Link,
    /// The operator brings it.
    Manual,
}

/// Whose word it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file's: it overrides an operator's.
    File,
    Operator,
}

/// Why it is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("trustDomain: {0}")]
    TrustDomain(IdError),
    #[error("{0} is our own trust domain")]
    Own(TrustDomain),
    #[error("profile {0:?} is none of https_spiffe, https_web, link, manual")]
    Profile(String),
    #[error("url: {0}")]
    Url(NotAUrl),
    #[error("profile {profile} needs {needs}")]
    Needs { profile: &'static str, needs: &'static str },
    #[error("profile {profile} has no {has}")]
    Surplus { profile: &'static str, has: &'static str },
    #[error("endpointSpiffeId: {0}")]
    Id(IdError),
    #[error("labels: at most {MAX_LABELS}, each key and value of 1 to {MAX_LABEL_BYTES} printable characters")]
    Labels,
}

impl Relationship {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(
        own: &TrustDomain,
        trust_domain: &str,
        profile: &str,
        url: &str,
        id: &str,
        labels: Labels,
    ) -> Result<Self, Invalid> {
        let trust_domain: TrustDomain = trust_domain.parse().map_err(Invalid::TrustDomain)?;
        if trust_domain == *own {
            return Err(Invalid::Own(trust_domain));
        }
        let word =
            |text: &str| !text.is_empty() && text.len() <= MAX_LABEL_BYTES && text.chars().all(|c| !c.is_control());
        if labels.len() > MAX_LABELS || !labels.iter().all(|(key, value)| word(key) && word(value)) {
            return Err(Invalid::Labels);
        }
        Ok(Self { trust_domain, profile: Profile::parse(profile, url, id)?, labels })
    }
}

impl Profile {
    fn parse(profile: &str, url: &str, id: &str) -> Result<Self, Invalid> {
        let known = ["https_spiffe", "https_web", "link", "manual"].into_iter().find(|known| *known == profile);
        let profile = known.ok_or_else(|| Invalid::Profile(profile.chars().take(40).collect()))?;
        let endpoint = || match url {
            "" => Err(Invalid::Needs { profile, needs: "url" }),
            url => EndpointUrl::parse(url).map_err(Invalid::Url),
        };
        let surplus = |text: &str, has| if text.is_empty() { Ok(()) } else { Err(Invalid::Surplus { profile, has }) };
        match profile {
            "https_spiffe" if id.is_empty() => Err(Invalid::Needs { profile, needs: "endpointSpiffeId" }),
            "https_spiffe" => Ok(Self::HttpsSpiffe { url: endpoint()?, id: id.parse().map_err(Invalid::Id)? }),
            "https_web" => {
                surplus(id, "endpointSpiffeId")?;
                Ok(Self::HttpsWeb { url: endpoint()? })
            }
            other => {
                surplus(url, "url")?;
                surplus(id, "endpointSpiffeId")?;
                Ok(if other == "link" { Self::Link } else { Self::Manual })
            }
        }
    }

    /// SPIFFE's word for it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::HttpsSpiffe { .. } => "https_spiffe",
            Self::HttpsWeb { .. } => "https_web",
            Self::Link => "link",
            Self::Manual => "manual",
        }
    }

    /// Where it is polled, if it is.
    pub fn url(&self) -> Option<&EndpointUrl> {
        match self {
            Self::HttpsSpiffe { url, .. } | Self::HttpsWeb { url } => Some(url),
            Self::Link | Self::Manual => None,
        }
    }

    /// The endpoint's SPIFFE ID, if it has to prove one.
    pub fn endpoint_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::HttpsSpiffe { id, .. } => Some(id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(domain: &str, profile: &str, url: &str, id: &str) -> Result<Relationship, Invalid> {
        Relationship::parse(&"a.example".parse().unwrap(), domain, profile, url, id, Labels::new())
    }

    /// A bundle is somebody's: without the name of its trust domain there is no relationship to put it into.
    #[test]
    fn f_8_a_relationship_names_its_trust_domain() {
        let url = "https://b.example/";
        assert_eq!(parse("b.example", "https_web", url, "").unwrap().trust_domain.as_str(), "b.example");
        for nobody in ["", "https://b.example", "spiffe://b.example", "b.example/", "a.example"] {
            assert!(parse(nobody, "https_web", url, "").is_err(), "{nobody:?}");
        }
    }

    #[test]
    fn f_7_nothing_of_a_relationship_is_inferred() {
        let id = "spiffe://b.example/spire/server";
        let url = "https://b.example:8443/";
        assert!(parse("b.example", "https_spiffe", url, id).is_ok());
        assert!(parse("b.example", "https_web", url, "").is_ok(), "F-9: nothing further is needed");
        assert!(parse("b.example", "link", "", "").is_ok());
        assert!(parse("b.example", "manual", "", "").is_ok());
        let refused = [
            ("", "https_web", url, ""),
            ("B Example", "https_web", url, ""),
            ("a.example", "https_web", url, ""),
            ("b.example", "", url, ""),
            ("b.example", "HTTPS_WEB", url, ""),
            ("b.example", "https_web", "", ""),
            ("b.example", "https_web", "http://b.example/", ""),
            ("b.example", "https_web", url, id),
            ("b.example", "https_spiffe", url, ""),
            ("b.example", "https_spiffe", "", id),
            ("b.example", "https_spiffe", url, "https://b.example"),
            ("b.example", "link", url, ""),
            ("b.example", "manual", "", id),
        ];
        for (domain, profile, url, id) in refused {
            assert!(parse(domain, profile, url, id).is_err(), "{domain:?} {profile:?} {url:?} {id:?}");
        }
    }
}
