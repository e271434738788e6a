//! From the file to the typed configuration. Every rule is checked, not only the first that fails.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use symbolon_proto::ids::TrustDomain;

use super::file::{File, IdentityFile, PeerFile, PolicyFile, X509PopFile};
use super::{Code, Config, Finding, Listen};
use crate::federation::{Grants, PeerConfig, Quotas, Timing};
use crate::identity::X509PopConfig;
use crate::identity::mint;
use crate::model::{FederatedDefinition, PeerName, ServiceDefinition, ServiceName};
use crate::rollout::plan::{Policy, Shift, Step};

mod identity;
mod trust;

/// A token is a bearer's: short, but not gone before it is used.
const JWTS: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_hours(24);
/// An authority hands over when a sixth of its life remains: a token longer than that would be cut short.
const SVIDS_PER_AUTHORITY: u32 = 6;

/// A finding, and the text in the file that it is about.
type Located = (Finding, String);

/// The typed configuration of `file`.
///
/// # Errors
/// Every finding, with the value to look for in the file.
pub fn check(file: &File) -> Result<Config, Vec<Located>> {
    let mut checker = Checker::default();
    let trust_domain = checker.parse::<TrustDomain>(Code::TrustDomain, "trustDomain", &file.trust_domain);
    let peers = checker.peers(&file.peers, trust_domain.as_ref());
    let known: BTreeSet<PeerName> = file.peers.iter().filter_map(|peer| peer.name.parse().ok()).collect();
    let listen = checker.listen(file);
    let identity = checker.lifetimes(&file.identity);
    let authority = checker.authority(&file.identity);
    let minting = checker.minting(&file.identity);
    let x509pop = file.identity.x509pop.as_ref().map(|of| checker.x509pop(of));
    let services = checker.services(file, &known);
    let federated = checker.federated(file, &known);
    let policy = checker.policy(&file.rollout_policy, file.load_report_interval);
    let timing = checker.timing(file);
    for address in &file.federation.advertise {
        checker.host_port("federation.advertise", address);
    }
    let bundle_endpoint = checker.bundle_endpoint(file, trust_domain.as_ref());
    let relationships = checker.relationships(file, trust_domain.as_ref());
    match (trust_domain, listen, checker.findings.is_empty()) {
        (Some(trust_domain), Some(listen), true) => Ok(Config {
            trust_domain,
            data_dir: file.data_dir.clone(),
            listen,
            identity,
            minting,
            authority,
            x509pop,
            services,
            federated,
            policy,
            peers,
            timing,
            advertise: file.federation.advertise.clone(),
            report_every: file.load_report_interval,
            bundle_endpoint,
            bootstrap: trust::bootstrap(file),
            relationships,
            roots_file: file.federation.roots_file.clone(),
            polling: Default::default(),
            fetching: Default::default(),
        }),
        _ => Err(checker.findings),
    }
}

#[derive(Default)]
struct Checker {
    findings: Vec<Located>,
}

impl Checker {
    fn find(&mut self, code: Code, field: &str, value: &str, message: impl fmt::Display) {
        let finding = Finding { code, line: 0, field: field.to_owned(), message: message.to_string() };
        self.findings.push((finding, value.to_owned()));
    }

