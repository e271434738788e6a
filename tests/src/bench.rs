//! `make bench`: what it measures, one table, and `target/bench/summary.json`. The server under measurement runs in a process of its
//! own, alone on one core; whoever asks it runs on the others.

pub mod issuance;
pub mod propagation;
pub mod tokens;

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

/// One figure.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// What it is compared with, in its own unit: a limit of the machine, measured in the same run, or what others reach.
    pub baseline: Option<f64>,
    pub target: Target,
}

/// When a figure is good enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// This share of the baseline, or more.
    Share(f64),
    /// Less than this.
    Below(f64),
    /// It is shown, not judged.
    None,
}

impl Row {
    /// The value as a share of the baseline.
    pub fn ratio(&self) -> Option<f64> {
        self.baseline.filter(|baseline| *baseline > 0.0).map(|baseline| self.value / baseline)
    }

    pub fn passes(&self) -> bool {
        match self.target {
            Target::Share(share) => self.ratio().is_some_and(|ratio| ratio >= share),
            Target::Below(most) => self.value < most,
            Target::None => true,
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "value": self.value, "unit": self.unit, "baseline": self.baseline, "ratio": self.ratio(),
            "target": self.target.to_string(), "pass": self.passes(),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Share(share) => write!(f, ">= {:.0} % of the baseline", share * 100.0),
            Self::Below(most) => write!(f, "< {most}"),
            Self::None => Ok(()),
        }
    }
}

/// The rows, for people.
pub fn table(rows: &[Row]) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    let mut text = format!(
        "{:<44} {:>12} {:<6} {:>12} {:>7}   {:<24} {}\n",
        "NAME", "VALUE", "UNIT", "BASELINE", "RATIO", "TARGET", "PASS"
    );
    for row in rows {
        let ratio = row.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let passes = if row.target == Target::None {
            "-"
        } else if row.passes() {
            "yes"
        } else {
            "NO"
        };
        let _ = writeln!(
            text, // a String takes it
            "{:<44} {:>12.1} {:<6} {:>12} {:>7}   {:<24} {passes}",
            row.name,
            row.value,
            row.unit,
            number(row.baseline),
            ratio,
            row.target.to_string()
        );
    }
    text
}

/// Writes `summary.json` into `folder`.
///
/// # Errors
/// If it cannot.
pub fn write(folder: &Path, rows: &[Row]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let summary: Vec<_> = rows.iter().map(Row::json).collect();
    Ok(std::fs::write(folder.join("summary.json"), serde_json::to_vec_pretty(&summary)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_judged_by_their_targets() {
        let row = |value, baseline, target| Row { name: "x", value, unit: "/s", baseline, target };
        for (row, passes) in [
            (row(60.0, Some(100.0), Target::Share(0.6)), true),
            (row(59.0, Some(100.0), Target::Share(0.6)), false),
            (row(59.0, None, Target::Share(0.6)), false),
            (row(99.0, None, Target::Below(100.0)), true),
            (row(100.0, None, Target::Below(100.0)), false),
            (row(1.0, None, Target::None), true),
        ] {
            assert_eq!(row.passes(), passes, "{row:?}");
        }
    }
}
