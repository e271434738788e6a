//! JWT-SVIDs: verified against exactly one trust domain's keys, and written for any key to sign (JWT-SVID.md).
//!
//! Stricter than the specification where that costs nobody anything: `kid` is demanded (J-4; every issuer sets it), and the subject
//! has a path (no workload is a trust domain).

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};
use symbolon_proto::ids::{SpiffeId, TrustDomain};

pub use super::jws::{EncodeError, JwtError, LEEWAY, MAX_AUDIENCES, MAX_TOKEN_BYTES, Token, Unsigned};

use super::bundle::Bundle;
use super::jws::{self, Header, Parts, Profile, Registered, Room};
use super::token_key::Algorithm;

/// What is to be said of a workload; both dates in whole seconds.
#[derive(Clone, Copy, Debug)]
pub struct Claims<'a> {
    pub sub: &'a SpiffeId,
    pub aud: &'a [String],
    pub iat: SystemTime,
    pub exp: SystemTime,
    /// Names the token in logs; nobody has to keep track of it (J-12).
    pub jti: Option<&'a str>,
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtClaims {
    pub sub: SpiffeId,
    pub exp: SystemTime,
    payload: Vec<u8>,
}

/// Who presents the token to us, `audience`, at `now`.
///
/// # Errors
/// Why the token proves nothing.
pub fn verify(
    token: &str,
    audience: &str,
    bundles: impl Fn(&TrustDomain) -> Option<Arc<Bundle>>,
    now: SystemTime,
) -> Result<JwtClaims, JwtError> {
    let parts = Parts::of(token)?;
    let mut room = Room::new();
    let header = Header::read(&parts, Profile::Jwt, &mut room)?;
    let payload = parts.payload()?;
    let claims = Registered::read(&payload)?;
    let sub = parts.authenticate(Profile::Jwt, &header, &claims, bundles)?;
    let exp = claims.valid_at(now)?;
    claims.is_for(audience)?;
    Ok(JwtClaims { sub, exp, payload })
}

impl Claims<'_> {
    /// The token but for its signature by the key `kid`.
    ///
    /// # Errors
    /// If no verifier would take it.
    pub fn unsigned(&self, kid: &str, algorithm: Algorithm) -> Result<Unsigned, EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            aud: &'a [String],
            exp: u64,
            iat: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            jti: Option<&'a str>,
            sub: &'a str,
        }
        if self.aud.is_empty() || self.aud.len() > MAX_AUDIENCES || self.aud.iter().any(String::is_empty) {
            return Err(EncodeError::Audience);
        }
        let (exp, iat) = (jws::date(self.exp)?, jws::date(self.iat)?);
        if exp <= iat {
            return Err(EncodeError::Time);
        }
        let wire = Wire { aud: self.aud, exp, iat, jti: self.jti, sub: self.sub.as_str() };
        Unsigned::new(Profile::Jwt, kid, algorithm, &wire)
    }
}

impl JwtClaims {
    /// All claims, known or not, as they stand in the token.
    pub fn all(&self) -> Map<String, Value> {
        serde_json::from_slice(&self.payload).expect("it was read when the token was verified")
    }
}

#[cfg(test)]
pub(crate) mod mutants;
#[cfg(test)]
mod tests;
