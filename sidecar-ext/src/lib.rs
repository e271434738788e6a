//! `symbolon-sidecar`: runs on the node beside Envoy. In the order in which a secret travels: who asks ([`attest`]), what the
//! control plane says of this node ([`upstream`]), the keys, certificates ([`svid`]) and tokens ([`tokens`]) kept here and whom to trust ([`bundle`]),
//! who is entitled to which of them ([`identity`]), and the two ways they are handed out ([`workload_api`], [`sds`]) over Unix
//! sockets ([`server`]). Beside that, what Envoy does: its workloads ([`workloads`]), its configuration and load ([`relay`]), its
//! bootstrap ([`bootstrap`]).
//!
//! A private key never leaves this machine; whatever is served is kept when the control plane goes away, until it expires.

pub mod config;
pub mod keep;
pub use symbolon_proto::selector; // one grammar for both programs
pub mod attest;
pub mod guard;
pub mod server;
pub mod upstream;
pub mod svid;
pub mod tokens;
pub mod bundle;
pub mod identity;
pub mod workload_api;
pub mod sds;
pub mod workloads;
pub mod relay;
pub mod bootstrap;
pub mod app;
pub mod cli;
#[cfg(test)]
mod testing;
