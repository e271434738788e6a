use rcgen::{
    CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize,
    SanType, SerialNumber,
};
use x509_parser::certification_request::X509CertificationRequest;

use super::*;
use crate::spiffe::testing::{Ca, HOUR, noon, patched};

const ID: &str = "spiffe://a.example/shop";

/// A leaf that is good but for `change` is refused, and the reason contains `why`.
fn refused(change: impl FnOnce(&mut CertificateParams), why: &str) {
    let error = spiffe_id(&Ca::new("a.example").leaf(ID, change)).unwrap_err().to_string();
    assert!(error.contains(why), "{error:?} does not say {why:?}");
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn extension(oid: &[u64], content: &[u8], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

#[test]
fn a_good_leaf_gives_its_id() {
    let ca = Ca::new("a.example");
    assert_eq!(spiffe_id(&ca.leaf(ID, |_| {})).unwrap().as_str(), ID);
    let named = |params: &mut CertificateParams| params.distinguished_name.push(DnType::OrganizationName, "SPIRE");
    assert_eq!(spiffe_id(&ca.leaf(ID, named)).unwrap().as_str(), ID);
    let dns = |params: &mut CertificateParams| {
        params.subject_alt_names.push(SanType::DnsName("shop.example".try_into().unwrap()));
    };
    assert_eq!(spiffe_id(&ca.leaf(ID, dns)).unwrap().as_str(), ID, "X-1: other kinds of names are unrestricted");
}

#[test]
fn x_1_exactly_one_uri_name() {
    refused(|params| params.subject_alt_names.clear(), "no URI name");
    refused(|params| params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())], "no URI name");
    refused(|params| params.subject_alt_names.push(uri("spiffe://a.example/other")), "more than one URI");
    refused(|params| params.subject_alt_names.push(uri("https://a.example/")), "more than one URI");
}

#[test]
fn x_2_a_leaf_has_a_path() {
    refused(|params| params.subject_alt_names = vec![uri("spiffe://a.example")], "path is empty");
    refused(|params| params.subject_alt_names = vec![uri("spiffe://a.example/")], "ends with '/'");
}

#[test]
fn x_3_without_subject_the_name_is_critical() {
    let mut san = vec![0x30, ID.len() as u8 + 2, 0x86, ID.len() as u8];
    san.extend_from_slice(ID.as_bytes());
    let change = |params: &mut CertificateParams| {
        params.subject_alt_names.clear();
        params.custom_extensions = vec![extension(&[2, 5, 29, 17], &san, false)];
    };
    refused(change, "must be critical");
}

#[test]
fn x_6_an_authority_is_no_leaf() {
    refused(|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained), "CA:TRUE");
}

#[test]
fn x_8_key_usage_is_present_and_critical() {
    refused(|params| params.key_usages.clear(), "no key usage");
    let lax = |params: &mut CertificateParams| {
        params.key_usages.clear();
        params.custom_extensions = vec![extension(&[2, 5, 29, 15], &[3, 2, 7, 0x80], false)];
    };
    refused(lax, "not critical");
}

#[test]
fn x_10_a_leaf_signs_no_certificates() {
    refused(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign), "keyCertSign");
    refused(|params| params.key_usages.push(KeyUsagePurpose::CrlSign), "cRLSign");
    refused(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment], "lacks digitalSignature");
    let more = |params: &mut CertificateParams| {
        params.key_usages.extend([KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement]);
    };
    assert!(spiffe_id(&Ca::new("a.example").leaf(ID, more)).is_ok(), "X-10 allows keyEncipherment and keyAgreement");
}

#[test]
fn x_11_both_extended_usages_or_none() {
    refused(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], "both");
    refused(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], "both");
    assert!(spiffe_id(&Ca::new("a.example").leaf(ID, |params| params.extended_key_usages.clear())).is_ok());
}

#[test]
fn x_13_not_a_spiffe_id() {
    refused(|params| params.subject_alt_names = vec![uri("https://a.example/shop")], "does not begin with spiffe://");
    refused(|params| params.subject_alt_names = vec![uri("spiffe://a.example/%73hop")], "path segment");
    refused(|params| params.subject_alt_names = vec![uri("spiffe://a.example/../b")], "'..'");
}

#[test]
fn bad_093_weak_algorithms() {
    const SHA256_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let rsa = Ca::at(noon(), "a.example", key, |_| {}).leaf(ID, |_| {});
    assert!(spiffe_id(&rsa).is_ok());
    for (name, last) in [("MD5", 4), ("SHA-1", 5)] {
        let mut weak = SHA256_WITH_RSA;
        weak[8] = last;
        let error = spiffe_id(&patched(&rsa, &SHA256_WITH_RSA, &weak)).unwrap_err().to_string();
        assert!(error.contains("too weak"), "{name}: {error}");
    }
    const P256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const P192: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1];
    let error = spiffe_id(&patched(&Ca::new("a.example").leaf(ID, |_| {}), &P256, &P192)).unwrap_err().to_string();
    assert!(error.contains("public key"), "{error}");
}

