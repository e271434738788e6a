//! Registration entries: from what an operator says to [`entries::New`], and back.

use std::time::Duration;

use symbolon_proto::selector::{Selector, Selectors};
use symbolon_proto::{ITEM, admin as wire};
use tonic::{Request, Response, Status};
use tracing::info;

use super::{Admin, Answer, parse, unavailable};
use crate::api::node::Unanswered;
use crate::identity::entries::{self, AskedFederation, Entry, FederatesWith, New, Parent};
use crate::model::NodeName;

/// The most selectors of one question.
const MAX_SELECTORS: usize = 4096;

impl Admin {
    pub(super) async fn create_identity(
        &self,
        request: Request<wire::CreateIdentityRequest>,
    ) -> Answer<wire::Identity> {
        let asked = request.into_inner().identity.ok_or_else(|| Status::invalid_argument("no identity"))?;
        let made = self.0.identity.entries.create(new(asked)).await.map_err(refused)?;
        info!(entry = %made.id, id = %made.spiffe_id, parent = %shown(&made.parent), "identity registered");
        Ok(Response::new(identity(&made)))
    }

    pub(super) fn identities(&self) -> wire::ListIdentitiesResponse {
        let all = self.0.identity.entries.all();
        wire::ListIdentitiesResponse { identities: all.iter().map(|entry| identity(entry)).collect() }
    }

    pub(super) async fn delete_identity(
        &self,
        request: Request<wire::DeleteIdentityRequest>,
    ) -> Answer<wire::Identity> {
        let gone = self.0.identity.entries.delete(&request.into_inner().entry_id).await.map_err(refused)?;
        info!(entry = %gone.id, id = %gone.spiffe_id, parent = %shown(&gone.parent), "identity deleted");
        Ok(Response::new(identity(&gone)))
    }

    pub(super) async fn apply_identities(
        &self,
        request: Request<wire::ApplyIdentitiesRequest>,
    ) -> Answer<wire::ApplyIdentitiesResponse> {
        let asked = request.into_inner();
        let wanted = asked.identities.into_iter().map(|one| (one.entry_id.clone(), new(one))).collect();
        let plan = self.0.identity.entries.apply(wanted, asked.prune, asked.dry_run).await.map_err(refused)?;
        let (created, changed, deleted) = (plan.create.len(), plan.change.len(), plan.delete.len());
        if !asked.dry_run {
            info!(created, changed, deleted, unchanged = plan.unchanged, "identities applied");
        }
        let changed = plan.change.iter().map(|(before, after)| wire::ChangedIdentity {
            before: Some(identity(before)),
            after: Some(identity(after)),
        });
        Ok(Response::new(wire::ApplyIdentitiesResponse {
            created: plan.create.iter().map(|entry| identity(entry)).collect(),
            changed: changed.collect(),
            deleted: plan.delete.iter().map(|entry| identity(entry)).collect(),
            unchanged: u32::try_from(plan.unchanged).unwrap_or(u32::MAX),
        }))
    }

    pub(super) async fn explain_identity(
        &self,
        request: Request<wire::ExplainIdentityRequest>,
    ) -> Answer<wire::ExplainIdentityResponse> {
        let asked = request.into_inner();
        let node: Option<NodeName> = if asked.node.is_empty() { None } else { Some(parse("node", &asked.node)?) };
        let caller = match (&node, asked.pid) {
            (_, 0) => selectors(&asked.selectors)?,
            (None, _) => return Err(Status::invalid_argument("a pid means nothing without its node")),
            (Some(_), pid) if pid < 0 => return Err(Status::invalid_argument("a pid is a positive number")),
            (Some(node), pid) => {
                let answer = self.0.conversations.explain(node, pid).await.map_err(unanswered)?;
                // What an attestor of a newer sidecar says may be unknown here; it is shown all the same.
                answer.iter().take(MAX_SELECTORS).map(|text| Selector::demanded(text)).collect()
            }
        };
        let explained = self.0.identity.entries.explain(node.as_ref(), &caller);
        let nearest = explained.nearest.into_iter().map(|near| wire::NearMiss {
            identity: Some(identity(&near.entry)),
            missing: near.missing.iter().map(ToString::to_string).collect(),
            why: near.why,
        });
        Ok(Response::new(wire::ExplainIdentityResponse {
            node: asked.node,
            selectors: caller.iter().map(ToString::to_string).collect(),
            granted: explained.granted.iter().map(|entry| identity(entry)).collect(),
            nearest: nearest.collect(),
        }))
    }
}

