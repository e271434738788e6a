//! Words from elsewhere, fit for a terminal and a line of the log.

/// The whole text; what could move a cursor, turn the direction of reading or end a line is escaped.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(escaped).collect()
}

/// Enough of the text to recognise it: at most `most` characters, printable, with `…` where it was cut.
pub fn shown(text: &str, most: usize) -> String {
    let mut out: String = text.chars().take(most).flat_map(escaped).take(most).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    // Direction marks are not control characters, and as misleading: only what `escape_debug` leaves alone stays. Quotes stay too,
    // since Envoy's words are full of them, and backslashes, so that what is printable already stays as it is.
    let plain = matches!(c, '"' | '\'' | '\\');
    plain.then_some(c).into_iter().chain((!plain).then(|| c.escape_debug()).into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misleads_is_escaped_and_the_rest_is_not() {
        assert_eq!(printable("a\x1b[2J\u{202e}b\n\"é\""), "a\\u{1b}[2J\\u{202e}b\\n\"é\"");
        assert_eq!(printable(&printable("a\nb")), printable("a\nb"));
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(shown("four", 4), "four");
        assert_eq!(shown("fives", 4), "five…");
        assert_eq!(shown("\n\n\n\n", 4), "\\n\\n");
    }
}
