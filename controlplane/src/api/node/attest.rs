//! Node attestation: evidence, challenges if its kind has any, and the node's SVID. Anybody may ask, so what one source may ask is
//! bounded ([`limit`]), as are the attestations under way and the time that each may take.

pub(super) mod limit;

use std::net::IpAddr;
use std::time::Duration;

use symbolon_kit::clock::unix_secs;
use symbolon_kit::net::PeerIdentity;
use symbolon_kit::supervise::OnExit;
use symbolon_proto::node as wire;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;
use wire::{attest_request, attest_response, evidence};

use super::{Node, Refused, caller, chain, malformed};
use crate::identity::Refusal;
use crate::identity::attest::{Admitted, Evidence, Pending, Progress};

/// Attestations under way.
pub(super) const MAX_UNDER_WAY: usize = 256;
/// For a whole attestation, the node's answers included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of a node that asks to prove itself again and again.
const MAX_CHALLENGES: usize = 4;

pub(super) type Answers = ReceiverStream<Result<wire::AttestResponse, Status>>;

/// One attestation under way.
struct Attestation {
    node: Node,
    caller: String,
    address: Option<IpAddr>,
    requests: Streaming<wire::AttestRequest>,
    deadline: Instant,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn run(
    node: &Node,
    request: Request<Streaming<wire::AttestRequest>>,
) -> Result<Response<Answers>, Status> {
    let peer = request.extensions().get::<PeerIdentity>().cloned();
    let caller = caller::shown(peer.as_ref());
    let address = peer.map(|peer| peer.address.ip());
    node.attempts.ask(address).map_err(|wait| node.refuse(&caller, &Refused::TooManyAttempts(wait)))?;
    let place = node.attestations.clone().try_acquire_owned();
    let place = place.map_err(|_| node.refuse(&caller, &Refused::Busy))?;
    let deadline = Instant::now() + PATIENCE;
    let mut attestation =
        Attestation { node: node.clone(), caller, address, requests: request.into_inner(), deadline, _place: place };
    let progress = match attestation.begin().await {
        Ok(progress) => progress,
        Err(status) => return Err(status),
    };
    let (outbox, answers) = mpsc::channel(1);
    match progress {
        Progress::Done(admitted) => {
            let _ = outbox.try_send(attestation.answer(admitted)); // the channel is new and has room
        }
        // The challenge can only be answered once this call has begun to answer.
        Progress::Challenge(pending) => {
            let tasks = node.parts.tasks.clone();
            tasks.spawn("node attestation", OnExit::Log, async move {
                let outcome = attestation.challenge(pending, &outbox).await;
                let _ = outbox.send(outcome).await; // a node that is gone needs no answer
            });
        }
    }
    Ok(Response::new(ReceiverStream::new(answers)))
}

impl Attestation {
    async fn begin(&mut self) -> Result<Progress, Status> {
        let Some(attest_request::Step::Evidence(offered)) = self.next().await? else {
            return Err(self.refuse(&Refused::Malformed("the first message must bring evidence".into())));
        };
        let evidence = match offered.kind {
            Some(evidence::Kind::JoinToken(token)) => Evidence::JoinToken(token.into()),
            Some(evidence::Kind::X509pop(pop)) => {
                Evidence::X509Pop(pop.chain.into_iter().map(|der| der.to_vec().into()).collect())
            }
            None => return Err(self.refuse(&Refused::Malformed("an unknown kind of evidence".into()))),
        };
        let begun = self.node.parts.identity.attest(evidence, &offered.csr).await;
        begun.map_err(|refusal| self.refuse(&Refused::Identity(refusal)))
    }

    /// Asks until the node is proven.
    async fn challenge(
        &mut self,
        mut pending: Box<Pending>,
        outbox: &mpsc::Sender<Result<wire::AttestResponse, Status>>,
    ) -> Result<wire::AttestResponse, Status> {
        for _ in 0..MAX_CHALLENGES {
            let question = wire::AttestResponse { step: Some(attest_response::Step::Challenge(pending.question())) };
            outbox.send(Ok(question)).await.map_err(|_| Status::cancelled("the node is gone"))?;
            let Some(attest_request::Step::ChallengeResponse(response)) = self.next().await? else {
                return Err(self.refuse(&Refused::Malformed("a challenge wants an answer".into())));
            };
            let answered = pending.answer(&response).await;
            match answered.map_err(|refusal| self.refuse(&Refused::Identity(refusal)))? {
                Progress::Done(admitted) => return self.answer(admitted),
                Progress::Challenge(another) => pending = another,
            }
        }
        Err(self.refuse(&Refused::Malformed("an attestation without end".into())))
    }

    async fn next(&mut self) -> Result<Option<attest_request::Step>, Status> {
        match timeout_at(self.deadline, self.requests.message()).await {
            Ok(Ok(message)) => Ok(message.and_then(|message| message.step)),
            Ok(Err(broken)) => Err(match malformed(&broken) {
                Some(refused) => self.refuse(&refused),
                None => broken,
            }),
            Err(_) => Err(self.refuse(&Refused::TooSlow)),
        }
    }

    /// What is refused is charged to where it came from.
    fn refuse(&self, refused: &Refused) -> Status {
        let ours = matches!(refused, Refused::Identity(Refusal::Unavailable));
        if !ours {
            self.node.attempts.failed(self.address);
        }
        self.node.refuse(&self.caller, refused)
    }

    fn answer(&self, admitted: Admitted) -> Result<wire::AttestResponse, Status> {
        let Admitted { minted, can_reattest } = admitted;
        let own = self.node.parts.identity.bundles.own();
        let own = own.ok_or_else(|| self.refuse(&Refused::Identity(Refusal::Unavailable)))?;
        info!(caller = self.caller, node = %minted.id, serial = minted.serial, "node attested");
        let attested = wire::Attested {
            spiffe_id: minted.id.to_string(),
            expires_at: unix_secs(minted.not_after),
            chain: chain(minted),
            bundle: own.to_jwks().into(),
            can_reattest,
        };
        Ok(wire::AttestResponse { step: Some(attest_response::Step::Attested(attested)) })
    }
}
