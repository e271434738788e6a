//! What one stream has asked for, been told, and answered; pure. SotW and Delta differ only in how they say it ([`Dialect`]).
//!
//! ```text
//!            subscribe                found                 ACK / NACK
//!   (none) ────────────► Untold ───────────────► Sent(v) ───────────────► Sent(v)
//!                          │  ▲                    │  other version: sent again
//!                          │  └── found ──┐        │
//!                          └─ denied ──► Denied ◄──┘ denied (Delta: told as removed)
//! ```
//! A rejected version stays `Sent`: it is not sent again until the content changes.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use aws_lc_rs::digest::{Context, SHA256};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use tonic::Status;

use super::TYPE_URL;
use super::secret::{Detail, Found, Rendered, Source};

/// Names of one stream.
const MAX_NAMES: usize = 512;
/// The longest name that is kept: a SPIFFE ID.
const MAX_NAME_BYTES: usize = 2048;

/// One stream.
#[derive(Debug)]
pub(super) struct Session<D> {
    names: BTreeMap<String, Name>,
    nonce: u64,
    dialect: PhantomData<D>,
}

#[derive(Debug, Default)]
struct Name {
    told: Told,
    /// What was told last; while it is the same there is nothing to say.
    from: Option<Source>,
    /// Sent and not answered; only the last of a name matters.
    in_flight: Option<(String, Detail)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Untold,
    Sent(String),
    Denied,
}

/// What became of a secret that was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Acked(Detail),
    Rejected { name: String, why: String },
}

/// What a request says.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// All names wanted (SotW), if said at all.
    wanted: Option<Vec<String>>,
    subscribe: Vec<String>,
    unsubscribe: Vec<String>,
    /// Versions that the client has from a former stream.
    has: BTreeMap<String, String>,
    nonce: String,
    error: Option<String>,
}

/// One of the two ways of saying the same.
pub(super) trait Dialect: Send + Sync + Unpin + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn node_id(request: &Self::Request) -> Option<&str>;
    fn said(request: Self::Request) -> Result<Said, Status>;
    fn secret(name: &str, nonce: String, secret: Rendered) -> Self::Response;
    /// How to say that there is none; SotW has no word for it.
    fn removed(name: &str, nonce: String) -> Option<Self::Response>;
}

#[derive(Debug)]
pub(super) struct Sotw;

#[derive(Debug)]
pub(super) struct Delta;

impl<D> Default for Session<D> {
    fn default() -> Self {
        Self { names: BTreeMap::new(), nonce: 0, dialect: PhantomData }
    }
}

impl<D: Dialect> Session<D> {
    /// Takes a request; returns what it says of a secret that was sent.
    ///
    /// # Errors
    /// If the request is not for secrets, or asks for too many.
    pub(super) fn heard(&mut self, request: D::Request) -> Result<Option<Fate>, Status> {
        let said = D::said(request)?;
        let fate = self.fate(&said);
        if let Some(wanted) = said.wanted {
            self.names.retain(|name, _| wanted.contains(name));
            for name in wanted {
                self.names.entry(name).or_default();
            }
        }
        for name in said.unsubscribe {
            self.names.remove(&name);
        }
        for name in said.subscribe {
            let told = said.has.get(&name).map_or(Told::Untold, |version| Told::Sent(version.clone()));
            self.names.insert(name, Name { told, from: None, in_flight: None });
        }
        if self.names.len() > MAX_NAMES || self.names.keys().any(|name| name.len() > MAX_NAME_BYTES) {
            return Err(Status::resource_exhausted(format!("at most {MAX_NAMES} names of {MAX_NAME_BYTES} bytes")));
        }
        Ok(fate)
    }

    fn fate(&mut self, said: &Said) -> Option<Fate> {
        if said.nonce.is_empty() {
            return None;
        }
        let answered = |name: &Name| name.in_flight.as_ref().is_some_and(|(nonce, _)| *nonce == said.nonce);
        let (text, name) = self.names.iter_mut().find(|(_, name)| answered(name))?;
        let (_, detail) = name.in_flight.take()?;
        Some(match &said.error {
            None => Fate::Acked(detail),
            Some(why) => Fate::Rejected { name: text.clone(), why: why.chars().take(512).collect() },
        })
    }

