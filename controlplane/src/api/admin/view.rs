//! From what is known to what an operator is told.

use symbolon_kit::clock::unix_secs;
use symbolon_kit::octets;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::validity;
use symbolon_proto::admin as wire;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::federation::{self, Role};
use crate::identity::bundles;
use crate::model::{Endpoint, Health, MeshView, ServiceName};
use crate::rollout::{self, judge::Evidence};
use crate::xds::ProxyStatus;

pub(super) fn peer(status: federation::Status, bundles: &bundles::Bundles) -> wire::Peer {
    let state = status.state.label();
    let role = match status.role {
        Some(Role::Dialer) => "dialer",
        Some(Role::Listener) => "listener",
        None => "",
    };
    wire::Peer {
        trusted_until: bundles.trusted_until(&status.trust_domain).map_or(0, unix_secs),
        name: status.name.to_string(),
        trust_domain: status.trust_domain.to_string(),
        state: state.to_owned(),
        role: role.to_owned(),
        address: status.address,
        imported_services: small(status.imported_services),
        imported_endpoints: small(status.imported_endpoints),
        exported_services: small(status.exported_services),
        bundle_sequence: status.bundle_sequence.unwrap_or_default(),
        last_heard_ms: status.last_heard.map_or(-1, |ago| i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)),
        programmed_seq: status.programmed_seq,
        head_seq: status.head_seq,
        last_error: status.last_error,
        refusals: status.refusals.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(super) fn bundle(bundle: &Bundle) -> wire::ShowBundleResponse {
    let authority = |root: &rustls_pki_types::CertificateDer<'static>| {
        let subject = X509Certificate::from_der(root).map(|(_, parsed)| parsed.subject().to_string());
        let (not_before, not_after) = validity(root).map_or((0, 0), |(a, b)| (unix_secs(a), unix_secs(b)));
        wire::Authority {
            kind: "x509".to_owned(),
            subject: subject.unwrap_or_default(),
            sha256: octets::hex(&octets::sha256(root)),
            not_before,
            not_after,
        }
    };
    wire::ShowBundleResponse {
        trust_domain: bundle.trust_domain.to_string(),
        jwks: bundle.to_jwks().into(),
        sequence: bundle.sequence,
        refresh_hint: u32::try_from(bundle.refresh_hint.as_secs()).unwrap_or(u32::MAX),
        authorities: bundle.x509.iter().map(authority).collect(),
    }
}

/// Ours first, then each peer's.
pub(super) fn services(view: &MeshView, only: Option<&ServiceName>) -> Vec<wire::Service> {
    let wanted = |name: &ServiceName| only.is_none_or(|only| only == name);
    let ours = view.services.iter().filter(|(name, _)| wanted(name)).map(|(name, service)| wire::Service {
        name: name.to_string(),
        peer: String::new(),
        export_to: service.export_to.iter().map(ToString::to_string).collect(),
        federated_with: view.federated.get(name).into_iter().flatten().map(ToString::to_string).collect(),
        endpoints: service.endpoints.iter().map(endpoint).collect(),
    });
    let theirs = view.peers.iter().flat_map(|(peer, known)| {
        let imported = known.services.iter().filter(|(name, _)| wanted(name));
        imported.map(move |(name, service)| wire::Service {
            name: name.to_string(),
            peer: peer.to_string(),
            export_to: Vec::new(),
            federated_with: Vec::new(),
            endpoints: service.endpoints.iter().map(endpoint).collect(),
        })
    });
    ours.chain(theirs).collect()
}

fn endpoint(endpoint: &Endpoint) -> wire::Endpoint {
    let health = match endpoint.health {
        Health::Unknown => "unknown",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
        Health::Draining => "draining",
    };
    wire::Endpoint {
        id: endpoint.id.to_string(),
        address: endpoint.address.to_string(),
        identity: endpoint.identity.to_string(),
        health: health.to_owned(),
        weight: endpoint.weight.get(),
    }
}

pub(super) fn proxy(status: ProxyStatus) -> wire::Proxy {
    let types = status.types.into_iter().map(|one| wire::ProxyType {
        r#type: one.label().to_owned(),
        status: one.state.label().to_owned(),
        resources: one.resources,
        error: one.error.unwrap_or_default(),
    });
    wire::Proxy {
        id: status.key.identity.to_string(),
        node: status.key.node.to_string(),
        version: status.version,
        types: types.collect(),
        connected_ms: status.connected_for.map_or(0, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX)),
        connected: status.connected_for.is_some(),
    }
}

fn ms(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

pub(super) fn rollout(status: &rollout::Status) -> wire::Rollout {
    wire::Rollout {
        service: status.service.to_string(),
        peer: status.peer.to_string(),
        phase: status.phase.to_owned(),
        message: status.message.clone(),
        step: small(status.step),
        steps: status.steps.clone(),
        step_weight: status.step_weight,
        weights: status.weights().to_vec(),
        acked_proxies: status.acked_proxies,
        total_proxies: status.total_proxies,
        weights_acked_at_ms: status.weights_acked_at_ms.map_or(0, ms),
        decided_at_ms: ms(status.decided_at_ms),
        generation: status.generation,
        decisions: status.decisions,
        evidence: Some(evidence(&status.evidence)),
        evidence_ms: status.evidence_ms,
        backoff_until_ms: status.backoff_until_ms.map_or(0, ms),
        failures: status.failures,
        local_capacity: status.local_capacity,
        remote_capacity: status.remote_capacity,
        history: status.history.iter().map(history).collect(),
        observed_share: status.observed_share,
    }
}

fn history(item: &rollout::HistoryItem) -> wire::HistoryItem {
    wire::HistoryItem {
        at_ms: ms(item.at_ms),
        from: item.from.clone(),
        to: item.to.clone(),
        step_weight: item.step_weight,
        weights: item.weights().to_vec(),
        reason: item.reason.clone(),
        evidence: Some(evidence(&item.evidence)),
        decision: item.decision,
    }
}

fn evidence(evidence: &Evidence) -> wire::Evidence {
    wire::Evidence {
        relative: evidence.relative,
        absolute: evidence.absolute,
        threshold: evidence.threshold,
        canary_completions: evidence.canary.completions,
        canary_errors: evidence.canary.errors,
        baseline_completions: evidence.baseline.completions,
        baseline_errors: evidence.baseline.errors,
        verdict: evidence.verdict.label().to_owned(),
    }
}
