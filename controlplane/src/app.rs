//! The only module that sees everyone: configuration, building the parts bottom-up, adapters between them.

pub mod config;
