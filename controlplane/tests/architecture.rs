//! The architecture as a test: no module imports one above it or a sibling domain, no imports go round in a circle, no file grows
//! beyond 600 lines of code. The table is that of `ARCHITECTURE.md`; the rules can fail, as the last tests here show.

#![expect(clippy::unwrap_used, reason = "a test: what cannot be read fails it")]

#[path = "architecture/levels.rs"]
mod levels;
#[path = "architecture/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use levels::{Level, domain, level};
use source::{code_lines, imports};

/// The longest file, in lines that are neither tests nor in a test file.
const MAX_LINES: usize = 600;

/// One import, from module to module, as paths without `crate::`.
type Edge = (String, String);

fn controlplane() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every module of the crate in `src`, with its text.
fn modules(src: &Path) -> BTreeMap<String, String> {
    source::files(src)
        .into_iter()
        .filter(|path| !source::is_test_file(path))
        .map(|path| {
            let relative = path.strip_prefix(src).unwrap().with_extension("");
            let name = relative.components().map(|part| part.as_os_str().to_str().unwrap()).collect::<Vec<_>>();
            (name.join("::"), std::fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn edges(modules: &BTreeMap<String, String>) -> BTreeSet<Edge> {
    let mut edges = BTreeSet::new();
    for (module, text) in modules {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{module}: {error}"));
        for path in imports(module, &file) {
            // The longest prefix that is a module: the rest names an item of it.
            let prefixes = (1..=path.len()).rev().map(|length| path[..length].join("::"));
            if let Some(target) = prefixes.into_iter().find(|name| modules.contains_key(name)) {
                edges.insert((module.clone(), target));
            }
        }
    }
    edges
}

/// What the table forbids, each in words.
fn forbidden(edges: &BTreeSet<Edge>) -> Vec<String> {
    let mut found = Vec::new();
    for (from, to) in edges {
        let (Some(above), Some(below)) = (level(from), level(to)) else {
            found.push(format!("{from} → {to}: not in the table of levels"));
            continue;
        };
        let (own, other) = (domain(from), domain(to));
        if own == other {
            // Within a domain only the pure parts are bound: they may not lean on its tasks. Its root holds names for both.
            if above == Level::Pure && below == Level::Task && to != own {
                found.push(format!("{from} is pure and imports the task {to}"));
            }
        } else if below > above {
            found.push(format!("{from} ({above:?}) imports {to} ({below:?}), which lies above it"));
        } else if above == below && above == Level::Task {
            found.push(format!("{from} imports its sibling {to}: pass a model type, or own a trait that app adapts"));
        } else if above == below && above == Level::Pure {
            found.push(format!("{from} imports the pure part {to} of another domain"));
        }
    }
    found
}

/// A circle among domains, if there is one.
fn circle(edges: &BTreeSet<Edge>) -> Option<Vec<String>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in edges {
        if domain(from) != domain(to) {
            next.entry(domain(from)).or_default().insert(domain(to));
        }
    }
    fn walk<'a>(
        at: &'a str,
        next: &BTreeMap<&'a str, BTreeSet<&'a str>>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> bool {
        if let Some(start) = path.iter().position(|on| *on == at) {
            path.drain(..start);
            return true;
        }
        if !done.insert(at) {
            return false;
        }
        path.push(at);
        let found = next.get(at).into_iter().flatten().any(|to| walk(to, next, path, done));
        if !found {
            path.pop();
        }
        found
    }
    let mut done = BTreeSet::new();
    next.keys().find_map(|start| {
        let mut path = Vec::new();
        walk(start, &next, &mut path, &mut done).then(|| path.iter().map(|name| (*name).to_owned()).collect())
    })
}

/// What a pure module may not hold: anything that waits.
fn impurities(modules: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (module, text) in modules.iter().filter(|(module, _)| level(module) == Some(Level::Pure)) {
        let file = syn::parse_file(text).unwrap();
        for what in source::impure(&file) {
            found.push(format!("{module} is pure and uses {what}"));
        }
    }
    found
}

fn too_long(roots: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    for path in roots.iter().flat_map(|root| source::files(root)).filter(|path| !source::is_test_file(path)) {
        let lines = code_lines(&std::fs::read_to_string(&path).unwrap());
        if lines > MAX_LINES {
            found.push(format!("{}: {lines} lines; at most {MAX_LINES}", path.display()));
        }
    }
    found
}

#[test]
fn imports_follow_the_levels() {
    let edges = edges(&modules(&controlplane()));
    assert!(edges.len() > 100, "only {} imports were seen: does the parser still work?", edges.len());
    let found = forbidden(&edges);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn no_imports_go_round_in_a_circle() {
    let found = circle(&edges(&modules(&controlplane())));
    assert!(found.is_none(), "{found:?}");
}

#[test]
fn pure_modules_wait_for_nothing() {
    let found = impurities(&modules(&controlplane()));
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let crates =
        ["controlplane/src", "controlplane/kit/src", "sidecar-ext/src", "proto/src", "examples/src", "tests/src"];
    let found = too_long(&crates.map(|path| root.join(path)));
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

// === the rules can fail ===

fn sources(sources: &[(&str, &str)]) -> BTreeMap<String, String> {
    let known =
        ["model", "store", "app", "xds", "state", "api", "rollout::plan", "rollout::engine", "snapshot", "identity"];
    let mut all: BTreeMap<_, _> = known.iter().map(|name| ((*name).to_owned(), String::new())).collect();
    all.extend(sources.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
    all
}

#[test]
fn an_import_from_above_is_found_in_each_spelling() {
    for text in [
        "use crate::app::Config;",
        "use crate::{model::Change, app};",
        "pub(crate) use crate::app as other;",
        "fn f() { crate::app::build(); }",
        "fn f(x: crate::app::Config) {}",
        "use super::app::Config;",
        "mod inner { use crate::app; }",
        "fn f() { println!(\"{}\", crate::app::NAME); }",
    ] {
        let found = forbidden(&edges(&sources(&[("state", text)])));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
}

#[test]
fn an_import_of_a_sibling_is_found_and_one_from_below_is_not() {
    let found = forbidden(&edges(&sources(&[("xds", "use crate::state::Handle;")])));
    assert!(found[0].contains("sibling"), "{found:?}");
    let fine =
        [("xds", "use crate::model::Change; use crate::store; use crate::snapshot::Set;"), ("api", "use crate::xds;")];
    assert_eq!(forbidden(&edges(&sources(&fine))), Vec::<String>::new());
}

#[test]
fn a_pure_part_that_leans_on_its_task_is_found() {
    let found = forbidden(&edges(&sources(&[("rollout::plan", "use super::engine::Engine;")])));
    assert_eq!(found, ["rollout::plan is pure and imports the task rollout::engine"]);
}

#[test]
fn a_pure_part_that_waits_is_found() {
    for text in
        ["async fn f() {}", "use tokio::sync::mpsc;", "fn f() { g().await }", "type C = tonic::transport::Channel;"]
    {
        let found = impurities(&sources(&[("snapshot", text)]));
        assert!(!found.is_empty(), "{text}");
    }
}

#[test]
fn tests_may_import_what_they_like() {
    let text = "#[cfg(test)] mod tests { use crate::app; } #[cfg(test)] use crate::app::Config;";
    assert_eq!(forbidden(&edges(&sources(&[("state", text)]))), Vec::<String>::new());
}

#[test]
fn a_circle_is_found() {
    let text = [("xds", "use crate::state;"), ("state", "use crate::identity;"), ("identity", "use crate::xds;")];
    assert_eq!(circle(&edges(&sources(&text))).map(|path| path.len()), Some(3));
    let line = [("xds", "use crate::state;"), ("state", "use crate::identity;")];
    assert_eq!(circle(&edges(&sources(&line))), None);
}

#[test]
fn a_module_that_nobody_placed_is_found() {
    let found = forbidden(&edges(&sources(&[("novelty", "use crate::model;")])));
    assert!(found[0].contains("not in the table"), "{found:?}");
}

#[test]
fn lines_are_counted_without_tests() {
    let text = format!("{}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(10), "\n".repeat(700));
    assert!((10..13).contains(&code_lines(&text)), "{}", code_lines(&text));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("long.rs"), "fn f() {}\n".repeat(601)).unwrap();
    assert_eq!(too_long(&[folder.path().to_owned()]).len(), 1);
}
