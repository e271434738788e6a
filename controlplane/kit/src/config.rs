//! Configuration files: YAML, unknown fields refused with their line and the nearest known name, every field overridable by
//! `SYMBOLON_SECTION__FIELD`.

pub mod duration;
mod items;
mod overrides;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_saphyr::options::DuplicateKeyPolicy;

pub use items::{At, items};

/// The largest configuration file that is looked at.
const MAX_BYTES: u64 = 1024 * 1024;
/// How unlike a known name an unknown one may be and still be taken for a slip of the finger (Jaro-Winkler, 1 is equal).
const ALIKE: f64 = 0.75;

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

/// Reads `path` as `T`, with overrides from the environment (`env` may yield the whole environment; only `SYMBOLON_*` counts).
///
/// # Errors
/// If the file cannot be read, is larger than 1 MiB, is not YAML, or does not fit `T`; or if an override does not, which is then
/// named.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let failed = |message| ConfigError { path: path.to_owned(), line: 0, column: 0, message };
    let text = read(path, MAX_BYTES).map_err(failed)?;
    let overrides = overrides::from_env(env);
    // The file is parsed as T itself, and not as a tree first, so that every complaint has its line.
    let direct = from_yaml::<T>(&text);
    if overrides.is_empty() || direct.as_ref().is_err_and(|error| !is_missing_field(error)) {
        return direct.map_err(|error| at(path, &error));
    }
    let tree = from_yaml(&text).map_err(|error| at(path, &error))?;
    // A field that the file leaves out may be what the environment gives.
    let outcome = overrides::apply(tree, &overrides);
    outcome.map_err(|(variable, why)| failed(format!("environment variable {variable}: {why}")))
}

/// The process's environment as [`load`] takes it; what is not UTF-8 is no configuration of ours.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn read(path: &Path, most: u64) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
    let mut text = String::new();
    match file.take(most + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > most => Err(format!("is larger than {} MiB", most >> 20)),
        Ok(_) => Ok(text),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let options = strict(serde_saphyr::budget! {
        max_events: 200_000, max_nodes: 100_000, max_aliases: 1_000, max_anchors: 1_000, max_documents: 1,
    });
    serde_saphyr::from_str_with_options(text, options)
}

/// Strict YAML: no key twice, no word that some parser takes for a boolean or number where a text is meant, no alias bombs.
fn strict(budget: Option<serde_saphyr::Budget>) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: budget,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 10_000, max_alias_expansions_per_anchor: 100,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        no_schema: true,
        with_snippet: false,
    }
}

fn is_missing_field(error: &serde_saphyr::Error) -> bool {
    matches!(error.without_snippet(), serde_saphyr::Error::SerdeMissingField { .. })
}

fn at(path: &Path, error: &serde_saphyr::Error) -> ConfigError {
    let (line, column) = error.location().map_or((0, 0), |at| (number(at.line()), number(at.column())));
    ConfigError { path: path.to_owned(), line, column, message: describe(error) }
}

fn number(of: u64) -> usize {
    usize::try_from(of).unwrap_or(usize::MAX)
}

/// What is wrong, in words, without the place.
fn describe(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error.without_snippet() {
        Error::SerdeUnknownField { field, expected, .. } => unknown("field", field, expected),
        Error::SerdeUnknownVariant { variant, expected, .. } => unknown("value", variant, expected),
        Error::SerdeMissingField { field, .. } => format!("field {field:?} is missing"),
        other => {
            // The library ends its sentences with the place, which we put in front.
            let text = other.to_string();
            text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned()
        }
    }
}

fn unknown(what: &str, given: &str, known: &[&'static str]) -> String {
    let given: String = given.chars().take(80).collect();
    let alike = |name: &&'static str| strsim::jaro_winkler(&name.to_ascii_lowercase(), &given.to_ascii_lowercase());
    let nearest = known.iter().map(|name| (alike(name), *name)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, name)) if likeness >= ALIKE => format!("unknown {what} {given:?}; did you mean {name:?}?"),
        _ => format!("unknown {what} {given:?}; known are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests;
