//! What every call on the agent socket must pass: the header that no confused deputy sends, an attested caller that still lives, and
//! its user's share of the streams.

use std::sync::Arc;

use dashmap::DashMap;
use symbolon_kit::metrics::Counter;
use symbolon_kit::seldom::Seldom;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use tracing::warn;

use crate::attest::Caller;

/// Sent by every SPIFFE client (SPIFFE_Workload_Endpoint.md §3); a web page or a proxy tricked into calling does not.
const HEADER: &str = "workload.spiffe.io";
/// Open streams of one user: a node may run many workloads as one.
pub const STREAMS_PER_UID: usize = 1024;

/// The doorkeeper of the agent socket; cheap to clone.
#[derive(Clone, Debug)]
pub struct Guard {
    quota: Quota,
    refused: Counter,
    said: Seldom,
}

/// How many of something each user has.
#[derive(Clone, Debug)]
pub struct Quota {
    most: usize,
    held: Arc<DashMap<u32, usize>>,
}

/// One of a user's share; given back when dropped.
#[derive(Debug)]
pub struct Share {
    uid: u32,
    of: Quota,
}

impl Guard {
    pub fn new(streams_per_uid: usize, refused: Counter) -> Self {
        Self { quota: Quota::new(streams_per_uid), refused, said: Seldom::default() }
    }

    /// The caller of a request that may go on.
    ///
    /// # Errors
    /// `InvalidArgument` without the header (E-3), `PermissionDenied` for a caller that is nobody.
    pub fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = caller_of(request)?;
        check_header(request.metadata()).inspect_err(|_| self.refused("header", &caller))?;
        self.attested(caller)
    }

    /// As [`Self::caller`], for a service that its operator opened to clients that send no header.
    ///
    /// # Errors
    /// `PermissionDenied` for a caller that is nobody.
    pub fn caller_without_header<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.attested(caller_of(request)?)
    }

    fn attested(&self, caller: Caller) -> Result<Caller, Status> {
        if let Err(why) = caller.selectors() {
            self.refused(why.label(), &caller);
            return Err(Status::permission_denied(why.to_string()));
        }
        Ok(caller)
    }

    /// A place for one more stream of this caller.
    ///
    /// # Errors
    /// `ResourceExhausted` if its user has too many.
    pub fn stream(&self, caller: &Caller) -> Result<Share, Status> {
        self.quota.take(caller.uid()).ok_or_else(|| {
            self.refused("quota", caller);
            Status::resource_exhausted(format!("uid {} has {} streams open: close some", caller.uid(), self.quota.most))
        })
    }

    /// Counts a refusal, and logs one of each kind now and then.
    pub fn refused(&self, reason: &'static str, caller: &Caller) {
        self.refused.inc(&[("reason", reason)]);
        if let Some(left_out) = self.said.ask(reason) {
            warn!(reason, pid = caller.pid(), uid = caller.uid(), left_out, "a caller of the agent socket was refused");
        }
    }
}

impl Quota {
    pub fn new(most: usize) -> Self {
        Self { most, held: Arc::default() }
    }

    /// One more for `uid`, if it has not all of its share.
    pub fn take(&self, uid: u32) -> Option<Share> {
        let mut held = self.held.entry(uid).or_insert(0);
        if *held >= self.most {
            return None;
        }
        *held += 1;
        Some(Share { uid, of: self.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let dashmap::Entry::Occupied(mut held) = self.of.held.entry(self.uid) {
            *held.get_mut() = held.get().saturating_sub(1);
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

fn caller_of<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("a connection without a caller"))
}

/// The header, once, and exactly `true`: case counts.
fn check_header(metadata: &MetadataMap) -> Result<(), Status> {
    let mut values = metadata.get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_encoded_bytes() == b"true" => Ok(()),
        _ => Err(Status::invalid_argument(format!("metadata must hold `{HEADER}: true`, once"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_152_a_user_has_its_share_and_no_more() {
        let quota = Quota::new(2);
        let (one, two) = (quota.take(7), quota.take(7));
        assert!(one.is_some() && two.is_some());
        assert!(quota.take(7).is_none());
        assert!(quota.take(8).is_some(), "another user is not affected");
        drop(one);
        assert!(quota.take(7).is_some());
        drop(two);
        assert!(quota.held.is_empty(), "nothing is remembered of users that left");
    }

    #[test]
    fn bad_148_only_the_exact_header_passes() {
        for (values, passes) in [
            (&["true"][..], true),
            (&[], false),
            (&["True"], false),
            (&["1"], false),
            (&["true", "true"], false),
            (&[""], false),
        ] {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append(HEADER, value.parse().unwrap());
            }
            let checked = check_header(&metadata);
            assert_eq!(checked.is_ok(), passes, "{values:?}");
            assert!(checked.is_ok() || checked.unwrap_err().code() == tonic::Code::InvalidArgument);
        }
    }
}
