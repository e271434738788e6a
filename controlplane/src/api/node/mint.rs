//! Minting for the calling node: orders from the wire, answers to it.

use symbolon_kit::clock::unix_secs;
use symbolon_proto::node as wire;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::{MAX_BATCH, Node, Refused, chain};
use crate::identity::issue::MintedToken;
use crate::identity::mint::{JwtOrder, Order, WitOrder};
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

    pub(super) async fn mint_jwts(
        &self,
        request: Request<wire::MintJwtRequest>,
    ) -> Result<Response<wire::MintJwtResponse>, Status> {
        let node = self.caller(&request)?.name;
        let orders = request.into_inner().orders;
        self.fits(&node, orders.len())?;
        let orders = orders.into_iter().map(|asked| JwtOrder { entry_id: asked.entry_id, audience: asked.audience });
        self.tokens(&node, self.parts.identity.mint_jwts(&node, orders.collect()).await)
    }

    pub(super) async fn mint_wits(
        &self,
        request: Request<wire::MintWitRequest>,
    ) -> Result<Response<wire::MintJwtResponse>, Status> {
        let node = self.caller(&request)?.name;
        let orders = request.into_inner().orders;
        self.fits(&node, orders.len())?;
        let orders = orders.into_iter().map(|asked| WitOrder { entry_id: asked.entry_id, csr: asked.csr });
        self.tokens(&node, self.parts.identity.mint_wits(&node, orders.collect()).await)
    }

    fn tokens(
        &self,
        node: &NodeName,
        minted: Result<Vec<Result<MintedToken, Refusal>>, Refusal>,
    ) -> Result<Response<wire::MintJwtResponse>, Status> {
        let minted = minted.map_err(|refusal| self.refuse(&self.shown(node), &Refused::Identity(refusal)))?;
        let results = minted.into_iter().map(|outcome| {
            let outcome = match outcome {
                Ok(minted) => wire::minted_jwt::Outcome::Svid(wire::JwtSvid {
                    spiffe_id: minted.id.to_string(),
                    issued_at: unix_secs(minted.issued_at),
                    expires_at: unix_secs(minted.expires_at),
                    token: minted.token.as_str().to_owned(),
                }),
                Err(refusal) => wire::minted_jwt::Outcome::Refusal(self.refused(node, refusal)),
            };
            wire::MintedJwt { outcome: Some(outcome) }
        });
        Ok(Response::new(wire::MintJwtResponse { results: results.collect() }))
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
