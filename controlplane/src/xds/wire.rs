//! Discovery messages at the edge: requests of both variants become one [`Request`], responses become [`PreEncoded`].

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc;
use prost::Message;
use symbolon_proto::encoded::PreEncoded;

use super::kind::Kind;
use super::refusal::Refusal;
use super::wave::Response;
use super::{MAX_NAME_BYTES, MAX_NAMES};

/// The protocol variant of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// `StreamAggregatedResources`: each request names all that is wanted.
    Sotw,
    /// `DeltaAggregatedResources`: requests and responses say what changes.
    Delta,
}

/// A request of either variant, within bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub kind: Kind,
    /// Of the response that this acknowledges; empty: of none.
    pub nonce: String,
    /// Present if and only if that response is rejected (7).
    pub error: Option<String>,
    pub asks: Asks,
}

/// The subscription part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// All that is wanted; `version` is the last one the client accepted, perhaps of another server.
    Sotw { version: String, names: Vec<String> },
    /// What changes; `initial` is what the client holds, heeded only in the first request of a type (29).
    Delta { subscribe: Vec<String>, unsubscribe: Vec<String>, initial: HashMap<String, String> },
}

/// A discovery request message of one variant.
pub(super) trait Wire: Message + Default + 'static {
    const VARIANT: Variant;

    /// Who asks; sent at least in the first message (2). Taken out, since Envoy's is 61 KB.
    fn take_node(&mut self) -> Option<Node>;

    /// # Errors
    /// A missing or unknown type, or more than the bounds allow.
    fn parse(self) -> Result<Request, Refusal>;
}

impl Wire for DiscoveryRequest {
    const VARIANT: Variant = Variant::Sotw;

    fn take_node(&mut self) -> Option<Node> {
        self.node.take()
    }

    fn parse(self) -> Result<Request, Refusal> {
        let kind = kind(&self.type_url)?;
        bounded(
            self.resource_names.len(),
            self.resource_names.iter().chain([&self.version_info, &self.response_nonce]),
        )?;
        let asks = Asks::Sotw { version: self.version_info, names: self.resource_names };
        Ok(Request { kind, nonce: self.response_nonce, error: self.error_detail.map(words), asks })
    }
}

impl Wire for DeltaDiscoveryRequest {
    const VARIANT: Variant = Variant::Delta;

    fn take_node(&mut self) -> Option<Node> {
        self.node.take()
    }

    fn parse(self) -> Result<Request, Refusal> {
        let kind = kind(&self.type_url)?;
        let (subscribe, unsubscribe) = (self.resource_names_subscribe, self.resource_names_unsubscribe);
        let initial = self.initial_resource_versions;
        let most = subscribe.len().max(unsubscribe.len()).max(initial.len());
        let versions = initial.iter().flat_map(|(name, version)| [name, version]);
        bounded(most, subscribe.iter().chain(&unsubscribe).chain(versions).chain([&self.response_nonce]))?;
        let asks = Asks::Delta { subscribe, unsubscribe, initial };
        Ok(Request { kind, nonce: self.response_nonce, error: self.error_detail.map(words), asks })
    }
}

fn kind(type_url: &str) -> Result<Kind, Refusal> {
    if type_url.is_empty() {
        return Err(Refusal::NoType);
    }
    Kind::of(type_url).ok_or(Refusal::UnknownType)
}

fn bounded<'a>(count: usize, mut texts: impl Iterator<Item = &'a String>) -> Result<(), Refusal> {
    if count > MAX_NAMES {
        return Err(Refusal::TooManyNames);
    }
    if texts.any(|text| text.len() > MAX_NAME_BYTES) {
        return Err(Refusal::NameTooLong);
    }
    Ok(())
}

/// A NACK's text, which the message size alone bounds: cut to what attribution needs.
fn words(error: rpc::Status) -> String {
    const MOST: usize = 8 * 1024;
    let mut text = error.message;
    if let Some((cut, _)) = text.char_indices().find(|(at, _)| *at >= MOST) {
        text.truncate(cut);
        text.shrink_to_fit();
    }
    text
}

/// What Envoy says its version is; empty if it does not say.
pub(super) fn user_agent(node: &Node) -> String {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
            .version
            .as_ref()
            .map_or_else(String::new, |v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch)),
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        None => String::new(),
    };
    symbolon_kit::text::shown(format!("{} {version}", node.user_agent_name).trim(), 80)
}

/// The head is made for this stream; the resources are shared segments.
pub(super) fn encode(variant: Variant, response: &Response) -> PreEncoded {
    let type_url = response.kind.type_url().to_owned();
    let nonce = response.nonce.clone();
    let head = match variant {
        Variant::Delta => DeltaDiscoveryResponse {
            type_url,
            nonce,
            removed_resources: response.removed.iter().map(|name| name.as_ref().to_owned()).collect(),
            ..Default::default()
        }
        .encode_to_vec(),
        Variant::Sotw => {
            DiscoveryResponse { type_url, nonce, version_info: response.version.clone(), ..Default::default() }
                .encode_to_vec()
        }
    };
    let body = response.upserts.iter().map(|resource| match variant {
        Variant::Delta => resource.delta.clone(),
        Variant::Sotw => resource.sotw.clone(),
    });
    PreEncoded { head: head.into(), body: body.collect() }
}
