//! The observers beside the acts: what the client counts, what A's control plane says of the rollout and both of their peers, what
//! A's Envoy has.

use std::time::Duration;

use futures::StreamExt;
use symbolon_kit::drain::Drain;
use symbolon_proto::admin::WatchRolloutRequest;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::board::Board;
use super::envoy::Admin;
use super::pause::PauseProbe;
use super::plan::{CHECKOUT, Node, Plan, Side};
use super::stage::{admin_client, peer};

/// How often those that can only be asked are asked.
const PACE: Duration = Duration::from_millis(250);

/// Reads the load program's lines until it ends.
pub async fn load(board: Board, lines: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(lines).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Err(error) = board.facts().ledger.add(&line) {
            board.say(&format!("the load program said what nobody understands: {error}"));
        }
    }
}

/// Follows the rollout; when its control plane dies, asks again until it is back.
pub async fn rollout(board: Board, plan: Plan, drain: Drain) {
    let request = WatchRolloutRequest { service: "payments.shop".into(), peer: "b".into(), once: false };
    while !drain.is_draining() {
        let mut admin = admin_client(plan.admin_socket(Side::A));
        let watching = tokio::time::timeout(Duration::from_secs(2), admin.watch_rollout(request.clone())).await;
        let Ok(Ok(stream)) = watching else {
            tokio::time::sleep(PACE / 5).await;
            continue;
        };
        let mut stream = stream.into_inner();
        loop {
            let told = tokio::select! {
                told = stream.next() => told,
                () = drain.cancelled() => return,
            };
            let Some(Ok(told)) = told else { break };
            let news = {
                let mut facts = board.facts();
                let news = facts.steps.hear(&told);
                facts.rollout = Some(told);
                news
            };
            for item in news {
                board.say(&format!("rollout: {} → {}: {}", item.from, item.to, item.reason));
            }
        }
    }
}

/// Asks both control planes for their peer, A's Envoy for its weights, and the probe for its longest pause.
pub async fn surroundings(board: Board, plan: Plan, probe: PauseProbe, drain: Drain) {
    let mut envoy = Admin::new(plan.envoy_admin(&CHECKOUT));
    let admins = [Side::A, Side::B].map(|side| (side, admin_client(plan.admin_socket(side)))); // they connect anew by themselves
    while !drain.is_draining() {
        let mut peers = Vec::new();
        for (side, admin) in &admins {
            if let Some(peer) = peer(admin.clone()).await {
                peers.push((*side, peer));
            }
        }
        // Only what was read while one decision was in force all the time is that decision's.
        let before = board.acknowledged();
        let weights = envoy.weights("payments.shop").await.unwrap_or_default();
        let decision = board.acknowledged().filter(|after| before == Some(*after));
        {
            let mut facts = board.facts();
            facts.peers = peers;
            if let Some(decision) = decision.filter(|_| !weights.is_empty()) {
                facts.weights_by_decision.insert(decision, weights.clone());
            }
            facts.envoy_weights = weights;
            facts.longest_pause_ms = probe.longest_ms();
        }
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            () = drain.cancelled() => return,
        }
    }
}

/// Follows the certificates of the Envoy beside `node`.
pub async fn certificates(board: Board, plan: Plan, node: Node, drain: Drain) {
    let (mut envoy, label) = (Admin::new(plan.envoy_admin(&node)), node.label());
    while !drain.is_draining() {
        if let (Ok(serials), Ok(handshakes)) = (envoy.serials().await, envoy.counters("ssl.handshake").await)
            && !serials.is_empty()
        {
            let mut facts = board.facts();
            let known = facts.certificates.entry(label.clone()).or_default();
            if known.first.is_empty() {
                known.first.clone_from(&serials);
            }
            if known.handshakes_at_rotation.is_none() && !serials.iter().any(|serial| known.first.contains(serial)) {
                known.handshakes_at_rotation = Some(handshakes.clone());
                drop(facts);
                board.say(&format!("the Envoy of {label} has a new certificate"));
                facts = board.facts();
            }
            let known = facts.certificates.entry(label.clone()).or_default();
            (known.now, known.handshakes) = (serials, handshakes);
        }
        tokio::select! {
            () = tokio::time::sleep(PACE * 2) => {}
            () = drain.cancelled() => return,
        }
    }
}
