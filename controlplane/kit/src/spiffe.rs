//! SPIFFE key material: X.509-SVIDs ([`svid`]), trust bundles ([`bundle`]), verification against exactly one trust domain's
//! authorities ([`verify`]), and when to renew ([`renewal`]). Tokens: JWT-SVIDs ([`jwt`]), WIT-SVIDs ([`wit`]), what both have in
//! common ([`jws`]) and the keys that verify them ([`token_key`]).

pub mod bundle;
mod json;
mod jwks;
pub mod jws;
pub mod jwt;
pub mod renewal;
pub mod svid;
pub mod token_key;
pub mod verify;
pub mod wit;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
