//! What each implementation said, as the table of `docs/interop.md`.

use std::fmt::Write as _;

use super::cases::Case;
use super::judges::Verdicts;

/// Between these two lines of the page stands what is generated.
const BEGIN: &str = "<!-- begin: written by `make interop` -->";
const END: &str = "<!-- end -->";

/// A row per case, a column per implementation: `accepts`, `refuses`, or `–` if it has no notion of the case.
pub fn table(cases: &[Case], judges: &[(&str, &Verdicts)]) -> String {
    let mut text = String::from("| Case | must be |");
    let write = |text: &mut String, cell: &str| {
        let _ = write!(text, " {cell} |"); // writing to a String cannot fail
    };
    for (name, _) in judges {
        write(&mut text, name);
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(judges.len()));
    for case in cases {
        text.push_str("\n|");
        write(&mut text, &format!("`{}`", case.name));
        write(&mut text, &format!("{}ed", case.expect.word().trim_end_matches('e')));
        for (_, verdicts) in judges {
            let accepted = verdicts.get(&case.name).map(Result::is_ok);
            let word = match accepted {
                None => "–".to_owned(),
                Some(accepted) => {
                    let word = if accepted { "accepts" } else { "refuses" };
                    let as_wanted = accepted == (case.expect.word() == "accept");
                    if as_wanted { word.to_owned() } else { format!("**{word}**") }
                }
            };
            write(&mut text, &word);
        }
    }
    text.push('\n');
    text
}

/// The page with `table` in its place.
///
/// # Errors
/// If the page lacks the two lines.
pub fn in_page(page: &str, table: &str) -> anyhow::Result<String> {
    let missing = || anyhow::anyhow!("docs/interop.md must have the lines {BEGIN:?} and {END:?}");
    let (before, rest) = page.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}
