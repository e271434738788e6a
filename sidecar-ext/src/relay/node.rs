//! The first message of an ADS stream: who the client is, and the message without the bulk. Envoy's node is 61 KB, nearly all of it
//! the names of its 516 extensions, which the control plane does not read (spec/xds.md 2).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};

/// Which of the two ADS methods; they keep the node under different numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// `DeltaDiscoveryRequest`.
    Delta,
    /// `DiscoveryRequest`, state of the world.
    Sotw,
}

/// The parts of `envoy.config.core.v3.Node` that the control plane reads; what is opaque here stays as it came.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Node {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) cluster: String,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(super) metadata: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(super) locality: Option<Bytes>,
    #[prost(string, tag = "6")]
    pub(super) user_agent_name: String,
    #[prost(string, tag = "7")]
    pub(super) user_agent_version: String,
    #[prost(message, optional, tag = "8")]
    pub(super) user_agent_build_version: Option<BuildVersion>,
    #[prost(string, repeated, tag = "10")]
    pub(super) client_features: Vec<String>,
}

/// `envoy.config.core.v3.BuildVersion` without its metadata.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct BuildVersion {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) version: Option<Bytes>,
}

/// The first message, taken apart.
#[derive(Debug)]
pub(super) struct First {
    pub(super) node: Node,
    /// The same request with the slim node.
    pub(super) forward: Bytes,
}

/// Why a first message cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FirstError {
    #[error("not a discovery request")]
    Malformed,
    #[error("the first request carries no node: Envoy's bootstrap must name node.id")]
    NoNode,
}

/// Reads `node` and nothing else of a discovery request.
pub(super) fn first(message: Bytes, variant: Variant) -> Result<First, FirstError> {
    let tag = match variant {
        Variant::Delta => 1,
        Variant::Sotw => 2,
    };
    let mut node = None::<Node>;
    let mut others = BytesMut::with_capacity(1024);
    let mut rest = message.clone();
    while rest.has_remaining() {
        let begin = message.len() - rest.remaining();
        let (found, wire) = decode_key(&mut rest).map_err(|_| FirstError::Malformed)?;
        if found == tag {
            let part = field(&mut rest, wire)?;
            // A repeated singular field is merged, as every protobuf parser does.
            node.get_or_insert_with(Node::default).merge(part).map_err(|_| FirstError::Malformed)?;
        } else {
            skip_field(wire, found, &mut rest, DecodeContext::default()).map_err(|_| FirstError::Malformed)?;
            others.extend_from_slice(&message[begin..message.len() - rest.remaining()]);
        }
    }
    let node = node.filter(|node| !node.id.is_empty()).ok_or(FirstError::NoNode)?;
    Ok(First { forward: with_node(&node, tag, &others), node })
}

fn field(from: &mut Bytes, wire: WireType) -> Result<Bytes, FirstError> {
    if wire != WireType::LengthDelimited {
        return Err(FirstError::Malformed);
    }
    let len = decode_varint(from).ok().and_then(|len| usize::try_from(len).ok());
    match len {
        Some(len) if len <= from.remaining() => Ok(from.split_to(len)),
        _ => Err(FirstError::Malformed),
    }
}

fn with_node(node: &Node, tag: u32, others: &[u8]) -> Bytes {
    let len = node.encoded_len();
    let mut message = BytesMut::with_capacity(len + others.len() + 16);
    encode_key(tag, WireType::LengthDelimited, &mut message);
    encode_varint(len as u64, &mut message);
    message.put(node.encode_to_vec().as_slice());
    message.put(others);
    message.freeze()
}

#[cfg(test)]
mod tests;
