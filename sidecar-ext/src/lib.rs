//! The sidecar of one node.

pub mod config;
pub mod relay;
pub mod selector;
pub mod workloads;
