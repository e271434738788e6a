//! Key and chain as PEM text: on disk one file holds both, so that they can never be of two issuances.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, SvidError};
use zeroize::Zeroizing;

const LINE: usize = 64;

/// The private key, then the chain, leaf first.
pub fn encode(svid: &Svid) -> Zeroizing<Vec<u8>> {
    let mut text = key(&svid.key);
    text.extend_from_slice(&chain(&svid.chain));
    text
}

/// A PKCS#8 key.
pub fn key(key: &PrivateKey) -> Zeroizing<Vec<u8>> {
    block("PRIVATE KEY", key.pkcs8(), 64 * 1024)
}

/// Certificates, in order.
pub fn chain<'a, 'c: 'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'c>>) -> Vec<u8> {
    let mut text = Vec::new();
    for der in certificates {
        text.extend_from_slice(&block("CERTIFICATE", der, 0));
    }
    text
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// If there is no key, or it is not the leaf's.
pub fn decode(text: &[u8]) -> Result<Svid, SvidError> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| SvidError::Malformed)?;
    let chain = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(|_| SvidError::Malformed)?;
    Svid::new(chain, PrivateKey::from_pkcs8(key.secret_pkcs8_der().to_vec()))
}

/// `room` is reserved up front: growing would leave copies of a key behind in freed memory.
fn block(label: &str, der: &[u8], room: usize) -> Zeroizing<Vec<u8>> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(Vec::with_capacity(room.max(body.len() * 66 / 64 + 64)));
    text.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    for line in body.as_bytes().chunks(LINE) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ca;

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let svid = Ca::new("a.example").svid("spiffe://a.example/ns/shop/sa/web");
        let text = encode(&svid);
        let back = decode(&text).unwrap();
        assert_eq!((back.id, back.chain, back.serial), (svid.id, svid.chain, svid.serial));
        assert_eq!(back.key.pkcs8(), svid.key.pkcs8());
        assert!(std::str::from_utf8(&text).unwrap().lines().all(|line| line.len() <= LINE));
    }

    #[test]
    fn a_key_of_another_issuance_is_refused() {
        let ca = Ca::new("a.example");
        let (one, two) = (ca.svid("spiffe://a.example/w"), ca.svid("spiffe://a.example/w"));
        let mut mixed = key(&one.key);
        mixed.extend_from_slice(&chain(&two.chain));
        assert_eq!(decode(&mixed).unwrap_err(), SvidError::KeyMismatch);
        assert_eq!(decode(b"").unwrap_err(), SvidError::Malformed);
        assert_eq!(decode(&chain(&one.chain)).unwrap_err(), SvidError::Malformed);
    }
}
