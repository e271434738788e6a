//! The operator's own word on a foreign bundle, and how it is written down: before it takes effect, and where it replaces what is
//! held against the order of sequences, signed by the authority that signs now, so that nobody who can write the log can invent it
//! (invariants I4, I11).

use symbolon_kit::octets::{hex, sha256};
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_proto::ids::TrustDomain;

use super::Identity;
use super::audit::{self, Kind, Record};
use super::bundles::Refused;

/// Begins every statement that is signed: no certificate begins so.
const OVERRIDE: &str = "symbolon bundle override 1";

impl Identity {
    /// Sets a foreign trust domain's bundle; `force`: also if it is not newer than what is held.
    ///
    /// # Errors
    /// A [`Refused`]; what we hold stays as it was.
    pub async fn set_bundle(&self, trust_domain: &TrustDomain, jwks: &[u8], force: bool) -> Result<(), Refused> {
        // What cannot be read is not worth a record.
        let parsed = Bundle::parse_jwks(trust_domain, jwks, self.bundles.now())?;
        let before = self.bundles.all().get(trust_domain).map(|held| held.sequence);
        let (now, digest) = (parsed.bundle.sequence, hex(&sha256(jwks)));
        let number =
            |sequence: Option<u64>| sequence.map_or_else(|| "none".to_owned(), |sequence| sequence.to_string());
        let kind = if force { Kind::BundleOverridden } else { Kind::BundleSet };
        let mut record = Record::new(kind)
            .with("trust_domain", trust_domain.as_str())
            .with("sequence_before", number(before))
            .with("sequence", number(Some(now)))
            .with("sha256", digest.as_str());
        if force {
            let statement = format!("{OVERRIDE} {trust_domain} {} {now} {digest}", number(before));
            let issuer = self.issuer.clone();
            let said = statement.clone();
            // A key in a token may take its time.
            let signed = self.pool.run(move || issuer.sign_statement(&said)).await.flatten();
            let (signature, by) = signed.map_err(|refusal| Refused::Unsigned(refusal.to_string()))?;
            record = record.with("statement", statement).with("signature", hex(&signature)).with("signed_by", by);
        }
        self.audit.append(record).await?;
        let set = self.bundles.set(trust_domain, jwks, force).await;
        if let Err(refused) = &set {
            let record =
                Record::new(Kind::Refused).with("reason", refused.label()).with("trust_domain", trust_domain.as_str());
            self.audit.append(record.with("detail", refused.to_string())).await?;
        }
        set
    }
}

impl From<audit::Error> for Refused {
    fn from(error: audit::Error) -> Self {
        Self::Unrecorded(error)
    }
}
