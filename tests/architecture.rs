//! Holds the arrows that `ARCHITECTURE.md` draws: which module may name which.
//!
//! It reads the sources, without what is only built for tests, and looks at every path in them, in `use` statements
//! and elsewhere. A name that a macro puts together, or an alias of the crate itself, would escape it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Who may name whom. `main` is the binary's root; everything else is a module of the crate.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // The place where everything is put together: it may name all.
    (
        "cli",
        &["relay", "consumer", "config", "telemetry", "shutdown", "http", "bus", "store", "proto", "metrics", "rate"],
    ),
    ("relay", &["proto", "store", "bus", "metrics", "rate", "shutdown", "trace"]),
    ("consumer", &["proto", "bus", "metrics", "rate", "trace"]),
    // Tells the operator what the relay knows about itself.
    ("http", &["relay", "metrics"]),
    ("store", &["proto", "metrics", "trace"]),
    ("bus", &["proto"]),
    ("config", &["proto"]),
    ("telemetry", &["config", "proto"]),
    ("metrics", &["proto"]),
    ("trace", &["proto"]),
    ("shutdown", &[]),
    ("rate", &[]),
    ("proto", &[]),
];

/// What only one place may name: the beginning of a path's first name, the place, and why.
const HOMES: &[(&str, &str, &str)] = &[
    ("aws_", "store/s3", "only the S3 store knows the SDK"),
    ("async_nats", "bus/nats", "only the NATS bus knows the client"),
];

/// The crates that `proto` may name.
const PURE_CRATES: &[&str] =
    &["backon", "base64", "bytes", "crc_fast", "serde", "serde_json", "serde_path_to_error", "thiserror", "uuid"];

/// What `proto` may not name: I/O, clocks, threads, chance. A path that begins or ends so is one too many.
const IMPURE: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "io"],
    &["std", "net"],
    &["std", "env"],
    &["std", "thread"],
    &["std", "process"],
    &["Instant"],
    &["SystemTime"],
    &["Uuid", "new_v4"],
    &["rand"],
    &["fastrand"],
    &["getrandom"],
];

