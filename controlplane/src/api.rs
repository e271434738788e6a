//! The edges that others call: [`node`] for sidecars, over mTLS; [`admin`] for the operator, over a Unix socket. Each has its own
//! messages, parses them at the edge, and calls handles only.

pub mod admin;
pub mod node;
