//! The control plane's own SVID: minted by its own authority, renewed at half life, presented on every port; and the bundles by
//! which callers are verified, fed into the same [`tls::Identity`]. A bundle endpoint with an ID of its own has one like it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rand::SeedableRng;
use rand::rngs::StdRng;
use symbolon_kit::backoff::Backoff;
use symbolon_kit::clock::{Clock, unix_secs};
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Gauge, Metrics};
use symbolon_kit::spiffe::renewal::renew_at;
use symbolon_kit::spiffe::svid::{Svid, issuer_key_id, new_key};
use symbolon_kit::tls;
use symbolon_proto::ids::SpiffeId;
use tokio::sync::watch;
use tracing::{error, info};

use crate::identity::Identity;
use crate::identity::authority::Taints;
use crate::identity::bundles::Table;

/// A clock that is set forward is noticed within this.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Keeps the control plane's own SVID.
#[derive(Debug)]
pub(super) struct OwnSvid {
    identity: Identity,
    id: SpiffeId,
    tls: tls::Identity,
    clock: Clock,
    svid: Svid,
    seed: u64,
    expires: Gauge,
}

impl OwnSvid {
    /// Mints the first one and presents it.
    pub(super) async fn start(
        identity: Identity,
        id: SpiffeId,
        tls: tls::Identity,
        clock: Clock,
        seed: u64,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let svid = mint(&identity, &id).await.context("the control plane's own SVID")?;
        tls.set_svid(&svid);
        tls.set_bundles(&identity.bundles.all());
        let expires = metrics.gauge("symbolon_own_svid_expires_seconds", "Unix time at which the own SVID expires");
        expires.set(&[], unix_secs(svid.not_after));
        Ok(Self { identity, id, tls, clock, svid, seed, expires })
    }

    /// Follows renewals until drained. An SVID that cannot be renewed serves on.
    pub(super) async fn run(mut self, drain: Drain) {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10), self.seed);
        let mut taints = self.identity.authorities.taints();
        let mut due = renew_at(self.svid.not_before, self.svid.not_after, &mut rng);
        let mut retry = Duration::ZERO;
        loop {
            let wait = due.duration_since(self.clock.now()).unwrap_or_default().min(LONGEST_WAIT).max(retry);
            tokio::select! {
                changed = taints.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if !self.is_tainted(&taints.borrow_and_update()) {
                        continue;
                    }
                    info!("the authority of our own SVID is tainted: it is renewed at once");
                    due = self.clock.now();
                }
                () = tokio::time::sleep(wait) => {}
                () = drain.cancelled() => return,
            }
            if self.clock.now() < due {
                continue;
            }
            match mint(&self.identity, &self.id).await {
                Ok(svid) => {
                    info!(?svid, "own SVID renewed");
                    self.tls.set_svid(&svid);
                    self.expires.set(&[], unix_secs(svid.not_after));
                    due = renew_at(svid.not_before, svid.not_after, &mut rng);
                    self.svid = svid;
                    retry = Duration::ZERO;
                    backoff.reset();
                }
                Err(error) => {
                    error!(%error, "the control plane's own SVID could not be renewed; the one before serves on");
                    retry = backoff.next_wait();
                }
            }
        }
    }
}

/// Verifies by the bundles of the moment, until drained: the connections of a trust domain that is gone end with it. Nothing else is
/// done here, so that nothing is waited for.
pub(super) async fn follow_bundles(mut bundles: watch::Receiver<Arc<Table>>, tls: tls::Identity, drain: Drain) {
    loop {
        let table: Arc<_> = bundles.borrow_and_update().clone();
        tls.set_bundles(&table);
        tokio::select! {
            changed = bundles.changed() => if changed.is_err() { return },
            () = drain.cancelled() => return,
        }
    }
}

impl OwnSvid {
    fn is_tainted(&self, taints: &Taints) -> bool {
        self.svid.chain.iter().filter_map(issuer_key_id).any(|issuer| taints.x509.contains(issuer.as_str()))
    }
}

async fn mint(identity: &Identity, id: &SpiffeId) -> anyhow::Result<Svid> {
    let (key, csr) = new_key()?;
    let minted = identity.own_svid(id, csr).await?;
    Ok(Svid::new(minted.chain, key)?)
}
