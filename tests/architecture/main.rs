//! Keeps `gantry-proto` pure: no I/O, no clock, no threads, no chance, no runtime.
//!
//! Which crate may depend on which is in the manifests, so the compiler enforces it. What a crate takes from `std` or
//! from an allowed dependency is not, so this test reads the sources of the protocol crate.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// The crates that the protocol may use. Each must be in use.
const PURE_CRATES: &[&str] =
    &["backon", "bytes", "crc_fast", "serde", "serde_json", "serde_path_to_error", "thiserror", "uuid"];

/// What the protocol must not name, anywhere in a path.
const IMPURE: &[&[&str]] = &[
    &["std", "env"],
    &["std", "fs"],
    &["std", "io"],
    &["std", "net"],
    &["std", "os"],
    &["std", "process"],
    &["std", "sync", "mpsc"],
    &["std", "thread"],
    &["Instant"],
    &["SystemTime"],
    &["Uuid", "new_v4"],
    &["Uuid", "now_v7"],
];

#[test]
fn the_protocol_names_nothing_impure() {
    let sources = sources();
    assert!(sources.len() > 8, "only {} files found: is this the right folder?", sources.len());

    let broken: Vec<_> = sources
        .iter()
        .flat_map(|(file, source)| impure(source).into_iter().map(move |path| format!("{}: {path}", file.display())))
        .collect();

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_protocol_depends_on_pure_crates_only_and_uses_each() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let declared = declared(&manifest);
    let named: BTreeSet<_> =
        sources().iter().flat_map(|(_, source)| paths(source)).filter_map(|path| path.into_iter().next()).collect();

    let allowed: BTreeSet<_> = PURE_CRATES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(declared, allowed, "the dependencies of gantry-proto");

    let unused: Vec<_> = allowed.difference(&named).collect();
    assert!(unused.is_empty(), "allowed, but not in use: {unused:?}");
}

#[test]
fn impure_names_are_found() {
    for source in [
        "use std::{fmt, fs};",
        "use std::time::{Duration, Instant};",
        "fn f() { std::time::SystemTime::now(); }",
        "fn f() { uuid::Uuid::new_v4(); }",
        "fn f() { std::thread::sleep(d) }",
        "fn f(now: std::time::Instant) {}",
        "fn f() { debug_assert!(Instant::now() > at); }",
        "mod inner { use std::net::TcpStream; }",
    ] {
        assert_eq!(impure(source).len(), 1, "{source}");
    }
}

#[test]
fn pure_names_and_tests_pass() {
    for source in [
        "use std::time::Duration; use bytes::Bytes; /* use std::fs */ // Instant::now()",
        r#"const A: &str = "std::fs::read Instant";"#,
        "#[cfg(test)]\nmod tests { fn f() { std::fs::read(path); } }",
    ] {
        assert_eq!(impure(source), Vec::<String>::new(), "{source}");
    }
}

/// Returns the impure paths of a source file.
fn impure(source: &str) -> Vec<String> {
    let is_impure =
        |path: &Vec<String>| IMPURE.iter().any(|banned| path.windows(banned.len()).any(|part| part == *banned));
    paths(source).into_iter().filter(is_impure).map(|path| path.join("::")).collect()
}

/// Returns every path that a source file names outside of its tests, imports included.
fn paths(source: &str) -> Vec<Vec<String>> {
    let file = syn::parse_file(source).unwrap();
    let mut found = Paths::default();
    found.visit_file(&file);
    found.0
}

#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        collect_use(&item.tree, &mut Vec::new(), &mut self.0);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.collect_tokens(&item.tokens.to_string());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.collect_tokens(&list.tokens.to_string());
        }
        visit::visit_attribute(self, attribute);
    }
}

impl Paths {
    /// Takes what is not parsed, in a macro or an attribute: each name counts as a path of its own.
    fn collect_tokens(&mut self, tokens: &str) {
        let names = tokens.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !name.is_empty());
        self.0.extend(names.map(|name| vec![name.to_owned()]));
    }
}

fn collect_use(tree: &syn::UseTree, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            collect_use(&path.tree, prefix, found);
            prefix.pop();
        }
        syn::UseTree::Name(name) => found.push([prefix.as_slice(), &[name.ident.to_string()]].concat()),
        syn::UseTree::Rename(rename) => found.push([prefix.as_slice(), &[rename.ident.to_string()]].concat()),
        syn::UseTree::Glob(_) => found.push(prefix.clone()),
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| collect_use(tree, prefix, found)),
    }
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

/// Returns the names in a manifest's `[dependencies]`, as code spells them.
fn declared(manifest: &str) -> BTreeSet<String> {
    let (_, rest) = manifest.split_once("[dependencies]").unwrap();
    let table = rest.split("\n[").next().unwrap();
    table
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/gantry-proto")
}

/// Returns the sources of the protocol crate, without the files that hold only tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            if name == "tests" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                found.push((path, source));
            }
        }
    }
    found
}
