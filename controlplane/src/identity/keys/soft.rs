//! A key in this process: signing a P-256 leaf takes some 20 µs.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::{Algorithm, KeyError, SigningKey};

/// A private key in memory; the library wipes it when it is dropped.
#[derive(Debug)]
pub struct SoftKey(Kind);

#[derive(Debug)]
enum Kind {
    Ecdsa(Box<EcdsaKeyPair>, Algorithm),
    Rsa(Box<RsaKeyPair>),
}

/// PKCS#8 in PEM; wiped when dropped.
pub(in crate::identity) struct Pem(pub(super) Zeroizing<String>);

impl SoftKey {
    /// A fresh P-256 key, and the text it is kept as.
    pub(in crate::identity) fn generate() -> Result<(Self, Pem), KeyError> {
        let unusable = |_| KeyError::Unusable("it could not be generated".into());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let pkcs8 = pkcs8.map_err(unusable)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref());
        let pair = pair.map_err(|e| KeyError::Unusable(e.to_string()))?;
        Ok((Self(Kind::Ecdsa(Box::new(pair), Algorithm::EcdsaP256)), Pem::of(pkcs8.as_ref())))
    }

    /// Of PEM: PKCS#8, SEC1 or PKCS#1; P-256, P-384 or RSA of at least 2048 bits.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let unusable = |why: &str| KeyError::Unusable(why.to_owned());
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| unusable("it is not a private key in PEM"))?;
        let bytes = der.secret_der();
        for (named, algorithm) in [
            (&ECDSA_P256_SHA256_ASN1_SIGNING, Algorithm::EcdsaP256),
            (&ECDSA_P384_SHA384_ASN1_SIGNING, Algorithm::EcdsaP384),
        ] {
            if let Ok(pair) = EcdsaKeyPair::from_private_key_der(named, bytes) {
                return Ok(Self(Kind::Ecdsa(Box::new(pair), algorithm)));
            }
        }
        let rsa = RsaKeyPair::from_pkcs8(bytes).or_else(|_| RsaKeyPair::from_der(bytes));
        let rsa = rsa.map_err(|_| unusable("it is neither P-256, nor P-384, nor RSA"))?;
        if !(256..=1024).contains(&rsa.public_modulus_len()) {
            return Err(unusable("an RSA key needs 2048 to 8192 bits"));
        }
        Ok(Self(Kind::Rsa(Box::new(rsa))))
    }
}

impl SigningKey for SoftKey {
    fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Kind::Ecdsa(_, algorithm) => *algorithm,
            Kind::Rsa(_) => Algorithm::Rsa,
        }
    }

    fn public_key(&self) -> &[u8] {
        match &self.0 {
            Kind::Ecdsa(pair, _) => pair.public_key().as_ref(),
            Kind::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        match &self.0 {
            Kind::Ecdsa(pair, _) => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| KeyError::Signature),
            Kind::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| KeyError::Signature)?;
                Ok(signature)
            }
        }
    }
}

impl Pem {
    fn of(pkcs8: &[u8]) -> Self {
        use base64::Engine as _;
        let body = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(pkcs8));
        let mut text = Zeroizing::new(String::with_capacity(body.len() + 128)); // never moved while it grows
        text.push_str("-----BEGIN PRIVATE KEY-----\n");
        for line in body.as_bytes().chunks(64) {
            text.push_str(std::str::from_utf8(line).unwrap_or_default());
            text.push('\n');
        }
        text.push_str("-----END PRIVATE KEY-----\n");
        Self(text)
    }
}
