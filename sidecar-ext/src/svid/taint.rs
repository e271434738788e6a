//! Whether a chain goes back to an authority that is tainted.

use rustls_pki_types::CertificateDer;
use symbolon_kit::octets;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

use crate::bundle::Tainted;

/// True if a certificate of the chain was signed by a tainted authority, or is one.
pub fn is_tainted(chain: &[CertificateDer<'_>], tainted: &Tainted) -> bool {
    !tainted.x509.is_empty() && chain.iter().enumerate().any(|(at, der)| names_tainted(der, at > 0, tainted))
}

fn names_tainted(der: &CertificateDer<'_>, authority: bool, tainted: &Tainted) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    certificate.extensions().iter().any(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(issuer) => {
            issuer.key_identifier.as_ref().is_some_and(|id| tainted.x509.contains(&octets::hex(id.0)))
        }
        ParsedExtension::SubjectKeyIdentifier(own) => authority && tainted.x509.contains(&octets::hex(own.0)),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ca;

    #[test]
    fn a_chain_is_tainted_by_whoever_signed_any_of_it() {
        let (one, two) = (Ca::new("a.example"), Ca::new("a.example"));
        let tainted = Tainted { x509: [one.key_id()].into(), ..Tainted::default() };
        let leaf = |ca: &Ca| ca.svid("spiffe://a.example/w").chain;
        assert!(is_tainted(&leaf(&one), &tainted));
        assert!(!is_tainted(&leaf(&two), &tainted));
        assert!(!is_tainted(&leaf(&one), &Tainted::default()));
        // Below a tainted root, and with the tainted authority as intermediate.
        let with_intermediate = [leaf(&two), one.bundle().x509].concat();
        assert!(is_tainted(&with_intermediate, &tainted));
        assert!(!is_tainted(&[CertificateDer::from(vec![1])], &tainted));
    }
}