#[test]
fn bad_094_serial_numbers() {
    refused(|params| params.serial_number = Some(SerialNumber::from_slice(&[0])), "not positive");
    refused(|params| params.serial_number = Some(SerialNumber::from_slice(&[0x41; 21])), "longer than 20 bytes");
    let leaf = Ca::new("a.example").leaf(ID, |_| {});
    let mut negative = [0x41; 20];
    negative[0] = 0xc1;
    let error = spiffe_id(&patched(&leaf, &[0x41; 20], &negative)).unwrap_err().to_string();
    assert!(error.contains("not positive"), "{error}");
}

#[test]
fn bad_095_critical_extensions_that_we_do_not_know() {
    let unknown = |critical| {
        move |params: &mut CertificateParams| {
            params.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 55555, 1], &[5, 0], critical)];
        }
    };
    refused(unknown(true), "critical extension");
    assert!(spiffe_id(&Ca::new("a.example").leaf(ID, unknown(false))).is_ok());
    let twice = |params: &mut CertificateParams| {
        params.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 55555, 1], &[5, 0], false); 2];
    };
    refused(twice, "twice");
}

#[test]
fn bad_097_only_der() {
    let leaf = Ca::new("a.example").leaf(ID, |_| {}).to_vec();
    let mut longer = leaf.clone();
    longer.push(0);
    assert_eq!(spiffe_id(&longer.into()), Err(SvidError::Malformed), "trailing bytes");
    assert_eq!(leaf[..2], [0x30, 0x82]);
    let mut padded = leaf.clone();
    padded.splice(1..2, [0x83, 0]); // a length in three bytes where two do
    assert_eq!(spiffe_id(&padded.into()), Err(SvidError::Malformed), "BER length");
    for end in 0..leaf.len() {
        assert!(spiffe_id(&leaf[..end].to_vec().into()).is_err(), "cut at {end}");
    }
}

#[test]
fn a_new_key_proves_its_possession_and_asks_for_nothing() {
    let (key, csr) = new_key().unwrap();
    let (rest, csr) = X509CertificationRequest::from_der(&csr).unwrap();
    assert!(rest.is_empty());
    csr.verify_signature().unwrap();
    assert!(csr.requested_extensions().is_none_or(|mut extensions| extensions.next().is_none()));
    assert_eq!(csr.certification_request_info.subject.iter().count(), 0);
    let pair = KeyPair::try_from(key.pkcs8()).unwrap();
    assert!(csr.certification_request_info.subject_pki.raw.ends_with(rcgen::PublicKeyData::der_bytes(&pair)));
}

#[test]
fn an_svid_is_a_leaf_with_its_own_key() {
    let ca = Ca::new("a.example");
    let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let leaf = ca.leaf_for(ID, &own, |_| {});
    let svid = Svid::new(vec![leaf.clone()], PrivateKey::from_pkcs8(own.serialize_der())).unwrap();
    assert_eq!(svid.id.as_str(), ID);
    assert_eq!((svid.not_before, svid.not_after), (noon() - Duration::from_secs(10), noon() + HOUR));
    assert_eq!(svid.serial, "41".repeat(20));
    assert_eq!(serial(&leaf), Ok(svid.serial));
    assert_eq!(serial(&CertificateDer::from(vec![1, 2, 3])), Err(SvidError::Malformed));
    let error = Svid::new(vec![leaf.clone()], PrivateKey::from_pkcs8(other.serialize_der())).unwrap_err();
    assert_eq!(error, SvidError::KeyMismatch);
    assert_eq!(Svid::new(vec![leaf], PrivateKey::from_pkcs8(vec![1, 2, 3])).unwrap_err(), SvidError::KeyMismatch);
    assert!(Svid::new(Vec::new(), PrivateKey::from_pkcs8(Vec::new())).is_err());
}

#[test]
fn keys_are_not_printed() {
    let svid = Ca::new("a.example").svid("/shop");
    let printed = format!("{svid:?} {:?}", svid.key);
    assert_eq!(printed, format!("Svid({ID} serial {}) PrivateKey(redacted)", "41".repeat(20)));
}

#[test]
fn pem_reads_back() {
    use rustls_pki_types::pem::PemObject as _;
    let svid = Ca::new("a.example").svid("/shop");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(svid.chain_pem().as_bytes()).map(Result::unwrap).collect();
    assert_eq!(chain, svid.chain);
    let key = PrivatePkcs8KeyDer::from_pem_slice(svid.key_pem().as_bytes()).unwrap();
    assert_eq!(key.secret_pkcs8_der(), svid.key.pkcs8());
    assert!(svid.key_pem().lines().all(|line| line.len() <= 64));
}

#[test]
fn key_identifiers_tell_who_signed() {
    let root = Ca::new("a.example");
    let below = root.intermediate(|_| {});
    let leaf = below.leaf(ID, |_| {});
    let ids = [key_id(&root.certificate()).unwrap(), key_id(&below.certificate()).unwrap()];
    assert_ne!(ids[0], ids[1]);
    assert!(
        ids.iter().all(|id| id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()))
    );
    assert_eq!(issuer_key_id(&below.certificate()).as_ref(), Some(&ids[0]));
    assert_eq!(issuer_key_id(&leaf).as_ref(), Some(&ids[1]));
    let bare = below.leaf(ID, |params| params.use_authority_key_identifier_extension = false);
    assert_eq!(issuer_key_id(&bare), None);
    assert_eq!((key_id(&vec![1, 2].into()), issuer_key_id(&vec![1, 2].into())), (None, None));
}
