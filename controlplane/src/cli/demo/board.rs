//! What is known of the running demo, for whoever shows it: written by the acts and the observers, read by the page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use symbolon_kit::clock::{Clock, unix_ms};
use symbolon_proto::admin::{Peer, Rollout};
use tokio::time::Instant;

use super::ledger::Ledger;
use super::plan::Side;
use super::steps::Steps;

/// Cheap to clone; a std mutex, since nothing awaits while it is held.
#[derive(Clone, Debug)]
pub struct Board {
    inner: Arc<Mutex<Facts>>,
    /// A line per event as well, for logs and pipes.
    lines: bool,
    clock: Clock,
}

/// Everything that is shown.
#[derive(Debug)]
pub struct Facts {
    pub began: Instant,
    pub act: String,
    /// What happened in words, with seconds since the start; the newest last.
    pub words: Vec<(f64, String)>,
    pub peers: Vec<(Side, Peer)>,
    pub rollout: Option<Rollout>,
    pub steps: Steps,
    pub ledger: Ledger,
    /// Milliseconds from B's changed file to A's Envoy, one per change.
    pub propagation: Vec<f64>,
    /// As A's Envoy says now, and as it said while every proxy had acknowledged a decision's weights.
    pub envoy_weights: Vec<u32>,
    pub weights_by_decision: BTreeMap<u64, Vec<u32>>,
    /// Every Envoy's certificates, by its label.
    pub certificates: BTreeMap<String, Certificates>,
    pub longest_pause_ms: u64,
}

/// What one Envoy presents, then and now.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    pub first: Vec<String>,
    pub now: Vec<String>,
    /// TLS handshakes per cluster and listener when the first look after the rotation found them.
    pub handshakes_at_rotation: Option<BTreeMap<String, u64>>,
    pub handshakes: BTreeMap<String, u64>,
}

impl Certificates {
    /// What has not taken a new certificate into use yet, in words.
    pub fn stale(&self, label: &str) -> Vec<String> {
        let Some(then) = &self.handshakes_at_rotation else {
            return vec![format!("the Envoy of {label} still presents its first certificate")];
        };
        let used = then.iter().filter(|(_, count)| **count > 0);
        let idle = used.filter(|(name, count)| self.handshakes.get(*name).is_none_or(|now| now <= *count));
        idle.map(|(name, _)| format!("no handshake since the rotation: {label} {name}")).collect()
    }
}

impl Board {
    pub fn new(lines: bool, clock: Clock) -> Self {
        let facts = Facts {
            began: Instant::now(),
            act: String::new(),
            words: Vec::new(),
            peers: Vec::new(),
            rollout: None,
            steps: Steps::default(),
            ledger: Ledger::default(),
            propagation: Vec::new(),
            envoy_weights: Vec::new(),
            weights_by_decision: BTreeMap::new(),
            certificates: BTreeMap::new(),
            longest_pause_ms: 0,
        };
        Self { inner: Arc::new(Mutex::new(facts)), lines, clock }
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unix milliseconds now.
    pub fn now_ms(&self) -> u64 {
        unix_ms(self.clock.now()).unsigned_abs()
    }

    /// The decision whose weights every proxy has acknowledged; `None` while some have not.
    pub fn acknowledged(&self) -> Option<u64> {
        let facts = self.facts();
        facts.rollout.as_ref().filter(|rollout| rollout.weights_acked_at_ms > 0).map(|rollout| rollout.decisions)
    }

    /// A new act begins.
    pub fn act(&self, name: &str) {
        self.facts().act = name.to_owned();
        self.say(name);
    }

    /// Something happened.
    pub fn say(&self, words: &str) {
        let mut facts = self.facts();
        let at = facts.began.elapsed().as_secs_f64();
        facts.words.push((at, words.to_owned()));
        drop(facts);
        if self.lines {
            super::print(&format!("{at:6.1} s  {words}\n"));
        }
    }
}
