//! gRPC messages that are already bytes: encoded once and shared ([`PreEncoded`], the control plane's ADS), or passed through
//! unread ([`RawCodec`], the sidecar's relay).

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// A message as a small head and shared segments. Protobuf fields may arrive in any order, so a head (nonce, type URL,
/// removals) followed by cached `resources` fields is a valid `DiscoveryResponse` or `DeltaDiscoveryResponse`.
#[derive(Clone, Debug, Default)]
pub struct PreEncoded {
    /// What differs per stream; a few dozen bytes.
    pub head: Bytes,
    /// Whole fields, key and length included, shared by every stream.
    pub body: Arc<[Bytes]>,
}

impl PreEncoded {
    /// Encoded length in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether the message has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Decodes requests with prost, sends [`PreEncoded`] answers with one copy into the transport's buffer.
#[derive(Debug)]
pub struct PreEncodedCodec<R>(PhantomData<fn() -> R>);

impl<R> Default for PreEncodedCodec<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R: Message + Default + Send + 'static> Codec for PreEncodedCodec<R> {
    type Encode = PreEncoded;
    type Decode = R;
    type Encoder = PreEncodedEncoder;
    type Decoder = tonic_prost::ProstDecoder<R>;

    fn encoder(&mut self) -> Self::Encoder {
        PreEncodedEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        tonic_prost::ProstDecoder::default()
    }
}

/// See [`PreEncodedCodec`].
#[derive(Debug)]
pub struct PreEncodedEncoder;

impl Encoder for PreEncodedEncoder {
    type Item = PreEncoded;
    type Error = Status;

    fn encode(&mut self, message: PreEncoded, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.reserve(message.len());
        dst.put_slice(&message.head);
        for segment in message.body.iter() {
            dst.put_slice(segment);
        }
        Ok(())
    }
}

/// Passes messages through as bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.reserve(message.len());
        dst.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let len = src.remaining();
        Ok(Some(src.copy_to_bytes(len)))
    }
}
