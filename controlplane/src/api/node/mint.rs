//! Minting for the calling node: orders from the wire, answers to it.

use symbolon_kit::clock::unix_secs;
use symbolon_proto::node as wire;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::{MAX_BATCH, Node, Refused, chain};
use crate::identity::mint::Order;
use crate::identity::{Minted, Refusal};
use crate::model::NodeName;

impl Node {
    pub(super) async fn mint_x509(
        &self,
        request: Request<wire::MintRequest>,
    ) -> Result<Response<wire::MintResponse>, Status> {
        let Caller { name: node, serial } = self.caller(&request)?;
        let csrs = request.into_inner().csrs;
        self.fits(&node, csrs.len())?;
        let orders = csrs.into_iter().map(|asked| Order { entry_id: asked.entry_id, csr: asked.csr }).collect();
        let minted = self.parts.identity.mint_batch(&node, &serial, orders).await;
        let minted = minted.map_err(|refusal| self.refuse(&self.shown(&node), &Refused::Identity(refusal)))?;
        let results = minted.into_iter().map(|outcome| wire::Minted { outcome: Some(self.answer(&node, outcome)) });
        Ok(Response::new(wire::MintResponse { results: results.collect() }))
    }

    fn fits(&self, node: &NodeName, orders: usize) -> Result<(), Status> {
        if orders <= MAX_BATCH { Ok(()) } else { Err(self.refuse(&self.shown(node), &Refused::BatchTooLarge(orders))) }
    }

    fn shown(&self, node: &NodeName) -> String {
        self.parts.identity.node_id(node).to_string()
    }

    fn answer(&self, node: &NodeName, outcome: Result<Minted, Refusal>) -> wire::minted::Outcome {
        match outcome {
            Ok(minted) => wire::minted::Outcome::Svid(wire::Svid {
                spiffe_id: minted.id.to_string(),
                expires_at: unix_secs(minted.not_after),
                chain: chain(minted),
            }),
            Err(refusal) => wire::minted::Outcome::Refusal(self.refused(node, refusal)),
        }
    }

    fn refused(&self, node: &NodeName, refusal: Refusal) -> wire::Refusal {
        let (reason, detail) = (refusal.label().to_owned(), refusal.to_string());
        self.refuse(&self.shown(node), &Refused::Identity(refusal));
        wire::Refusal { reason, detail }
    }
}
