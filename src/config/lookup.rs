//! Finds keys by path or by variable, and the known key closest to an unknown one.

use std::collections::BTreeMap;

use super::error::Problem;
use super::keys::KEYS;
use super::kinds::is_of_other_kind;
use super::redact;
use super::similar::nearest_of;
use super::synonyms::{self, Meaning};
use super::table::{ENV_PREFIX, Key};

/// The placeholder for a store's name in the name of a key.
pub(super) const STORE_PLACEHOLDER: &str = "NAME";

/// Variables that begin with [`ENV_PREFIX`] and set no key.
pub(super) const OTHER_VARIABLES: &[&str] = &["GANTRY_CONFIG"];

/// Returns the key at a path such as `["stores", "files", "url"]`.
pub(super) fn find(path: &[String]) -> Option<&'static Key> {
    let name = of_uplink(path).unwrap_or_else(|| generic(path));
    KEYS.iter().find(|key| key.name == name)
}

/// Returns the key of the relay's own connection that has the meaning of a key below `stores.NAME.nats`.
fn of_uplink(path: &[String]) -> Option<String> {
    match path {
        [section, _, nats, key] if section == "stores" && nats == "nats" => {
            Some(if key == "prefix" { key.clone() } else { format!("nats.{key}") })
        }
        _ => None,
    }
}

/// Returns whether a path is the section of some key: `relay`, `stores`, `stores.files`.
pub(super) fn is_section(path: &[String]) -> bool {
    let start = format!("{}.", generic(path));
    matches!(path, [section, _, nats] if section == "stores" && nats == "nats")
        || KEYS.iter().any(|key| key.name.starts_with(&start))
}

/// Reports a key that does not exist.
pub(super) fn unknown(path: &[String], origin: String) -> Problem {
    let key = redact::shown_key(path);
    if let Some(Meaning::Cure(cure)) = synonyms::of(path) {
        return Problem::Foreign { key, origin, cure };
    }
    Problem::Unknown { key, origin, nearest: nearest(path) }
}

/// Reports a variable that begins with [`ENV_PREFIX`] and sets no key, although `path` is the key that its name stands
/// for.
pub(super) fn unknown_variable(name: &str, path: &[String]) -> Problem {
    let (key, origin) = (name.to_owned(), "the environment".to_owned());
    if let Some(Meaning::Cure(cure)) = synonyms::of(path) {
        return Problem::Foreign { key, origin, cure };
    }

    let is_of_store = path.len() > 2 && path[0] == "stores";
    let of_store = || nearest(path).map(|key| format!("{ENV_PREFIX}{}", key.replace('.', "__").to_uppercase()));
    let nearest = if is_of_store { of_store() } else { nearest_variable(name).or_else(|| nearest(path)) };
    Problem::Unknown { key, origin, nearest }
}

/// Returns the known key closest to an unknown one, with the store's name as written.
fn nearest(path: &[String]) -> Option<String> {
    if let ([section, store, _], Some(Meaning::Key(key))) = (path, synonyms::of(path)) {
        return Some(format!("{section}.{store}.{key}"));
    }
    // A secret in place of the file with it.
    let file = format!("{}_file", generic(path));
    if let ([before @ .., last], true) = (path, KEYS.iter().any(|key| key.name == file)) {
        return Some([before, &[format!("{last}_file")]].concat().join("."));
    }
    if let ([section, store, ..], Some(wanted)) = (path, of_uplink(path)) {
        let similar = nearest_of(&wanted, KEYS.iter().map(|key| key.name.to_owned()));
        return similar.filter(|key| key.starts_with("nats.")).map(|key| format!("{section}.{store}.{key}"));
    }

    if let [section, store, last] = path
        && section == "stores"
    {
        let of_store = synonyms::similar(last).map(|key| format!("{section}.{store}.{key}"));
        // A user or a token is rather one of the cloud than one of nats-server.
        return of_store.or_else(|| in_another_section(path).filter(|key| !key.starts_with("nats.")));
    }

    let wanted = generic(path);
    let similar = nearest_of(&wanted, KEYS.iter().map(|key| key.name.to_owned()));
    let found = similar.or_else(|| in_another_section(path))?;
    Some(match path {
        [section, store, ..] if section == "stores" => found.replace(STORE_PLACEHOLDER, store),
        _ => found,
    })
}

/// Removes hints at keys that belong only to stores of another kind. `urls` are the addresses of the stores.
pub(super) fn keep_hints_of_kind(problems: &mut [Problem], urls: &BTreeMap<String, String>) {
    for problem in problems {
        let Problem::Unknown { nearest, .. } = problem else { continue };
        let Some(hint) = nearest.clone() else { continue };
        let is_variable = hint.starts_with(ENV_PREFIX);
        let path: Vec<String> = match hint.strip_prefix(ENV_PREFIX) {
            Some(rest) => rest.to_lowercase().split("__").map(str::to_owned).collect(),
            None => hint.split('.').map(str::to_owned).collect(),
        };
        let [section, store, key] = path.as_slice() else { continue };
        let url = urls.get(store).filter(|url| section == "stores" && is_of_other_kind(key, url));
        let Some(url) = url else { continue };

        let same = synonyms::of_kind(key, url).map(|key| format!("{section}.{store}.{key}"));
        *nearest = same.map(|key| match is_variable {
            true => format!("{ENV_PREFIX}{}", key.replace('.', "__").to_uppercase()),
            false => key,
        });
    }
}

/// Finds the key of this name in another section, for example if `chunk_max_bytes` is at the top.
fn in_another_section(path: &[String]) -> Option<String> {
    let last = path.last()?;
    let mut names = KEYS.iter().map(|key| key.name);
    names.find(|name| name.rsplit('.').next() == Some(last)).map(str::to_owned)
}

/// Returns the environment variable closest to an unknown one that begins with [`ENV_PREFIX`].
fn nearest_variable(name: &str) -> Option<String> {
    // All names share the prefix, which would make all of them similar.
    let rest = |name: &str| name.trim_start_matches(ENV_PREFIX).to_owned();
    let own = KEYS.iter().map(Key::env_name);
    let others = OTHER_VARIABLES.iter().copied().chain(KEYS.iter().filter_map(|key| key.alias)).map(str::to_owned);

    let found = nearest_of(&rest(name), own.chain(others).map(|name| rest(&name)))?;
    Some(format!("{ENV_PREFIX}{found}"))
}

fn generic(path: &[String]) -> String {
    match path {
        [section, _, rest @ ..] if section == "stores" => {
            [&["stores".to_owned(), STORE_PLACEHOLDER.to_owned()], rest].concat().join(".")
        }
        _ => path.join("."),
    }
}
