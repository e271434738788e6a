//! The sidecar of one node.

pub mod workloads;
