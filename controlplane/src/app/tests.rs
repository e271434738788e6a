//! The whole control plane in this process, on port 0, called over its real ports.

mod audit;
mod identities;
mod authorities;
mod life;
mod link;
mod node_api;
mod rig;
mod trust;

use rig::Rig;
