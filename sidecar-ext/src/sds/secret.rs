//! Names to secrets, for one caller; pure.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret::Type,
};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message as _, Name as _};
use symbolon_kit::spiffe::bundle::{Bundle, bundle_map};
use symbolon_kit::spiffe::svid::Svid;
use symbolon_proto::ids::SpiffeId;

use super::{TYPE_URL, session};
use crate::identity::{Held, Holding, View};
use crate::selector::Selectors;

/// The caller's first identity.
const DEFAULT: &str = "default";
/// Every trust domain's bundle, each for its own identities only.
const ALL: &str = "ALL";
/// The own trust domain's bundle.
const ROOT_CA: &str = "ROOTCA";

/// What a name means to a caller.
#[derive(Debug)]
pub(super) enum Found {
    Secret(Rendered),
    /// The caller may have it; it is not here yet.
    Pending,
    /// Never, as things stand; a fixed word says why.
    Denied(&'static str),
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

pub(super) fn find(view: &View, caller: &Selectors, name: &str) -> Found {
    if !view.ready {
        return Found::Pending;
    }
    let mut held = view.held_for(caller).peekable();
    let Some(first) = held.peek().copied() else { return Found::Denied("no_identity") };
    match name {
        DEFAULT => of_entry(name, first),
        ALL => validator(name, view.bundles.values().map(|bundle| &**bundle)),
        ROOT_CA => validator(name, view.bundles.get(&view.trust_domain).map(|bundle| &**bundle)),
        _ => match name.parse::<SpiffeId>() {
            Ok(id) if id.path().is_empty() => {
                validator(name, view.bundles.get(id.trust_domain()).map(|bundle| &**bundle))
            }
            Ok(id) => held
                .find(|held| held.entry.spiffe_id == id)
                .map_or(Found::Denied("not_entitled"), |held| of_entry(name, held)),
            Err(_) => Found::Denied("unknown_name"),
        },
    }
}

fn of_entry(name: &str, held: &Held) -> Found {
    match &held.holding {
        Holding::Valid(svid) => Found::Secret(certificate(name, svid)),
        Holding::Pending | Holding::Failed => Found::Pending,
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
fn validator<'a>(name: &str, bundles: impl IntoIterator<Item = &'a Bundle>) -> Found {
    let bundles: Vec<_> = bundles.into_iter().collect();
    if bundles.is_empty() {
        return Found::Denied("unknown_trust_domain");
    }
    let Ok(map) = String::from_utf8(bundle_map(bundles.iter().copied())) else { return Found::Pending }; // JSON is UTF-8
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
    let detail = Detail::Bundles { all: name == ALL, sequences };
    Found::Secret(render(name, Type::ValidationContext(context), detail))
}

fn render(name: &str, content: Type, detail: Detail) -> Rendered {
    let value = Secret { name: name.into(), r#type: Some(content) }.encode_to_vec();
    let version = session::version([value.as_slice()]);
    Rendered { resource: Any { type_url: TYPE_URL.into(), value }, version, detail }
}
