//! The effective configuration: every key with its value and the place that the value comes from.

use std::collections::BTreeMap;
use std::fmt;

use config::ValueKind;

use super::layer::Layer;
use super::lookup;
use super::redact;
use super::table::Kind;

/// One effective setting. Its `Display` is a line of TOML with the origin as a comment. Secrets are redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The dotted name.
    pub key: String,
    /// The value as TOML.
    pub value: String,
    /// The place that it comes from: `defaults`, a file with a line, a variable, an option.
    pub origin: String,
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}  # {}", self.key, self.value, self.origin)
    }
}

/// Returns the setting of the highest layer for every key.
pub(super) fn of_layers(layers: &[Layer]) -> Vec<Effective> {
    let mut found: BTreeMap<String, Effective> = BTreeMap::new();
    for setting in layers.iter().flat_map(|layer| &layer.0) {
        let key = setting.key();
        let is_secret = lookup::find(&setting.path).is_some_and(|key| key.kind == Kind::Secret);
        let value = if is_secret { "\"[redacted]\"".to_owned() } else { toml(&key, &setting.value) };
        found.insert(key.clone(), Effective { key, value, origin: setting.origin.clone() });
    }
    found.into_values().collect()
}

fn toml(key: &str, value: &ValueKind) -> String {
    if let ValueKind::String(text) = value {
        return format!("{:?}", redact::shown(key, text));
    }
    if let ValueKind::Array(values) = value {
        let items: Vec<_> = values.iter().map(|value| toml(key, &value.kind)).collect();
        return format!("[{}]", items.join(", "));
    }
    value.to_string()
}
