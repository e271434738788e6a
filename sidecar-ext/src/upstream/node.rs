//! The node's own SVID: kept on disk, renewed at half its life, and attested for anew when it has run out or the control plane says
//! that this node must ([`Tenure`]). Evidence that serves again, a certificate, then brings the node back by itself; one that joined by
//! a token waits for a new token.
//!
//! ```text
//!                ┌── on disk and valid ──────────────┐
//!   start ───────┤                                   ▼      renew_at
//!                └── else ── Joining ── Attest ──► Held ───────────► Renewing ── Mint ──► Held
//!                               ▲                    │                  │
//!                               │                    └── evicted ──┐    │   (a failed Mint is tried again until not_after)
//!                               └────────────────────── not_after ─┴────┘
//! ```
//! A tainted authority brings `renew_at` forward to now.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use symbolon_kit::backoff::Backoff;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Gauge};
use symbolon_kit::spiffe::renewal::renew_at;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, csr_of, new_key};
use symbolon_kit::tls::Identity;
use symbolon_proto::attest::reason;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::join::{self, Door, JoinError, Offer};
use crate::bundle::Trust;
use crate::config::Evidence;
use crate::keep::{Keep, KeepError};
use crate::svid::{is_tainted, pem};

/// Key and chain of the node, in the data folder.
pub const FILE: &str = "node.pem";
/// The key of an attestation that has not been answered yet.
const PENDING_FILE: &str = "node.pending";
/// How far the control plane sets back the beginning of what it issues.
const BACKDATE: Duration = Duration::from_secs(10);
/// The clocks of two machines may differ by this without a word.
const SKEW: Duration = Duration::from_secs(30);
/// For one renewal.
const MINT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts to renew or join; a token file that changed is seen this soon.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Keeps the node's identity valid; one task.
pub(super) struct Keeper {
    pub trust_domain: TrustDomain,
    pub addresses: Vec<String>,
    pub evidence: Evidence,
    pub keep: Keep,
    pub clock: Clock,
    /// Presented on every connection of [`Self::channel`].
    pub identity: Identity,
    /// Trusts the same bundles, presents nothing.
    pub anonymous: Identity,
    pub channel: Channel,
    /// Bundles that came with an SVID, for the book.
    pub bundles: mpsc::Sender<Vec<u8>>,
    pub trust: watch::Receiver<Arc<Trust>>,
    pub joined: watch::Sender<bool>,
    pub tenure: Tenure,
    pub skew: Gauge,
    pub failures: Counter,
    pub seed: u64,
}

/// Whether the control plane still counts this node's certificate. The word comes with a refused call: `Line` hears it, the keeper acts.
/// Each attestation begins an epoch, so that a word about an older one is not acted on twice. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Tenure {
    epoch: Arc<watch::Sender<u64>>,
    lost: Arc<watch::Sender<u64>>,
}

/// What becomes of a held SVID.
enum Next {
    Renewed(Svid),
    Attest,
}

/// Why a renewal failed.
enum Unrenewed {
    /// The node must attest again.
    Gone(String),
    Failed(String),
}

impl Tenure {
    /// The epoch of the SVID that is presented now; 0 before the first.
    pub(super) fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// A call of that epoch was refused.
    pub(super) fn heard(&self, refused: &Status, epoch: u64) {
        if must_attest(reason(refused)) {
            self.lost.send_replace(epoch);
        }
    }

    fn begin(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    async fn lost(&self) {
        let epoch = self.epoch();
        if self.lost.subscribe().wait_for(|lost| *lost == epoch).await.is_err() {
            std::future::pending::<()>().await; // we hold the sender
        }
    }
}

/// Words that mean that only another attestation helps. A superseded certificate is none: somebody has attested under this name
/// since. If that was us, the next connection brings the new one; if not, two would drive each other out for ever.
fn must_attest(word: &str) -> bool {
    ["node_gone", "node_banned"].contains(&word)
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
        self.tenure.begin();
        let mut retaints = self.backoff();
        loop {
            info!(id = %svid.id, serial = svid.serial, "this node's SVID");
            self.identity.set_svid(&svid);
            self.joined.send_replace(true);
            let at = renew_at(svid.not_before, svid.not_after, &mut rng);
            let next = tokio::select! {
                next = async { self.due(at, &svid).await; self.renew(svid.not_after).await } => next,
                () = self.tenure.lost() => Next::Attest,
            };
            svid = match next {
                Next::Renewed(svid) => {
                    if is_tainted(&svid.chain, &self.trust.borrow().tainted) {
                        warn!("this node's new SVID is of an authority that is tainted, too");
                        tokio::time::sleep(retaints.next_wait()).await;
                    } else {
                        retaints.reset();
                    }
                    svid
                }
                Next::Attest => {
                    self.joined.send_replace(false);
                    warn!(id = %svid.id, evidence = ?self.evidence, "this node's SVID has expired or does not count any more: it attests again");
                    let svid = self.join().await;
                    self.tenure.begin();
                    svid
                }
            };
        }
    }

