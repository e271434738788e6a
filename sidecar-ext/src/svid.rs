//! The workloads' X.509-SVIDs as they are kept on this node: one pure machine per entry ([`slot`]), one task that mints ahead of
//! demand and renews ([`cache`]), and their form on disk ([`pem`]).

pub mod cache;
pub mod pem;
pub mod slot;
mod taint;

pub use taint::is_tainted;
