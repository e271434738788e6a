//! The authorities of this trust domain: X.509, JWT and, where it is switched on, WIT. Each kind has its [`slots`], a pure machine;
//! [`journal`] is how they are stored, [`kind`] what is made and published of them. One task owns them all, follows their schedule
//! and the operator's words, and performs what the machine says, always in this order: the key is made, the journal written, the
//! bundle published, and only then something is signed (invariant I8). A crash between any two is made good by the next start.

mod journal;
pub mod kind;
pub mod slots;
mod start;
#[cfg(test)]
mod testing;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use symbolon_kit::backoff::Backoff;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Gauge, Metrics};
use symbolon_kit::octets;
use symbolon_kit::spiffe::bundle::{JwtAuthority, TokenKey};
use symbolon_proto::ids::TrustDomain;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::audit::{self, Audit, Record};
use super::bundles::Bundles;
use super::issue::Issuer;
use super::keys::{self, KeyManager};
use super::schedule::Policy;
use super::upstream::{self, Upstream};
use super::{Config, Error};
use crate::store::{self, SharedStore, Txn};
pub use kind::Kind;
use kind::{Maker, Material, Signing, signing};
use slots::{Context, Effect, Event, Id, Refused, Slots, State, step};
pub use view::{Authorities, ChangeError, Order, Step, Taints, View, Word};

/// The longest that the task sleeps: a clock that is set forward is noticed within this.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How far the wall clock may part from the time that passes before it counts as set: more than its usual correction.
const CLOCK_STEP: Duration = Duration::from_secs(30);

/// What the operator may set beside lifetimes.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// See [`Policy`].
    pub prepare_before: Option<Duration>,
    pub activate_before: Option<Duration>,
    /// Unset: three times the bundle's refresh hint, within the schedule's bounds.
    pub propagation: Option<Duration>,
    /// Of JWT (and WIT) authorities; unset: as the X.509 ones.
    pub jwt_ttl: Option<Duration>,
    /// Whether there are WIT authorities.
    pub wit: bool,
    pub keys: keys::Place,
    pub upstream: Option<upstream::Config>,
    /// Go on without keys that are lost, once, with new ones.
    pub replace_lost_keys: bool,
}

/// All kinds of authorities, as their task holds them.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    lanes: BTreeMap<Kind, Lane>,
    keys: Arc<dyn KeyManager>,
    upstream: Option<upstream::Config>,
    /// As it was found when it was last read.
    above: Option<Arc<Upstream>>,
    /// Why the upstream authority cannot be used now.
    above_fails: Option<String>,
    store: SharedStore,
    clock: Clock,
    /// The wall clock less the time that has passed, when it was last compared.
    pace: (SystemTime, Duration),
    bundles: Bundles,
    audit: Audit,
    /// An operator's word is being followed; otherwise it is the schedule.
    asked: bool,
    issuer: Issuer,
    ends: view::Ends,
    meters: Meters,
}

/// One kind.
#[derive(Debug)]
struct Lane {
    slots: Slots<Material>,
    policy: Policy,
}

#[derive(Debug)]
struct Meters {
    expires: Gauge,
    steps: Counter,
    failures: Counter,
}

impl Settings {
    /// The schedule of authorities that live for `ttl`.
    pub fn policy(&self, ttl: Duration, refresh_hint: Duration) -> Policy {
        // A quarter of the life is less than SPIRE's third between preparation and activation.
        let propagation = self.propagation.unwrap_or_else(|| (refresh_hint * 3).min(ttl / 4));
        Policy {
            prepare_before: self.prepare_before,
            activate_before: self.activate_before,
            ..Policy::new(ttl, propagation)
        }
    }
}

// === impl Authority ===

