//! What the three kinds of authority differ in: what one is made of, what of it is published, and how it signs.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::PublicKeyData as _;
use rustls_pki_types::CertificateDer;
use symbolon_kit::octets;
use symbolon_kit::spiffe::svid::{key_id, validity};
use symbolon_proto::ids::TrustDomain;

use super::slots::{Life, Slot, State};
use crate::identity::issue::{Signer, TokenSigner};
use crate::identity::keys::{Algorithm, KeyManager, RcgenKey};
use crate::identity::upstream::Upstream;
use crate::identity::{Error, profile};

/// What an authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    X509,
    Jwt,
    Wit,
}

/// What there is of an authority beside its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Material {
    X509 {
        certificate: CertificateDer<'static>,
        /// What is served behind it: those between it and its root.
        above: Vec<CertificateDer<'static>>,
        /// What the bundle holds for it: itself, or the upstream roots.
        roots: Vec<CertificateDer<'static>>,
    },
    Token {
        algorithm: Algorithm,
        /// SubjectPublicKeyInfo, DER.
        spki: Vec<u8>,
    },
}

/// What signs from now on.
pub(super) enum Signing {
    X509(Signer),
    Token(TokenSigner),
}

/// What is needed to make an authority.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    pub(super) trust_domain: TrustDomain,
    pub(super) keys: Arc<dyn KeyManager>,
    pub(super) now: SystemTime,
    pub(super) life: std::time::Duration,
    pub(super) upstream: Option<Arc<Upstream>>,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::X509, Self::Jwt, Self::Wit];

    /// As it is shown, and as its keys' names begin.
    pub fn word(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
            Self::Wit => "wit",
        }
    }
}

impl Maker {
    /// A new authority with a new key of this name. Blocks.
    pub(super) fn make(&self, kind: Kind, name: Arc<str>) -> Result<Slot<Material>, Error> {
        match kind {
            Kind::X509 => self.make_x509(name),
            Kind::Jwt | Kind::Wit => self.make_token(name),
        }
    }

    fn make_x509(&self, name: Arc<str>) -> Result<Slot<Material>, Error> {
        let key = RcgenKey(self.keys.generate(&name)?);
        // One subject per authority: equal subjects exhaust path builders.
        let common_name = format!("{} authority {}", self.trust_domain, name.strip_prefix("x509-").unwrap_or(&name));
        let mut params = profile::authority(&self.trust_domain, &common_name, self.now, self.life);
        params.use_authority_key_identifier_extension = true;
        let (certificate, above, roots, root) = match &self.upstream {
            None => {
                let signed = params.self_signed(&key).map_err(|e| Error::Sign(e.to_string()))?;
                (signed.der().clone(), Vec::new(), vec![signed.der().clone()], None)
            }
            Some(upstream) => {
                let certificate = upstream.issue(params, &key)?;
                (certificate, upstream.chain.clone(), upstream.roots.clone(), Some(upstream.root.clone()))
            }
        };
        let unread = || Error::Sign("the new authority's certificate cannot be read".into());
        let (not_before, not_after) = validity(&certificate).map_err(|_| unread())?;
        Ok(Slot {
            id: key_id(&certificate).ok_or_else(unread)?.into(),
            key: Some(name),
            state: State::Prepared,
            life: Life { not_before, not_after },
            root,
            material: Material::X509 { certificate, above, roots },
        })
    }

    fn make_token(&self, name: Arc<str>) -> Result<Slot<Material>, Error> {
        let key = RcgenKey(self.keys.generate(&name)?);
        let spki = key.subject_public_key_info();
        Ok(Slot {
            id: octets::hex(&octets::sha256(&spki)[..16]).into(),
            key: Some(name),
            state: State::Prepared,
            life: Life { not_before: self.now - profile::BACKDATE, not_after: self.now + self.life },
            root: None,
            material: Material::Token { algorithm: key.0.algorithm(), spki },
        })
    }
}

/// How a slot signs. Blocks.
pub(super) fn signing(keys: &dyn KeyManager, slot: &Slot<Material>) -> Result<Signing, Error> {
    let name = slot.key.as_ref().ok_or_else(|| Error::Sign(format!("the key of {} is gone", slot.id)))?;
    let key = keys.load(name)?;
    match &slot.material {
        Material::X509 { certificate, above, .. } => {
            let public_key = key.public_key().to_vec();
            let mut intermediates = above.clone();
            if slot.root.is_some() {
                intermediates.insert(0, certificate.clone()); // its root is in the bundle, it is not
            }
            let issuer = rcgen::Issuer::from_ca_cert_der(certificate, RcgenKey(key));
            Ok(Signing::X509(Signer {
                issuer: issuer.map_err(|e| Error::Sign(e.to_string()))?,
                public_key,
                not_after: slot.life.not_after,
                certificate: certificate.clone(),
                intermediates,
            }))
        }
        Material::Token { .. } => {
            Ok(Signing::Token(TokenSigner { kid: slot.id.clone(), key, not_after: slot.life.not_after }))
        }
    }
}

impl Material {
    /// Whether this is its public key: the content of the BIT STRING.
    pub(super) fn is_of(&self, public_key: &[u8]) -> bool {
        match self {
            Self::X509 { certificate, .. } => x509_parser::parse_x509_certificate(certificate)
                .is_ok_and(|(_, read)| read.public_key().subject_public_key.data == public_key),
            Self::Token { spki, .. } => spki.ends_with(public_key),
        }
    }
}

/// The subject of a certificate's issuer.
pub(super) fn issuer(certificate: &CertificateDer<'_>) -> String {
    x509_parser::parse_x509_certificate(certificate)
        .map_or_else(|_| String::new(), |(_, read)| read.issuer().to_string())
}
