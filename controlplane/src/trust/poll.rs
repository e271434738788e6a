//! The task of one polled relationship: performs what [`super::machine`] decides. It shares nothing with the others but the book,
//! and ends at its own word, wherever it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use symbolon_kit::drain::Drain;
use symbolon_kit::octets::sha256;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::text::shown;
use symbolon_proto::ids::TrustDomain;
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use super::Context;
use super::fetch::{FetchError, Proof};
use super::machine::{Alarm, Effect, Event, Held, Patience, State};
use super::relationship::{Profile, Relationship};
use super::url::EndpointUrl;

/// The longest error that is kept for people.
const MAX_WORDS: usize = 400;

/// One relationship's task.
pub(super) struct Poll {
    context: Arc<Context>,
    trust_domain: TrustDomain,
    profile: Profile,
    url: EndpointUrl,
    patience: Patience,
    state: watch::Sender<State>,
    /// The document that was fetched last, until it was offered.
    fetched: Bytes,
    /// What was ignored in the document last time, so that it is said once.
    ignored: Vec<String>,
}

/// What everybody else has of it.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) state: watch::Receiver<State>,
    pub(super) refresh: Arc<Notify>,
    pub(super) stop: Drain,
}

/// Why a fetched document goes no further, or none was had.
struct Unfit {
    label: &'static str,
    why: String,
}

impl Context {
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn patience(&self) -> Patience {
        Patience { confirm: self.timing.confirm, longest_interval: self.timing.longest_interval }
    }

    pub(super) fn held(&self, trust_domain: &TrustDomain) -> Option<Held> {
        let bundle = self.book.of(trust_domain)?;
        let vouches = !bundle.x509.is_empty();
        Some(Held { sequence: bundle.sequence, refresh_hint: bundle.refresh_hint, vouches })
    }
}

/// Begins to poll, if there is anything to poll.
pub(super) fn begin(context: &Arc<Context>, one: &Relationship) -> Option<Live> {
    let url = one.profile.url()?.clone();
    let (refresh, stop) = (Arc::new(Notify::new()), context.drain.child());
    let (state, watching) = watch::channel(State::new(context.held(&one.trust_domain), context.now()));
    let poll = Poll {
        context: context.clone(),
        trust_domain: one.trust_domain.clone(),
        profile: one.profile.clone(),
        url,
        patience: context.patience(),
        state,
        fetched: Bytes::new(),
        ignored: Vec::new(),
    };
    let task = poll.run(refresh.clone(), stop.clone());
    context.tasks.spawn("bundle poll", symbolon_kit::supervise::OnExit::Log, task);
    Some(Live { state: watching, refresh, stop })
}

impl Poll {
    async fn run(mut self, refresh: Arc<Notify>, stop: Drain) {
        tokio::select! {
            () = self.poll(&refresh) => {}
            () = stop.cancelled() => drop(self.step(Event::End)),
        }
    }

    async fn poll(&mut self, refresh: &Notify) {
        let mut changes = self.context.book.changes();
        loop {
            let due = self.state.borrow().due();
            let event = tokio::select! {
                () = sleep_until(&self.context, due) => Event::Due,
                () = refresh.notified() => Event::Due,
                change = changes.next() => match change {
                    Some(()) => Event::Held(self.context.held(&self.trust_domain)),
                    None => return,
                },
            };
            let mut next = Some(event);
            while let Some(event) = next.take() {
                for effect in self.step(event) {
                    next = self.perform(effect).await.or(next);
                }
            }
        }
    }

    fn step(&self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.state.send_modify(|state| {
            let (after, what) = state.clone().step(event, &self.patience, self.context.now());
            (*state, effects) = (after, what);
        });
        effects
    }

