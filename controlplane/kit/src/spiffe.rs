//! SPIFFE key material: X.509-SVIDs ([`svid`]), trust bundles ([`bundle`]), verification against exactly one trust domain's
//! authorities ([`verify`]), and when to renew ([`renewal`]).

pub mod bundle;
mod json;
mod jwks;
pub mod renewal;
pub mod svid;
pub mod token_key;
pub mod verify;

#[cfg(test)]
pub(crate) mod testing;
