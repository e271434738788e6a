//! What one caller is told, as a pure function of the view.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use symbolon_proto::workload as wire;
use tonic::Status;

use crate::attest::Caller;
use crate::bundle;
use crate::identity::{Held, Holding, View};

/// The longest hint that is passed on (Workload API §8).
const MAX_HINT_BYTES: usize = 1024;

/// The caller's SVIDs, the default one first, and the bundles of federated trust domains.
///
/// # Errors
/// `PermissionDenied` if it is entitled to nothing (E-8), `Unavailable` until what it is entitled to is here (E-7).
pub(super) fn svids(view: &View, caller: &Caller) -> Result<wire::X509svidResponse, Status> {
    let held = entitled(view, caller)?;
    let own = view.bundles.get(&view.trust_domain).ok_or_else(|| Status::unavailable("no trust bundle yet"))?;
    let bundle = bundle::der(own);
    let mut hints = BTreeSet::new();
    let mut svids = Vec::with_capacity(held.len());
    for held in held {
        match &held.holding {
            // A partial answer would make another identity the default for a moment.
            Holding::Pending => return Err(Status::unavailable("the caller's SVID is being issued")),
            Holding::Failed => {}
            Holding::Valid(svid) => {
                let mut chain = BytesMut::new();
                svid.chain.iter().for_each(|der| chain.extend_from_slice(der));
                let hint = &held.entry.hint;
                let unique = !hint.is_empty() && hint.len() <= MAX_HINT_BYTES && hints.insert(hint.as_str());
                svids.push(wire::X509svid {
                    spiffe_id: svid.id.to_string(),
                    x509_svid: chain.freeze(),
                    x509_svid_key: Bytes::copy_from_slice(svid.key.pkcs8()),
                    bundle: bundle.clone(),
                    hint: if unique { hint.clone() } else { String::new() },
                });
            }
        }
    }
    if svids.is_empty() {
        return Err(Status::unavailable("the caller's SVID could not be issued yet"));
    }
    let mut federated_bundles = all_bundles(view);
    federated_bundles.remove(view.trust_domain.id().as_str());
    Ok(wire::X509svidResponse { svids, crl: Vec::new(), federated_bundles })
}

/// All bundles, by the ID of their trust domain (W-8).
///
/// # Errors
/// As [`svids`]; the caller's own SVIDs are not waited for.
pub(super) fn bundles(view: &View, caller: &Caller) -> Result<wire::X509BundlesResponse, Status> {
    entitled(view, caller)?;
    Ok(wire::X509BundlesResponse { crl: Vec::new(), bundles: all_bundles(view) })
}

fn entitled<'a>(view: &'a View, caller: &'a Caller) -> Result<Vec<&'a Held>, Status> {
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

/// A trust domain without X.509 authorities has no place here.
fn all_bundles(view: &View) -> BTreeMap<String, Bytes> {
    let usable = view.bundles.iter().filter(|(_, held)| !held.x509.is_empty());
    usable.map(|(name, held)| (name.id().to_string(), bundle::der(held))).collect()
}