    /// Tries until the node has joined.
    async fn join(&self) -> Svid {
        let mut backoff = self.backoff();
        let mut refused = None;
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

    async fn attempt(&self, refused: &mut Option<[u8; 32]>) -> Result<Option<Svid>, JoinError> {
        let offer = Offer::read(&self.evidence)?;
        if *refused == Some(offer.digest()) {
            return Ok(None);
        }
        let door = Door {
            addresses: &self.addresses,
            anonymous: &self.anonymous,
            trust_domain: &self.trust_domain,
            now: self.clock.now(),
        };
        let joined = join::join(door, &offer, self.pending_key()?).await;
        if joined.as_ref().is_err_and(JoinError::is_final) {
            *refused = Some(offer.digest());
            self.forget_pending();
        }
        let joined = joined?;
        self.save(&joined.svid);
        self.forget_pending();
        let _ = self.bundles.send(joined.bundle).await; // refused only when the sidecar stops
        Ok(Some(joined.svid))
    }

    /// The key of an attestation that was begun and not answered, by this run or a former one; else a new one, written down first. A
    /// token that was spent for it is good for no other.
    fn pending_key(&self) -> Result<PrivateKey, JoinError> {
        match self.keep.load(PENDING_FILE) {
            Ok(Some(der)) if csr_of(&PrivateKey::from_pkcs8(der.to_vec())).is_ok() => {
                return Ok(PrivateKey::from_pkcs8(der.to_vec()));
            }
            Ok(_) => {}
            Err(why) => warn!(%why, "the key of an attestation that was begun is not usable; it begins anew"),
        }
        let (key, _) = new_key()?;
        if let Err(why) = self.keep.save(PENDING_FILE, key.pkcs8()) {
            warn!(%why, "the key for this node could not be written down: if the sidecar is killed now, its token may be lost");
        }
        Ok(key)
    }

    fn forget_pending(&self) {
        if let Err(why) = self.keep.remove(PENDING_FILE) {
            warn!(%why, "a key that is not needed any more stays on disk");
        }
    }

    /// Tries until there is a new SVID, or the old one is good for nothing.
    async fn renew(&self, not_after: SystemTime) -> Next {
        let mut backoff = self.backoff();
        while self.clock.now() < not_after {
            let why = match self.mint().await {
                Ok(svid) => {
                    self.save(&svid);
                    return Next::Renewed(svid);
                }
                Err(Unrenewed::Gone(why)) => {
                    warn!(why, "this node's SVID is not renewed any more");
                    return Next::Attest;
                }
                Err(Unrenewed::Failed(why)) => why,
            };
            self.failures.inc(&[("reason", "renewal")]);
            warn!(why, "this node's SVID could not be renewed; it goes on with the one it has");
            tokio::time::sleep(backoff.next_wait()).await;
        }
        Next::Attest
    }

    async fn mint(&self) -> Result<Svid, Unrenewed> {
        let failed = Unrenewed::Failed;
        let (key, csr) = new_key().map_err(|why| failed(why.to_string()))?;
        let request = wire::MintRequest { csrs: vec![wire::Csr { entry_id: String::new(), csr: csr.into() }] };
        let answer = tokio::time::timeout(MINT_TIMEOUT, NodeClient::new(self.channel.clone()).mint(request))
            .await
            .map_err(|_| failed(format!("no answer within {MINT_TIMEOUT:?}")))?
            .map_err(|status| {
                let why = format!("{:?}: {}", status.code(), status.message());
                if must_attest(reason(&status)) { Unrenewed::Gone(why) } else { failed(why) }
            })?;
        match answer.into_inner().results.pop().and_then(|minted| minted.outcome) {
            Some(wire::minted::Outcome::Svid(svid)) => {
                join::svid_of(svid.chain, key).map_err(|why| failed(why.to_string()))
            }
            Some(wire::minted::Outcome::Refusal(refusal)) => {
                let why = format!("{}: {}", refusal.reason, refusal.detail);
                Err(if must_attest(&refusal.reason) { Unrenewed::Gone(why) } else { failed(why) })
            }
            None => Err(failed("an empty answer".into())),
        }
    }

    /// A certificate that was just issued tells the control plane's time. Clocks that differ by more than a certificate is set back make
    /// fresh ones look like none, here or elsewhere: better said now than guessed at then.
    fn compare_clocks(&self, svid: &Svid) {
        let (here, there) = (self.clock.now(), svid.not_before + BACKDATE);
        let (apart, word) = match here.duration_since(there) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        };
        let seconds = i64::try_from(apart.as_secs()).unwrap_or(i64::MAX);
        self.skew.set(&[], if here < there { -seconds } else { seconds });
        if apart > SKEW {
            warn!(
                seconds,
                "this machine's clock is {word} the control plane's: fresh certificates may not be accepted yet, or others run \
                 out early. Set both by NTP"
            );
        }
    }

    /// A node that cannot write its SVID down still has it; it will need a token at its next start.
    fn save(&self, svid: &Svid) {
        self.compare_clocks(svid);
        if let Err(why) = self.keep.save(FILE, &pem::encode(svid)) {
            warn!(%why, "this node's SVID could not be written down");
        }
    }

    /// Returns at that time, or as soon as the authority that signed `svid` is tainted.
    async fn due(&self, at: SystemTime, svid: &Svid) {
        let mut trust = self.trust.clone();
        let tainted = trust.wait_for(|trust| is_tainted(&svid.chain, &trust.tainted));
        tokio::select! {
            () = self.sleep_until(at) => {}
            Ok(_) = tainted => warn!("the authority of this node's SVID is tainted: it is replaced"),
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