fn selectors(asked: &[String]) -> Result<Selectors, Status> {
    if asked.is_empty() || asked.len() > MAX_SELECTORS {
        return Err(Status::invalid_argument("name a pid, or the selectors of the caller"));
    }
    asked.iter().map(|text| parse("selector", text)).collect()
}

fn unanswered(why: Unanswered) -> Status {
    let text = why.to_string();
    match why {
        Unanswered::NotConnected(_) | Unanswered::Silent(_) => Status::failed_precondition(text),
        Unanswered::Refused { .. } => Status::not_found(text),
    }
}

fn refused(why: entries::Refused) -> Status {
    let text = why.to_string();
    match why {
        entries::Refused::Item { index, why, .. } => {
            let mut status = Status::new(refused(*why).code(), text);
            status.metadata_mut().insert(ITEM, index.into());
            status
        }
        why if why.is_ours() => unavailable(text),
        entries::Refused::Exists(_) => Status::already_exists(text),
        entries::Refused::Unknown(_) => Status::not_found(text),
        entries::Refused::Raced(_) => Status::aborted(text),
        _ => Status::invalid_argument(text),
    }
}

fn shown(parent: &Parent) -> String {
    match parent {
        Parent::Node(node) => node.to_string(),
        Parent::Alias(alias) => alias.to_string(),
        Parent::ControlPlane => "node alias".to_owned(),
    }
}

/// What is asked for; every field is checked by the entries themselves.
fn new(asked: wire::Identity) -> New {
    let seconds = |seconds: u32| (seconds > 0).then(|| Duration::from_secs(seconds.into()));
    New {
        spiffe_id: asked.spiffe_id,
        node: asked.node,
        parent: asked.parent,
        node_alias: asked.node_alias,
        selectors: asked.selectors,
        ttl: seconds(asked.ttl_seconds),
        jwt_ttl: seconds(asked.jwt_ttl_seconds),
        dns_names: asked.dns_names,
        hint: asked.hint,
        federates_with: asked.federates_with.map(|asked| AskedFederation {
            trust_domains: asked.trust_domains,
            labels: asked.labels.into_iter().collect(),
            all: asked.all,
            except: asked.except,
        }),
        expires_at: (asked.expires_at != 0).then_some(asked.expires_at),
    }
}

fn identity(entry: &Entry) -> wire::Identity {
    let seconds = |ttl: Option<Duration>| ttl.map_or(0, |ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX));
    let (node, parent) = match &entry.parent {
        Parent::Node(node) => (node.to_string(), String::new()),
        Parent::Alias(alias) => (String::new(), alias.to_string()),
        Parent::ControlPlane => (String::new(), String::new()),
    };
    wire::Identity {
        entry_id: entry.id.to_string(),
        spiffe_id: entry.spiffe_id.to_string(),
        node,
        selectors: entry.selectors.iter().map(ToString::to_string).collect(),
        ttl_seconds: seconds(entry.ttl),
        dns_names: entry.dns_names.clone(),
        hint: entry.hint.clone(),
        jwt_ttl_seconds: seconds(entry.jwt_ttl),
        parent,
        node_alias: entry.is_alias(),
        federates_with: entry.federates_with.as_ref().map(federation),
        expires_at: entry.expires_at.unwrap_or(0),
        revision: entry.revision,
    }
}

fn federation(said: &FederatesWith) -> wire::FederatesWith {
    wire::FederatesWith {
        trust_domains: said.trust_domains.iter().map(ToString::to_string).collect(),
        labels: said.labels.clone().into_iter().collect(),
        all: said.all,
        except: said.except.iter().map(ToString::to_string).collect(),
    }
}
