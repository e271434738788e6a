//! The only module that sees everyone: configuration, building the parts bottom-up, adapters between them.
//!
//! ```text
//! store → identity → state → snapshot → xds → federation → rollout → api
//! ```
//!
//! [`build`] opens the ports last, when what was stored is in force again: after a kill and a restart the first answer that a proxy
//! gets is the one that it had. [`App::spawn`] serves, [`Running::drain`] stops in order: readiness off, no new connections, streams
//! ended, rollouts persisted (they are at each decision), stop.

pub mod config;
mod adapters;
mod addresses;
mod bans;
mod build;
mod lifetimes;
mod own_svid;
mod publish;
mod running;

use symbolon_kit::clock::Clock;

pub use addresses::Addresses;
pub use build::{App, build};
pub use config::Config;
pub use running::Running;

/// What the real world is to the program; tests hand over their own.
#[derive(Clone, Debug)]
pub struct Seams {
    pub clock: Clock,
    /// Of jitter.
    pub seed: u64,
}

impl Seams {
    /// The machine's own.
    pub fn real() -> Self {
        Self { clock: Clock::system(), seed: rand::random() }
    }

    /// The machine's clock and repeatable jitter.
    pub fn seeded(seed: u64) -> Self {
        Self { clock: Clock::system(), seed }
    }
}

#[cfg(test)]
mod tests;
