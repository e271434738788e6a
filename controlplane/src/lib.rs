//! The Symbolon control plane, in the order in which data flows: sources → state (model) → snapshot → xds; authority → issue →
//! bundle; federation is both a source (imports) and a reader (offers); trust fetches and serves bundles; the rollout writes weights as model changes. `app` alone
//! sees everyone. `ARCHITECTURE.md` has the picture, `tests/architecture.rs` the levels.

pub mod model;
pub mod sources;
pub mod state;
pub mod snapshot;
pub mod xds;
pub mod store;
pub mod identity;
pub mod federation;
pub mod trust;
pub mod rollout;
pub mod api;
pub mod cli;
pub mod app;
