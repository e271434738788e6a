//! The table of levels.

/// From the ground up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Plain values, and the store's trait.
    Ground,
    /// Functions of values: no task, no clock, no network.
    Pure,
    /// Tasks and the handles of tasks.
    Task,
    /// What others call.
    Edge,
    /// What sees everyone.
    Top,
}

/// Modules that are not at the level of their domain.
const PARTS: [(&str, Level); 30] = [
    ("store::redb", Level::Task),
    ("identity::schedule", Level::Pure),
    ("identity::authority::slots", Level::Pure),
    ("identity::profile", Level::Pure),
    ("rollout::plan", Level::Pure),
    ("rollout::arms", Level::Pure),
    ("rollout::judge", Level::Pure),
    ("rollout::decide", Level::Pure),
    ("rollout::status", Level::Pure),
    ("federation::resource", Level::Pure),
    ("federation::range", Level::Pure),
    ("federation::policy", Level::Pure),
    ("federation::log", Level::Pure),
    ("federation::offer", Level::Pure),
    ("federation::merge", Level::Pure),
    ("federation::guard", Level::Pure),
    ("federation::session", Level::Pure),
    ("federation::publication", Level::Pure),
    ("federation::staleness", Level::Pure),
    ("state::fold", Level::Pure),
    ("trust::relationship", Level::Pure),
    ("trust::machine", Level::Pure),
    ("trust::url", Level::Pure),
    ("snapshot", Level::Pure),
    ("model", Level::Ground),
    ("store", Level::Ground),
    ("app", Level::Top),
    ("main", Level::Top),
    ("lib", Level::Top),
    ("api", Level::Edge),
];

/// The level of a module, by the most specific row; `None` if nobody placed it.
pub(crate) fn level(module: &str) -> Option<Level> {
    let within = |row: &str| module == row || module.strip_prefix(row).is_some_and(|rest| rest.starts_with("::"));
    let placed = PARTS.iter().filter(|(row, _)| within(row)).max_by_key(|(row, _)| row.len()).map(|(_, level)| *level);
    placed.or_else(|| match domain(module) {
        "sources" | "state" | "xds" | "identity" | "federation" | "trust" | "rollout" => Some(Level::Task),
        "cli" => Some(Level::Edge),
        _ => None,
    })
}

/// The first segment of a module's path: its domain.
pub(crate) fn domain(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}
