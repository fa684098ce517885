//! Checks `docs/CONFIGURATION.md` and `deploy/gantry.example.toml` against the table of keys.

use super::keys::KEYS;
use super::table::{Key, Kind};
use super::{Problem, Sources, lookup};

const PAGE: &str = include_str!("../../docs/CONFIGURATION.md");
const EXAMPLE: &str = include_str!("../../deploy/gantry.example.toml");

/// Returns the name of a key's section.
fn section(key: &Key) -> &'static str {
    key.name.rsplit_once('.').map_or("", |(section, _)| section)
}

/// Writes the tables of `docs/CONFIGURATION.md`, one for each section.
fn tables() -> String {
    let mut text = String::new();
    let mut current = None;
    for key in KEYS {
        let section = section(key);
        if current.replace(section) != Some(section) {
            let title = if section.is_empty() { "Top level".to_owned() } else { format!("`[{section}]`") };
            text += &format!(
                "\n## {title}\n\n| key | type | unit | default | variable | meaning |\n|---|---|---|---|---|---|\n"
            );
        }
        text += &row(key);
    }
    text
}

fn row(key: &Key) -> String {
    let default = key.default_text().map_or_else(String::new, |default| format!("`{default}`"));
    let names = [Some(key.env_name()), key.alias.map(str::to_owned), key.variable.map(str::to_owned)];
    let variables: Vec<_> = names.into_iter().flatten().map(|name| format!("`{name}`")).collect();
    let (name, kind, unit, variables, meaning) = (key.name, key.kind, key.unit, variables.join(", "), key.meaning);
    format!("| `{name}` | {kind} | {unit} | {default} | {variables} | {meaning} |\n")
}

/// Returns the comment above a key in the example file.
fn comment(key: &Key) -> String {
    let unit = if key.unit.is_empty() { String::new() } else { format!(" ({})", key.unit) };
    let variable = key.variable.map_or_else(String::new, |name| format!(" [{name}]"));
    format!("# {}{unit}{variable}", key.meaning)
}

#[test]
fn the_documentation_lists_every_key() {
    assert!(PAGE.contains(&tables()), "docs/CONFIGURATION.md must contain:\n{}", tables());
}

/// Returns the lines of the example file after the section of a key.
fn lines_of_section(key: &Key) -> impl Iterator<Item = &'static str> {
    let header = section(key).replace(lookup::STORE_PLACEHOLDER, "firmware");
    let is_header = move |line: &str| header.is_empty() || line == format!("[{header}]");
    EXAMPLE.lines().skip_while(move |line| !is_header(line))
}

#[test]
fn the_example_file_has_every_key_with_its_meaning_and_default() {
    for key in KEYS {
        let comment = comment(key);
        let mut lines = lines_of_section(key).skip_while(|line| *line != comment).skip(1);
        let line = lines.next().unwrap_or_else(|| panic!("{} needs this line:\n{comment}", key.name));

        let name = key.name.rsplit('.').next().unwrap();
        let value = line.trim_start_matches('#').strip_prefix(&format!("{name} = "));
        let value = value.unwrap_or_else(|| panic!("{line:?} must set {name}"));
        if let Some(default) = key.default_text().filter(|_| key.kind != Kind::List) {
            assert_eq!(value.trim_matches('"'), default, "{}", key.name);
        }
    }
}

#[test]
fn the_example_file_is_valid_with_all_its_keys() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/gantry.example.toml");
    let config = Sources { file: Some(path.into()), ..Sources::default() }.load().unwrap();
    assert!(!config.stores.is_empty());

    // The files do not exist, and ways to authenticate exclude each other, but every key must be known.
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("gantry.toml");
    let uncomment =
        |line: &'static str| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line);
    std::fs::write(&file, EXAMPLE.lines().map(uncomment).collect::<Vec<_>>().join("\n")).unwrap();
    let error = Sources { file: Some(file), ..Sources::default() }.load().unwrap_err();
    let is_unknown =
        |problem: &Problem| matches!(problem, Problem::Unknown { .. } | Problem::Foreign { .. } | Problem::File { .. });
    assert!(!error.problems.iter().any(is_unknown), "{error}");
}
