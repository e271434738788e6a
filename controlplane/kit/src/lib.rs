//! What both programs need to run, and nothing about meshes: time ([`clock`], [`backoff`]), the life of a process ([`supervise`],
//! [`drain`], [`readiness`]), its configuration and metrics ([`config`], [`metrics`], [`ops`], [`seldom`]), and SPIFFE on the wire: key material
//! and verification ([`spiffe`]), mutual TLS over it ([`tls`]), gRPC over that ([`net`]).

pub mod backoff;
pub mod clock;
pub mod config;
pub mod drain;
pub mod metrics;
pub mod net;
pub mod ops;
pub mod readiness;
pub mod seldom;
pub mod spiffe;
pub mod supervise;
pub mod tls;
