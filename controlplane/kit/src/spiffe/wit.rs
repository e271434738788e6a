//! WIT-SVIDs (WIT-SVID.md, incubating, read at spiffe/spiffe 665a28f): tokens that are bound to a key of their holder. The subject
//! is told to nobody who has not seen the proof of that key's possession (T-4), so a WIT-SVID cannot pass as a bearer token here.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};
use symbolon_proto::ids::{SpiffeId, TrustDomain};

pub use super::jws::{EncodeError, JwtError, Token, Unsigned};

use super::bundle::Bundle;
use super::jws::{self, Header, Parts, Profile, Registered, Room};
use super::token_key::{Algorithm, PublicJwk, TokenKey};

/// What is to be said of a workload that holds `key`; dates in whole seconds.
#[derive(Clone, Copy, Debug)]
pub struct Claims<'a> {
    pub sub: &'a SpiffeId,
    /// The workload's own key, and how it signs with it.
    pub key: &'a TokenKey,
    pub algorithm: Algorithm,
    pub nbf: SystemTime,
    pub iat: SystemTime,
    pub exp: SystemTime,
    /// Names the token in logs; no protection against replay (T-3).
    pub jti: Option<&'a str>,
}

/// A token whose signature is right, and whose holder has not proven anything yet.
#[derive(Clone)]
pub struct Bound {
    claims: WitClaims,
    key: TokenKey,
    algorithm: Algorithm,
}

/// What a token says whose holder has proven to hold its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitClaims {
    pub sub: SpiffeId,
    pub exp: SystemTime,
    payload: Vec<u8>,
}

/// The token's key, once the token is found to be good at `now`.
///
/// # Errors
/// Why the token proves nothing.
pub fn verify(
    token: &str,
    bundles: impl Fn(&TrustDomain) -> Option<Arc<Bundle>>,
    now: SystemTime,
) -> Result<Bound, JwtError> {
    let parts = Parts::of(token)?;
    let mut room = Room::new();
    let header = Header::read(&parts, Profile::Wit, &mut room)?;
    let payload = parts.payload()?;
    let claims = Registered::read(&payload)?;
    let sub = parts.authenticate(Profile::Wit, &header, &claims, bundles)?;
    let exp = claims.valid_at(now)?;
    claims.is_for_nobody()?;
    let claims = WitClaims { sub, exp, payload };
    let (key, algorithm) = claims.confirmation()?;
    Ok(Bound { claims, key, algorithm })
}

impl Bound {
    /// Whom the token is about, if its key has signed `message`, which must be one that nobody could have heard before.
    ///
    /// # Errors
    /// [`JwtError::Proof`].
    pub fn proven_by(self, message: &[u8], signature: &[u8]) -> Result<WitClaims, JwtError> {
        match self.key.verifies(self.algorithm, message, signature) {
            Some(true) => Ok(self.claims),
            _ => Err(JwtError::Proof),
        }
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bound(to {:?})", self.key)
    }
}

impl WitClaims {
    /// All claims, known or not, as they stand in the token.
    pub fn all(&self) -> Map<String, Value> {
        serde_json::from_slice(&self.payload).expect("it was read when the token was verified")
    }

    /// `cnf.jwk` (RFC 7800 §3.2): exactly one public key, and how it signs, which must be possible (T-2).
    fn confirmation(&self) -> Result<(TokenKey, Algorithm), JwtError> {
        let claims = self.all();
        let cnf = claims.get("cnf").ok_or(JwtError::Missing("cnf"))?;
        let jwk = cnf.get("jwk").and_then(Value::as_object).ok_or(JwtError::Claim("cnf"))?;
        let key = TokenKey::from_jwk(jwk).map_err(|_| JwtError::Claim("cnf"))?;
        let algorithm = jwk.get("alg").and_then(Value::as_str).and_then(Algorithm::parse);
        let algorithm = algorithm.filter(|algorithm| key.algorithms().any(|of| of == *algorithm));
        Ok((key, algorithm.ok_or(JwtError::Claim("cnf"))?))
    }
}

impl Claims<'_> {
    /// The token but for its signature by the key `kid`.
    ///
    /// # Errors
    /// If no verifier would take it.
    pub fn unsigned(&self, kid: &str, algorithm: Algorithm) -> Result<Unsigned, EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            cnf: Confirmation<'a>,
            exp: u64,
            iat: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            jti: Option<&'a str>,
            nbf: u64,
            sub: &'a str,
        }
        #[derive(Serialize)]
        struct Confirmation<'a> {
            jwk: Jwk<'a>,
        }
        #[derive(Serialize)]
        struct Jwk<'a> {
            alg: &'static str,
            #[serde(flatten)]
            key: &'a PublicJwk,
        }
        let (exp, iat, nbf) = (jws::date(self.exp)?, jws::date(self.iat)?, jws::date(self.nbf)?);
        if exp <= iat || exp <= nbf {
            return Err(EncodeError::Time);
        }
        if !self.key.algorithms().any(|of| of == self.algorithm) {
            return Err(EncodeError::Key);
        }
        let cnf = Confirmation { jwk: Jwk { alg: self.algorithm.name(), key: self.key.jwk() } };
        let wire = Wire { cnf, exp, iat, jti: self.jti, nbf, sub: self.sub.as_str() };
        Unsigned::new(Profile::Wit, kid, algorithm, &wire)
    }
}

#[cfg(test)]
mod tests;
