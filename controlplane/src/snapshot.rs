//! From the mesh to Envoy's configuration, purely: [`resource`] is what a snapshot is made of.

pub mod resource;

pub use resource::{Resource, Snapshot, SnapshotSet};
