//! The node's own SVID: kept on disk, renewed at half its life, joined anew by a fresh token when it has run out.
//!
//! ```text
//!                ┌── on disk and valid ──────────────┐
//!   start ───────┤                                   ▼      renew_at
//!                └── else ── Joining ── Attest ──► Held ───────────► Renewing ── Mint ──► Held
//!                               ▲                                       │
//!                               └──────────── not_after ────────────────┘   (a failed Mint is tried again until then)
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use symbolon_kit::backoff::Backoff;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Counter;
use symbolon_kit::spiffe::renewal::renew_at;
use symbolon_kit::spiffe::svid::{Svid, new_key};
use symbolon_kit::tls::Identity;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::join::{self, JoinError};
use crate::config::JoinToken;
use crate::keep::{Keep, KeepError};
use crate::svid::pem;

/// Key and chain of the node, in the data folder.
pub const FILE: &str = "node.pem";
/// For one renewal.
const MINT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts to renew or join; a token file that changed is seen this soon.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Keeps the node's identity valid; one task.
pub(super) struct Keeper {
    pub trust_domain: TrustDomain,
    pub addresses: Vec<String>,
    pub token: JoinToken,
    pub keep: Keep,
    pub clock: Clock,
    /// Presented on every connection of [`Self::channel`].
    pub identity: Identity,
    /// Trusts the same bundles, presents nothing.
    pub anonymous: Identity,
    pub channel: Channel,
    /// Bundles that came with an SVID, for the book.
    pub bundles: mpsc::Sender<Vec<u8>>,
    pub joined: watch::Sender<bool>,
    pub failures: Counter,
    pub seed: u64,
}

impl Keeper {
    /// What a former run left, if it is valid still.
    ///
    /// # Errors
    /// If the file is there and may not be used; what is merely unusable is as good as absent.
    pub(super) fn restore(&self) -> Result<Option<Svid>, KeepError> {
        let Some(content) = self.keep.load(FILE)? else { return Ok(None) };
        let svid = match pem::decode(&content) {
            Ok(svid) => svid,
            Err(why) => {
                warn!(%why, "the node's SVID on disk is not usable");
                return Ok(None);
            }
        };
        let ours = svid.id.matches(&format!("spiffe://{}/symbolon/node/*", self.trust_domain));
        Ok((ours && svid.not_after > self.clock.now()).then_some(svid))
    }

    pub(super) async fn run(self, restored: Option<Svid>, drain: Drain) {
        tokio::select! {
            () = drain.cancelled() => {}
            () = self.hold(restored) => {}
        }
    }

    async fn hold(&self, restored: Option<Svid>) {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut svid = match restored {
            Some(svid) => svid,
            None => self.join().await,
        };
        loop {
            info!(id = %svid.id, serial = svid.serial, "this node's SVID");
            self.identity.set_svid(&svid);
            self.joined.send_replace(true);
            let at = renew_at(svid.not_before, svid.not_after, &mut rng);
            self.sleep_until(at).await;
            svid = match self.renew(svid.not_after).await {
                Some(svid) => svid,
                None => {
                    self.joined.send_replace(false);
                    warn!(id = %svid.id, "this node's SVID has expired and could not be renewed: a new join token is needed");
                    self.join().await
                }
            };
        }
    }

    /// Tries until the node has joined.
    async fn join(&self) -> Svid {
        let mut backoff = self.backoff();
        let mut refused: Option<Arc<Zeroizing<String>>> = None;
        loop {
            match self.attempt(&mut refused).await {
                Ok(Some(svid)) => return svid,
                Ok(None) => {} // still the token that was refused: asking again would only annoy
                Err(why) => {
                    self.failures.inc(&[("reason", why.label())]);
                    warn!(%why, "this node has not joined");
                }
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn attempt(&self, refused: &mut Option<Arc<Zeroizing<String>>>) -> Result<Option<Svid>, JoinError> {
        let token = join::read_token(&self.token)?;
        if refused.as_deref() == Some(&token) {
            return Ok(None);
        }
        let joined = join::join(self.addresses.clone(), &self.anonymous, &self.trust_domain, &token).await;
        if joined.as_ref().is_err_and(|why| !matches!(why, JoinError::Unanswered { .. })) {
            *refused = Some(Arc::new(token));
        }
        let joined = joined?;
        self.save(&joined.svid);
        let _ = self.bundles.send(joined.bundle).await; // refused only when the sidecar stops
        Ok(Some(joined.svid))
    }

    /// Tries until there is a new SVID, or the old one has expired.
    async fn renew(&self, not_after: SystemTime) -> Option<Svid> {
        let mut backoff = self.backoff();
        while self.clock.now() < not_after {
            match self.mint().await {
                Ok(svid) => {
                    self.save(&svid);
                    return Some(svid);
                }
                Err(why) => {
                    self.failures.inc(&[("reason", "renewal")]);
                    warn!(why, "this node's SVID could not be renewed; it goes on with the one it has");
                }
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
        None
    }

    async fn mint(&self) -> Result<Svid, String> {
        let (key, csr) = new_key().map_err(|why| why.to_string())?;
        let request = wire::MintRequest { csrs: vec![wire::Csr { entry_id: String::new(), csr: csr.into() }] };
        let answer = tokio::time::timeout(MINT_TIMEOUT, NodeClient::new(self.channel.clone()).mint(request))
            .await
            .map_err(|_| format!("no answer within {MINT_TIMEOUT:?}"))?
            .map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
        match answer.into_inner().results.pop().and_then(|minted| minted.outcome) {
            Some(wire::minted::Outcome::Svid(svid)) => join::svid_of(svid.chain, key).map_err(|why| why.to_string()),
            Some(wire::minted::Outcome::Refusal(refusal)) => Err(format!("{}: {}", refusal.reason, refusal.detail)),
            None => Err("an empty answer".into()),
        }
    }

    /// A node that cannot write its SVID down still has it; it will need a token at its next start.
    fn save(&self, svid: &Svid) {
        if let Err(why) = self.keep.save(FILE, &pem::encode(svid)) {
            warn!(%why, "this node's SVID could not be written down");
        }
    }

    async fn sleep_until(&self, at: SystemTime) {
        // In slices: the wall clock may be set, and a suspended machine does not count its sleep.
        while let Ok(left) = at.duration_since(self.clock.now())
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(Duration::from_millis(200), LONGEST_WAIT, self.seed)
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}
