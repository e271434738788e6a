//! Configuration files: YAML, unknown fields refused with their line and the nearest known name, every field overridable by
//! `SYMBOLON_SECTION__FIELD`.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Why a configuration file cannot be used. Displays as `file:line:column: what; did you mean ...?`.
#[derive(Debug, thiserror::Error)]
#[error("{path}{place}: {message}", path = path.display(), place = place(*line, *column))]
pub struct ConfigError {
    pub path: PathBuf,
    /// 0 when no place in the file is to blame.
    pub line: usize,
    pub column: usize,
    pub message: String,
}

fn place(line: usize, column: usize) -> String {
    if line == 0 { String::new() } else { format!(":{line}:{column}") }
}

/// Reads `path` as `T`, with overrides from the environment (`env` yields `SYMBOLON_*` pairs).
///
/// # Errors
/// If the file cannot be read, is larger than 1 MiB, is not YAML, or does not fit `T`.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let _ = (path, env.into_iter().count());
    todo!()
}

/// Durations as operators write them: `250ms`, `12s`, `1m30s`, `24h`. For `#[serde(with = "duration")]`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    /// # Errors
    /// If the text is not a duration, or is longer than ten years.
    pub fn deserialize<'de, D: Deserializer<'de>>(_from: D) -> Result<Duration, D::Error> {
        todo!()
    }

    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(_duration: &Duration, _to: S) -> Result<S::Ok, S::Error> {
        todo!()
    }

    /// Parses `12s`, `1m30s`; for command lines.
    ///
    /// # Errors
    /// Says what a duration looks like.
    pub fn parse(_text: &str) -> Result<Duration, String> {
        todo!()
    }
}
