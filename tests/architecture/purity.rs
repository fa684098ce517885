//! Keeps `gantry-proto` pure: no I/O, no clock, no threads, no randomness, no runtime.
//!
//! The compiler enforces the dependencies in the manifests, but not what a crate takes from `std` or from an allowed
//! dependency. So this test reads the sources of the protocol crate.

use std::collections::BTreeSet;

use super::paths::paths;
use super::{Source, root, sources};

/// The crates that the protocol may use. Each must be in use.
const PURE_CRATES: &[&str] = &["backon", "bytes", "crc_fast", "serde", "serde_json", "thiserror", "uuid"];

/// Paths that the protocol crate must not contain, as consecutive segments.
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
    let mut violations = Vec::new();
    for source in protocol() {
        violations.extend(impure(&source.text).into_iter().map(|path| format!("{}: {path}", source.path.display())));
    }

    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn the_protocol_depends_on_pure_crates_only_and_uses_each() {
    let manifest = std::fs::read_to_string(root().join("crates/gantry-proto/Cargo.toml")).unwrap();
    let declared = declared(&manifest);
    let named: BTreeSet<_> =
        protocol().iter().flat_map(|source| paths(&source.text)).filter_map(|path| path.into_iter().next()).collect();

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

fn protocol() -> Vec<Source> {
    sources(&root().join("crates/gantry-proto"))
}
