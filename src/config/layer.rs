//! Layers of settings: each setting with the place that it comes from, and its check against the table of keys.

use std::collections::BTreeSet;

use config::{Map, Source, Value, ValueKind};
use gantry_proto::StoreName;

use super::error::Problem;
use super::keys::KEYS;
use super::lookup::{self, STORE_PLACEHOLDER};
use super::redact::{self, without_credentials};
use super::table::Kind;

/// The origin of a value that no place sets.
pub(super) const DEFAULTS: &str = "defaults";

/// One setting and the place that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) path: Vec<String>,
    pub(super) value: ValueKind,
    /// A file with a line, a variable, an option.
    pub(super) origin: String,
}

impl Setting {
    pub(super) fn key(&self) -> String {
        self.path.join(".")
    }

    /// Returns the name of the store that the setting belongs to.
    pub(super) fn store(&self) -> Option<&str> {
        match self.path.as_slice() {
            [section, store, ..] if section == "stores" => Some(store),
            _ => None,
        }
    }
}

/// The settings of one place: a file, the environment, the command line.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer(pub(super) Vec<Setting>);

impl Layer {
    pub(super) fn push(&mut self, key: &str, value: impl Into<ValueKind>, origin: impl Into<String>) {
        let path = key.split('.').map(str::to_owned).collect();
        self.0.push(Setting { path, value: value.into(), origin: origin.into() });
    }

    /// Returns the defaults of the table, with those of each store, and of the connections of stores to other relays.
    pub(super) fn defaults(stores: &BTreeSet<String>, uplinks: &BTreeSet<String>) -> Self {
        let mut layer = Self::default();
        for key in KEYS {
            let Some(default) = key.default_text() else { continue };
            if !key.name.contains(STORE_PLACEHOLDER) {
                for store in uplinks {
                    layer.extend_uplink(store, key.name, &default.as_str().into(), DEFAULTS);
                }
                layer.push(key.name, default, DEFAULTS);
                continue;
            }
            for store in stores {
                layer.push(&key.name.replace(STORE_PLACEHOLDER, store), default.as_str(), DEFAULTS);
            }
        }
        layer
    }

    /// Adds a setting of the relay's own connection to a store's, if it concerns the connection.
    pub(super) fn extend_uplink(&mut self, store: &str, key: &str, value: &ValueKind, origin: &str) {
        let own = key.strip_prefix("nats.").or((key == "prefix").then_some(key));
        if let Some(own) = own {
            self.push(&format!("stores.{store}.nats.{own}"), value.clone(), origin);
        }
    }

    /// Returns the setting of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Setting> {
        self.0.iter().rev().find(|setting| setting.key() == key)
    }

    /// Returns whether this layer sets a password, or names the file of one.
    pub(super) fn has_password(&self) -> bool {
        self.get("nats.password").or_else(|| self.get("nats.password_file")).is_some()
    }

    /// Turns a user into a token. The `nats` command line does so if no password is set anywhere.
    pub(super) fn use_user_as_token(&mut self) {
        if self.get("nats.token").is_some() {
            return;
        }
        if let Some(user) = self.0.iter_mut().find(|setting| setting.key() == "nats.user") {
            user.path = vec!["nats".to_owned(), "token".to_owned()];
        }
    }

    /// Checks every setting against the table and converts it to the type of its key. Invalid settings are left out.
    pub(super) fn check(self, problems: &mut Vec<Problem>) -> Self {
        let mut checked = Self::default();
        for setting in self.0 {
            match check(setting) {
                Ok(setting) => checked.0.push(setting),
                Err(problem) => problems.push(problem),
            }
        }
        checked
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let value = |setting: &Setting| Value::new(Some(&setting.origin), setting.value.clone());
        Ok(self.0.iter().map(|setting| (setting.key(), value(setting))).collect())
    }
}

fn check(setting: Setting) -> Result<Setting, Problem> {
    if let Some(store) = setting.store()
        && let Err(error) = store.parse::<StoreName>()
    {
        let value = format!("{:?}", redact::without_secret(store.to_owned()));
        let cure = redact::without_credentials_in(&error.to_string());
        return Err(Problem::Value { key: redact::shown_key(&setting.path), value, origin: setting.origin, cure });
    }
    let Some(key) = lookup::find(&setting.path) else {
        return Err(not_a_key(setting));
    };

    match typed(key.kind, &setting.value) {
        Ok(value) => Ok(Setting { value, ..setting }),
        Err(cure) => {
            let value = if key.kind == Kind::Secret { "[redacted]".to_owned() } else { shown(&setting.value) };
            Err(Problem::Value { key: setting.key(), value, origin: setting.origin, cure })
        }
    }
}

