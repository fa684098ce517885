//! Modules of a crate do not import each other in a circle.
//!
//! Only siblings are compared: a module and its submodules may use each other, since a folder's `mod.rs` is both its
//! table of contents and the place of its core type.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::paths::paths;
use super::{Source, packages, sources};

/// The path of a module within its crate. The root is empty.
type Module = Vec<String>;

/// For each module, its submodules that import each other.
type Imports = BTreeMap<Module, BTreeMap<String, BTreeSet<String>>>;

#[test]
fn modules_do_not_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for package in packages() {
        let files: Vec<_> =
            sources(&package).into_iter().map(|source| (module(&package, &source), source.text)).collect();
        circles.extend(circles_in(&files).into_iter().map(|circle| format!("{}: {circle}", package.display())));
    }

    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn circles_are_found() {
    let file = |module: &str, text: &str| -> (Module, String) {
        (module.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect(), text.to_owned())
    };
    let root = file("", "pub use error::Error; mod a; mod b; mod error;");
    let a = file("a", "use crate::b::B; use super::Error;");
    let error = file("error", "");

    let straight = [root.clone(), a.clone(), file("b", "use crate::Error;"), error.clone()];
    assert_eq!(circles_in(&straight), Vec::<String>::new());

    let direct = [root.clone(), a.clone(), file("b", "fn f() { super::a::g() }"), error.clone()];
    assert_eq!(circles_in(&direct), ["a -> b -> a"]);

    let reexported = [root, a, file("b", ""), file("error", "use super::a;")];
    assert_eq!(circles_in(&reexported), ["a -> error -> a"]);
}

/// Returns the module that a source file contains.
fn module(package: &Path, source: &Source) -> Module {
    let file = source.path.strip_prefix(package.join("src")).unwrap().with_extension("");
    let mut module: Module = file.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// Returns circles among the modules of a crate. Each circle is listed once.
fn circles_in(files: &[(Module, String)]) -> Vec<String> {
    let mut circles = Vec::new();
    for (parent, imports) in imports(files) {
        let prefix: String = parent.iter().map(|name| format!("{name}::")).collect();
        for circle in imports.keys().filter_map(|start| circle(&imports, start)) {
            let names: Vec<_> = circle.iter().map(|name| format!("{prefix}{name}")).collect();
            circles.push(names.join(" -> "));
        }
    }
    circles
}

/// Returns a circle through `start` in which `start` is the first name in alphabetical order.
fn circle<'a>(imports: &'a BTreeMap<String, BTreeSet<String>>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut routes = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while let Some(route) = routes.pop() {
        for next in imports.get(*route.last()?).into_iter().flatten() {
            let longer: Vec<_> = route.iter().copied().chain([next.as_str()]).collect();
            if next == start {
                return Some(longer);
            }
            if next.as_str() > start && seen.insert(next) {
                routes.push(longer);
            }
        }
    }
    None
}

/// Returns which modules import which of their siblings, directly or below.
fn imports(files: &[(Module, String)]) -> Imports {
    let modules: BTreeSet<&Module> = files.iter().map(|(module, _)| module).collect();
    let named: Vec<_> = files.iter().map(|(module, text)| (module, paths(text))).collect();

    // The modules from which a module has its names, since others may import these names from it.
    let mut origins = BTreeMap::new();
    for (module, paths) in &named {
        for path in paths.iter().filter(|path| path.len() > 1) {
            if let Some(path) = absolute(module, path, &modules) {
                origins.insert([module.as_slice(), &path[path.len() - 1..]].concat(), path);
            }
        }
    }

    let mut imports = Imports::new();
    for (module, paths) in &named {
        for path in paths {
            let Some(path) = absolute(module, path, &modules) else { continue };
            let path = origins.get(&path).unwrap_or(&path);
            let target = (0..=path.len()).rev().map(|len| &path[..len]).find(|path| modules.contains(&path.to_vec()));
            let target = target.unwrap_or_default();

            let common = module.iter().zip(target).take_while(|(one, other)| one == other).count();
            if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
                let siblings = imports.entry(module[..common].to_vec()).or_default();
                siblings.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    imports
}

/// Returns a path from the crate's root, or `None` for a path into another crate.
fn absolute(module: &Module, path: &[String], modules: &BTreeSet<&Module>) -> Option<Vec<String>> {
    let first = path.first()?;
    let (base, rest) = match first.as_str() {
        "crate" => (&module[..0], &path[1..]),
        "self" => (module.as_slice(), &path[1..]),
        "super" => {
            let levels = path.iter().take_while(|name| *name == "super").count();
            (&module[..module.len().checked_sub(levels)?], &path[levels..])
        }
        child if modules.contains(&[module.as_slice(), &[child.to_owned()]].concat()) => (module.as_slice(), path),
        _ => return None,
    };
    Some([base, rest].concat())
}
