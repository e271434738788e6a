//! Placeholder until this module's branch lands.
