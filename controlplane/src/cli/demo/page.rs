//! One live page on a terminal: who trusts whom, the ramp with wanted and observed share, requests and failures, the judge's
//! evidence, propagation, and what just happened in words. [`draw`] is pure.

use std::fmt::Write as _;

use super::board::Facts;
use super::ledger::nearest_rank;
use super::plan::Side;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";
const BAR: usize = 40;

/// Enters the terminal's second screen without a cursor; [`LEAVE`] undoes it.
pub const ENTER: &str = "\x1b[?1049h\x1b[?25l";
pub const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The page for a terminal of this size, from the top left corner, every line cleared to its end.
pub fn draw(facts: &Facts, width: usize, height: usize) -> String {
    let mut lines = Vec::new();
    let seconds = facts.began.elapsed().as_secs_f64();
    lines.push(format!("{BOLD}Symbolon{PLAIN}  two meshes, no shared root, one ramp {DIM}{seconds:>6.1} s{PLAIN}"));
    lines.push(format!("{CYAN}▶ {}{PLAIN}", facts.act));
    lines.push(String::new());
    trust(facts, &mut lines);
    lines.push(String::new());
    ramp(facts, &mut lines);
    lines.push(String::new());
    traffic(facts, &mut lines);
    lines.push(String::new());
    let room = height.saturating_sub(lines.len() + 2);
    for (at, words) in &facts.words[facts.words.len().saturating_sub(room)..] {
        lines.push(format!("{DIM}{at:>6.1} s{PLAIN}  {words}"));
    }
    let mut page = String::from("\x1b[H");
    for line in lines.iter().take(height.saturating_sub(1)) {
        let _ = write!(page, "{}{PLAIN}\x1b[K\r\n", clip(line, width));
    }
    page.push_str("\x1b[J");
    page
}

fn trust(facts: &Facts, lines: &mut Vec<String>) {
    for side in [Side::A, Side::B] {
        let peer = facts.peers.iter().find(|(one, _)| *one == side).map(|(_, peer)| peer);
        let (own, other) = (side.trust_domain(), side.other().trust_domain());
        lines.push(match peer {
            None => format!("  {own}  {DIM}not answering{PLAIN}"),
            Some(peer) => {
                let color = match peer.state.as_str() {
                    "LIVE" => GREEN,
                    "PENDING" => DIM,
                    _ => YELLOW,
                };
                let refused: u64 = peer.refusals.values().sum();
                format!(
                    "  {own} trusts {other}  {color}{:<10}{PLAIN} bundle {:<12} imports {} services, {} endpoints  refused {refused}",
                    peer.state, peer.bundle_sequence, peer.imported_services, peer.imported_endpoints
                )
            }
        });
    }
}

fn ramp(facts: &Facts, lines: &mut Vec<String>) {
    let Some(rollout) = &facts.rollout else {
        lines.push(format!("  payments.shop → b  {DIM}no rollout yet{PLAIN}"));
        return;
    };
    let color = match rollout.phase.as_str() {
        "Converged" => GREEN,
        "RolledBack" | "RollingBack" => RED,
        "Ramping" => CYAN,
        _ => YELLOW,
    };
    let steps = rollout.steps.iter().map(|weight| {
        let here = *weight == rollout.step_weight;
        if here { format!("{BOLD}{color}[{weight} %]{PLAIN}") } else { format!("{DIM} {weight} % {PLAIN}") }
    });
    let steps = steps.collect::<Vec<_>>().join(" → ");
    lines.push(format!(
        "  payments.shop → b  {color}{:<11}{PLAIN} {steps}  {DIM}{}{PLAIN}",
        rollout.phase, rollout.message
    ));
    let wanted = f64::from(rollout.weights.get(1).copied().unwrap_or(0)) / 10_000.0;
    let newest = facts.ledger.newest();
    let recent = facts.ledger.between(newest.saturating_sub(2_000), newest);
    let answered = recent.local + recent.remote;
    let observed = if answered == 0 { 0.0 } else { ratio(recent.remote, answered) };
    lines.push(format!(
        "  wanted   {} {:>5.1} %   in Envoy {:?}",
        bar(wanted, CYAN),
        wanted * 100.0,
        facts.envoy_weights
    ));
    lines.push(format!("  observed {} {:>5.1} %   {DIM}last 2 s{PLAIN}", bar(observed, GREEN), observed * 100.0));
    let evidence = rollout.evidence.clone().unwrap_or_default();
    let threshold = evidence.threshold;
    lines.push(format!(
        "  judge    relative {:>7.1}  absolute {:>7.1}  both ≥ {threshold:.1} rolls back   b: {} of {} failed, local: {} of {}",
        evidence.relative,
        evidence.absolute,
        evidence.canary_errors,
        evidence.canary_completions,
        evidence.baseline_errors,
        evidence.baseline_completions,
    ));
}

fn traffic(facts: &Facts, lines: &mut Vec<String>) {
    let total = facts.ledger.total();
    let color = if total.failed == 0 { GREEN } else { RED };
    lines.push(format!(
        "  requests {BOLD}{:>7}{PLAIN}  failed {color}{BOLD}{}{PLAIN}  injected errors {}  p99 {:.1} ms",
        total.requests,
        total.failed,
        total.injected,
        facts.ledger.latency_ms(facts.ledger.newest().saturating_sub(5_000), 99.0),
    ));
    let mut samples = facts.propagation.clone();
    let (p50, p99) = (nearest_rank(&mut samples, 50.0), nearest_rank(&mut samples, 99.0));
    lines.push(format!(
        "  endpoint change in B → Envoy in A  p50 {p50:.1} ms  p99 {p99:.1} ms  {DIM}{} changes; longest pause of this machine {} ms{PLAIN}",
        samples.len(),
        facts.longest_pause_ms
    ));
}

#[expect(clippy::cast_precision_loss, reason = "request counts are far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to BAR")]
fn bar(share: f64, color: &str) -> String {
    let filled = ((share.clamp(0.0, 1.0) * BAR as f64).round() as usize).min(BAR);
    format!("{color}{}{DIM}{}{PLAIN}", "█".repeat(filled), "░".repeat(BAR - filled))
}

/// Cuts a line to `width` visible characters; escape sequences take no room.
fn clip(line: &str, width: usize) -> String {
    let (mut out, mut seen, mut escape) = (String::with_capacity(line.len()), 0, false);
    for c in line.chars() {
        if c == '\x1b' {
            escape = true;
        }
        if escape {
            out.push(c);
            escape = c != 'm';
        } else if seen < width {
            out.push(c);
            seen += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_to_the_terminal_but_not_their_colors() {
        assert_eq!(clip("\x1b[31mfailed\x1b[0m", 3), "\x1b[31mfai\x1b[0m");
        assert_eq!(clip("↯ bar ██", 4), "↯ ba");
    }

    #[test]
    fn a_page_never_has_more_lines_than_the_terminal() {
        let board = super::super::board::Board::new(false, symbolon_kit::clock::Clock::system());
        (0..100).for_each(|i| board.say(&format!("event {i}")));
        let page = draw(&board.facts(), 80, 24);
        assert!(page.matches("\r\n").count() <= 23);
        assert!(page.contains("event 99") && !page.contains("event 1\x1b"));
    }
}
