//! A one-time join token is its own proof; it names the node that it was made for.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use symbolon_proto::selector::{Selector, Selectors};

use super::{Bound, Evidence, NodeAttestor, Step};
use crate::identity::Refusal;
use crate::identity::nodes::{Attested, Nodes};
use crate::identity::tokens::Tokens;

pub(super) const KIND: &str = "join_token";

#[derive(Debug)]
pub(super) struct JoinTokens {
    pub(super) tokens: Tokens,
    pub(super) nodes: Nodes,
}

impl NodeAttestor for JoinTokens {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn begin<'a>(&'a self, evidence: Evidence, bound: &'a Bound) -> BoxFuture<'a, Result<Step, Refusal>> {
        async move {
            let Evidence::JoinToken(token) = evidence else { return Err(Refusal::AttestorOff(KIND)) };
            // Asked before the token is spent: a ban that is lifted leaves the token good.
            let allowed = |node: &_| {
                self.nodes.may_attest(node)?;
                self.nodes.holds_no_other(KIND, node)
            };
            let name = self.tokens.redeem(&token, &bound.key, allowed).await?;
            let selectors = Selectors::from([Selector::joined_as(name.as_str())]);
            Ok(Step::Proven(Attested { name, selectors, can_reattest: false }))
        }
        .boxed()
    }
}
