//! The address of a bundle endpoint: `https`, no userinfo (F-9; bad input 137), and where a redirect may lead (F-13; bad input 57).

use std::fmt;
use std::net::IpAddr;

use http::Uri;

/// The longest URL.
const MAX_BYTES: usize = 2048;
const HTTPS: u16 = 443;

/// A bundle endpoint's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl {
    /// Lower case; an IPv6 address without brackets.
    host: String,
    port: u16,
    /// Path and query, beginning with `/`.
    target: String,
}

/// Why a text is no bundle endpoint's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAUrl {
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("not a URL")]
    Malformed,
    #[error("the scheme must be https")]
    Scheme,
    #[error("it names no host")]
    Host,
    #[error("user and password have no place in it")]
    Userinfo,
    #[error("a fragment has no place in it")]
    Fragment,
}

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFollowed {
    #[error("to what is no https URL ({0})")]
    Url(NotAUrl),
    #[error("to another host")]
    ForeignHost,
    #[error("to an address of the link or of this machine's cloud")]
    LinkLocal,
    #[error("too many of them")]
    TooMany,
    #[error("without a Location that can be read")]
    NoLocation,
}

impl EndpointUrl {
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, NotAUrl> {
        if text.len() > MAX_BYTES {
            return Err(NotAUrl::TooLong);
        }
        if text.contains('#') {
            return Err(NotAUrl::Fragment); // `Uri` would drop it in silence
        }
        let uri: Uri = text.parse().map_err(|_| NotAUrl::Malformed)?;
        if !uri.scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
            return Err(NotAUrl::Scheme);
        }
        let authority = uri.authority().ok_or(NotAUrl::Host)?;
        if authority.as_str().contains('@') {
            return Err(NotAUrl::Userinfo);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || host.contains('%') {
            return Err(NotAUrl::Host);
        }
        // Not `authority.port()`, to which a port that is none is no port, and so the default one.
        let port = match authority.as_str().get(authority.host().len()..) {
            None | Some("") => HTTPS,
            Some(rest) => {
                let port = rest.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port != 0);
                port.ok_or(NotAUrl::Malformed)?
            }
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { host, port, target })
    }

    /// Where `location`, an answer from here, leads. Only to the host that the operator named: another path, another port.
    ///
    /// # Errors
    /// Why it is not followed.
    pub fn redirect(&self, location: &str) -> Result<Self, NotFollowed> {
        if location.starts_with('/') && !location.starts_with("//") {
            let text = format!("https://{}{location}", self.authority());
            return Self::parse(&text).map_err(NotFollowed::Url);
        }
        let to = Self::parse(location).map_err(NotFollowed::Url)?;
        if to.host != self.host {
            let forbidden = to.host.parse().is_ok_and(is_forbidden);
            return Err(if forbidden { NotFollowed::LinkLocal } else { NotFollowed::ForeignHost });
        }
        Ok(to)
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as a request names them.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Host and port, as a `Host` header names them.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == HTTPS { host } else { format!("{host}:{}", self.port) }
    }
}

/// Addresses to which no answer may lead us: those of the link, where clouds serve their machines' secrets.
pub fn is_forbidden(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast(),
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.target)
    }
}

impl NotFollowed {
    /// A stable word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Url(_) => "redirect_url",
            Self::ForeignHost => "redirect_host",
            Self::LinkLocal => "redirect_link_local",
            Self::TooMany => "redirects",
            Self::NoLocation => "redirect_no_location",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_9_an_endpoint_is_named_by_https_and_a_host() {
        for (text, port) in [("https://b.example/", 443), ("https://b.example:8444/x", 8444), ("https://[::1]/", 443)] {
            let url = EndpointUrl::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.port()), (text, port));
        }
        assert_eq!(EndpointUrl::parse("http://b.example/"), Err(NotAUrl::Scheme));
        assert_eq!(EndpointUrl::parse("https://user@b.example/"), Err(NotAUrl::Userinfo));
    }

    #[test]
    fn bad_137_what_is_not_https_or_has_userinfo_is_refused() {
        let table = [
            ("https://b.example/", Ok("https://b.example/")),
            ("HTTPS://B.Example", Ok("https://b.example/")),
            ("https://b.example:8444/bundle?x=1", Ok("https://b.example:8444/bundle?x=1")),
            ("https://[2001:db8::1]:8444/", Ok("https://[2001:db8::1]:8444/")),
            ("http://b.example/", Err(NotAUrl::Scheme)),
            ("ftp://b.example/", Err(NotAUrl::Scheme)),
            ("b.example", Err(NotAUrl::Scheme)),
            ("/bundle", Err(NotAUrl::Scheme)),
            ("https://user@b.example/", Err(NotAUrl::Userinfo)),
            ("https://user:secret@b.example/", Err(NotAUrl::Userinfo)),
            ("https://b.example/#keys", Err(NotAUrl::Fragment)),
            ("https:///bundle", Err(NotAUrl::Malformed)),
            ("https://b.example:0/", Err(NotAUrl::Malformed)),
            ("https://b.example:99999/", Err(NotAUrl::Malformed)),
            ("https://b .example/", Err(NotAUrl::Malformed)),
            ("https://b.example/\r\nX: y", Err(NotAUrl::Malformed)),
            ("", Err(NotAUrl::Malformed)),
        ];
        for (text, want) in table {
            let got = EndpointUrl::parse(text).map(|url| url.to_string());
            assert_eq!(got.as_deref().map_err(|e| *e), want, "{text}");
        }
        assert_eq!(EndpointUrl::parse(&format!("https://b.example/{}", "x".repeat(3000))), Err(NotAUrl::TooLong));
    }

    #[test]
    fn bad_057_a_redirect_stays_with_https_and_the_host_that_the_operator_named() {
        let from = EndpointUrl::parse("https://b.example/bundle").unwrap();
        let table = [
            ("https://b.example/other", Ok("https://b.example/other")),
            ("https://B.example:9443/other", Ok("https://b.example:9443/other")),
            ("/other", Ok("https://b.example/other")),
            ("http://b.example/other", Err(NotFollowed::Url(NotAUrl::Scheme))),
            ("https://user@b.example/", Err(NotFollowed::Url(NotAUrl::Userinfo))),
            ("https://c.example/", Err(NotFollowed::ForeignHost)),
            ("//c.example/", Err(NotFollowed::Url(NotAUrl::Scheme))),
            ("https://169.254.169.254/latest/meta-data", Err(NotFollowed::LinkLocal)),
            ("https://[fe80::1]/", Err(NotFollowed::LinkLocal)),
            ("https://[::ffff:169.254.169.254]/", Err(NotFollowed::LinkLocal)),
            ("javascript:alert(1)", Err(NotFollowed::Url(NotAUrl::Malformed))),
        ];
        for (location, want) in table {
            let got = from.redirect(location).map(|url| url.to_string());
            match want {
                Err(NotFollowed::Url(_)) => assert!(matches!(got, Err(NotFollowed::Url(_))), "{location}: {got:?}"),
                _ => assert_eq!(got.as_deref().map_err(|e| *e), want, "{location}"),
            }
        }
    }
}
