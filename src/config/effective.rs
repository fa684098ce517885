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
        let value = if kind == Some(Kind::Secret) { "\"[redacted]\"".to_owned() } else { toml(&key, &setting.value) };
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

fn toml(key: &str, value: &ValueKind) -> String {
    if let ValueKind::String(text) = value {
        return format!("{:?}", shown(key, text));
    }
    if let ValueKind::Array(values) = value {
        let items: Vec<_> = values.iter().map(|value| toml(key, &value.kind)).collect();
        return format!("[{}]", items.join(", "));
    }
    value.to_string()
}

/// Returns a key's text as it may be shown. A word with an `@` is a credential and a host only where an address is due.
pub(super) fn shown(key: &str, text: &str) -> String {
    let is_address = ["url", "otlp_endpoint"].iter().any(|name| key.ends_with(name));
    if is_address || text.contains("://") { without_credentials(text) } else { text.to_owned() }
}

/// Takes user names, passwords and tokens out of addresses, of which there may be several with commas between them.
///
/// All before the last `@` of an address may be a password, whatever is in it, and an address needs no scheme.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    let is_one = ["s3://", "http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    if is_one { cleaned(text) } else { text.split(',').map(cleaned).collect::<Vec<_>>().join(",") }
}

fn cleaned(address: &str) -> String {
    // No user can stand there, but a folder's name may hold an @.
    if address.starts_with("file:///") {
        return address.to_owned();
    }
    let Some((before, host)) = address.rsplit_once('@') else { return address.to_owned() };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://[redacted]@{host}"),
        None => format!("[redacted]@{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_credentials() {
        for (text, clean) in [
            ("nats://u:p@h:4222,tls://t@[::1]:1", "nats://[redacted]@h:4222,tls://[redacted]@[::1]:1"),
            ("nats://u:p@ss@h", "nats://[redacted]@h"),
            ("c:p3hush@h:1", "[redacted]@h:1"),
            ("nats://a@h,c:p3hush@h", "nats://[redacted]@h,[redacted]@h"),
            ("nats://me:hu/sh@h", "nats://[redacted]@h"),
            ("nats://me:hu#sh@h", "nats://[redacted]@h"),
            ("nats://me:hu?sh@h", "nats://[redacted]@h"),
            ("s3://me:hu,sh/pw@demo", "s3://[redacted]@demo"),
            ("file://me:hush@h/x", "file://[redacted]@h/x"),
            ("file:///srv/a@b", "file:///srv/a@b"),
            ("s3://bucket/prefix", "s3://bucket/prefix"),
        ] {
            assert_eq!(without_credentials(text), clean);
        }
    }

    #[test]
    fn what_is_no_address_is_shown_whole() {
        assert_eq!(shown("nats.user", "me@example.org"), "me@example.org");
        assert_eq!(shown("nats.creds_file", "/run/gantry@1.service/creds"), "/run/gantry@1.service/creds");
        assert_eq!(shown("http.listen", "http://me:hush@h"), "http://[redacted]@h");
        assert_eq!(shown("nats.url", "hush@h"), "[redacted]@h");
    }
}
