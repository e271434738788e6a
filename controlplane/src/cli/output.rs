//! What commands print: a table for people, JSON or YAML for programs.

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use symbolon_kit::text::printable;

use super::failure::{FAILED, Failure};

/// Chooses the form of the output.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// The form of the output
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Yaml,
}

/// Rows under a header, each column as wide as its widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { rows: vec![header.map(str::to_owned).to_vec()] }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}   "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Prints `value` in the chosen form; `table` makes the one for people.
///
/// # Errors
/// If standard output fails, but not if its reader has had enough.
pub fn print<T: Serialize>(format: Format, value: &T, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(FAILED, format!("cannot print: {error}"));
    let text = match format {
        Format::Table => table(value),
        Format::Json => serde_json::to_string_pretty(value).map_err(|e| failed(&e))? + "\n",
        Format::Yaml => serde_saphyr::to_string(value).map_err(|e| failed(&e))?,
    };
    write(text.as_bytes())
}

/// Writes to standard output.
///
/// # Errors
/// If it fails, but not if its reader has had enough.
pub fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(FAILED, format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A list in one cell.
pub fn joined(items: &[String]) -> String {
    if items.is_empty() { "-".to_owned() } else { items.join(",") }
}

/// A text in one cell.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// A span of time, to two units.
pub fn span(duration: Duration) -> String {
    let whole = if duration >= Duration::from_secs(10) { Duration::from_secs(duration.as_secs()) } else { duration };
    symbolon_kit::config::duration::display(whole)
}

/// A moment, in UTC.
pub fn moment(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds).map_or_else(|_| "-".to_owned(), |at| at.to_string())
}

/// A moment of Unix milliseconds, in UTC.
pub fn moment_ms(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms).map_or_else(|_| "-".to_owned(), |at| at.to_string())
}
