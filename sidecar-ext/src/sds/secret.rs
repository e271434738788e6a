//! Names to secrets, for one caller.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret::Type,
};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message as _, Name as _};
use symbolon_kit::spiffe::bundle::{Bundle, bundle_map};
use symbolon_kit::spiffe::svid::Svid;
use symbolon_proto::ids::{SpiffeId, TrustDomain};

use super::{TYPE_URL, session};
use crate::bundle::Seen;
use crate::identity::{Held, Holding, View};
use crate::selector::Selectors;

/// The caller's first identity.
const DEFAULT: &str = "default";
/// The bundle of every trust domain that the caller is federated with, each for its own identities only.
const ALL: &str = "ALL";
/// The own trust domain's bundle.
const ROOT_CA: &str = "ROOTCA";

/// What a name means to a caller.
#[derive(Debug)]
pub(super) enum Found {
    Secret(Source),
    /// The caller may have it; it is not here yet.
    Pending,
    /// Never, as things stand; a fixed word says why.
    Denied(&'static str),
}

/// What a secret is made of. Compared by identity, so that a stream tells without rendering that nothing has changed for it.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Svid(Arc<Svid>),
    Bundles { seen: Arc<Seen>, of: Of },
}

/// Whose bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Of {
    All,
    One(TrustDomain),
}

/// A secret as it goes to Envoy.
#[derive(Clone, Debug)]
pub(super) struct Rendered {
    pub resource: Any,
    /// Hash of the content.
    pub version: String,
    pub detail: Detail,
}

/// What an acknowledgement of it proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    Svid {
        id: SpiffeId,
        serial: String,
    },
    /// Sequence by trust domain; `all`: those that are left out are no longer trusted.
    Bundles {
        all: bool,
        sequences: BTreeMap<String, u64>,
    },
}

/// All that one caller may have at one time.
pub(super) struct Offer<'a> {
    view: &'a View,
    held: Vec<&'a Held>,
}

/// Rendered trust bundles: each once for all the streams that see the same. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Validators(Arc<Mutex<HashMap<usize, Rendering>>>); // a std mutex: nothing awaits while it is held

/// What was rendered of one [`Seen`], which is kept alive so that its address stays its own.
#[derive(Debug)]
struct Rendering {
    seen: Arc<Seen>,
    by_name: HashMap<String, Rendered>,
}

impl<'a> Offer<'a> {
    pub(super) fn to(view: &'a View, caller: &'a Selectors) -> Self {
        Self { view, held: view.held_for(caller).collect() }
    }

    pub(super) fn find(&self, name: &str) -> Found {
        if !self.view.ready {
            return Found::Pending;
        }
        let Some(first) = self.held.first() else { return Found::Denied("no_identity") };
        match name {
            DEFAULT => of_entry(first),
            ALL => self.bundles(Of::All),
            ROOT_CA => self.bundles(Of::One(self.view.trust_domain.clone())),
            _ => match name.parse::<SpiffeId>() {
                Ok(id) if id.path().is_empty() => self.bundles(Of::One(id.trust_domain().clone())),
                Ok(id) => {
                    let held = self.held.iter().find(|held| held.entry.spiffe_id == id);
                    held.map_or(Found::Denied("not_entitled"), |held| of_entry(held))
                }
                Err(_) => Found::Denied("unknown_name"),
            },
        }
    }

    fn bundles(&self, of: Of) -> Found {
        let seen = self.view.seen_with(self.held.iter().copied());
        let any = match &of {
            Of::All => !seen.table.is_empty(),
            Of::One(name) => seen.table.contains_key(name),
        };
        if any { Found::Secret(Source::Bundles { seen, of }) } else { Found::Denied("unknown_trust_domain") }
    }
}

fn of_entry(held: &Held) -> Found {
    match &held.holding {
        Holding::Valid(svid) => Found::Secret(Source::Svid(svid.clone())),
        Holding::Pending | Holding::Failed => Found::Pending,
    }
}

impl Source {
    /// Whether it is the very same.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Svid(one), Self::Svid(two)) => Arc::ptr_eq(one, two),
            (Self::Bundles { seen: one, of }, Self::Bundles { seen: two, of: also }) => {
                Arc::ptr_eq(one, two) && of == also
            }
            _ => false,
        }
    }
}

impl Validators {
    pub(super) fn render(&self, name: &str, source: &Source) -> Rendered {
        let (seen, of) = match source {
            Source::Svid(svid) => return certificate(name, svid),
            Source::Bundles { seen, of } => (seen, of),
        };
        let mut renderings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Arc::as_ptr(seen).addr();
        if !renderings.contains_key(&key) {
            renderings.retain(|_, rendering| Arc::strong_count(&rendering.seen) > 1); // nobody sees it any more
            renderings.insert(key, Rendering { seen: seen.clone(), by_name: HashMap::new() });
        }
        let Some(rendering) = renderings.get_mut(&key) else { return validator(name, seen, of) };
        if let Some(rendered) = rendering.by_name.get(name) {
            return rendered.clone();
        }
        let rendered = validator(name, seen, of);
        rendering.by_name.insert(name.to_owned(), rendered.clone());
        rendered
    }
}

fn certificate(name: &str, svid: &Svid) -> Rendered {
    let inline =
        |bytes: Vec<u8>| Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..Default::default() });
    let certificate = TlsCertificate {
        certificate_chain: inline(svid.chain_pem().into_bytes()),
        private_key: inline(svid.key_pem().as_bytes().to_vec()),
        ..Default::default()
    };
    let detail = Detail::Svid { id: svid.id.clone(), serial: svid.serial.clone() };
    render(name, Type::TlsCertificate(certificate), detail)
}

/// The bundle map goes inline: Envoy 1.36 and 1.40 take it, each domain's identities are verified by its own authorities only.
fn validator(name: &str, seen: &Seen, of: &Of) -> Rendered {
    let shown = seen.table.iter().filter(|(domain, _)| match of {
        Of::All => true,
        Of::One(wanted) => *domain == wanted,
    });
    let bundles: Vec<&Bundle> = shown.map(|(_, bundle)| &**bundle).collect();
    let map = String::from_utf8_lossy(&bundle_map(bundles.iter().copied())).into_owned(); // JSON is UTF-8
    let config = SpiffeCertValidatorConfig {
        trust_bundles: Some(DataSource { specifier: Some(Specifier::InlineString(map)), ..Default::default() }),
        ..Default::default()
    };
    let context = CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: "envoy.tls.cert_validator.spiffe".into(),
            typed_config: Some(Any { type_url: SpiffeCertValidatorConfig::type_url(), value: config.encode_to_vec() }),
        }),
        ..Default::default()
    };
    let sequences = bundles.iter().map(|bundle| (bundle.trust_domain.to_string(), bundle.sequence)).collect();
    render(name, Type::ValidationContext(context), Detail::Bundles { all: *of == Of::All, sequences })
}

fn render(name: &str, content: Type, detail: Detail) -> Rendered {
    let value = Secret { name: name.into(), r#type: Some(content) }.encode_to_vec();
    let version = session::version([value.as_slice()]);
    Rendered { resource: Any { type_url: TYPE_URL.into(), value }, version, detail }
}
