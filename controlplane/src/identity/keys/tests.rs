use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use proptest::prelude::*;

use super::disk::Disk;
use super::memory::Memory;
use super::*;

fn managers() -> (tempfile::TempDir, [Box<dyn KeyManager>; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(&folder.path().join("keys")).unwrap();
    (folder, [Box::new(disk), Box::new(Memory::default())])
}

#[test]
fn a_key_is_made_found_and_destroyed_by_its_name() {
    let (_folder, managers) = managers();
    for manager in managers {
        let made = manager.generate("x509-0a").unwrap();
        let found = manager.load("x509-0a").unwrap();
        assert_eq!(made.public_key(), found.public_key());
        assert_eq!(manager.names().unwrap(), ["x509-0a"]);
        let signature = found.sign(b"message").unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, made.public_key()).verify(b"message", &signature).unwrap();
        for _ in 0..50 {
            let signature = found.sign_jws(b"message").unwrap();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, made.public_key()).verify(b"message", &signature).unwrap();
        }
        manager.remove("x509-0a").unwrap();
        manager.remove("x509-0a").unwrap();
        assert!(matches!(manager.load("x509-0a"), Err(KeyError::Missing { .. })), "{}", manager.kind());
        assert_eq!(manager.names().unwrap(), [""; 0]);
    }
}

#[test]
fn on_disk_a_name_is_never_written_twice() {
    let (_folder, [disk, _]) = managers();
    let first = disk.generate("x509-0a").unwrap();
    assert!(matches!(disk.generate("x509-0a"), Err(KeyError::File { what: "cannot be written", .. })));
    assert_eq!(disk.load("x509-0a").unwrap().public_key(), first.public_key());
}

#[test]
fn keys_of_an_upstream_may_be_rsa_or_p384() {
    for (algorithm, want) in
        [(&rcgen::PKCS_RSA_SHA256, Algorithm::Rsa), (&rcgen::PKCS_ECDSA_P384_SHA384, Algorithm::EcdsaP384)]
    {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let key = soft::SoftKey::from_pem(pair.serialize_pem().as_bytes()).unwrap();
        assert_eq!((key.algorithm(), key.public_key()), (want, pair.der_bytes()));
        let signature = key.sign(b"message").unwrap();
        if want == Algorithm::Rsa {
            let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key());
            public.verify(b"message", &signature).unwrap();
        }
    }
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    for bad in [ed25519.as_str(), "", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        assert!(matches!(soft::SoftKey::from_pem(bad.as_bytes()), Err(KeyError::Unusable(_))), "{bad}");
    }
}

#[test]
fn no_error_or_debug_text_holds_a_key() {
    let (key, pem) = soft::SoftKey::generate().unwrap();
    let body = pem.0.lines().nth(1).unwrap().to_owned();
    assert!(!format!("{key:?}").contains(&body));
}

proptest! {
    #[test]
    fn both_forms_of_an_ecdsa_signature_say_the_same(bytes in proptest::array::uniform32(any::<u8>()), zeros in 0usize..33) {
        let mut both = [bytes, bytes].concat();
        both[..zeros.min(32)].fill(0);
        prop_assert_eq!(fixed(&der_of_fixed(&both).unwrap(), 32), Some(both));
    }

    #[test]
    fn no_bytes_panic_the_reader_of_signatures(bytes in any::<Vec<u8>>(), half in 0usize..70) {
        if let Some(read) = fixed(&bytes, half) {
            prop_assert_eq!(read.len(), 2 * half);
        }
    }
}
