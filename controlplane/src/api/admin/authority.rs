//! The authorities: what there is, and the steps of their lives.

use symbolon_kit::clock::unix_secs;
use symbolon_proto::admin as wire;
use symbolon_proto::admin::change_authority_request::Step as WireStep;
use tonic::{Request, Response, Status};

use super::{Admin, Answer};
use crate::identity::authority::slots::Refused;
use crate::identity::authority::{ChangeError, Order, Step, View, Word};

impl Admin {
    pub(super) async fn list_authorities(
        &self,
        _: Request<wire::ListAuthoritiesRequest>,
    ) -> Answer<wire::ListAuthoritiesResponse> {
        let authorities = self.0.identity.authorities.list().iter().map(on_wire).collect();
        Ok(Response::new(wire::ListAuthoritiesResponse { authorities }))
    }

    pub(super) async fn change_authority(
        &self,
        request: Request<wire::ChangeAuthorityRequest>,
    ) -> Answer<wire::ListAuthoritiesResponse> {
        let asked = request.into_inner();
        let word = Word::ALL.into_iter().find(|word| word.word() == asked.kind);
        let word = word.ok_or_else(|| Status::invalid_argument("the kind is one of x509, jwt, wit, upstream"))?;
        let step = match asked.step() {
            WireStep::Prepare => Step::Prepare,
            WireStep::Activate => Step::Activate,
            WireStep::Taint => Step::Taint,
            WireStep::Revoke => Step::Revoke,
        };
        let order = Order { word, step, id: asked.id.to_ascii_lowercase(), force: asked.force };
        self.0.identity.authorities.change(order).await.map_err(|error| status(&error))?;
        self.list_authorities(Request::new(wire::ListAuthoritiesRequest {})).await
    }
}

fn status(error: &ChangeError) -> Status {
    let text = error.to_string();
    match error {
        ChangeError::Refused(Refused::Unknown(_)) => Status::not_found(text),
        ChangeError::Refused(Refused::Ambiguous(_) | Refused::Upstream) => Status::invalid_argument(text),
        ChangeError::Refused(_) => Status::failed_precondition(text),
        ChangeError::Failed(_) => Status::internal(text),
    }
}

fn on_wire(view: &View) -> wire::LocalAuthority {
    wire::LocalAuthority {
        kind: view.word.word().to_owned(),
        id: view.id.to_string(),
        state: view.state.to_owned(),
        not_before: unix_secs(view.not_before),
        not_after: unix_secs(view.not_after),
        key_manager: view.key_manager.to_owned(),
        issuer: view.issuer.clone(),
        next: view.next.to_owned(),
        next_at: view.next_at.map_or(0, unix_secs),
        note: view.note.clone(),
    }
}
