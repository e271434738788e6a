//! Where this control plane can be reached, for people, scripts and tests: written whole, or not at all.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The bound addresses.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    pub node: SocketAddr,
    pub federation: SocketAddr,
    pub http: SocketAddr,
    pub admin: PathBuf,
}

impl Addresses {
    /// Replaces `<data_dir>/addresses.json`.
    ///
    /// # Errors
    /// If it cannot be written; the one before stays.
    pub(super) fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let (path, fresh) = (data_dir.join("addresses.json"), data_dir.join(".addresses.json.new"));
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(fresh, path)
    }
}