#[test]
fn the_sources_hold_the_arrows() {
    let sources = sources();
    assert!(sources.len() > 30, "only {} files found: is this the right folder?", sources.len());
    let dependencies = dependencies();
    assert!(dependencies.contains("async_nats"), "Cargo.toml was not understood");
    let broken: Vec<_> =
        sources.iter().flat_map(|(file, source)| violations(file, &code_of(source), &dependencies)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_module_has_its_arrows() {
    let known: BTreeSet<_> = ARROWS.iter().map(|(module, _)| (*module).to_owned()).collect();
    let found: BTreeSet<_> = sources().iter().map(|(file, _)| module_of(file)).filter(|name| name != "lib").collect();
    let unknown: Vec<_> = found.difference(&known).collect();
    assert!(unknown.is_empty(), "modules without arrows: {unknown:?}");
}

#[test]
fn the_checker_finds_what_is_forbidden() {
    for (file, source) in [
        ("relay/handlers.rs", "use crate::consumer::Client;"),
        ("consumer/client.rs", "fn f() { crate::relay::Relay::start(); }"),
        ("consumer/client.rs", "use crate::{bus::Bus, store::{Store as Shop}};"),
        ("consumer/part/path.rs", "use super::super::super::relay;"),
        ("proto/types.rs", "use super::super::bus;"),
        ("store/mod.rs", "use crate::bus;"),
        ("bus/mod.rs", "use crate::config::Config;"),
        ("main.rs", "fn main() { gantry_relay::relay::f(); }"),
        ("proto/mod.rs", "use crate::metrics;"),
        ("proto/mod.rs", "use tokio::sync::mpsc;"),
        ("proto/mod.rs", "use std::{fmt, fs};"),
        ("proto/mod.rs", "use std::time::{Duration, Instant};"),
        ("proto/mod.rs", "fn f() { std::time::SystemTime::now(); }"),
        ("proto/mod.rs", "fn f() { uuid::Uuid::new_v4(); }"),
        ("proto/mod.rs", "fn f() { ::rand::random() }"),
        ("store/file/mod.rs", "use aws_sdk_s3::Client;"),
        ("store/s3x.rs", "use aws_sdk_s3::Client;"),
        ("relay/mod.rs", "fn f(c: async_nats::Client) {}"),
        ("bus/memory.rs", "impl From<async_nats::Message> for X {}"),
        ("consumer/mod.rs", "fn f(h: tokio::runtime::Handle) { h.block_on(x) }"),
    ] {
        let found = violations(Path::new(file), &code_of(source), &dependencies());
        assert_eq!(found.len(), 1, "{file}: {source}: {found:?}");
    }
}

#[test]
fn the_checker_lets_pass_what_is_allowed() {
    for (file, source) in [
        ("relay/handlers.rs", "use crate::proto::{Body, Code}; use super::Shared; use crate::store::Store;"),
        ("consumer/part/path.rs", "use super::super::verify; use super::Error;"),
        ("store/s3/client.rs", "use aws_sdk_s3::Client;"),
        ("store/s3.rs", "use aws_sdk_s3::Client;"),
        ("bus/nats.rs", "use async_nats::Client;"),
        ("bus/nats/dial.rs", "use async_nats::Client;"),
        ("main.rs", "use gantry_relay::cli::Cli; fn main() { runtime.block_on(x) }"),
        ("proto/mod.rs", "use std::time::Duration; use bytes::Bytes; /* use tokio; /* nested */ */ // use rand::x"),
        ("proto/mod.rs", r##"const A: &str = "tokio::x \" crate::bus"; const B: &str = r#"std::fs"#;"##),
        ("proto/mod.rs", "fn f<'a>(c: char) -> &'a str { if c == '\"' || c == '\\'' { g() } }"),
        ("proto/mod.rs", "#[cfg(test)]\nmod tests { use tokio::time; fn f() { std::fs::read(); } }"),
    ] {
        let found = violations(Path::new(file), &code_of(source), &dependencies());
        assert!(found.is_empty(), "{file}: {source}: {found:?}");
    }
}

/// Says what in `code` breaks a rule, a line each.
fn violations(file: &Path, code: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    let module = module_of(file);
    let mut found = BTreeSet::new();
    for path in paths(code) {
        let shown = path.join("::");
        if let Some(other) = named_module(file, &path)
            && module != "lib"
            && other != module
            && !allowed(&module).contains(&other)
        {
            found.insert(format!("{}: {module} must not name {other} (`{shown}`)", file.display()));
        }
        let first = path.first().map_or("", String::as_str);
        for (name, home, why) in HOMES {
            if first.starts_with(name) && !is_within(file, home) {
                found.insert(format!("{}: `{shown}`: {why}", file.display()));
            }
        }
        let foreign = dependencies.contains(first) && !PURE_CRATES.contains(&first);
        if module == "proto" && (foreign || IMPURE.iter().any(|impure| is_or_holds(&path, impure))) {
            found.insert(format!("{}: proto must stay pure: `{shown}`", file.display()));
        }
        if path.last().is_some_and(|name| name == "block_on") && module != "main" {
            found.insert(format!("{}: `{shown}`: only main has a runtime to block on", file.display()));
        }
    }
    found.into_iter().collect()
}

fn allowed(module: &str) -> &'static [&'static str] {
    ARROWS.iter().find(|(name, _)| *name == module).map_or(&[], |(_, allowed)| allowed)
}

/// Returns the top module that a path names, from the crate's root or by climbing up to it.
fn named_module<'a>(file: &Path, path: &'a [String]) -> Option<&'a str> {
    let climbed = path.iter().take_while(|name| *name == "super").count();
    let name = match path.first()?.as_str() {
        "crate" | "gantry_relay" => path.get(1)?,
        "super" if climbed >= depth(file) => path.get(climbed)?,
        _ => return None,
    };
    ARROWS.iter().any(|(module, _)| module == name).then_some(name)
}

/// Returns whether the path begins with `names`, or `names` are one name or pair somewhere in it.
fn is_or_holds(path: &[String], names: &[&str]) -> bool {
    if names.first() == Some(&"std") {
        return path.len() >= names.len() && path.iter().zip(names).all(|(own, name)| own == name);
    }
    path.windows(names.len()).any(|window| window.iter().zip(names).all(|(own, name)| own == name))
}

