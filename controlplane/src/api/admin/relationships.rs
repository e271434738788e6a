//! Relationships with foreign trust domains.

use std::time::SystemTime;

use symbolon_kit::clock::unix_secs;
use symbolon_proto::admin as wire;
use symbolon_proto::ids::TrustDomain;
use tonic::{Request, Response, Status};
use tracing::info;

use super::{Admin, Answer, parse, unavailable};
use crate::identity::audit::{Kind, Record};
use crate::trust::{Origin, Refused, Relationship, Status as Known};

impl Admin {
    pub(super) async fn list_relationships(
        &self,
        _: Request<wire::ListRelationshipsRequest>,
    ) -> Answer<wire::ListRelationshipsResponse> {
        let relationships = self.0.relationships.list().into_iter().map(shown).collect();
        Ok(Response::new(wire::ListRelationshipsResponse { relationships }))
    }

    pub(super) async fn set_relationship(
        &self,
        request: Request<wire::SetRelationshipRequest>,
    ) -> Answer<wire::Relationship> {
        let asked = request.into_inner();
        let one = asked.relationship.ok_or_else(|| Status::invalid_argument("no relationship"))?;
        let labels = one.labels.into_iter().collect();
        let own = &self.0.identity.trust_domain;
        let id = &one.endpoint_spiffe_id;
        let parsed = Relationship::parse(own, &one.trust_domain, &one.profile, &one.endpoint, id, labels)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let first = (!asked.bootstrap.is_empty()).then_some(&*asked.bootstrap);
        let known = self.0.relationships.get(&parsed.trust_domain).is_ok();
        let set = shown(self.0.relationships.set(parsed, first).await.map_err(refused)?);
        let kind = if known { Kind::RelationshipUpdated } else { Kind::RelationshipCreated };
        self.record(vec![record(kind, &set)]).await?;
        Ok(Response::new(set))
    }

    pub(super) async fn refresh_relationship(
        &self,
        request: Request<wire::RefreshRelationshipRequest>,
    ) -> Answer<wire::Relationship> {
        let trust_domain: TrustDomain = parse("trust domain", &request.into_inner().trust_domain)?;
        Ok(Response::new(shown(self.0.relationships.refresh(&trust_domain).await.map_err(refused)?)))
    }

    pub(super) async fn delete_relationship(
        &self,
        request: Request<wire::DeleteRelationshipRequest>,
    ) -> Answer<wire::Relationship> {
        let trust_domain: TrustDomain = parse("trust domain", &request.into_inner().trust_domain)?;
        info!(%trust_domain, "the operator ends trust in a domain");
        let ended = shown(self.0.relationships.delete(&trust_domain).await.map_err(refused)?);
        self.record(vec![record(Kind::RelationshipDeleted, &ended)]).await?;
        Ok(Response::new(ended))
    }
}

fn record(kind: Kind, one: &wire::Relationship) -> Record {
    Record::new(kind)
        .with("trust_domain", one.trust_domain.as_str())
        .with("profile", one.profile.as_str())
        .with("endpoint", one.endpoint.as_str())
}

fn shown(known: Known) -> wire::Relationship {
    let seconds = |at: Option<SystemTime>| at.map_or(0, unix_secs);
    let text = |part: Option<String>| part.unwrap_or_default();
    let Known { relationship: one, .. } = known;
    wire::Relationship {
        trust_domain: one.trust_domain.to_string(),
        profile: one.profile.label().to_owned(),
        endpoint: text(one.profile.url().map(ToString::to_string)),
        endpoint_spiffe_id: text(one.profile.endpoint_id().map(ToString::to_string)),
        labels: one.labels.into_iter().collect(),
        is_static: known.origin == Origin::File,
        state: known.standing.label().to_owned(),
        sequence: known.sequence.unwrap_or_default(),
        fetched_at: seconds(known.fetched_at),
        next_at: seconds(known.next_at),
        trusted_until: seconds(known.trusted_until),
        last_error: known.last_error,
        source: known.source.to_owned(),
        failures: known.failures,
    }
}

fn refused(refused: Refused) -> Status {
    let words = refused.to_string();
    match refused {
        Refused::Unknown(_) => Status::not_found(words),
        Refused::ByFile | Refused::NotPolled(_) | Refused::NeedsRelationship(_) => Status::failed_precondition(words),
        Refused::Link | Refused::NeedsBundle => Status::invalid_argument(words),
        Refused::Bundle(why) | Refused::NotStored(why) if why.ours => unavailable(words),
        Refused::Bundle(_) | Refused::NotStored(_) => Status::invalid_argument(words),
        Refused::Slow => Status::deadline_exceeded(words),
        Refused::Store(_) => unavailable(words),
    }
}
