//! Where this control plane can be reached, for people, scripts and tests: written whole, or not at all.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use symbolon_kit::files::{Durability, replace};

/// The bound addresses.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    pub node: SocketAddr,
    pub federation: SocketAddr,
    pub http: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_endpoint: Option<SocketAddr>,
    pub admin: PathBuf,
}

impl Addresses {
    /// Replaces `<data_dir>/addresses.json`.
    ///
    /// # Errors
    /// If it cannot be written; the one before stays.
    pub(super) fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        replace(&data_dir.join("addresses.json"), &text, 0o644, Durability::Durable)
    }
}
