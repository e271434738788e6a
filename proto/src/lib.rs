//! Symbolon's wire: the protocol definitions of `proto/proto`, their generated code, and what both programs must agree on
//! byte for byte: identifiers ([`ids`]), selectors ([`selector`]) and pre-encoded xDS messages ([`encoded`]).
//!
//! The generated code is committed; `tests/fresh.rs` regenerates it and compares bytes.

pub mod attest;
pub mod encoded;
pub mod ids;
pub mod selector;

/// Metadata of a refusal: which item of the request it is about, from 0.
pub const ITEM: &str = "symbolon-item";

/// Generated code, one module per protocol package.
#[allow(
    missing_debug_implementations,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::large_futures,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated"
)]
mod r#gen {
    pub mod admin {
        include!("gen/symbolon.admin.v1.rs");
    }
    pub mod federation {
        include!("gen/symbolon.federation.v1.rs");
    }
    pub mod node {
        include!("gen/symbolon.node.v1.rs");
    }
    pub mod workload {
        include!("gen/_.rs");
    }
    pub mod ads {
        include!("gen/envoy.service.discovery.v3.AggregatedDiscoveryService.rs");
    }
    pub mod ads_raw {
        include!("gen/raw.AggregatedDiscoveryService.rs");
    }
}
pub use r#gen::{admin, ads, ads_raw, federation, node, workload};

/// The Workload API's definition as an encoded `FileDescriptorSet`, for gRPC reflection.
pub const WORKLOAD_DESCRIPTORS: &[u8] = include_bytes!("gen/workload.bin");
