//! Signing tokens: JWT-SVIDs and WIT-SVIDs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use symbolon_kit::clock::unix_secs;
use symbolon_kit::octets;
use symbolon_kit::spiffe::jwt::{self, EncodeError, Token, Unsigned};
use symbolon_kit::spiffe::token_key::{self, TokenKey};
use symbolon_kit::spiffe::wit;
use symbolon_proto::ids::SpiffeId;
use tracing::{debug, error};

use super::super::Refusal;
use super::super::keys::Algorithm;
use super::{Issuer, TokenSigner};

/// How far back `nbf` of a WIT-SVID lies, for clocks that differ.
const BACKDATE: Duration = Duration::from_secs(10);

/// A token, and what is known of it.
#[derive(Clone, Debug)]
pub struct MintedToken {
    pub id: SpiffeId,
    pub token: Token,
    /// Whole seconds, both.
    pub issued_at: SystemTime,
    pub expires_at: SystemTime,
    pub jti: String,
    /// Of the authority's key.
    pub kid: Arc<str>,
}

impl Issuer {
    /// Mints a JWT-SVID. `ttl` is cut to the authority's own end.
    ///
    /// # Errors
    /// [`Refusal::BadAudience`], [`Refusal::Unavailable`] when no authority is active or it has expired, [`Refusal::NotGranted`] for an
    /// ID of another trust domain.
    pub fn mint_jwt(&self, id: &SpiffeId, audience: &[String], ttl: Duration) -> Result<MintedToken, Refusal> {
        let signer = self.jwt.load_full();
        let minted = self.mint_token(id, signer, ttl, |kid, algorithm, iat, exp, jti| {
            jwt::Claims { sub: id, aud: audience, iat, exp, jti: Some(jti) }.unsigned(kid, algorithm)
        })?;
        debug!(%id, jti = minted.jti, "JWT-SVID issued");
        Ok(minted)
    }

    /// Mints a WIT-SVID for the holder of `key`.
    ///
    /// # Errors
    /// As [`Issuer::mint_jwt`]; [`Refusal::WeakKey`] for a key that no token can be bound to; [`Refusal::Incubating`] if there are no
    /// authorities for them.
    pub fn mint_wit(&self, id: &SpiffeId, key: &TokenKey, ttl: Duration) -> Result<MintedToken, Refusal> {
        let signer = self.wit.load_full();
        if signer.is_none() {
            return Err(Refusal::Incubating);
        }
        let of_key = key.algorithms().next();
        let of_key = of_key.ok_or_else(|| Refusal::WeakKey("no token can be bound to a key of this kind".into()))?;
        let minted = self.mint_token(id, signer, ttl, |kid, algorithm, iat, exp, jti| {
            let nbf = iat - BACKDATE;
            wit::Claims { sub: id, key, algorithm: of_key, nbf, iat, exp, jti: Some(jti) }.unsigned(kid, algorithm)
        })?;
        debug!(%id, jti = minted.jti, "WIT-SVID issued");
        Ok(minted)
    }

    /// Whether WIT-SVIDs are issued at all.
    pub fn has_wit(&self) -> bool {
        self.wit.load().is_some()
    }

    fn mint_token(
        &self,
        id: &SpiffeId,
        signer: Option<Arc<TokenSigner>>,
        ttl: Duration,
        claims: impl FnOnce(&str, token_key::Algorithm, SystemTime, SystemTime, &str) -> Result<Unsigned, EncodeError>,
    ) -> Result<MintedToken, Refusal> {
        if *id.trust_domain() != self.trust_domain {
            return Err(Refusal::NotGranted(id.to_string())); // invariant I1: never outside our trust domain
        }
        let signer = signer.ok_or(Refusal::Unavailable)?;
        let issued_at = whole_seconds(self.clock.now());
        let expires_at = issued_at.checked_add(ttl).map_or(signer.not_after, |end| end.min(signer.not_after));
        let expires_at = whole_seconds(expires_at);
        if expires_at <= issued_at {
            return Err(Refusal::Unavailable); // the authority is at its end, or the registration is
        }
        let jti = octets::hex(&octets::random::<16>());
        let unsigned = claims(&signer.kid, algorithm(signer.key.algorithm()), issued_at, expires_at, &jti);
        let unsigned = unsigned.map_err(|why| match why {
            EncodeError::Audience | EncodeError::TooLarge => Refusal::BadAudience(why.to_string()),
            EncodeError::Key => Refusal::WeakKey(why.to_string()),
            EncodeError::Kid | EncodeError::Time => {
                error!(%id, %why, "a token cannot be written");
                Refusal::Unavailable
            }
        })?;
        let signature = signer.key.sign_jws(unsigned.signing_input()).map_err(|why| {
            error!(%id, %why, kid = &*signer.kid, "the authority could not sign");
            Refusal::Unavailable
        })?;
        let (token, kid) = (unsigned.signed(&signature), signer.kid.clone());
        Ok(MintedToken { id: id.clone(), token, issued_at, expires_at, jti, kid })
    }
}

/// As a token can say it, so that what we report is what it says.
fn whole_seconds(at: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_secs(at)).unwrap_or(0))
}

fn algorithm(of: Algorithm) -> token_key::Algorithm {
    match of {
        Algorithm::EcdsaP256 => token_key::Algorithm::Es256,
        Algorithm::EcdsaP384 => token_key::Algorithm::Es384,
        Algorithm::Rsa => token_key::Algorithm::Rs256,
    }
}
