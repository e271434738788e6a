//! What one stream has asked for of one type, what its client holds, and what is on its way: a pure machine. [`Subscription::apply`]
//! takes a request, [`plan`](super::plan) says what to send, [`Subscription::send`] records that it was sent.
//!
//! ```text
//!  a name:    unknown ──send──► in flight ──ACK──► held(version) ──content changes──► in flight …
//!                ▲                 │  └──NACK──► rejected(version) ──content changes──► in flight …
//!                │                 └──ACK of a removal──► told absent ──it appears──► in flight …
//!                └── unsubscribed, or subscribed anew: what the client holds is forgotten, or owed once more
//! ```
//!
//! At most one response is in flight; what changes meanwhile is found by comparing, never queued.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use symbolon_kit::text::shown;
use tokio::time::Instant;

use crate::snapshot::Resource;

use super::kind::Kind;
use super::plan::Plan;
use super::wire::{Asks, Request, Variant};
use super::{MAX_NAMES, refusal::Refusal};

/// The resources of one type of a snapshot.
pub(super) type Table = BTreeMap<Arc<str>, Arc<Resource>>;

/// Envoy cuts its error texts at 4,096 bytes; a longer list of names may have lost some.
const ERROR_MAY_BE_CUT: usize = 4_000;
/// How much of a NACK's text is kept for operators.
const ERROR_CHARS: usize = 512;

/// What the client has of one name.
#[derive(Clone, Debug)]
pub(super) enum Holds {
    /// It was told that there is none.
    Nothing,
    /// `resource` is absent while only the version is known, from a reconnecting client's word.
    Version { version: Arc<str>, resource: Option<Arc<Resource>> },
}

#[derive(Debug)]
pub(super) struct InFlight {
    nonce: String,
    pub sent: BTreeMap<Arc<str>, Holds>,
    /// Names that were unsubscribed meanwhile. If they are wanted again when it is acknowledged, nobody can tell whether the client
    /// took them from it: they are owed.
    dropped: BTreeSet<Arc<str>>,
    generation: u64,
    /// With its ACK, everything of this generation is acknowledged.
    whole: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Subscription {
    pub kind: Kind,
    pub variant: Variant,
    /// A request of this type was seen.
    pub started: bool,
    pub wildcard: bool,
    /// Some request named a resource: from then on an empty SotW list means none (16).
    ever_named: bool,
    pub names: BTreeSet<Arc<str>>,
    pub client: BTreeMap<Arc<str>, Holds>,
    /// Versions that the client refused; never sent again (9).
    pub rejected: BTreeMap<Arc<str>, Arc<str>>,
    rejection: Option<String>,
    /// To be sent even if unchanged: subscribed anew (18, 24), or a parent was sent (21, 30, 35).
    pub owed: BTreeSet<Arc<str>>,
    /// A response is due even if it is empty (32).
    pub answer: bool,
    pub in_flight: Option<InFlight>,
    last_nonce: Option<String>,
    /// Of a reconnecting SotW client: the version it accepted last, perhaps of another replica. Looked at once.
    pub claimed: Option<String>,
    /// Versions without resources are in `client`.
    pub unresolved: bool,
    /// Since when something waits for what it depends on.
    pub waiting_since: Option<Instant>,
    /// The highest generation of which everything is acknowledged.
    pub acked: Option<u64>,
}

// === impl Subscription ===

impl Subscription {
    pub(super) fn new(kind: Kind, variant: Variant) -> Self {
        Self {
            kind,
            variant,
            started: false,
            wildcard: false,
            ever_named: false,
            names: BTreeSet::new(),
            client: BTreeMap::new(),
            rejected: BTreeMap::new(),
            rejection: None,
            owed: BTreeSet::new(),
            answer: false,
            in_flight: None,
            last_nonce: None,
            claimed: None,
            unresolved: false,
            waiting_since: None,
            acked: None,
        }
    }

    /// Whether the client wants `name`.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// The version of `name` that the client holds.
    pub(super) fn version_of(&self, name: &str) -> Option<&Arc<str>> {
        match self.client.get(name) {
            Some(Holds::Version { version, .. }) => Some(version),
            Some(Holds::Nothing) | None => None,
        }
    }

