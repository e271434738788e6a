//! How the link's facts are stored: peers, imports, cursors, invitations.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use symbolon_proto::federation as wire;
use symbolon_proto::ids::{SpiffeId, TrustDomain};

use super::merge;
use crate::model::PeerName;
use crate::store::{self, Key, SharedStore, Txn, codec, keys};

const PEER: &str = "peer";
const IMPORT: &str = "import";
const CURSOR: &str = "cursor";
pub(super) const INVITATION: &str = "invitation";

/// Which side opens the connection: the one that accepted the invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    Dialer,
    Listener,
}

/// A peer with whom trust was exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Established {
    pub trust_domain: TrustDomain,
    /// The control plane that the token came from, or that redeemed it.
    pub control_plane: SpiffeId,
    /// Where it is dialled; empty for a listener.
    pub addresses: Vec<String>,
    pub role: Role,
}

#[derive(Serialize, Deserialize)]
struct PeerRecord {
    trust_domain: String,
    control_plane: String,
    addresses: Vec<String>,
    role: Role,
}

#[derive(Serialize, Deserialize)]
struct ImportRecord {
    revision: u64,
    hash: String,
    resource: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct CursorRecord {
    epoch: String,
    seq: u64,
    digest: String,
}

/// An invitation that waits to be redeemed; its key is the hash of its secret.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Invitation {
    pub(super) peer: String,
    pub(super) trust_domain: String,
    /// Unix seconds.
    pub(super) expires_at: i64,
}

fn bad(kind: &'static str, why: impl ToString) -> store::Error {
    store::Error::Codec { kind, why: why.to_string() }
}

fn bytes(kind: &'static str, text: &str) -> Result<Vec<u8>, store::Error> {
    STANDARD.decode(text).map_err(|error| bad(kind, error))
}

pub(super) fn encode_peer(peer: &Established) -> Result<Vec<u8>, store::Error> {
    let record = PeerRecord {
        trust_domain: peer.trust_domain.to_string(),
        control_plane: peer.control_plane.to_string(),
        addresses: peer.addresses.clone(),
        role: peer.role,
    };
    codec::encode(PEER, 1, &record)
}

pub(super) async fn peer(store: &SharedStore, name: &PeerName) -> Result<Option<Established>, store::Error> {
    let Some(stored) = store.get(&keys::peer(name)).await? else { return Ok(None) };
    let record: PeerRecord = codec::decode(PEER, &stored.value)?;
    Ok(Some(Established {
        trust_domain: record.trust_domain.parse().map_err(|error| bad(PEER, error))?,
        control_plane: record.control_plane.parse().map_err(|error| bad(PEER, error))?,
        addresses: record.addresses,
        role: record.role,
    }))
}

/// What was imported from `peer`, and how far. Records that cannot be read are left out, with their keys: the peer is asked again.
pub(super) async fn imports(
    store: &SharedStore,
    peer: &PeerName,
) -> Result<(Vec<(String, merge::Record)>, Option<wire::Cursor>, Vec<Key>), store::Error> {
    let prefix = keys::imports(peer);
    let mut records = Vec::new();
    let mut unreadable = Vec::new();
    for stored in store.range(prefix.clone()).await?.0 {
        let Some(key) = stored.key.0.strip_prefix(&*prefix.0) else { continue };
        match decode_import(&stored.value) {
            Ok(record) => records.push((key.to_owned(), record)),
            Err(_) => unreadable.push(stored.key),
        }
    }
    let cursor = match store.get(&keys::cursor(peer)).await? {
        Some(stored) if unreadable.is_empty() => decode_cursor(&stored.value).ok(),
        _ => None,
    };
    Ok((records, cursor, unreadable))
}

/// Removes all that is known of `peer` beyond its configuration.
pub(super) async fn forget(store: &SharedStore, peer: &PeerName) -> Result<(), store::Error> {
    let imports = store.range(keys::imports(peer)).await?.0.into_iter().map(|stored| stored.key);
    let txn = imports.fold(Txn::new(), Txn::delete).delete(keys::cursor(peer)).delete(keys::peer(peer));
    store.commit(txn).await.map(drop)
}

fn decode_import(value: &[u8]) -> Result<merge::Record, store::Error> {
    let record: ImportRecord = codec::decode(IMPORT, value)?;
    let hash = bytes(IMPORT, &record.hash)?.try_into().map_err(|_| bad(IMPORT, "a hash has 32 bytes"))?;
    let resource = record.resource.map(|text| bytes(IMPORT, &text)).transpose()?;
    Ok(merge::Record { revision: record.revision, hash, resource })
}

fn decode_cursor(value: &[u8]) -> Result<wire::Cursor, store::Error> {
    let record: CursorRecord = codec::decode(CURSOR, value)?;
    Ok(wire::Cursor {
        epoch: bytes(CURSOR, &record.epoch)?.into(),
        seq: record.seq,
        set_digest: bytes(CURSOR, &record.digest)?.into(),
    })
}

/// Imports and cursor as one transaction, so that a crash leaves both or neither.
pub(super) fn progress(
    peer: &PeerName,
    imports: &[(std::sync::Arc<str>, Option<merge::Record>)],
    cursor: Option<&wire::Cursor>,
) -> Result<Txn, store::Error> {
    let mut txn = Txn::new();
    for (key, record) in imports {
        let at = keys::import(peer, key);
        txn = match record {
            None => txn.delete(at),
            Some(record) => {
                let record = ImportRecord {
                    revision: record.revision,
                    hash: STANDARD.encode(record.hash),
                    resource: record.resource.as_ref().map(|resource| STANDARD.encode(resource)),
                };
                txn.put(at, codec::encode(IMPORT, 1, &record)?)
            }
        };
    }
    match cursor {
        None => Ok(txn.delete(keys::cursor(peer))),
        Some(cursor) => {
            let record = CursorRecord {
                epoch: STANDARD.encode(&cursor.epoch),
                seq: cursor.seq,
                digest: STANDARD.encode(&cursor.set_digest),
            };
            Ok(txn.put(keys::cursor(peer), codec::encode(CURSOR, 1, &record)?))
        }
    }
}
