//! Relationships and the bundle endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use symbolon_proto::ids::{SpiffeId, TrustDomain};

use super::Checker;
use crate::app::config::file::{EndpointFile, File};
use crate::app::config::{BundleEndpoint, Code, Proof};
use crate::trust::endpoint::Files;
use crate::trust::{Profile, Relationship};

/// Where first bundles are.
pub(super) fn bootstrap(file: &File) -> BTreeMap<TrustDomain, PathBuf> {
    let of = |one: &super::super::file::RelationshipFile| {
        Some((one.trust_domain.parse().ok()?, one.bootstrap_bundle.clone()?))
    };
    file.relationships.iter().filter_map(of).collect()
}

impl Checker {
    /// Those that the file names, and one for each peer that has none of its own: its bundle comes over the link.
    pub(super) fn relationships(&mut self, file: &File, own: Option<&TrustDomain>) -> Vec<Relationship> {
        let Some(own) = own else { return Vec::new() };
        let (mut seen, mut all) = (BTreeSet::new(), Vec::new());
        for (index, one) in file.relationships.iter().enumerate() {
            let field = |name: &str| format!("relationships[{index}].{name}");
            let id = &one.endpoint_spiffe_id;
            let parsed = Relationship::parse(own, &one.trust_domain, &one.profile, &one.url, id, one.labels.clone());
            match parsed {
                Ok(parsed) if parsed.profile == Profile::Link => {
                    let message = "a link is made by naming the peer under `peers`";
                    self.find(Code::Relationship, &field("profile"), &one.profile, message);
                }
                Ok(parsed) if !seen.insert(parsed.trust_domain.clone()) => {
                    self.duplicate(&field("trustDomain"), &one.trust_domain);
                }
                Ok(parsed) => all.push(parsed),
                Err(error) => {
                    self.find(Code::Relationship, &format!("relationships[{index}]"), &one.trust_domain, error);
                }
            }
        }
        for (index, peer) in file.peers.iter().enumerate() {
            match Relationship::parse(own, &peer.trust_domain, "link", "", "", peer.labels.clone()) {
                Ok(link) if seen.insert(link.trust_domain.clone()) => all.push(link),
                Err(crate::trust::relationship::Invalid::Labels) => {
                    let error = crate::trust::relationship::Invalid::Labels;
                    self.find(Code::Relationship, &format!("peers[{index}].labels"), &peer.name, error);
                }
                // One with an endpoint beside its link is listed above; what else is wrong with a peer is said where peers are read.
                Ok(_) | Err(_) => {}
            }
        }
        self.endpoint_domains(&all, file, own);
        all
    }

    /// F-14: what verifies an endpoint must come from somewhere.
    fn endpoint_domains(&mut self, all: &[Relationship], file: &File, own: &TrustDomain) {
        let known: BTreeSet<_> = all.iter().map(|one| &one.trust_domain).collect();
        for one in all {
            let Some(of) = one.profile.endpoint_id().map(SpiffeId::trust_domain) else { continue };
            let listed =
                file.relationships.iter().position(|of_file| of_file.trust_domain == one.trust_domain.as_str());
            let field = format!("relationships[{}]", listed.unwrap_or_default());
            let has_first = listed.is_some_and(|at| file.relationships[at].bootstrap_bundle.is_some());
            let by_link = file.peers.iter().any(|peer| peer.trust_domain == of.as_str());
            if *of == one.trust_domain && !has_first && !by_link {
                let message = "its endpoint is verified by its own bundle: name its first one as bootstrapBundle";
                self.find(Code::Relationship, &field, one.trust_domain.as_str(), message);
            } else if *of != one.trust_domain && of != own && !known.contains(of) {
                let message =
                    format!("its endpoint is verified by the bundle of {of}, with which there is no relationship");
                self.find(Code::Relationship, &field, one.trust_domain.as_str(), message);
            }
        }
    }

    pub(super) fn bundle_endpoint(&mut self, file: &File, own: Option<&TrustDomain>) -> Option<BundleEndpoint> {
        let given = file.bundle_endpoint.as_ref()?;
        let Ok(listen) = given.listen.parse::<SocketAddr>() else {
            let message = format!("{:?} is not ip:port, e.g. 0.0.0.0:8444", given.listen);
            self.find(Code::Listen, "bundleEndpoint.listen", &given.listen, message);
            return None;
        };
        Some(BundleEndpoint { listen, proof: self.proof(given, own?)? })
    }

    fn proof(&mut self, given: &EndpointFile, own: &TrustDomain) -> Option<Proof> {
        let profile = given.profile.as_str();
        match (profile, &given.spiffe_id, &given.certificate, &given.key) {
            ("https_spiffe", None, None, None) => Some(Proof::Spiffe(None)),
            ("https_spiffe", Some(text), None, None) => {
                let id = self.parse::<SpiffeId>(Code::BundleEndpoint, "bundleEndpoint.spiffeId", text)?;
                if id.trust_domain() != own || id.path().is_empty() || id.is_reserved() {
                    let message = format!(
                        "must be an ID of {own} with a path that is not ours, e.g. spiffe://{own}/spire/server"
                    );
                    self.find(Code::BundleEndpoint, "bundleEndpoint.spiffeId", text, message);
                    return None;
                }
                Some(Proof::Spiffe(Some(id)))
            }
            ("https_web", None, Some(certificate), Some(key)) => {
                Some(Proof::Web(Files { certificate: certificate.clone(), key: key.clone() }))
            }
            ("https_web", ..) => {
                let message = "https_web takes certificate and key, and no spiffeId";
                self.find(Code::BundleEndpoint, "bundleEndpoint", profile, message);
                None
            }
            ("https_spiffe", ..) => {
                let message = "https_spiffe takes no certificate and no key: it presents an SVID";
                self.find(Code::BundleEndpoint, "bundleEndpoint", profile, message);
                None
            }
            _ => {
                let message = format!("{profile:?} is neither \"https_spiffe\" nor \"https_web\"");
                self.find(Code::BundleEndpoint, "bundleEndpoint.profile", profile, message);
                None
            }
        }
    }
}