    /// What this stream is to be told now; `denied` hears each name once that is refused.
    pub(super) fn owed(
        &mut self,
        find: impl Fn(&str) -> Found,
        render: impl Fn(&str, &Source) -> Rendered,
        mut denied: impl FnMut(&str, &'static str),
    ) -> Vec<D::Response> {
        let mut owed = Vec::new();
        for (text, name) in &mut self.names {
            match find(text) {
                Found::Pending => {}
                Found::Secret(source) if name.from.as_ref().is_some_and(|from| from.is(&source)) => {}
                Found::Secret(source) => {
                    let secret = render(text, &source);
                    name.from = Some(source);
                    if matches!(&name.told, Told::Sent(version) if *version == secret.version) {
                        continue; // the same content once more, or what a former stream was told
                    }
                    self.nonce += 1;
                    let nonce = self.nonce.to_string();
                    name.told = Told::Sent(secret.version.clone());
                    name.in_flight = Some((nonce.clone(), secret.detail.clone()));
                    owed.push(D::secret(text, nonce, secret));
                }
                Found::Denied(_) if name.told == Told::Denied => {}
                Found::Denied(why) => {
                    self.nonce += 1;
                    *name = Name { told: Told::Denied, from: None, in_flight: None };
                    denied(text, why);
                    owed.extend(D::removed(text, self.nonce.to_string()));
                }
            }
        }
        owed
    }
}

/// Names of a SotW request.
///
/// # Errors
/// If it is not for secrets, or asks for too many.
pub(super) fn sotw_names(request: &DiscoveryRequest) -> Result<Vec<String>, Status> {
    check_type(&request.type_url)?;
    if request.resource_names.len() > MAX_NAMES {
        return Err(Status::resource_exhausted(format!("at most {MAX_NAMES} names")));
    }
    Ok(request.resource_names.clone())
}

fn check_type(type_url: &str) -> Result<(), Status> {
    // Left out is allowed on a service of one type.
    if type_url.is_empty() || type_url == TYPE_URL {
        Ok(())
    } else {
        Err(Status::invalid_argument(format!("this service has {TYPE_URL} only")))
    }
}

/// A version that says the content, so that it is the same after a restart.
pub(super) fn version<'a>(content: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut context = Context::new(&SHA256);
    content.into_iter().for_each(|part| context.update(part));
    symbolon_kit::octets::hex(&context.finish().as_ref()[..12])
}

impl Dialect for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node_id(request: &DiscoveryRequest) -> Option<&str> {
        request.node.as_ref().map(|node| node.id.as_str())
    }

    fn said(request: DiscoveryRequest) -> Result<Said, Status> {
        Ok(Said {
            wanted: Some(sotw_names(&request)?),
            nonce: request.response_nonce,
            error: request.error_detail.map(|detail| detail.message),
            ..Said::default()
        })
    }

    fn secret(_name: &str, nonce: String, secret: Rendered) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: secret.version,
            resources: vec![secret.resource],
            type_url: TYPE_URL.into(),
            nonce,
            ..Default::default()
        }
    }

    fn removed(_name: &str, _nonce: String) -> Option<DiscoveryResponse> {
        None
    }
}

impl Dialect for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node_id(request: &DeltaDiscoveryRequest) -> Option<&str> {
        request.node.as_ref().map(|node| node.id.as_str())
    }

    fn said(request: DeltaDiscoveryRequest) -> Result<Said, Status> {
        check_type(&request.type_url)?;
        Ok(Said {
            wanted: None,
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            has: request.initial_resource_versions.into_iter().collect(),
            nonce: request.response_nonce,
            error: request.error_detail.map(|detail| detail.message),
        })
    }

    fn secret(name: &str, nonce: String, secret: Rendered) -> DeltaDiscoveryResponse {
        let resource = Resource {
            name: name.into(),
            version: secret.version.clone(),
            resource: Some(secret.resource),
            ..Default::default()
        };
        DeltaDiscoveryResponse {
            system_version_info: secret.version,
            resources: vec![resource],
            type_url: TYPE_URL.into(),
            nonce,
            ..Default::default()
        }
    }

    fn removed(name: &str, nonce: String) -> Option<DeltaDiscoveryResponse> {
        Some(DeltaDiscoveryResponse {
            removed_resources: vec![name.into()],
            type_url: TYPE_URL.into(),
            nonce,
            ..Default::default()
        })
    }
}
