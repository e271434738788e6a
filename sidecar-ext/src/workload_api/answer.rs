//! What one caller is told, as pure functions of the view: first what it is to be told of ([`Selected`]), then the words.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use symbolon_kit::spiffe::svid::Svid;
use symbolon_proto::ids::SpiffeId;
use symbolon_proto::workload as wire;
use tonic::Status;

use crate::attest::Caller;
use crate::bundle::Seen;
use crate::identity::{Entry, Held, Holding, View};
use crate::tokens::wit::private_jwk;
use crate::tokens::{NoToken, Token};

/// The longest hint that is passed on (Workload API §8).
const MAX_HINT_BYTES: usize = 1024;

/// What a caller is to be told of. Compared by identity: a view that changed for others is recognised by a few pointers.
#[derive(Debug)]
pub(super) struct Selected {
    svids: Vec<(Arc<Entry>, Arc<Svid>)>,
    pub(super) seen: Arc<Seen>,
}

/// A token that was asked for.
type Got = Result<Arc<Token>, NoToken>;
/// A token and the entry that it was asked for.
type Usable<'a> = (&'a Arc<Entry>, Arc<Token>);

/// Hints of one answer: each is given once, to the first that has it (W-6).
#[derive(Default)]
pub(super) struct Hints<'a>(BTreeSet<&'a str>);

impl PartialEq for Selected {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.seen, &other.seen)
            && self.svids.len() == other.svids.len()
            && self
                .svids
                .iter()
                .zip(&other.svids)
                .all(|(one, two)| Arc::ptr_eq(&one.0, &two.0) && Arc::ptr_eq(&one.1, &two.1))
    }
}

/// The caller's SVIDs, the default one first, and the bundles of the trust domains that they are federated with.
///
/// # Errors
/// `PermissionDenied` if it is entitled to nothing (E-8), `Unavailable` until what it is entitled to is here (E-7).
pub(super) fn svids(view: &View, caller: &Caller) -> Result<Selected, Status> {
    let held = entitled(view, caller)?;
    let mut svids = Vec::with_capacity(held.len());
    for held in &held {
        match &held.holding {
            // A partial answer would make another identity the default for a moment.
            Holding::Pending => return Err(Status::unavailable("the caller's SVID is being issued")),
            Holding::Failed => {}
            Holding::Valid(svid) => svids.push((held.entry.clone(), svid.clone())),
        }
    }
    if svids.is_empty() {
        return Err(Status::unavailable("the caller's SVID could not be issued yet"));
    }
    Ok(Selected { svids, seen: seen(view, &held)? })
}

/// Whether a stream that was `told` of SVIDs waits in silence: something more is being issued to its caller, and all that it was told
/// of still stands.
pub(super) fn may_wait(view: &View, caller: &Caller, told: &Selected) -> bool {
    let Ok(held) = entitled(view, caller) else { return false };
    let stands = |id: &Arc<str>| held.iter().any(|one| one.entry.id == *id && matches!(one.holding, Holding::Valid(_)));
    let pending = held.iter().any(|one| matches!(one.holding, Holding::Pending));
    pending && !told.svids.is_empty() && told.svids.iter().all(|(entry, _)| stands(&entry.id))
}

/// The bundles alone; the caller's own SVIDs are not waited for.
///
/// # Errors
/// As [`svids`].
pub(super) fn bundles(view: &View, caller: &Caller) -> Result<Selected, Status> {
    Ok(Selected { svids: Vec::new(), seen: seen(view, &entitled(view, caller)?)? })
}

pub(super) fn x509_svids(selected: &Selected) -> wire::X509svidResponse {
    let mut federated_bundles = selected.seen.x509().clone();
    let own = selected.seen.own.as_ref().map(|own| own.trust_domain.id().to_string()).unwrap_or_default();
    let bundle = federated_bundles.remove(&own).unwrap_or_default();
    let mut hints = Hints::default();
    let svid = |(entry, svid): &'_ (Arc<Entry>, Arc<Svid>), hint: String| {
        debug_assert_eq!(entry.spiffe_id, svid.id);
        let mut chain = BytesMut::new();
        svid.chain.iter().for_each(|der| chain.extend_from_slice(der));
        wire::X509svid {
            spiffe_id: svid.id.to_string(),
            x509_svid: chain.freeze(),
            x509_svid_key: Bytes::copy_from_slice(svid.key.pkcs8()),
            bundle: bundle.clone(),
            hint,
        }
    };
    let svids = selected.svids.iter().map(|held| svid(held, hints.of(&held.0))).collect();
    wire::X509svidResponse { svids, crl: Vec::new(), federated_bundles }
}

/// All bundles that the caller may see, by the ID of their trust domain (W-8).
pub(super) fn x509_bundles(selected: &Selected) -> wire::X509BundlesResponse {
    wire::X509BundlesResponse { crl: Vec::new(), bundles: selected.seen.x509().clone() }
}

/// The JWKS of each trust domain that the caller may see: keys of JWT-SVIDs and no others (W-10, W-12).
pub(super) fn jwt_bundles(selected: &Selected) -> wire::JwtBundlesResponse {
    wire::JwtBundlesResponse { bundles: selected.seen.jwt().clone() }
}