    /// What came of it, if anything can.
    async fn perform(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Fetch => Some(self.fetch().await),
            Effect::Offer => {
                let document = std::mem::take(&mut self.fetched);
                let offered = self.context.book.offer(&self.trust_domain, &document).await;
                Some(match offered {
                    Ok(()) => {
                        self.counted("ok");
                        // What is held changes the interval to the next look, which is reckoned from here.
                        self.step(Event::Held(self.context.held(&self.trust_domain)));
                        Event::Taken { at: self.context.clock.now() }
                    }
                    Err(refused) => {
                        let unfit = Unfit { label: refused.label, why: refused.why };
                        Event::Refused { why: self.unfit(&unfit) }
                    }
                })
            }
            Effect::Alarm(alarm) => {
                self.alarm(alarm);
                None
            }
        }
    }

    async fn fetch(&mut self) -> Event {
        let fetched = match self.proof() {
            Ok(proof) => self.context.fetcher.fetch(&self.url, &proof).await,
            Err(error) => Err(error),
        };
        let read = fetched.map_err(|error| Unfit { label: error.label(), why: error.to_string() });
        match read.and_then(|document| self.read(document)) {
            Ok(event) => event,
            Err(unfit) => Event::Failed { why: self.unfit(&unfit) },
        }
    }

    /// Looks at the document before it is offered: does it withdraw everything, and what of it is ignored?
    fn read(&mut self, document: Bytes) -> Result<Event, Unfit> {
        let trust_domain = &self.trust_domain;
        let parsed = Bundle::parse_jwks(trust_domain, &document, self.context.clock.now()).map_err(|error| {
            self.alarmed(error.label());
            Unfit { label: error.label(), why: error.to_string() }
        })?;
        // §7.6: every fetch is logged.
        info!(%trust_domain, url = %self.url, sequence = parsed.bundle.sequence, bytes = document.len(), "bundle fetched");
        if !parsed.warnings.is_empty() && parsed.warnings != self.ignored {
            self.alarmed("ignored_element");
            for warning in &parsed.warnings {
                warn!(%trust_domain, url = %self.url, warning = %shown(warning, MAX_WORDS), "part of a fetched bundle is ignored");
            }
        }
        self.ignored = parsed.warnings;
        let digest = sha256(&document);
        self.fetched = document;
        Ok(Event::Fetched { digest, withdraws: parsed.content.withdraws_x509() })
    }

    /// The bundle of the moment: after the first fetch a self-serving endpoint is verified by what it served last (F-16).
    fn proof(&self) -> Result<Proof, FetchError> {
        match &self.profile {
            Profile::HttpsSpiffe { id, .. } => match self.context.book.of(id.trust_domain()) {
                Some(bundle) => Ok(Proof::Spiffe { id: id.clone(), bundle }),
                None => Err(FetchError::NoEndpointBundle(id.trust_domain().clone())),
            },
            _ => Ok(Proof::Web),
        }
    }

    /// Counts it, says it, and gives the words to keep.
    fn unfit(&self, unfit: &Unfit) -> String {
        self.counted(unfit.label);
        let why = shown(&unfit.why, MAX_WORDS);
        // Said once per kind of trouble, not once per look.
        if self.state.borrow().last_error != why {
            warn!(trust_domain = %self.trust_domain, url = %self.url, reason = unfit.label, %why, "no bundle was taken; what is held stays");
        }
        why
    }

    fn counted(&self, result: &'static str) {
        self.context.counters.fetches.inc(&[("trust_domain", self.trust_domain.as_str()), ("result", result)]);
    }

    fn alarmed(&self, alarm: &'static str) {
        self.context.counters.alarms.inc(&[("trust_domain", self.trust_domain.as_str()), ("alarm", alarm)]);
    }

    fn alarm(&self, alarm: Alarm) {
        self.alarmed(alarm.label());
        let (trust_domain, url) = (&self.trust_domain, &self.url);
        match alarm {
            Alarm::Unconfirmed => error!(%trust_domain, %url,
                "the endpoint withdraws every X.509 authority of its trust domain; honoured only if a second look finds the same"),
            Alarm::Withdrawn => error!(%trust_domain, %url,
                "every X.509 authority of the trust domain is withdrawn, as its endpoint said twice: its SVIDs verify nowhere \
                 any more. If that was no intention, bring a good bundle: symbolon bundle set --force {trust_domain} FILE"),
            Alarm::Refused => {} // `unfit` has said why
            Alarm::Stale => warn!(%trust_domain, %url, "no look at the endpoint has succeeded for three intervals"),
        }
    }
}

async fn sleep_until(context: &Context, due: Option<Duration>) {
    match due {
        Some(due) => tokio::time::sleep_until(context.began + due).await,
        None => std::future::pending().await,
    }
}
