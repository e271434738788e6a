//! How a node is stored.

use serde::{Deserialize, Serialize};
use symbolon_proto::selector::Selector;

use super::{Node, Serial, Standing};
use crate::store::{self, Stored, codec, keys};

const KIND: &str = "node";

#[derive(Serialize, Deserialize)]
struct Record {
    attestor: String,
    selectors: Vec<String>,
    can_reattest: bool,
    attested_at: i64,
    standing: StandingRecord,
    serials: Vec<SerialRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StandingRecord {
    Attested,
    Evicted,
    Banned(String),
}

#[derive(Serialize, Deserialize)]
struct SerialRecord {
    serial: String,
    expires_at: i64,
}

pub(super) fn encode(node: &Node, serials: &[Serial]) -> Result<Vec<u8>, store::Error> {
    let serial = |one: &Serial| SerialRecord { serial: one.serial.to_string(), expires_at: one.expires_at };
    let record = Record {
        attestor: node.attestor.to_string(),
        selectors: node.selectors.iter().map(Selector::to_string).collect(),
        can_reattest: node.can_reattest,
        attested_at: node.attested_at,
        standing: match &node.standing {
            Standing::Attested => StandingRecord::Attested,
            Standing::Evicted => StandingRecord::Evicted,
            Standing::Banned { reason } => StandingRecord::Banned(reason.to_string()),
        },
        serials: serials.iter().map(serial).collect(),
    };
    codec::encode(KIND, 1, &record)
}

/// `None` if its key names no node.
pub(super) fn decode(stored: &Stored) -> Result<Option<(Node, Vec<Serial>)>, store::Error> {
    let record: Record = codec::decode(KIND, &stored.value)?;
    let Some(name) = keys::name_of_attested_node(&stored.key) else { return Ok(None) };
    let node = Node {
        name,
        attestor: record.attestor.into(),
        selectors: record.selectors.iter().map(|text| Selector::demanded(text)).collect(),
        can_reattest: record.can_reattest,
        attested_at: record.attested_at,
        standing: match record.standing {
            StandingRecord::Attested => Standing::Attested,
            StandingRecord::Evicted => Standing::Evicted,
            StandingRecord::Banned(reason) => Standing::Banned { reason: reason.into() },
        },
    };
    let serial = |one: SerialRecord| Serial { serial: one.serial.into(), expires_at: one.expires_at };
    Ok(Some((node, record.serials.into_iter().map(serial).collect())))
}
