//! Attested nodes: list, evict, ban.

use symbolon_proto::admin as wire;
use symbolon_proto::selector::Selector;
use tonic::{Request, Response, Status};
use tracing::warn;
use wire::change_node_request::Change;

use super::{Admin, Answer, parse, unavailable};
use crate::identity::audit::{Kind, Record};
use crate::identity::nodes::{self, Standing};
use crate::model::NodeName;

impl Admin {
    pub(super) async fn list_nodes(&self, _: Request<wire::ListNodesRequest>) -> Answer<wire::ListNodesResponse> {
        let table = self.0.identity.nodes.all();
        let nodes = table.values().map(|node| self.node(node)).collect();
        Ok(Response::new(wire::ListNodesResponse { nodes }))
    }

    pub(super) async fn change_node(&self, request: Request<wire::ChangeNodeRequest>) -> Answer<wire::Node> {
        let asked = request.into_inner();
        let name: NodeName = parse("node", &asked.name)?;
        let nodes = &self.0.identity.nodes;
        let changed = match Change::try_from(asked.change) {
            Ok(Change::Evict) => nodes.evict(&name).await,
            Ok(Change::Ban) => nodes.ban(&name, &asked.reason).await,
            Ok(Change::Unban) => nodes.unban(&name).await,
            Err(_) => return Err(Status::invalid_argument("an unknown change")),
        };
        let changed = changed.map_err(refused)?;
        if matches!(changed.standing, Standing::Banned { .. }) {
            warn!(node = %name, reason = asked.reason, "node banned by an operator");
        }
        let kind = match &changed.standing {
            Standing::Banned { .. } => Kind::NodeBanned,
            _ if asked.change == i32::from(Change::Unban) => Kind::NodeUnbanned,
            Standing::Attested | Standing::Evicted => Kind::NodeEvicted,
        };
        let record = Record::new(kind).with("node", name.as_str()).with("why", asked.reason.as_str());
        self.record(vec![record]).await?;
        Ok(Response::new(self.node(&changed)))
    }

    fn node(&self, node: &nodes::Node) -> wire::Node {
        let (newest, connected) = self.0.identity.nodes.seat(&node.name);
        let (serial, expires_at) = newest.map_or_else(Default::default, |one| (one.serial.to_string(), one.expires_at));
        let (banned, reason) = match &node.standing {
            Standing::Banned { reason } => (true, reason.to_string()),
            Standing::Attested | Standing::Evicted => (false, String::new()),
        };
        wire::Node {
            name: node.name.to_string(),
            spiffe_id: self.0.identity.node_id(&node.name).to_string(),
            attestor: node.attestor.to_string(),
            selectors: node.selectors.iter().map(Selector::to_string).collect(),
            banned,
            connected,
            attested_at: node.attested_at,
            expires_at,
            serial,
            can_reattest: node.can_reattest,
            reason,
        }
    }
}

fn refused(refused: nodes::Refused) -> Status {
    match refused {
        nodes::Refused::Store(error) => unavailable(error),
        unknown @ nodes::Refused::Unknown(_) => Status::not_found(unknown.to_string()),
        other => Status::failed_precondition(other.to_string()),
    }
}
