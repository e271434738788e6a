//! The sidecar of one node.

pub mod bootstrap;
pub mod config;
pub mod relay;
pub mod selector;
pub mod workloads;