    /// What the operator is told of the refused versions that still stand.
    pub(super) fn rejection(&self) -> Option<&str> {
        if self.rejected.is_empty() { None } else { self.rejection.as_deref() }
    }

    /// Whether there is nothing to do as long as the content stays that of `generation`.
    pub(super) fn is_settled(&self, generation: u64) -> bool {
        let done = self.in_flight.is_none() && self.waiting_since.is_none() && self.rejected.is_empty();
        !self.started || done && self.acked == Some(generation)
    }

    /// Takes a request. Subscriptions count whatever the nonce, on ACKs and NACKs alike (8, 19, 28). Returns whether it was a NACK.
    ///
    /// # Errors
    /// [`Refusal::TooManyNames`] if the type would hold more names than the bounds allow.
    pub(super) fn apply(&mut self, request: Request) -> Result<bool, Refusal> {
        let current = self.in_flight.as_ref().is_some_and(|sent| sent.nonce == request.nonce);
        // The nonce of a response that was acknowledged before: the client asks again (21).
        let again = self.in_flight.is_none() && self.last_nonce.as_ref().is_some_and(|last| *last == request.nonce);
        let nack = current && request.error.is_some();
        if current {
            self.close(request.error.as_deref());
        }
        let first = !std::mem::replace(&mut self.started, true);
        match request.asks {
            Asks::Sotw { version, names } => self.ask_sotw(first, again && request.error.is_none(), version, names),
            Asks::Delta { subscribe, unsubscribe, initial } => {
                if first {
                    self.resume(initial, subscribe.is_empty() && unsubscribe.is_empty());
                }
                self.ask_delta(first, subscribe, unsubscribe);
            }
        }
        if self.names.len() > MAX_NAMES { Err(Refusal::TooManyNames) } else { Ok(nack) }
    }

    /// Records that `plan` goes out.
    pub(super) fn send(&mut self, plan: &Plan, nonce: String, generation: u64) {
        let versions = plan.upserts.iter().map(|resource| {
            let holds = if plan.stands_for_nothing(&resource.name) {
                Holds::Nothing
            } else {
                Holds::Version { version: resource.version.clone(), resource: Some(resource.clone()) }
            };
            (resource.name.clone(), holds)
        });
        let sent: BTreeMap<_, _> =
            versions.chain(plan.removed.iter().map(|name| (name.clone(), Holds::Nothing))).collect();
        self.owed.retain(|name| !sent.contains_key(name));
        self.answer = false;
        self.claimed = None;
        self.last_nonce = Some(nonce.clone());
        self.in_flight = Some(InFlight { nonce, sent, dropped: BTreeSet::new(), generation, whole: plan.whole });
    }

    /// `name` is to be sent again although unchanged: its parent was sent. Before the first request anything may be asked for;
    /// later an unsubscribed name is sent when it is subscribed anyway.
    pub(super) fn owe(&mut self, name: &Arc<str>) {
        if !self.started || self.wants(name) {
            self.owed.insert(name.clone());
        }
    }

    /// Ends what is in flight: an ACK, or a NACK if `error` is present.
    fn close(&mut self, error: Option<&str>) {
        let Some(InFlight { sent, dropped, generation, whole, .. }) = self.in_flight.take() else { return };
        let blamed = error.map(|text| self.blamed(&sent, text)).unwrap_or_default();
        if let Some(text) = error {
            self.rejection = Some(shown(text, ERROR_CHARS));
        } else if whole {
            self.acked = self.acked.max(Some(generation));
        }
        for (name, holds) in sent {
            if dropped.contains(&name) {
                self.owed.insert(name.clone());
            }
            match holds {
                Holds::Version { version, .. } if blamed.contains(&name) => {
                    self.rejected.insert(name, version);
                }
                Holds::Nothing if !self.names.contains(&name) => {
                    self.client.remove(&name);
                }
                holds => {
                    self.rejected.remove(&name);
                    self.client.insert(name, holds);
                }
            }
        }
    }

