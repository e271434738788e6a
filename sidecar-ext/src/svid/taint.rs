//! Whether a chain goes back to an authority that is tainted.

use rustls_pki_types::CertificateDer;
use symbolon_kit::spiffe::svid;

use crate::bundle::Tainted;

/// True if a certificate of the chain was signed by a tainted authority, or is one.
pub fn is_tainted(chain: &[CertificateDer<'_>], tainted: &Tainted) -> bool {
    !tainted.x509.is_empty() && chain.iter().enumerate().any(|(at, der)| names_tainted(der, at > 0, tainted))
}

fn names_tainted(der: &CertificateDer<'_>, authority: bool, tainted: &Tainted) -> bool {
    let own = || svid::key_id(der).filter(|_| authority);
    [svid::issuer_key_id(der), own()].into_iter().flatten().any(|id| tainted.x509.contains(&id))
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
