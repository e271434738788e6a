//! What operators read keeps up with the sources: every field of both configuration files stands in docs/configuration.md where it
//! belongs, every metric and every label of a refusal in docs/troubleshooting.md or one of the pages beside it.

#![expect(clippy::unwrap_used, reason = "a test: what cannot be read fails it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Fields, Item, Meta};

/// A struct, and the heading under which its fields stand.
type Heading = (&'static str, &'static str);

/// A file, the title of its part of the page, and its structs.
const FILES: [(&str, &str, &[Heading]); 2] = [
    (
        "controlplane/src/app/config/file.rs",
        "The control plane's file",
        &[
            ("File", "## The control plane's file"),
            ("Listen", "### `listen`"),
            ("IdentityFile", "### `identity`"),
            ("X509PopFile", "`identity.x509pop`"),
            ("AuthorityFile", "`identity.authority`"),
            ("KeyManagerFile", "`identity.keyManager`"),
            ("UpstreamFile", "`identity.upstream`"),
            ("IncubatingFile", "`identity.incubating`"),
            ("ServiceFile", "### `services[]`"),
            ("FederatedFile", "### `federatedServices[]`"),
            ("PolicyFile", "### `rolloutPolicy`"),
            ("StepFile", "`rolloutPolicy.steps[]`"),
            ("PeerFile", "### `peers[]`"),
            ("GrantsFile", "`peers[].grants`"),
            ("FederationFile", "### `federation`"),
            ("EndpointFile", "### `bundleEndpoint`"),
            ("RelationshipFile", "### `relationships[]`"),
        ],
    ),
    (
        "sidecar-ext/src/config.rs",
        "The sidecar's file",
        &[
            ("File", "## The sidecar's file"),
            ("AttestFile", "`attest`"),
            ("X509PopFile", "`attest.x509pop`"),
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

/// String literals of functions called `label` that are words for metrics: lower case, no blanks.
#[derive(Default)]
struct Labels(BTreeSet<String>);

impl<'ast> Visit<'ast> for Labels {
    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if function.sig.ident == "label" {
            self.words(&function.block);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if function.sig.ident == "label" {
            self.words(&function.block);
        }
    }
}

impl Labels {
    fn words(&mut self, block: &syn::Block) {
        struct Words<'a>(&'a mut BTreeSet<String>);
        impl<'ast> Visit<'ast> for Words<'_> {
            fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
                let word = literal.value();
                if !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                    self.0.insert(word);
                }
            }
        }
        Words(&mut self.0).visit_block(block);
    }
}

/// All sources of both programs but their tests.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<_> =
        ["controlplane/src", "controlplane/kit/src", "sidecar-ext/src"].iter().map(|path| root().join(path)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if matches!(stem, "tests" | "testing") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Labels that no operator sees: they stand in no metric, and the words of the error say it all.
const UNSEEN: [&str; 2] = ["controlplane/src/snapshot/consistency.rs", "controlplane/src/rollout/engine.rs"];

#[test]
fn every_label_of_a_refusal_is_documented() {
    let text = ["troubleshooting", "federation", "rollouts", "identity", "audit"]
        .map(|name| read(&format!("docs/{name}.md")))
        .concat();
    let mut missing = BTreeSet::new();
    for path in sources().into_iter().filter(|path| UNSEEN.iter().all(|unseen| !path.ends_with(unseen))) {
        let mut labels = Labels::default();
        labels.visit_file(&syn::parse_file(&std::fs::read_to_string(&path).unwrap()).unwrap());
        let unsaid = labels.0.into_iter().filter(|label| !text.contains(&format!("`{label}`")));
        missing.extend(unsaid.map(|label| format!("{}: {label}", path.display())));
    }
    assert!(missing.is_empty(), "docs/troubleshooting.md does not explain {missing:#?}");
}

#[test]
fn every_metric_is_documented() {
    let text = read("docs/troubleshooting.md");
    let mut known = BTreeSet::new();
    for path in sources() {
        let source = std::fs::read_to_string(&path).unwrap();
        let source = source.split("mod tests {").next().unwrap_or_default();
        for made in [".counter(", ".gauge("] {
            let names =
                source.split(made).skip(1).filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next());
            known.extend(names.filter(|name| name.starts_with("symbolon_")).map(str::to_owned));
        }
    }
    assert!(known.len() > 20, "the sources were not understood: {known:?}");
    let missing: Vec<_> = known.iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md does not explain {missing:#?}");
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let gone: Vec<_> = words.filter(|word| word.starts_with("symbolon_") && !known.contains(*word)).collect();
    assert!(gone.is_empty(), "docs/troubleshooting.md knows metrics that are not there: {gone:?}");
}
