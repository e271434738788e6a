//! The audit log: its end, what comes after, and whether it is whole.

use symbolon_kit::octets;
use symbolon_kit::supervise::OnExit;
use symbolon_proto::admin as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Admin, Answer, AuditStream, OUTBOX, unavailable};
use crate::identity::audit::{Audit, Error};

/// The most records from before that a follower gets.
const MAX_TAIL: u32 = 10_000;

type Outbox = mpsc::Sender<Result<wire::AuditRecord, Status>>;

impl Admin {
    pub(super) async fn verify_audit(&self, _: Request<wire::VerifyAuditRequest>) -> Answer<wire::VerifyAuditResponse> {
        let verified = self.0.identity.audit.verify().await.map_err(unavailable)?;
        Ok(Response::new(wire::VerifyAuditResponse {
            intact: verified.problem.is_none(),
            records: verified.head.count,
            head: octets::hex(&verified.head.hash),
            problem: verified.problem.map(|problem| problem.to_string()).unwrap_or_default(),
        }))
    }

    pub(super) async fn tail_audit(&self, request: Request<wire::TailAuditRequest>) -> Answer<AuditStream> {
        let asked = request.into_inner();
        if asked.lines > MAX_TAIL {
            return Err(Status::invalid_argument(format!("at most {MAX_TAIL} records; the files have them all")));
        }
        let (outbox, records) = mpsc::channel(OUTBOX);
        let (audit, drain, count) = (self.0.identity.audit.clone(), self.0.drain.clone(), asked.lines as usize);
        self.0.tasks.spawn("audit tail", OnExit::Log, async move {
            let told = async {
                if let Err(error) = tell(&audit, count, asked.follow, &outbox).await {
                    let _ = outbox.send(Err(unavailable(error))).await; // a reader that is gone needs no answer
                }
            };
            tokio::select! {
                () = told => {}
                () = outbox.closed() => {}
                () = drain.cancelled() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(records)))
    }
}

async fn tell(audit: &Audit, count: usize, follow: bool, outbox: &Outbox) -> Result<(), Error> {
    let mut durable = audit.durable();
    let (lines, until) = audit.last(count).await?;
    send(outbox, lines).await;
    let mut at = (until.first, until.bytes);
    if !follow {
        return Ok(());
    }
    loop {
        let now = *durable.borrow_and_update();
        if at == (now.first, now.bytes) {
            if durable.changed().await.is_err() {
                return Ok(()); // the log is closed
            }
            continue;
        }
        let (lines, next) = audit.between(at, now).await?;
        send(outbox, lines).await;
        at = next;
    }
}

/// A reader that is gone is noticed by the one who waits for that.
async fn send(outbox: &Outbox, lines: Vec<String>) {
    for json in lines {
        let _ = outbox.send(Ok(wire::AuditRecord { json })).await;
    }
}
