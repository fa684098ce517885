//! The configuration as it applies, for a person: every key, its value, and where it comes from.

use std::collections::BTreeMap;
use std::fmt;

use config::ValueKind;

use super::keys::{self, KEYS, Kind};
use super::layer::{Layer, Setting};

/// One key as it applies. Its `Display` is a line of TOML with the origin as a comment; secrets are redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The dotted name.
    pub key: String,
    /// The value as TOML.
    pub value: String,
    /// Where it stands: `defaults`, a file, a variable, a flag.
    pub origin: String,
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}  # {}", self.key, self.value, self.origin)
    }
}

/// Lets the highest layer win for every key.
pub(super) fn of_layers(layers: &[Layer]) -> Vec<Effective> {
    let mut found: BTreeMap<String, Effective> = BTreeMap::new();
    let stores: Vec<_> = layers.iter().flat_map(|layer| &layer.0).filter_map(store_of).collect();
    for spec in KEYS.iter().filter(|spec| spec.name.starts_with("stores.")) {
        let Some(default) = spec.default else { continue };
        for store in &stores {
            let key = spec.name.replace(keys::STORE_PLACEHOLDER, store);
            let line = Effective { key: key.clone(), value: default.to_owned(), origin: "defaults".to_owned() };
            found.insert(key, line);
        }
    }
    for setting in layers.iter().flat_map(|layer| &layer.0) {
        let key = setting.key();
        let kind = keys::find(&setting.path).map(|spec| spec.kind);
        let value = if kind == Some(Kind::Secret) { "\"[redacted]\"".to_owned() } else { toml(&setting.value) };
        found.insert(key.clone(), Effective { key, value, origin: setting.origin.clone() });
    }
    found.into_values().collect()
}

fn store_of(setting: &Setting) -> Option<&str> {
    match setting.path.as_slice() {
        [section, store, ..] if section == "stores" => Some(store),
        _ => None,
    }
}

fn toml(value: &ValueKind) -> String {
    if let ValueKind::String(text) = value {
        return format!("{:?}", without_credentials(text));
    }
    if let ValueKind::Array(values) = value {
        let items: Vec<_> = values.iter().map(|value| toml(&value.kind)).collect();
        return format!("[{}]", items.join(", "));
    }
    value.to_string()
}

/// Takes user names, passwords and tokens out of addresses, of which there may be several with commas between them.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    let clean = |address: &str| match address.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            match rest[..end].rfind('@') {
                Some(at) => format!("{scheme}://[redacted]@{}", &rest[at + 1..]),
                None => address.to_owned(),
            }
        }
        None => address.to_owned(),
    };
    text.split(',').map(clean).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_credentials() {
        for (text, clean) in [
            ("nats://u:p@h:4222,tls://t@[::1]:1", "nats://[redacted]@h:4222,tls://[redacted]@[::1]:1"),
            ("nats://u:p@ss@h", "nats://[redacted]@h"),
            ("s3://bucket/a@b", "s3://bucket/a@b"),
            ("plain, text@home", "plain, text@home"),
        ] {
            assert_eq!(without_credentials(text), clean);
        }
    }
}
