//! Reading sources: which modules a file imports, what in it waits, how long it is.

use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, UseTree};

/// Every `.rs` file below `root`.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // What the build generates is nobody's to shorten.
                if path.file_name().is_none_or(|name| name != "gen") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// `tests.rs`, `testing.rs`, `simulation.rs`, and what lies in a folder of these names.
pub(crate) fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| {
        let name = part.as_os_str().to_str().unwrap_or_default();
        matches!(name.trim_end_matches(".rs"), "tests" | "testing" | "simulation")
            // The crate called `tests` is one of its own.
            && !path.ends_with("tests/src")
    }) && !path.to_string_lossy().contains("/tests/src/")
}

/// The paths within this crate that `file`, which is module `module`, names outside its tests.
pub(crate) fn imports(module: &str, file: &File) -> Vec<Vec<String>> {
    let mut visitor = Imports { at: module.split("::").map(str::to_owned).collect(), found: Vec::new() };
    visitor.visit_file(file);
    visitor.found
}

struct Imports {
    /// The module that is being read.
    at: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Imports {
    /// Resolves a path's head; `None` if it leads out of the crate.
    fn add(&mut self, segments: &[String]) {
        let mut base = match segments.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self") => self.at.clone(),
            Some("super") => self.at[..self.at.len().saturating_sub(1)].to_vec(),
            _ => return,
        };
        let mut rest = &segments[1..];
        while rest.first().is_some_and(|segment| segment == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend(rest.iter().cloned());
        if !base.is_empty() {
            self.found.push(base);
        }
    }

    fn tree(&mut self, tree: &UseTree, mut path: Vec<String>) {
        match tree {
            UseTree::Path(one) => {
                path.push(one.ident.to_string());
                self.tree(&one.tree, path);
            }
            UseTree::Name(one) => {
                if one.ident != "self" {
                    path.push(one.ident.to_string());
                }
                self.add(&path);
            }
            UseTree::Rename(one) => {
                path.push(one.ident.to_string());
                self.add(&path);
            }
            UseTree::Glob(_) => self.add(&path),
            UseTree::Group(group) => group.items.iter().for_each(|one| self.tree(one, path.clone())),
        }
    }

    /// Paths within a macro's arguments, where there is no syntax tree: `crate :: a :: b`.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() && colons < 2 => colons += 1,
                other => {
                    self.add(&std::mem::take(&mut path));
                    colons = 0;
                    match other {
                        TokenTree::Ident(ident) if ident == "crate" => path.push("crate".to_owned()),
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        _ => {}
                    }
                }
            }
        }
        self.add(&path);
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        match item {
            Item::Use(one) => self.tree(&one.tree, Vec::new()),
            Item::Mod(one) if one.content.is_some() => {
                self.at.push(one.ident.to_string());
                visit::visit_item_mod(self, one);
                self.at.pop();
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, one: &'ast syn::Macro) {
        self.tokens(one.tokens.clone());
        visit::visit_macro(self, one);
    }
}

/// What in `file` waits or does IO: `async`, `.await`, tokio, tonic's channel and server.
pub(crate) fn impure(file: &File) -> Vec<String> {
    let mut visitor = Impure(Vec::new());
    visitor.visit_file(file);
    visitor.0
}

struct Impure(Vec<String>);

impl<'ast> Visit<'ast> for Impure {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if signature.asyncness.is_some() {
            self.0.push(format!("async fn {}", signature.ident));
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_await(&mut self, one: &'ast syn::ExprAwait) {
        self.0.push(".await".to_owned());
        visit::visit_expr_await(self, one);
    }

    fn visit_use_tree(&mut self, tree: &'ast UseTree) {
        if let UseTree::Path(path) = tree {
            self.name(&path.ident.to_string());
        }
        // Only the head of a path names a crate.
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let Some(head) = path.segments.first().filter(|_| path.segments.len() > 1) {
            self.name(&head.ident.to_string());
        }
        visit::visit_path(self, path);
    }
}

impl Impure {
    fn name(&mut self, head: &str) {
        if matches!(head, "tokio" | "tokio_stream" | "tokio_util" | "tonic" | "hyper" | "hyper_util") {
            self.0.push(head.to_owned());
        }
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(one) => &one.attrs,
        Item::Enum(one) => &one.attrs,
        Item::Fn(one) => &one.attrs,
        Item::Impl(one) => &one.attrs,
        Item::Mod(one) => &one.attrs,
        Item::Static(one) => &one.attrs,
        Item::Struct(one) => &one.attrs,
        Item::Trait(one) => &one.attrs,
        Item::Type(one) => &one.attrs,
        Item::Use(one) => &one.attrs,
        _ => &[],
    }
}

/// Lines outside `#[cfg(test)]` items.
pub(crate) fn code_lines(text: &str) -> usize {
    let Ok(file) = syn::parse_file(text) else { return text.lines().count() };
    let tests: usize = file
        .items
        .iter()
        .filter(|item| is_for_tests(attributes(item)))
        .map(|item| {
            let span = syn::spanned::Spanned::span(item);
            span.end().line + 1 - span.start().line
        })
        .sum();
    text.lines().count().saturating_sub(tests)
}