fn not_a_key(setting: Setting) -> Problem {
    let key = setting.key();
    if !lookup::is_section(&setting.path) {
        return lookup::unknown(&setting.path, setting.origin);
    }
    if setting.path.len() == 2 && matches!(setting.value, ValueKind::Table(_)) {
        return Problem::store_url_missing(&key.replacen("stores.", "", 1), &setting.origin);
    }

    let cure = format!("is a section: put its keys below `[{key}]`");
    Problem::Value { value: shown(&setting.value), origin: setting.origin, cure, key }
}

/// Converts a value to the type of its key. Some layers, such as the environment, contain only text.
fn typed(kind: Kind, value: &ValueKind) -> Result<ValueKind, String> {
    let text = text_of(value);
    match kind {
        Kind::Text | Kind::Secret | Kind::Path => match text {
            Some("") => Err("must not be empty: remove the key instead".to_owned()),
            Some(text) => Ok(text.into()),
            None => Err("must be text, in quotes".to_owned()),
        },
        Kind::Switch => match (value, text) {
            (ValueKind::Boolean(_), _) => Ok(value.clone()),
            (_, Some("true")) => Ok(true.into()),
            (_, Some("false")) => Ok(false.into()),
            _ => Err("must be true or false".to_owned()),
        },
        Kind::Integer { min, max } | Kind::Millis { min, max } => integer(value)
            .filter(|number| (min..=max).contains(number))
            .map(ValueKind::from)
            .ok_or_else(|| format!("must be an integer between {min} and {max}")),
        Kind::List => list(value).ok_or_else(|| "must be a list of texts, as in [\"_INBOX.\"]".to_owned()),
        Kind::Choice(words) => text
            .filter(|text| words.contains(text))
            .map(ValueKind::from)
            .ok_or_else(|| format!("must be one of {}", words.join(", "))),
    }
}

fn integer(value: &ValueKind) -> Option<u64> {
    match value {
        ValueKind::I64(number) => u64::try_from(*number).ok(),
        ValueKind::U64(number) => Some(*number),
        ValueKind::String(text) => text.trim().parse().ok(),
        ValueKind::Nil
        | ValueKind::Boolean(_)
        | ValueKind::I128(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_)
        | ValueKind::Table(_)
        | ValueKind::Array(_) => None,
    }
}

fn list(value: &ValueKind) -> Option<ValueKind> {
    let texts: Vec<String> = if let ValueKind::Array(values) = value {
        values.iter().map(|value| text_of(&value.kind).map(str::to_owned)).collect::<Option<_>>()?
    } else {
        text_of(value)?.split(',').map(|item| item.trim().to_owned()).collect()
    };
    Some(texts.into())
}

/// Returns the value of a text.
pub(super) fn text_of(value: &ValueKind) -> Option<&str> {
    if let ValueKind::String(text) = value { Some(text) } else { None }
}

fn shown(value: &ValueKind) -> String {
    if let Some(text) = text_of(value) {
        return format!("{:?}", without_credentials(text));
    }
    if matches!(value, ValueKind::Table(_)) {
        return "a table".to_owned();
    }
    if matches!(value, ValueKind::Array(_)) { "a list".to_owned() } else { value.to_string() }
}

/// Returns the valid names of stores in the layers.
pub(super) fn stores_of(layers: &[Layer]) -> BTreeSet<String> {
    let settings = layers.iter().flat_map(|layer| &layer.0);
    settings.filter_map(Setting::store).filter(|name| name.parse::<StoreName>().is_ok()).map(str::to_owned).collect()
}

/// Returns the valid names of stores in the layers that other relays serve, and of those with keys of such stores.
pub(super) fn uplinks_of(layers: &[Layer]) -> BTreeSet<String> {
    let settings = || layers.iter().flat_map(|layer| &layer.0);
    let is_uplink = |setting: &Setting| match setting.path.as_slice() {
        [_, _, key] if key == "url" => text_of(&setting.value).is_some_and(|url| url.starts_with("nats:")),
        [_, _, key, _] => key == "nats",
        _ => false,
    };

    let mut names = stores_of(layers);
    names.retain(|name| settings().any(|setting| setting.store() == Some(name) && is_uplink(setting)));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_have_their_defaults() {
        let stores = BTreeSet::from(["a".to_owned()]);
        let layer = Layer::defaults(&stores, &BTreeSet::new());
        assert!(layer.get("stores.a.range_bytes").is_some() && layer.get("prefix").is_some());
        assert!(layer.0.iter().all(|setting| !setting.path.contains(&STORE_PLACEHOLDER.to_owned())));
    }
}
