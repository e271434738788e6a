//! Key and chain as one PEM text: on disk one file holds both, so that they can never be of two issuances.

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, SvidError};
use zeroize::Zeroizing;

/// The private key, then the chain, leaf first.
pub fn encode(svid: &Svid) -> Zeroizing<Vec<u8>> {
    let (key, chain) = (svid.key_pem(), svid.chain_pem());
    // Sized up front: growing would leave copies of the key behind in freed memory.
    let mut text = Zeroizing::new(Vec::with_capacity(key.len() + chain.len()));
    text.extend_from_slice(key.as_bytes());
    text.extend_from_slice(chain.as_bytes());
    text
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// If there is no key, or it is not the leaf's.
pub fn decode(text: &[u8]) -> Result<Svid, SvidError> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| SvidError::Malformed)?;
    let chain =
        CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(|_| SvidError::Malformed)?;
    Svid::new(chain, PrivateKey::from_pkcs8(key.secret_pkcs8_der().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ca;

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let svid = Ca::new("a.example").svid("spiffe://a.example/ns/shop/sa/web");
        let back = decode(&encode(&svid)).unwrap();
        assert_eq!((back.id, back.chain, back.serial), (svid.id, svid.chain, svid.serial));
        assert_eq!(back.key.pkcs8(), svid.key.pkcs8());
    }

    #[test]
    fn a_key_of_another_issuance_is_refused() {
        let ca = Ca::new("a.example");
        let (one, two) = (ca.svid("spiffe://a.example/w"), ca.svid("spiffe://a.example/w"));
        let mixed = format!("{}{}", one.key_pem().as_str(), two.chain_pem());
        assert_eq!(decode(mixed.as_bytes()).unwrap_err(), SvidError::KeyMismatch);
        assert_eq!(decode(b"").unwrap_err(), SvidError::Malformed);
        assert!(decode(one.chain_pem().as_bytes()).is_err());
    }
}
