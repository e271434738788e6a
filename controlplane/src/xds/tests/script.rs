//! A scripted client without a network: real messages in, real messages out, time by hand.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc;
use prost::Message;
use tokio::time::Instant;

use crate::model::ResourceType;
use crate::snapshot::Snapshot;
use crate::xds::kind::Kind;
use crate::xds::refusal::Refusal;
use crate::xds::status::TypeStatus;
use crate::xds::wave::{Effects, Event, Wave};
use crate::xds::wire::{self, Wire};

/// A stream of one variant.
pub(super) struct Script<R: Variety> {
    pub wave: Wave,
    now: Instant,
    variant: std::marker::PhantomData<R>,
}

/// What the two variants differ in.
pub(super) trait Variety: Wire {
    type Response: Message + Default + Clone + std::fmt::Debug;
}

impl Variety for DiscoveryRequest {
    type Response = DiscoveryResponse;
}

impl Variety for DeltaDiscoveryRequest {
    type Response = DeltaDiscoveryResponse;
}

impl<R: Variety> Script<R> {
    /// A fresh stream whose proxy is to have `snapshot`.
    pub(super) fn new(snapshot: &Arc<Snapshot>) -> Self {
        let mut script = Self::empty();
        assert!(script.snapshot(snapshot).is_empty(), "nothing is sent unasked");
        script
    }

    /// A fresh stream whose proxy is not known yet.
    pub(super) fn empty() -> Self {
        let now = Instant::now();
        Self { wave: Wave::new(R::VARIANT, rand::random(), now), now, variant: std::marker::PhantomData }
    }

    pub(super) fn try_send(&mut self, request: R) -> Result<Vec<R::Response>, Refusal> {
        let bytes = request.encode_to_vec();
        let request = R::decode(bytes.as_slice()).unwrap().parse()?;
        self.wave.step(Event::Request(request), self.now).map(decoded::<R>)
    }

    pub(super) fn send(&mut self, request: R) -> Vec<R::Response> {
        self.try_send(request).unwrap()
    }

    /// Sends, and expects exactly one response.
    pub(super) fn ask(&mut self, request: R) -> R::Response {
        let mut responses = self.send(request);
        assert_eq!(responses.len(), 1, "{responses:?}");
        responses.remove(0)
    }

    pub(super) fn snapshot(&mut self, snapshot: &Arc<Snapshot>) -> Vec<R::Response> {
        self.told(snapshot, snapshot.generation)
    }

    /// A set of this generation, in which the proxy's snapshot is this.
    pub(super) fn told(&mut self, snapshot: &Arc<Snapshot>, generation: u64) -> Vec<R::Response> {
        decoded::<R>(self.wave.step(Event::Snapshot { snapshot: snapshot.clone(), generation }, self.now).unwrap())
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, by: Duration) -> Vec<R::Response> {
        self.now += by;
        decoded::<R>(self.wave.step(Event::Tick, self.now).unwrap())
    }

    pub(super) fn acked(&self, of: ResourceType) -> Option<u64> {
        self.wave.acks().generations.get(&of).copied()
    }

    pub(super) fn status(&self, of: ResourceType) -> TypeStatus {
        self.wave.status().into_iter().find(|row| row.kind == of).unwrap()
    }
}

fn decoded<R: Variety>(effects: Effects) -> Vec<R::Response> {
    let bytes = effects.responses.iter().map(|response| {
        let message = wire::encode(R::VARIANT, response);
        message.body.iter().fold(message.head.to_vec(), |mut all, segment| {
            all.extend_from_slice(segment);
            all
        })
    });
    bytes.map(|bytes| R::Response::decode(bytes.as_slice()).unwrap()).collect()
}

pub(super) fn url(kind: ResourceType) -> String {
    Kind::from(kind).type_url().to_owned()
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.into()).collect()
}

pub(super) fn error(text: &str) -> Option<rpc::Status> {
    Some(rpc::Status { code: 13, message: text.into(), ..Default::default() })
}

// === delta ===

/// Subscribes and unsubscribes.
pub(super) fn delta(of: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: url(of),
        resource_names_subscribe: texts(subscribe),
        resource_names_unsubscribe: texts(unsubscribe),
        ..Default::default()
    }
}

/// What the client of an earlier stream still holds.
pub(super) fn holding(request: DeltaDiscoveryRequest, versions: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    let initial_resource_versions = versions.iter().map(|&(name, version)| (name.into(), version.into())).collect();
    DeltaDiscoveryRequest { initial_resource_versions, ..request }
}

pub(super) fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

pub(super) fn nack(response: &DeltaDiscoveryResponse, text: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { error_detail: error(text), ..ack(response) }
}

pub(super) fn upserts(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

// === state of the world ===

/// All that is wanted, as the first request of a stream.
pub(super) fn sotw(of: ResourceType, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest { type_url: url(of), resource_names: texts(names), ..Default::default() }
}

/// An ACK of `response`, with all that is wanted.
pub(super) fn sotw_ack(response: &DiscoveryResponse, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: response.type_url.clone(),
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        resource_names: texts(names),
        ..Default::default()
    }
}

/// A NACK of `response`; the version is that of the last good one.
pub(super) fn sotw_nack(response: &DiscoveryResponse, names: &[&str], text: &str) -> DiscoveryRequest {
    DiscoveryRequest { version_info: String::new(), error_detail: error(text), ..sotw_ack(response, names) }
}

/// The resources of a response, as bytes.
pub(super) fn contents(response: &DiscoveryResponse) -> Vec<Vec<u8>> {
    response.resources.iter().map(|any| any.value.clone()).collect()
}
