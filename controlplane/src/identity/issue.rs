//! Signing: one active authority of each kind, swapped whole when the schedule says so.

mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateDer;
use symbolon_kit::clock::Clock;
use symbolon_kit::octets;
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use tracing::{debug, error};

use super::keys::{RcgenKey, SigningKey};
use super::reuse::Keys;
use super::{Minted, Refusal, profile};

pub use token::MintedToken;

/// Signs SVIDs with the active authority, on the caller's thread and for as long as its key takes: [`super::mint`] has threads for
/// that.
#[derive(Clone)]
pub struct Issuer {
    trust_domain: TrustDomain,
    clock: Clock,
    signer: Arc<ArcSwapOption<Signer>>,
    jwt: Arc<ArcSwapOption<TokenSigner>>,
    wit: Arc<ArcSwapOption<TokenSigner>>,
    certified: Keys,
}

/// The X.509 authority that signs now.
pub(super) struct Signer {
    pub(super) issuer: rcgen::Issuer<'static, RcgenKey>,
    /// The content of its public key's BIT STRING.
    pub(super) public_key: Vec<u8>,
    pub(super) not_after: SystemTime,
    pub(super) certificate: CertificateDer<'static>,
    /// What is served behind each leaf: nothing for a self-signed authority, which is in the bundle; below an upstream authority its
    /// own certificate and those between it and the root.
    pub(super) intermediates: Vec<CertificateDer<'static>>,
}

/// The JWT (or WIT) authority that signs now: [`SigningKey::sign_jws`] of `key`, with `alg` of [`super::keys::Algorithm::jws`].
pub(super) struct TokenSigner {
    pub(super) kid: Arc<str>,
    pub(super) key: Arc<dyn SigningKey>,
    /// No token outlives this.
    pub(super) not_after: SystemTime,
}

impl Issuer {
    pub(super) fn new(trust_domain: TrustDomain, clock: Clock) -> Self {
        Self {
            trust_domain,
            clock,
            signer: Arc::default(),
            jwt: Arc::default(),
            wit: Arc::default(),
            certified: Keys::default(),
        }
    }

    pub(super) fn activate(&self, signer: Signer) {
        // Nobody is certified with it, not even when the next authority signs.
        self.certified.claim(&signer.public_key, &self.trust_domain.id(), self.clock.now(), signer.not_after);
        self.signer.store(Some(Arc::new(signer)));
    }

    pub(super) fn activate_jwt(&self, signer: TokenSigner) {
        self.jwt.store(Some(Arc::new(signer)));
    }

    pub(super) fn activate_wit(&self, signer: TokenSigner) {
        self.wit.store(Some(Arc::new(signer)));
    }

    /// The certificate of the authority that signs now.
    pub fn active_certificate(&self) -> Option<CertificateDer<'static>> {
        self.signer.load().as_ref().map(|signer| signer.certificate.clone())
    }

    /// Signs a statement that is no certificate; the signature, and the SHA-256 of the certificate of the authority that made it, in
    /// hexadecimal. It waits for the key.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when no authority is active or its key cannot sign.
    pub(super) fn sign_statement(&self, statement: &str) -> Result<(Vec<u8>, String), Refusal> {
        let signer = self.signer.load_full().ok_or(Refusal::Unavailable)?;
        let signature = rcgen::SigningKey::sign(signer.issuer.key(), statement.as_bytes());
        let by = octets::hex(&octets::sha256(&signer.certificate));
        signature.map(|signature| (signature, by)).map_err(|_| Refusal::Unavailable)
    }

    /// Mints an X.509-SVID. `ttl` is cut to the authority's own end.
    ///
    /// # Errors
    /// [`Refusal::WeakKey`] for the authority's own key (bad input 6), [`Refusal::KeyInUse`] for another identity's (bad input 7),
    /// [`Refusal::Unavailable`] when no authority is active or it has expired, [`Refusal::NotGranted`] for an ID of another trust domain.
    pub fn mint(
        &self,
        key: &SubjectPublicKeyInfo,
        id: &SpiffeId,
        ttl: Duration,
        dns_names: &[String],
    ) -> Result<Minted, Refusal> {
        if *id.trust_domain() != self.trust_domain {
            return Err(Refusal::NotGranted(id.to_string())); // invariant I1: never outside our trust domain
        }
        let now = self.clock.now();
        let signer = self.signer.load_full().filter(|signer| now < signer.not_after).ok_or(Refusal::Unavailable)?;
        if profile::key_bytes(key) == signer.public_key {
            return Err(Refusal::WeakKey("this is the authority's own key".into()));
        }
        let params = profile::svid(id, dns_names, now, ttl, signer.not_after)?;
        let serial = params.serial_number.as_ref().map(|serial| octets::hex(serial.as_ref())).unwrap_or_default();
        let not_after = SystemTime::from(params.not_after);
        if !self.certified.claim(profile::key_bytes(key), id, now, not_after) {
            return Err(Refusal::KeyInUse);
        }
        let certificate = params.signed_by(key, &signer.issuer).map_err(|error| {
            error!(%id, %error, "the authority could not sign");
            Refusal::Unavailable
        })?;
        debug!(%id, serial, "X.509-SVID issued"); // the audit log has it
        let mut chain = vec![certificate.der().clone()];
        chain.extend(signer.intermediates.iter().cloned());
        Ok(Minted { id: id.clone(), chain, not_after, serial })
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}