    /// Which of the resources that were new to the client its error is about: clients apply the valid ones of a rejected response
    /// (10), and Envoy names the others. If it names none, all are meant.
    fn blamed(&self, sent: &BTreeMap<Arc<str>, Holds>, error: &str) -> BTreeSet<Arc<str>> {
        let new: BTreeSet<_> = sent
            .iter()
            .filter(|(name, holds)| match holds {
                Holds::Version { version, .. } => self.version_of(name) != Some(version),
                Holds::Nothing => false,
            })
            .map(|(name, _)| name.clone())
            .collect();
        let named: BTreeSet<_> = new.iter().filter(|name| mentions(error, name)).cloned().collect();
        if named.is_empty() || error.len() >= ERROR_MAY_BE_CUT { new } else { named }
    }

    fn ask_sotw(&mut self, first: bool, again: bool, version: String, names: Vec<String>) {
        let mut wanted: BTreeSet<Arc<str>> = names.into_iter().map(Arc::from).collect();
        let star = wanted.remove("*");
        self.ever_named |= star || !wanted.is_empty();
        let wildcard = star || (!self.ever_named && self.kind.is_root());
        let (had_all, had) = (self.wildcard, std::mem::take(&mut self.names));
        let same = !first && wildcard == had_all && wanted == had;
        self.wildcard = wildcard;
        self.names = wanted;
        for name in self.names.difference(&had) {
            // Newly named: sent even if it was sent before (18).
            if !first {
                self.owed.insert(name.clone());
            }
            self.answer = true;
        }
        self.forget_unwanted();
        if first {
            self.answer = true;
            self.claimed = Some(version).filter(|version| !version.is_empty());
        } else if again && same && !self.kind.is_root() {
            // After a CDS change Envoy asks for the same EDS set with the same version and nonce; taken for an ACK, it would let
            // warming stall for 15 s (21).
            self.owed.extend(self.names.iter().cloned());
        }
    }

    /// The first delta request of the type: what the client still holds from an earlier stream (29).
    fn resume(&mut self, initial: std::collections::HashMap<String, String>, nameless: bool) {
        self.wildcard = nameless && self.kind.is_root();
        self.answer = initial.is_empty();
        self.unresolved = !initial.is_empty();
        self.client = initial
            .into_iter()
            .map(|(name, version)| (name.into(), Holds::Version { version: version.into(), resource: None }))
            .collect();
    }

    fn ask_delta(&mut self, first: bool, subscribe: Vec<String>, unsubscribe: Vec<String>) {
        for name in subscribe {
            if name == "*" {
                self.answer |= !(self.wildcard || first && self.unresolved);
                self.wildcard = true;
                continue;
            }
            let name = Arc::<str>::from(name);
            if !first {
                // Subscribing to a known resource asks for it again (24); on reconnect equal versions are skipped (30).
                self.owed.insert(name.clone());
            }
            self.names.insert(name);
        }
        for name in unsubscribe {
            if name == "*" {
                self.wildcard = false;
            } else if self.names.remove(name.as_str()) && self.wildcard {
                // The client cannot know whether the wildcard still gives it the resource (27).
                self.owed.insert(name.into());
            }
        }
        // An answer is due to a wildcard alone: names answer for themselves, by resource or removal.
        self.answer &= self.wildcard;
        self.forget_unwanted();
    }

    /// A client forgets what it unsubscribes; so do we.
    fn forget_unwanted(&mut self) {
        if self.wildcard {
            return;
        }
        let names = &self.names;
        self.client.retain(|name, _| names.contains(name));
        self.rejected.retain(|name, _| names.contains(name));
        self.owed.retain(|name| names.contains(name));
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.dropped.extend(in_flight.sent.keys().filter(|name| !names.contains(*name)).cloned());
        }
    }
}

/// Whether `text` has `name` as a word of its own: `payments.shop` does not occur in "payments.shop.b is bad".
pub(super) fn mentions(text: &str, name: &str) -> bool {
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '|'));
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), &text[at + name.len()..]);
        let mut rest = after.chars();
        let next = rest.next();
        let dotted = matches!(next, Some('.')) && inside(rest.next());
        !inside(before) && before != Some('.') && !inside(next) && !dotted
    })
}
