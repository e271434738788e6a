//! The ramp of a federated service towards a peer: judged by the load reports of our own proxies, decided by a pure machine, kept
//! in the store, and told to the state as weights.
//!
//! ```text
//! load samples ─► arms ─► judge ─┐
//! mesh, acks ────────────────────┼─► decide ─► engine ─► store, then Change::Split
//! commands, time ────────────────┘
//! ```
//!
//! [`plan`], [`arms`], [`judge`] and [`decide`] are pure; [`engine`] performs.

pub mod plan;
pub mod arms;
pub mod judge;
pub mod decide;
mod status;
pub mod engine;

pub use decide::Command;
pub use engine::{Engine, Error, Handle};
pub use plan::{Policy, PolicyError, Shift, Step};
pub use status::{HistoryItem, Status, Statuses};