/// # Errors
/// `Unimplemented` unless the WIT-SVID profile is switched on (W-15).
pub(super) fn check_incubating(view: &View) -> Result<(), Status> {
    if view.incubating { Ok(()) } else { Err(Status::unimplemented("the WIT-SVID profile is not switched on")) }
}

/// # Errors
/// As [`bundles`], and [`check_incubating`].
pub(super) fn wit_bundles(view: &View, caller: &Caller) -> Result<Selected, Status> {
    check_incubating(view)?;
    bundles(view, caller)
}

pub(super) fn wit_jwks(selected: &Selected) -> wire::WitBundlesResponse {
    wire::WitBundlesResponse { bundles: selected.seen.wit().clone() }
}

/// The entries that tokens are asked for: those of `spiffe_id`, or all that the caller has if it is empty (W-11).
///
/// # Errors
/// `InvalidArgument` for what is no SPIFFE ID, `PermissionDenied` for one that is not the caller's, else as [`svids`].
pub(super) fn entries(view: &View, caller: &Caller, spiffe_id: &str) -> Result<Vec<Arc<Entry>>, Status> {
    let wanted = match spiffe_id {
        "" => None,
        id => Some(SpiffeId::workload(id).map_err(|why| Status::invalid_argument(format!("spiffe_id: {why}")))?),
    };
    let held = entitled(view, caller)?.into_iter().filter(|held| {
        let id = &held.entry.spiffe_id;
        wanted.as_ref().is_none_or(|wanted| wanted == id)
    });
    let entries: Vec<_> = held.map(|held| held.entry.clone()).collect();
    if entries.is_empty() {
        return Err(Status::permission_denied(format!("the calling process is not entitled to {spiffe_id}")));
    }
    Ok(entries)
}

/// # Errors
/// As [`usable`].
pub(super) fn jwt_svids(entries: &[Arc<Entry>], tokens: Vec<Got>) -> Result<wire::JwtsvidResponse, Status> {
    let mut hints = Hints::default();
    let svids = usable(entries, tokens)?.into_iter().map(|(entry, token)| wire::Jwtsvid {
        spiffe_id: entry.spiffe_id.to_string(),
        svid: token.text.as_str().to_owned(),
        hint: hints.of(entry),
    });
    Ok(wire::JwtsvidResponse { svids: svids.collect() })
}

/// # Errors
/// As [`usable`].
pub(super) fn wit_svids(entries: &[Arc<Entry>], tokens: Vec<Got>) -> Result<wire::WitsvidResponse, Status> {
    let mut hints = Hints::default();
    let mut svids = Vec::new();
    for (entry, token) in usable(entries, tokens)? {
        let key = token.key.as_ref().and_then(private_jwk);
        let key = key.ok_or_else(|| Status::internal("a WIT-SVID without its key"))?;
        svids.push(wire::Witsvid {
            spiffe_id: entry.spiffe_id.to_string(),
            wit_svid: token.text.as_str().to_owned(),
            wit_svid_key: key.as_str().to_owned(),
            hint: hints.of(entry),
        });
    }
    Ok(wire::WitsvidResponse { svids })
}

/// The tokens in the order of their entries, the default one first. One that is refused is left out; one that is merely not here
/// fails the call, or another identity would be the default for a moment.
///
/// # Errors
/// `Unavailable` if a token is not here, `ResourceExhausted` if too many wait for one.
fn usable(entries: &[Arc<Entry>], tokens: Vec<Got>) -> Result<Vec<Usable<'_>>, Status> {
    let mut usable = Vec::with_capacity(tokens.len());
    for (entry, token) in entries.iter().zip(tokens) {
        match token {
            Ok(token) => usable.push((entry, token)),
            Err(NoToken::Refused(_)) => {}
            Err(why @ NoToken::Overloaded) => return Err(Status::resource_exhausted(why.to_string())),
            Err(why @ NoToken::Unanswered(_)) => return Err(Status::unavailable(why.to_string())),
        }
    }
    if usable.is_empty() {
        return Err(Status::unavailable("the control plane refuses to issue the caller's token"));
    }
    Ok(usable)
}

/// What the caller is entitled to; something, or the reason why nothing.
///
/// # Errors
/// As [`svids`].
pub(super) fn entitled<'a>(view: &'a View, caller: &'a Caller) -> Result<Vec<&'a Held>, Status> {
    let selectors = caller.selectors().map_err(|why| Status::permission_denied(why.to_string()))?;
    if !view.ready {
        return Err(Status::unavailable("the registration entries of this node are not here yet"));
    }
    let held: Vec<_> = view.held_for(selectors).collect();
    if held.is_empty() {
        return Err(Status::permission_denied("no identity is registered on this node for the calling process"));
    }
    Ok(held)
}

fn seen(view: &View, held: &[&Held]) -> Result<Arc<Seen>, Status> {
    let seen = view.seen_with(held.iter().copied());
    if seen.own.is_none() {
        return Err(Status::unavailable("no trust bundle yet"));
    }
    Ok(seen)
}

impl<'a> Hints<'a> {
    /// The hint to pass on with what this entry gives; empty: none.
    pub(super) fn of(&mut self, entry: &'a Entry) -> String {
        let hint = entry.hint.as_str();
        let unique = !hint.is_empty() && hint.len() <= MAX_HINT_BYTES && self.0.insert(hint);
        if unique { hint.to_owned() } else { String::new() }
    }
}
