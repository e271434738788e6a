//! What both programs need to run, and nothing about meshes: time ([`clock`], [`backoff`]), the life of a process ([`supervise`],
//! [`drain`], [`readiness`]), its configuration, files and metrics ([`config`], [`files`], [`metrics`], [`ops`]), what it says and how
//! often ([`seldom`], [`text`], [`octets`]), what others may ask of it ([`purse`]), and SPIFFE on the wire: key material and verification ([`spiffe`]), mutual TLS over it
//! ([`tls`]), gRPC over that ([`net`]).

pub mod backoff;
pub mod clock;
pub mod config;
pub mod drain;
pub mod files;
pub mod metrics;
pub mod net;
pub mod octets;
pub mod ops;
pub mod purse;
pub mod readiness;
pub mod seldom;
pub mod spiffe;
pub mod supervise;
pub mod text;
pub mod tls;