fn is_within(file: &Path, home: &str) -> bool {
    file.starts_with(home) || file == Path::new(&format!("{home}.rs"))
}

/// Returns the top module that a file belongs to.
fn module_of(file: &Path) -> String {
    let first = file.components().next().expect("a file has a name");
    Path::new(&first).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns how many modules a file is below the crate's root.
fn depth(file: &Path) -> usize {
    let is_folder = file.file_stem().is_some_and(|stem| stem == "mod");
    file.components().count() - usize::from(is_folder)
}

/// Returns every path in the code as its names; those of a group once each.
fn paths(code: &str) -> Vec<Vec<String>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_name(&tokens[at]) {
            at = path(&tokens, at, &mut Vec::new(), &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path, or the tree of a `use`, from a name on; returns where it ends.
fn path(tokens: &[String], mut at: usize, names: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let before = names.len();
    while at < tokens.len() && is_name(&tokens[at]) {
        names.push(tokens[at].clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
        if tokens.get(at).is_some_and(|token| token == "{") {
            at = group(tokens, at + 1, names, found);
            names.truncate(before);
            return at;
        }
    }
    found.push(names.clone());
    names.truncate(before);
    let is_renamed = tokens.get(at).is_some_and(|token| token == "as");
    if is_renamed && tokens.get(at + 2).is_none_or(|token| token != "::") { at + 2 } else { at }
}

fn group(tokens: &[String], mut at: usize, names: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    while at < tokens.len() && tokens[at] != "}" {
        at = if is_name(&tokens[at]) { path(tokens, at, names, found) } else { at + 1 };
    }
    at + 1
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Cuts code without comments and strings into names, `::` and single characters.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = if is_name(rest) {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(rest[..len].to_owned());
        rest = rest[len..].trim_start();
    }
    tokens
}

/// Returns what is built into the crate: no comments, no contents of strings, no test modules.
fn code_of(source: &str) -> String {
    without_tests(&without_text(source))
}

/// Blanks comments, strings and characters.
fn without_text(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let len = text_len(rest);
        let after_name = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        // The `r` of a raw string begins a word; that of `for"` ends one.
        if len > 0 && !(first == 'r' && after_name) {
            code.push(' ');
            rest = &rest[len..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

/// Returns how long the comment, string or character at the beginning is; 0 for anything else.
fn text_len(rest: &str) -> usize {
    let until = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    let mut chars = rest.chars();
    match (chars.next(), chars.next()) {
        (Some('/'), Some('/')) => rest.find('\n').unwrap_or(rest.len()),
        (Some('/'), Some('*')) => block_comment_len(rest),
        (Some('"'), _) => quoted_len(rest),
        (Some('r'), Some('"' | '#')) => {
            let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
            if rest[1 + hashes..].starts_with('"') {
                until(&format!("\"{}", "#".repeat(hashes)), 2 + hashes)
            } else {
                0
            }
        }
        (Some('\''), Some('\\')) => until("'", 3),
        // A lifetime has no closing quote after its first character.
        (Some('\''), Some(c)) if rest[1 + c.len_utf8()..].starts_with('\'') => 2 + c.len_utf8(),
        _ => 0,
    }
}

fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted_len(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Cuts `#[cfg(test)] mod name { … }` out of code without text.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = match (item.find('{'), item.find(';')) {
            (Some(brace), semicolon) if semicolon.is_none_or(|semicolon| brace < semicolon) => {
                brace + braces_len(&item[brace..])
            }
            (_, Some(semicolon)) => semicolon + 1,
            (_, None) => item.len(),
        };
        rest = &item[end..];
    }
    kept.push_str(rest);
    kept
}

fn braces_len(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Reads every source file but those of tests, with its path below `src`.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            let name = path.file_stem().unwrap_or_default();
            if name == "tests" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).expect("a source is text");
                found.push((path.strip_prefix(&root).expect("it was found there").to_owned(), source));
            }
        }
    }
    found
}

/// Returns the crates that `Cargo.toml` names, as code names them.
fn dependencies() -> BTreeSet<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).expect("there is a manifest");
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_")).collect()
}
