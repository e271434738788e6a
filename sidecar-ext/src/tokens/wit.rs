//! WIT-SVIDs (incubating, read at spiffe/spiffe 665a28f): tokens that are bound to a key, which is made here and never leaves the
//! machine; the control plane sees its public half in a CSR.

use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::BoxFuture;
use symbolon_kit::spiffe::svid::{PrivateKey, new_key};
use symbolon_proto::node as wire;
use tonic::Status;
use zeroize::Zeroizing;

use super::{Minted, Minter, Order};
use crate::upstream::Handle;

/// Has them minted, each for a new key.
#[derive(Debug)]
pub struct WitMinter(pub Handle);

impl Minter for WitMinter {
    fn mint(&self, orders: Vec<Order>) -> BoxFuture<'_, Result<Vec<Minted>, Status>> {
        Box::pin(async move {
            let (mut keys, mut with_csrs) = (Vec::with_capacity(orders.len()), Vec::with_capacity(orders.len()));
            for order in orders {
                let (key, csr) = new_key().map_err(|why| Status::internal(why.to_string()))?;
                keys.push(Some(key));
                with_csrs.push(wire::WitOrder { entry_id: order.entry_id, csr: csr.into() });
            }
            Ok(self.0.mint_wit(with_csrs).await?.into_iter().zip(keys).collect())
        })
    }
}

/// A P-256 key as a private JWK (RFC 7518 §6.2.2), as the Workload API hands it out.
pub fn private_jwk(key: &PrivateKey) -> Option<Zeroizing<String>> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.pkcs8()).ok()?;
    let (x, y) = pair.public_key().as_ref().strip_prefix(&[4])?.split_at_checked(32)?;
    let secret = pair.private_key().as_be_bytes().ok()?;
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let d = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_ref()));
    let jwk = format!(r#"{{"kty":"EC","crv":"P-256","alg":"ES256","x":"{x}","y":"{y}","d":"{}"}}"#, d.as_str());
    Some(Zeroizing::new(jwk))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_private_jwk_is_the_key_that_the_csr_was_signed_with() {
        let (key, _) = new_key().unwrap();
        let jwk: serde_json::Value = serde_json::from_str(&private_jwk(&key).unwrap()).unwrap();
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        let public = [&[4][..], &bytes("x"), &bytes("y")].concat();
        assert_eq!(bytes("d").len(), 32);
        let again =
            EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, &bytes("d"), &public);
        let signature = again.unwrap().sign(&SystemRandom::new(), b"x").unwrap();
        let original = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.pkcs8()).unwrap();
        let original = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, original.public_key().as_ref());
        assert!(original.verify(b"x", signature.as_ref()).is_ok());
        assert!(private_jwk(&PrivateKey::from_pkcs8(vec![1])).is_none());
    }
}
