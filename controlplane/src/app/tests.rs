//! The whole control plane in this process, on port 0, called over its real ports.

mod audit;
mod life;
mod link;
mod node_api;
mod rig;

use rig::Rig;
