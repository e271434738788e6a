//! From the mesh to Envoy's configuration, purely: a [`Builder`] turns a `MeshView` into a [`SnapshotSet`], each proxy's share of
//! it encoded once and shared by all that need the same. In reading order: [`resource`] is what a snapshot is made of, `arm` where
//! a service's traffic can go, then one module per discovery type, `consistency` what is never published, `builder` the whole.
//!
//! ```text
//!  LDS outbound|ip:port ──► RDS outbound|ip:port ──► CDS payments.shop   ──► EDS payments.shop    P0 local   P1 b
//!                            Host payments.shop  └─► CDS payments.shop.b ──► EDS payments.shop.b  P0 b       P1 local
//!  LDS inbound|pay-1    ──► RDS inbound|pay-1    ──► CDS app|pay-1 (static, the application's address)
//! ```

mod arm;
mod builder;
mod clusters;
mod consistency;
mod endpoints;
mod listeners;
mod need;
mod pool;
pub mod resource;
mod routes;
mod tls;
mod wire;

pub use builder::{Builder, Config};
pub use consistency::Inconsistency;
pub use resource::{ByName, Resource, Resources, Snapshot, SnapshotSet};
pub use routes::{MARKER, UPSTREAM_ID};

#[cfg(test)]
mod tests;