    fn parse<T: std::str::FromStr<Err: fmt::Display>>(&mut self, code: Code, field: &str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                let error: T::Err = error;
                self.find(code, field, text, format!("{text:?}: {error}"));
                None
            }
        }
    }

    fn duplicate(&mut self, field: &str, text: &str) {
        self.find(Code::Duplicate, field, text, format!("{text:?} stands here twice"));
    }

    fn listen(&mut self, file: &File) -> Option<Listen> {
        let mut address = |field, text: &str| {
            let parsed = text.parse::<SocketAddr>();
            if parsed.is_err() {
                self.find(Code::Listen, field, text, format!("{text:?} is not ip:port, e.g. 127.0.0.1:8081"));
            }
            parsed.ok()
        };
        let node = address("listen.node", &file.listen.node);
        let federation = address("listen.federation", &file.listen.federation);
        let http = address("listen.http", &file.listen.http);
        let all: Vec<_> = [node, federation, http].into_iter().flatten().filter(|a| a.port() != 0).collect();
        if all.iter().collect::<BTreeSet<_>>().len() != all.len() {
            self.find(Code::Listen, "listen", "", "two listeners cannot share one address");
        }
        Some(Listen { node: node?, federation: federation?, http: http?, admin: file.listen.admin.clone() })
    }

    fn minting(&mut self, file: &IdentityFile) -> mint::Settings {
        let ttl = file.jwt_ttl;
        if !JWTS.contains(&ttl) || ttl.subsec_nanos() != 0 || ttl > file.ca_ttl / SVIDS_PER_AUTHORITY {
            let message = "must be whole seconds from 10s to 24h, and at most a sixth of identity.caTtl";
            self.find(Code::Lifetime, "identity.jwtTtl", "", message);
        }
        if file.signatures_per_second == 0 {
            self.find(Code::Lifetime, "identity.signaturesPerSecond", "", "must be at least 1");
        }
        mint::Settings { jwt_ttl: ttl, signatures_per_second: file.signatures_per_second }
    }

    fn x509pop(&mut self, file: &X509PopFile) -> X509PopConfig {
        let name = file.name.as_ref().map(|name| self.parse(Code::Name, "identity.x509pop.name", name));
        X509PopConfig { ca_bundle: file.ca_bundle.clone(), name: name.flatten().unwrap_or_default() }
    }

    fn services(&mut self, file: &File, known: &BTreeSet<PeerName>) -> Vec<ServiceDefinition> {
        let mut seen = BTreeSet::new();
        let mut services = Vec::new();
        for (index, service) in file.services.iter().enumerate() {
            let field = format!("services[{index}]");
            let Some(name) = self.service_name(&format!("{field}.name"), &service.name, &mut seen) else { continue };
            let export_to = self.peer_list(&format!("{field}.exportTo"), &service.export_to, known);
            services.push(ServiceDefinition { name, export_to });
        }
        services
    }

    /// A service's name, reported if it was `seen` in the same list before.
    fn service_name(&mut self, field: &str, text: &str, seen: &mut BTreeSet<ServiceName>) -> Option<ServiceName> {
        let name = self.parse::<ServiceName>(Code::Name, field, text)?;
        if !seen.insert(name.clone()) {
            self.duplicate(field, text);
        }
        Some(name)
    }

    fn federated(&mut self, file: &File, known: &BTreeSet<PeerName>) -> Vec<FederatedDefinition> {
        let mut seen = BTreeSet::new();
        let mut federated = Vec::new();
        for (index, service) in file.federated_services.iter().enumerate() {
            let field = format!("federatedServices[{index}]");
            let Some(name) = self.service_name(&format!("{field}.name"), &service.name, &mut seen) else { continue };
            let peers = self.peer_list(&format!("{field}.peers"), &service.peers, known);
            if peers.is_empty() {
                self.find(Code::Federation, &format!("{field}.peers"), &service.name, "names no peer to federate with");
            }
            federated.push(FederatedDefinition { name, peers });
        }
        federated
    }

    fn peer_list(&mut self, field: &str, names: &[String], known: &BTreeSet<PeerName>) -> Vec<PeerName> {
        let mut peers: Vec<PeerName> = Vec::new();
        for text in names {
            let Some(peer) = self.parse::<PeerName>(Code::Name, field, text) else { continue };
            if !known.contains(&peer) {
                let all: Vec<_> = known.iter().map(PeerName::as_str).collect();
                let message = format!("{text:?} is not one of the peers ({})", all.join(", "));
                self.find(Code::UnknownPeer, field, text, message);
            } else if peers.contains(&peer) {
                self.duplicate(field, text);
            } else {
                peers.push(peer);
            }
        }
        peers
    }

    fn peers(&mut self, files: &[PeerFile], own: Option<&TrustDomain>) -> Vec<PeerConfig> {
        let (mut names, mut domains, mut peers) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for (index, file) in files.iter().enumerate() {
            let field = |name: &str| format!("peers[{index}].{name}");
            let name = self.parse::<PeerName>(Code::Name, &field("name"), &file.name);
            let domain = self.parse::<TrustDomain>(Code::TrustDomain, &field("trustDomain"), &file.trust_domain);
            let (Some(name), Some(trust_domain)) = (name, domain) else { continue };
            if !names.insert(name.clone()) {
                self.duplicate(&field("name"), &file.name);
            }
            if own == Some(&trust_domain) {
                let message = "is our own: a peer of the same trust domain is no peer";
                self.find(Code::TrustDomain, &field("trustDomain"), &file.trust_domain, message);
            } else if !domains.insert(trust_domain.clone()) {
                self.duplicate(&field("trustDomain"), &file.trust_domain);
            }
            if let Some(address) = &file.address {
                self.host_port(&field("address"), address);
            }
            let grants = self.grants(&field("grants"), file, &trust_domain);
            let address = file.address.clone();
            peers.push(PeerConfig { name, trust_domain, address, grants, quotas: Quotas::default() });
        }
        peers
    }

    /// Each grant is parsed alone, so that each that is wrong is named.
    fn grants(&mut self, field: &str, file: &PeerFile, trust_domain: &TrustDomain) -> Grants {
        let mut grants = Grants::default();
        let given = &file.grants;
        for (kind, texts) in
            [("identities", &given.identities), ("names", &given.names), ("addresses", &given.addresses)]
        {
            for text in texts {
                let one = || vec![text.clone()];
                let parsed = match kind {
                    "identities" => Grants::parse(trust_domain, &one(), &[], &[]),
                    "names" => Grants::parse(trust_domain, &[], &one(), &[]),
                    _ => Grants::parse(trust_domain, &[], &[], &one()),
                };
                match parsed {
                    Ok(one) => {
                        grants.identities.extend(one.identities);
                        grants.names.extend(one.names);
                        grants.addresses.extend(one.addresses);
                    }
                    Err(error) => self.find(Code::Grant, &format!("{field}.{kind}"), text, error),
                }
            }
        }
        grants
    }

    fn host_port(&mut self, field: &str, text: &str) {
        let good = text.rsplit_once(':').is_some_and(|(host, port)| {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            let plain = !host.contains([':', '/', '@', '[', ']']) && !host.contains(char::is_whitespace);
            !host.is_empty() && (bracketed || plain) && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        if !good {
            self.find(Code::Address, field, text, format!("{text:?} is not host:port"));
        }
    }

    fn policy(&mut self, file: &PolicyFile, report_every: Duration) -> Policy {
        let shift = [Shift::FairShare, Shift::All].into_iter().find(|shift| shift.as_str() == file.shift);
        let shift = shift.unwrap_or_else(|| {
            let message = format!("{:?} is neither \"fairShare\" nor \"all\"", file.shift);
            self.find(Code::RolloutPolicy, "rolloutPolicy.shift", &file.shift, message);
            Shift::FairShare
        });
        let steps = file.steps.iter().map(|step| Step {
            weight: step.weight,
            min_duration: step.min_duration,
            min_requests: step.min_requests,
        });
        let policy = Policy {
            steps: steps.collect(),
            initial_delay: file.initial_delay,
            interval: file.interval,
            report_every,
            backoff: file.backoff,
            max_backoff: file.max_backoff,
            max_hold: file.max_hold,
            shift,
            holdback: file.holdback,
            error_tolerance: file.error_tolerance,
            rho: file.rho,
            alpha: file.alpha,
            max_endpoint_weight: file.max_endpoint_weight,
            ..Policy::default()
        };
        if let Err(error) = policy.check() {
            self.find(Code::RolloutPolicy, &format!("rolloutPolicy.{}", error.field), "", error.why);
        }
        policy
    }

    fn timing(&mut self, file: &File) -> Timing {
        let file = &file.federation;
        let rising = [file.beat, file.suspect_after, file.stale_after, file.expired_after];
        if file.beat.is_zero() || rising.windows(2).any(|pair| pair[0] >= pair[1]) {
            let message = "beat, suspectAfter, staleAfter, expiredAfter must be above 0 and rise in this order";
            self.find(Code::Federation, "federation", "", message);
        }
        Timing {
            beat: file.beat,
            suspect_after: file.suspect_after,
            stale_after: file.stale_after,
            expired_after: file.expired_after,
            ..Timing::default()
        }
    }
}