impl Authority {
    /// Follows the schedule and the operator until drained. What fails is tried again: the active authority goes on.
    pub(super) async fn run(mut self, drain: Drain) {
        let mut backoff = Backoff::new(Duration::from_secs(1), LONGEST_WAIT, 0);
        let mut retry = None;
        loop {
            let wait = retry.unwrap_or_else(|| self.until_next());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Some(request) = self.ends.orders.recv() => {
                    self.answer(request).await;
                    continue;
                }
                () = drain.cancelled() => return,
            }
            retry = match self.catch_up().await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    self.meters.failures.inc(&[("reason", error.label())]);
                    error!(%error, "the authority's schedule is behind; the active authority goes on");
                    Some(backoff.next_wait())
                }
            };
        }
    }

    fn until_next(&self) -> Duration {
        let next = self.lanes.values().filter_map(|lane| lane.slots.next_at(&lane.policy)).min();
        next.map_or(LONGEST_WAIT, |at| at.duration_since(self.clock.now()).unwrap_or(Duration::from_secs(1)))
            .min(LONGEST_WAIT)
    }

    /// Does all that is due, of every kind, whatever fails in one of them.
    ///
    /// # Errors
    /// The first that failed.
    pub(super) async fn catch_up(&mut self) -> Result<(), Error> {
        let stepped = self.clock_step();
        let mut outcome = Ok(());
        for kind in self.kinds() {
            let event = match stepped {
                Some((forward, by)) => Event::ClockStepped { forward, by },
                None => Event::Tick,
            };
            let done = self.drive(kind, event).await;
            if outcome.is_ok() {
                outcome = done.map_err(Stop::into_error);
            }
        }
        outcome
    }

    fn kinds(&self) -> Vec<Kind> {
        self.lanes.keys().copied().collect()
    }

    /// Whether the wall clock was set since the last look, forward or back, and by how much.
    fn clock_step(&mut self) -> Option<(bool, Duration)> {
        let (now, passed) = (self.clock.now(), self.clock.passed());
        let expected = self.pace.0 + passed.saturating_sub(self.pace.1);
        self.pace = (now, passed);
        let (forward, by) = match now.duration_since(expected) {
            Ok(by) => (true, by),
            Err(error) => (false, error.duration()),
        };
        if by <= CLOCK_STEP {
            return None;
        }
        self.meters.failures.inc(&[("reason", "clock_stepped")]);
        warn!(
            forward,
            seconds = by.as_secs(),
            "the clock was set; no authority is forgotten until it has proved itself"
        );
        Some((forward, by))
    }

    /// Takes one event, and performs what follows from it until nothing more does.
    async fn drive(&mut self, kind: Kind, event: Event<Material>) -> Result<(), Stop> {
        let mut event = Some(event);
        let mut outcome = Ok(());
        while let Some(now) = event.take() {
            // One effect at a time: the answer to it tells again what is left to be done.
            let Some(effect) = self.take(kind, now).await?.into_iter().next() else { break };
            match self.perform(kind, effect).await {
                Ok(next) => event = Some(next),
                Err((next, error)) => {
                    event = next;
                    outcome = Err(Stop::Failed(error));
                }
            }
        }
        self.announce();
        outcome
    }

    /// One step: decided, written down, and in force. Gives the effects that need more than that.
    async fn take(&mut self, kind: Kind, event: Event<Material>) -> Result<Vec<Effect>, Stop> {
        let fresh = format!("{}-{}", kind.word(), octets::hex(&octets::random::<4>()));
        let lane = self.lane(kind)?;
        let above = self.above.as_ref().filter(|_| kind == Kind::X509);
        let context = Context {
            now: self.clock.now(),
            policy: &lane.policy,
            fresh: &fresh,
            root: above.map(|above| &above.root),
            root_end: above.map(|above| above.not_after),
        };
        let (next, effects) = step(&lane.slots, event, context).map_err(Stop::Refused)?;
        let mut signer = None;
        let mut left = Vec::new();
        for effect in effects {
            match effect {
                // Before the journal says that it signs.
                Effect::Sign(id) => signer = Some(self.signing(&next, &id).await?),
                other => left.push(other),
            }
        }
        let value = journal::encode(&self.trust_domain, &next)?;
        if value != journal::encode(&self.trust_domain, &lane.slots)? {
            // The log has it first: no authority changes without a record (I11).
            self.audit.append_all(self.changes(kind, &next)).await.map_err(Error::from)?;
            self.store.commit(Txn::new().put(start::journal_key(kind), value)).await?;
        }
        if let Some(lane) = self.lanes.get_mut(&kind) {
            lane.slots = next;
        }
        match signer {
            Some(Signing::X509(signer)) => self.issuer.activate(signer),
            Some(Signing::Token(signer)) if kind == Kind::Wit => self.issuer.activate_wit(signer),
            Some(Signing::Token(signer)) => self.issuer.activate_jwt(signer),
            None => {}
        }
        Ok(left)
    }

    fn lane(&self, kind: Kind) -> Result<&Lane, Stop> {
        self.lanes.get(&kind).ok_or_else(|| Stop::Refused(Refused::Unknown(kind.word().to_owned())))
    }

    async fn signing(&self, slots: &Slots<Material>, id: &Id) -> Result<Signing, Stop> {
        let slot = slots.find(id).map_err(Stop::Refused)?.clone();
        let keys = self.keys.clone();
        Ok(blocking(move || signing(&*keys, &slot)).await?)
    }

    /// The event that follows; or, if it failed, the event that says so, if any.
    async fn perform(
        &mut self,
        kind: Kind,
        effect: Effect,
    ) -> Result<Event<Material>, (Option<Event<Material>>, Error)> {
        match effect {
            Effect::Make(name) => match self.make(kind, name).await {
                Ok(slot) => Ok(Event::Made(slot)),
                Err(error) => Err((Some(Event::NotMade), error)),
            },
            Effect::Publish => match self.publish().await {
                Ok(()) => Ok(Event::Published),
                Err(error) => Err((None, error)),
            },
            Effect::Destroy(name) => {
                let (keys, gone) = (self.keys.clone(), name.clone());
                match blocking(move || Ok(keys.remove(&gone)?)).await {
                    Ok(()) => Ok(Event::Destroyed(name)),
                    Err(error) => Err((None, error)),
                }
            }
            Effect::Sign(_) => Ok(Event::Tick), // was performed with the step
        }
    }

    async fn make(&mut self, kind: Kind, name: Arc<str>) -> Result<slots::Slot<Material>, Error> {
        if kind == Kind::X509 {
            self.read_upstream().await?;
        }
        let lane = self.lane(kind).map_err(Stop::into_error)?;
        let maker = Maker {
            trust_domain: self.trust_domain.clone(),
            keys: self.keys.clone(),
            now: self.clock.now(),
            life: lane.policy.ttl,
            upstream: self.above.clone(),
        };
        blocking(move || maker.make(kind, name)).await
    }

    async fn read_upstream(&mut self) -> Result<(), Error> {
        let Some(config) = self.upstream.clone() else { return Ok(()) };
        let (trust_domain, now) = (self.trust_domain.clone(), self.clock.now());
        let read = blocking(move || Ok(Upstream::read(&config, &trust_domain, now)?)).await;
        self.above_fails = read.as_ref().err().map(ToString::to_string);
        self.above = Some(Arc::new(read?));
        Ok(())
    }

    /// The bundle as all slots say. What is there already is not written again.
    async fn publish(&self) -> Result<(), Error> {
        let mut x509 = Vec::new();
        let mut tokens = BTreeMap::<Kind, Vec<JwtAuthority>>::new();
        for (kind, lane) in &self.lanes {
            for slot in lane.slots.in_bundle() {
                match &slot.material {
                    Material::X509 { roots, .. } => {
                        let new: Vec<_> = roots.iter().filter(|root| !x509.contains(*root)).cloned().collect();
                        x509.extend(new);
                    }
                    Material::Token { spki, .. } => {
                        let key = TokenKey::from_spki(spki).map_err(|e| Error::Sign(format!("{}: {e}", slot.id)))?;
                        tokens.entry(*kind).or_default().push(JwtAuthority { kid: slot.id.clone(), key });
                    }
                }
            }
        }
        let of = |kind| tokens.get(&kind).cloned().unwrap_or_default();
        Ok(self.bundles.publish_own(x509, of(Kind::Jwt), of(Kind::Wit)).await?)
    }

    /// Follows an operator's word.
    async fn answer(&mut self, request: view::Request) {
        let (kind, step) = (request.order.word.word(), request.order.step.word());
        self.asked = true;
        let done = self.obey(&request.order).await;
        self.asked = false;
        let outcome = match &done {
            Ok(()) => "done",
            Err(Stop::Refused(refused)) => refused.label(),
            Err(Stop::Failed(error)) => error.label(),
        };
        self.meters.steps.inc(&[("kind", kind), ("step", step), ("outcome", outcome)]);
        match &done {
            Ok(()) => info!(kind, step, id = request.order.id, "the operator changed an authority"),
            Err(stop) => {
                warn!(kind, step, id = request.order.id, %stop, "the operator's step was not taken, or not whole")
            }
        }
        let _ = request.answer.send(done.map_err(Into::into)); // who asked may be gone
    }

    async fn obey(&mut self, order: &Order) -> Result<(), Stop> {
        let (force, kind) = (order.force, order.word.kind());
        if kind == Kind::X509 {
            // Whatever the step is, it is about what lies in the files now. What they hold is no reason against revoking.
            let read = self.read_upstream().await;
            if order.step == Step::Prepare {
                read?;
            }
        }
        if order.word == Word::Upstream {
            return self.obey_about_root(order).await;
        }
        if order.step == Step::Prepare {
            return self.drive(kind, Event::Prepare { force }).await;
        }
        let slots = &self.lane(kind)?.slots;
        let slot = slots.find(&order.id).map_err(Stop::Refused)?;
        let (id, is_active) = (slot.id.clone(), slot.state == State::Active);
        if order.step == Step::Taint && force && is_active && slots.pending().is_none() {
            self.drive(kind, Event::Prepare { force: false }).await?;
        }
        let event = match order.step {
            Step::Prepare | Step::Activate => Event::Activate { id, force },
            Step::Taint => Event::Taint { id, force },
            Step::Revoke => Event::Revoke { id, force },
        };
        self.drive(kind, event).await
    }

    /// All below an upstream root at once.
    async fn obey_about_root(&mut self, order: &Order) -> Result<(), Stop> {
        let slots = &self.lane(Kind::X509)?.slots;
        let roots: BTreeSet<_> = slots.slots.iter().filter_map(|slot| slot.root.clone()).collect();
        let mut found = roots.into_iter().filter(|root| !order.id.is_empty() && root.starts_with(&order.id));
        let root = match (found.next(), found.next()) {
            (Some(root), None) => root,
            (None, _) => return Err(Stop::Refused(Refused::Unknown(order.id.clone()))),
            (Some(_), Some(_)) => return Err(Stop::Refused(Refused::Ambiguous(order.id.clone()))),
        };
        let force = order.force;
        let event = match order.step {
            Step::Prepare | Step::Activate => return Err(Stop::Refused(Refused::Upstream)),
            Step::Taint => {
                let active = slots.active().is_some_and(|slot| slot.root.as_ref() == Some(&root));
                let other = slots.pending().is_some_and(|slot| slot.root.as_ref() != Some(&root));
                if active && !other {
                    if self.above.as_ref().is_some_and(|above| above.root == root) {
                        return Err(Stop::Refused(Refused::UpstreamInUse(root)));
                    }
                    if force {
                        self.drive(Kind::X509, Event::Prepare { force }).await?;
                    }
                }
                Event::TaintRoot { root, force }
            }
            Step::Revoke => Event::RevokeRoot { root, force },
        };
        self.drive(Kind::X509, event).await
    }

    /// What differs from the slots so far, as records.
    fn changes(&self, kind: Kind, next: &Slots<Material>) -> Vec<Record> {
        let Some(lane) = self.lanes.get(&kind) else { return Vec::new() };
        let record = |what: audit::Kind, id: &Id| {
            let by = if self.asked { "operator" } else { "schedule" };
            info!(kind = kind.word(), %id, by, "{}", what.word());
            Record::new(what).with("authority", kind.word()).with("id", &**id).with("by", by)
        };
        let mut records = Vec::new();
        for slot in &next.slots {
            let before = lane.slots.slots.iter().find(|before| before.id == slot.id).map(|before| before.state.word());
            let what = match slot.state {
                State::Prepared => audit::Kind::AuthorityPrepared,
                State::Active => audit::Kind::AuthorityActivated,
                State::Tainted { .. } => audit::Kind::AuthorityTainted,
                State::Revoked => audit::Kind::AuthorityRevoked,
                State::Published { .. } | State::Old => continue, // follow from the others
            };
            if before != Some(slot.state.word()) {
                records.push(record(what, &slot.id));
            }
        }
        for gone in lane.slots.slots.iter().filter(|slot| next.slots.iter().all(|other| other.id != slot.id)) {
            records.push(record(audit::Kind::AuthorityExpired, &gone.id));
        }
        records
    }
}

/// Why a drive ended early.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Refused(Refused),
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<store::Error> for Stop {
    fn from(error: store::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Stop {
    /// For what nobody asked for: the machine refuses only operators.
    fn into_error(self) -> Error {
        match self {
            Self::Refused(refused) => Error::Sign(refused.to_string()),
            Self::Failed(error) => error,
        }
    }
}

/// What touches keys or files, off the runtime's threads: a token may take its time.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Error::Sign(format!("it panicked: {panic}"))))
}
