//! docs/configuration.md names every field of both configuration files, where it belongs: derived from the sources, so that a new
//! field without a line there fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::{Fields, Item, Meta};

/// A file, and for each of its structs the heading under which its fields stand, with the text that may follow it.
const FILES: [(&str, &str, &[(&str, &str)]); 2] = [
    (
        "controlplane/src/app/config/file.rs",
        "The control plane's file",
        &[
            ("File", "## The control plane's file"),
            ("Listen", "### `listen`"),
            ("IdentityFile", "### `identity`"),
            ("ServiceFile", "### `services[]`"),
            ("FederatedFile", "### `federatedServices[]`"),
            ("PolicyFile", "### `rolloutPolicy`"),
            ("StepFile", "`rolloutPolicy.steps[]`"),
            ("PeerFile", "### `peers[]`"),
            ("GrantsFile", "`peers[].grants`"),
            ("FederationFile", "### `federation`"),
        ],
    ),
    (
        "sidecar-ext/src/config.rs",
        "The sidecar's file",
        &[
            ("File", "## The sidecar's file"),
            ("Sockets", "### `sockets`"),
            ("WorkloadFile", "### `workloads[]`"),
            ("HealthFile", "### `workloads[].health`"),
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the repository").to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fields, as an operator writes them, of each struct that serde reads.
fn fields(source: &str) -> BTreeMap<String, Vec<String>> {
    let file = syn::parse_file(source).unwrap();
    let structs = file.items.into_iter().filter_map(|item| match item {
        Item::Struct(item) => Some(item),
        _ => None,
    });
    let derives = |attribute: &syn::Attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("derive") && list.tokens.to_string().contains("Deserialize"),
        _ => false,
    };
    let read = structs.filter(|item| item.attrs.iter().any(derives));
    read.filter_map(|item| match item.fields {
        Fields::Named(named) => {
            let names = named.named.into_iter().filter_map(|field| field.ident);
            Some((item.ident.to_string(), names.map(|name| camel_case(&name.to_string())).collect()))
        }
        _ => None,
    })
    .collect()
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| text + &word[..1].to_uppercase() + &word[1..])
}

/// The first column of the table that follows `heading`.
fn documented(text: &str, heading: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| !line.starts_with(heading)).skip(1);
    let rows = lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let first = rows.filter_map(|row| row.split('|').nth(1)).map(str::trim);
    first.filter_map(|cell| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned())).collect()
}

#[test]
fn every_field_of_both_files_is_documented() {
    let text = read("docs/configuration.md");
    for (path, part, headings) in FILES {
        let part = text.find(&format!("\n## {part}\n")).map(|at| &text[at..]);
        let part = part.unwrap_or_else(|| panic!("docs/configuration.md has no part about {path}"));
        let mut structs = fields(&read(path));
        for (name, heading) in headings {
            let mut has = structs.remove(*name).unwrap_or_else(|| panic!("{path} has no struct {name} any more"));
            let mut said = documented(part, heading);
            has.sort();
            said.sort();
            assert_eq!(said, has, "docs/configuration.md, {heading}: its table, and the fields of {name} in {path}");
        }
        assert!(structs.is_empty(), "{path}: structs without a heading in this test: {:?}", structs.keys());
    }
}

#[test]
fn every_lint_code_is_documented() {
    let text = read("docs/configuration.md");
    let file = syn::parse_file(&read("controlplane/src/app/config.rs")).unwrap();
    let code = file.items.into_iter().find_map(|item| match item {
        Item::Enum(item) if item.ident == "Code" => Some(item),
        _ => None,
    });
    let count = code.expect("config.rs has the codes").variants.len();
    for number in 1..=count {
        let code = format!("| SYM{number:04} |");
        assert!(text.contains(&code), "docs/configuration.md does not explain {code}");
    }
    assert!(!text.contains(&format!("SYM{:04}", count + 1)), "docs/configuration.md knows a code that is not there");
}
