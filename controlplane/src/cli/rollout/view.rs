//! A rollout as it is printed: a header, the two arms as a tree, and the history.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use symbolon_kit::text::printable;
use symbolon_proto::admin as wire;

use crate::cli::output::{moment_ms, or_dash, span};

/// How many items of the history the table shows.
const SHOWN: usize = 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rollout {
    pub(super) service: String,
    pub(super) peer: String,
    pub(super) phase: String,
    pub(super) message: String,
    step: u32,
    steps: Vec<u32>,
    step_weight: u32,
    /// Local, then the peer; of 10,000.
    weights: Vec<u32>,
    observed_share: u32,
    pub(super) acked_proxies: u32,
    pub(super) total_proxies: u32,
    weights_acked_at: Option<String>,
    decided_at: Option<String>,
    generation: u64,
    decisions: u64,
    evidence: Option<Evidence>,
    evidence_ms: u64,
    backoff_until: Option<String>,
    failures: u32,
    local_capacity: u64,
    remote_capacity: u64,
    history: Vec<HistoryItem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Evidence {
    relative: f64,
    absolute: f64,
    threshold: f64,
    canary_completions: u64,
    canary_errors: u64,
    baseline_completions: u64,
    baseline_errors: u64,
    verdict: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryItem {
    at: String,
    from: String,
    to: String,
    step_weight: u32,
    weights: Vec<u32>,
    reason: String,
    decision: u64,
    evidence: Option<Evidence>,
}

/// The phase behind its sign.
pub(super) fn phase(name: &str) -> String {
    let sign = match name {
        "Converged" => "✔",
        "Ramping" | "Detected" | "Preflight" => "◐",
        "Paused" | "Holding" | "Frozen" => "॥",
        "RollingBack" | "RolledBack" => "✖",
        _ => "○",
    };
    format!("{sign} {}", printable(name))
}

/// `2/3 (25 %)`.
pub(super) fn step(rollout: &Rollout) -> String {
    if rollout.step_weight == 0 {
        return format!("-/{}", rollout.steps.len());
    }
    format!("{}/{} ({} %)", rollout.step + 1, rollout.steps.len(), rollout.step_weight)
}

/// `97.50 / 2.50`.
pub(super) fn weights(rollout: &Rollout) -> String {
    match rollout.weights.as_slice() {
        [local, remote] => format!("{} / {}", percent(*local), percent(*remote)),
        _ => "-".to_owned(),
    }
}

fn percent(of_ten_thousand: u32) -> String {
    format!("{}.{:02}", of_ten_thousand / 100, of_ten_thousand % 100)
}

/// All of it, for people.
pub(super) fn full(rollout: &Rollout) -> String {
    let mut text = header(rollout);
    text.push('\n');
    text.push_str(&tree(rollout));
    if !rollout.history.is_empty() {
        text.push_str("\nHistory, newest first:\n");
    }
    for item in rollout.history.iter().rev().take(SHOWN) {
        let (from, to, reason) = (printable(&item.from), printable(&item.to), printable(&item.reason));
        let _ = writeln!(text, "  {}  {from} → {to} at {} %: {reason}", item.at, item.step_weight);
    }
    text
}

fn header(rollout: &Rollout) -> String {
    let mut rows = vec![
        ("Name", format!("{} → {}", rollout.service, rollout.peer)),
        ("Phase", phase(&rollout.phase)),
        ("Message", or_dash(&rollout.message)),
        ("Step", format!("{} of {} %", step(rollout), list(&rollout.steps))),
        ("Weights", format!("{} % (local / {})", weights(rollout), rollout.peer)),
        ("Observed", format!("{} % at {}", percent(rollout.observed_share), rollout.peer)),
        ("Proxies", format!("{} of {} have these weights", rollout.acked_proxies, rollout.total_proxies)),
        ("Evidence for", span(Duration::from_millis(rollout.evidence_ms))),
    ];
    if let Some(evidence) = &rollout.evidence {
        let found = format!(
            "{}: {} of {} requests failed at {}, {} of {} here; log e {:.2} (relative), {:.2} (absolute), rollback at {:.2}",
            or_dash(&evidence.verdict),
            evidence.canary_errors,
            evidence.canary_completions,
            rollout.peer,
            evidence.baseline_errors,
            evidence.baseline_completions,
            evidence.relative,
            evidence.absolute,
            evidence.threshold
        );
        rows.push(("Judge", found));
    }
    if let Some(until) = &rollout.backoff_until {
        rows.push(("Backoff", format!("until {until}, after {} failures", rollout.failures)));
    }
    rows.iter().map(|(name, value)| format!("{:14}{}\n", format!("{name}:"), printable(value))).collect()
}

fn list(steps: &[u32]) -> String {
    steps.iter().map(u32::to_string).collect::<Vec<_>>().join(" → ")
}

fn tree(rollout: &Rollout) -> String {
    let (local, remote) = match rollout.weights.as_slice() {
        [local, remote] => (percent(*local), percent(*remote)),
        _ => ("-".to_owned(), "-".to_owned()),
    };
    let (ours, theirs) = (printable(&rollout.service), printable(&format!("{}.{}", rollout.service, rollout.peer)));
    let width = theirs.chars().count() + 4;
    let mut text = format!("{:width$}  {:7}  {:>8}  {:>8}\n", "NAME", "KIND", "WEIGHT", "CAPACITY");
    let _ = writeln!(text, "{:width$}  rollout", format!("⟳ {ours}"));
    for (branch, name, kind, weight, capacity) in [
        ("├──", &ours, "local", local, rollout.local_capacity),
        ("└──", &theirs, "peer", remote, rollout.remote_capacity),
    ] {
        let _ = writeln!(
            text,
            "{:width$}  {kind:7}  {:>8}  {capacity:>8}",
            format!("{branch} {name}"),
            format!("{weight} %")
        );
    }
    text
}

// === from the wire ===

fn at(unix_ms: i64) -> Option<String> {
    (unix_ms > 0).then(|| moment_ms(unix_ms))
}

impl From<wire::Evidence> for Evidence {
    fn from(evidence: wire::Evidence) -> Self {
        Self {
            relative: evidence.relative,
            absolute: evidence.absolute,
            threshold: evidence.threshold,
            canary_completions: evidence.canary_completions,
            canary_errors: evidence.canary_errors,
            baseline_completions: evidence.baseline_completions,
            baseline_errors: evidence.baseline_errors,
            verdict: evidence.verdict,
        }
    }
}

impl From<wire::HistoryItem> for HistoryItem {
    fn from(item: wire::HistoryItem) -> Self {
        Self {
            at: moment_ms(item.at_ms),
            from: item.from,
            to: item.to,
            step_weight: item.step_weight,
            weights: item.weights,
            reason: item.reason,
            decision: item.decision,
            evidence: item.evidence.map(Evidence::from),
        }
    }
}

impl From<wire::Rollout> for Rollout {
    fn from(rollout: wire::Rollout) -> Self {
        Self {
            service: rollout.service,
            peer: rollout.peer,
            phase: rollout.phase,
            message: rollout.message,
            step: rollout.step,
            steps: rollout.steps,
            step_weight: rollout.step_weight,
            weights: rollout.weights,
            observed_share: rollout.observed_share,
            acked_proxies: rollout.acked_proxies,
            total_proxies: rollout.total_proxies,
            weights_acked_at: at(rollout.weights_acked_at_ms),
            decided_at: at(rollout.decided_at_ms),
            generation: rollout.generation,
            decisions: rollout.decisions,
            evidence: rollout.evidence.map(Evidence::from),
            evidence_ms: rollout.evidence_ms,
            backoff_until: at(rollout.backoff_until_ms),
            failures: rollout.failures,
            local_capacity: rollout.local_capacity,
            remote_capacity: rollout.remote_capacity,
            history: rollout.history.into_iter().map(HistoryItem::from).collect(),
        }
    }
}
