//! Durations as operators write them: `250ms`, `12s`, `1m30s`, `24h`. For `#[serde(with = "duration")]`.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserializer, Serializer};

/// Ten years: more is a slip of the finger.
const LONGEST: Duration = Duration::from_hours(24 * 3653);
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// # Errors
/// If the text is not a duration, or is longer than ten years.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration with its unit, e.g. 250ms, 12s, 1m30s, 24h")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).map_err(E::custom)
        }
    }

    from.deserialize_any(Text) // and not `deserialize_str`, so that `12` is told what it lacks
}

/// For durations that may be left out: `#[serde(default, deserialize_with = "duration::optional")]`.
///
/// # Errors
/// As [`deserialize`].
pub fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    deserialize(from).map(Some)
}

/// # Errors
/// As the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&display(*duration))
}

/// Parses `12s`, `1m30s`; for command lines.
///
/// # Errors
/// Says what a duration looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refused = || {
        let shown: String = text.chars().take(40).collect();
        format!("{shown:?} is not a duration: write 250ms, 12s, 1m30s, 24h (at most ten years)")
    };
    let (mut rest, mut sum, mut units) = (text, 0u64, UNITS.as_slice());
    if rest.is_empty() {
        return Err(refused());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().map_err(|_| refused())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let at = units.iter().position(|(unit, _)| *unit == &rest[..letters]).ok_or_else(refused)?;
        sum = count.checked_mul(units[at].1).and_then(|ms| sum.checked_add(ms)).ok_or_else(refused)?;
        units = &units[at + 1..]; // each unit once, the larger first
        rest = &rest[letters..];
    }
    let duration = Duration::from_millis(sum);
    if duration > LONGEST { Err(refused()) } else { Ok(duration) }
}

/// As [`parse`] reads it, to the millisecond.
pub fn display(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, ms) in UNITS {
        let count = rest / ms;
        rest %= ms;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}
