//! Names of services, peers and nodes. Each is made of DNS labels, so that a name can be a host name, a cluster name, a metric
//! label and a SPIFFE path segment alike.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{0:?} is not a DNS label: 1 to 63 of a-z, 0-9 and '-', with neither end a '-'")]
    Label(String),
    #[error("{0:?} is not <service>.<namespace>")]
    Service(String),
    #[error("{0:?} is not <service>.<namespace> or <service>.<namespace>.<peer>")]
    Reference(String),
}

/// A service within one mesh, `<service>.<namespace>`, e.g. `payments.shop`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

/// The local name of a federated peer, e.g. `b`; chosen by this operator, never taken from the wire.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName(Arc<str>);

/// The name of a node, the last segment of `spiffe://<td>/symbolon/node/<name>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

/// A service as a client addresses it: local, `payments.shop`, or of a peer, `payments.shop.b`. Also the name of its cluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef {
    pub service: ServiceName,
    pub peer: Option<PeerName>,
}

fn label(text: &str) -> Result<(), NameError> {
    let good = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if good { Ok(()) } else { Err(NameError::Label(text.chars().take(80).collect())) }
}

// === impl ServiceName ===

impl ServiceName {
    /// `<service>.<namespace>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the dot.
    pub fn namespace(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, namespace)| namespace)
    }

    /// This service as `peer` offers it.
    pub fn of(&self, peer: &PeerName) -> ServiceRef {
        ServiceRef { service: self.clone(), peer: Some(peer.clone()) }
    }

    /// This service in the local mesh.
    pub fn local(&self) -> ServiceRef {
        ServiceRef { service: self.clone(), peer: None }
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (name, namespace) =
            text.split_once('.').ok_or_else(|| NameError::Service(text.chars().take(80).collect()))?;
        label(name)?;
        label(namespace)?;
        Ok(Self(text.into()))
    }
}

// === impl PeerName, NodeName ===

macro_rules! single_label {
    ($name:ident) => {
        impl $name {
            /// The label.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                label(text)?;
                Ok(Self(text.into()))
            }
        }
    };
}
single_label!(PeerName);
single_label!(NodeName);

// === impl ServiceRef ===

impl FromStr for ServiceRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut parts = text.splitn(3, '.');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(name), Some(namespace), peer) => {
                Ok(Self { service: format!("{name}.{namespace}").parse()?, peer: peer.map(str::parse).transpose()? })
            }
            _ => Err(NameError::Reference(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.peer {
            None => self.service.fmt(f),
            Some(peer) => write!(f, "{}.{peer}", self.service),
        }
    }
}

impl fmt::Debug for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
text!(ServiceName, PeerName, NodeName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for (text, good) in [
            ("payments.shop", true),
            ("p.s", true),
            ("payments", false),
            ("payments.shop.b", false),
            ("Payments.shop", false),
            ("-x.shop", false),
            ("pay_ments.shop", false),
            (".shop", false),
            ("a.", false),
        ] {
            assert_eq!(text.parse::<ServiceName>().is_ok(), good, "{text}");
        }
    }

    #[test]
    fn references_are_local_or_of_a_peer() {
        for text in ["payments.shop", "payments.shop.b"] {
            assert_eq!(text.parse::<ServiceRef>().map(|r| r.to_string()), Ok(text.to_owned()));
        }
        for text in ["payments", "payments.shop.b.c", "payments..b", ""] {
            assert!(text.parse::<ServiceRef>().is_err(), "{text}");
        }
    }
}
