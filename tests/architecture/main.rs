//! Rules about the sources that the compiler does not check.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod modules;
mod paths;
mod purity;
mod style;

use std::path::{Path, PathBuf};

/// A source file without its tests.
struct Source {
    path: PathBuf,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the folders of all packages in the workspace.
fn packages() -> Vec<PathBuf> {
    let crates = std::fs::read_dir(root().join("crates")).unwrap();
    let mut packages: Vec<_> = crates.map(|entry| entry.unwrap().path()).collect();
    packages.push(root().to_owned());
    packages.sort();
    assert!(packages.len() > 6, "only {} packages found: is this the right folder?", packages.len());
    packages
}

/// Returns the sources of a package, without the files that contain only tests.
fn sources(package: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![package.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_stem().unwrap() == "tests" {
                continue;
            }

            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = without_tests(&std::fs::read_to_string(&path).unwrap());
                found.push(Source { path, text });
            }
        }
    }
    assert!(!found.is_empty(), "{} has no sources", package.display());
    found
}

/// Returns a source file up to its module of tests, which is the last item.
fn without_tests(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..tests].to_owned()
}
