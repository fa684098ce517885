//! Layers of settings, lowest first: where each setting comes from, and which wins.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use config::{FileFormat, Map, Source, Value, ValueKind};

use super::effective::without_credentials;
use super::error::Problem;
use super::keys::{self, ENV_PREFIX, KEYS, Kind};
use super::otel::Otel;

/// The key that OpenTelemetry's own variables set.
const TRACES: &str = "telemetry.otlp_endpoint";

/// One setting and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) path: Vec<String>,
    pub(super) value: ValueKind,
    pub(super) origin: String,
}

impl Setting {
    pub(super) fn key(&self) -> String {
        self.path.join(".")
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

    /// The defaults of the key table. Those of a store's keys apply when the store is read.
    pub(super) fn defaults() -> Self {
        let mut layer = Self::default();
        for spec in KEYS.iter().filter(|spec| !spec.name.starts_with("stores.")) {
            if let Some(default) = spec.default {
                layer.push(spec.name, default, "defaults");
            }
        }
        layer
    }

    /// Reads a TOML file.
    pub(super) fn file(path: &Path) -> Result<Self, Problem> {
        let problem = |reason: String| Problem::File { path: path.to_owned(), reason };
        let text = fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
        let table = config::Config::builder()
            .add_source(config::File::from_str(&text, FileFormat::Toml))
            .build()
            .map_err(|error| problem(one_line(&error.to_string())))?;
        let mut layer = Self::default();
        layer.flatten(&mut Vec::new(), table.cache.kind, &path.display().to_string());
        Ok(layer)
    }

    fn flatten(&mut self, path: &mut Vec<String>, value: ValueKind, origin: &str) {
        // A section without keys says nothing, except that a store is meant to be.
        if let ValueKind::Table(table) = &value
            && (!table.is_empty() || path.len() != 2)
        {
            let sorted: BTreeMap<_, _> = table.iter().collect();
            for (key, value) in sorted {
                path.push(key.clone());
                self.flatten(path, value.kind.clone(), origin);
                path.pop();
            }
            return;
        }
        self.0.push(Setting { path: path.clone(), value, origin: origin.to_owned() });
    }

    /// Takes the variables of other programs, above all of the `nats` command line. An empty one counts as unset.
    pub(super) fn foreign_environment(variables: &[(String, String)]) -> Result<Self, Problem> {
        let mut layer = Self::default();
        for (name, value) in variables.iter().filter(|(_, value)| !value.is_empty()) {
            let spec = KEYS.iter().find(|spec| spec.foreign_env == Some(name) && spec.name != TRACES);
            if let Some(spec) = spec {
                layer.push(spec.name, value.as_str(), name);
            } else if name == "NATS_TIMEOUT" {
                let ms = super::duration::parse_ms(value).map_err(|cure| Problem::Value {
                    key: "nats.connect_timeout_ms".to_owned(),
                    value: format!("{value:?}"),
                    origin: name.clone(),
                    cure,
                })?;
                layer.push("nats.connect_timeout_ms", ms, name);
            }
        }
        if let Some((name, url)) = Otel::of_environment(variables).endpoint {
            layer.push(TRACES, url, name);
        }
        Ok(layer)
    }

    /// Returns whether a password is set here, or the file that holds one.
    pub(super) fn has_password(&self) -> bool {
        self.0.iter().any(|setting| ["nats.password", "nats.password_file"].contains(&setting.key().as_str()))
    }

    /// The `nats` command line takes a user for whom there is no password, wherever it might stand, for a token.
    pub(super) fn user_alone_is_token(&mut self) {
        if self.0.iter().any(|setting| setting.key() == "nats.token") {
            return;
        }
        if let Some(user) = self.0.iter_mut().find(|setting| setting.key() == "nats.user") {
            user.path = vec!["nats".to_owned(), "token".to_owned()];
        }
    }

    /// Takes the variables that begin with `GANTRY_`. An empty variable counts as unset.
    pub(super) fn environment(variables: &[(String, String)], problems: &mut Vec<Problem>) -> Self {
        let mut layer = Self::default();
        let known: BTreeSet<&str> = keys::ENV_OTHERS.iter().copied().collect();
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
            if value.is_empty() || known.contains(name.as_str()) || is_service_link(rest) {
                continue;
            }
            if let Some((_, key)) = keys::ENV_ALIASES.iter().find(|(alias, _)| alias == name) {
                layer.push(key, value.as_str(), name);
                continue;
            }
            let path: Vec<String> = rest.to_lowercase().split("__").map(str::to_owned).collect();
            if keys::find(&path).is_some() {
                layer.0.push(Setting { path, value: value.as_str().into(), origin: name.clone() });
            } else {
                let nearest = keys::nearest_env(name).or_else(|| keys::nearest(&path));
                let origin = "the environment".to_owned();
                problems.push(Problem::Unknown { key: name.clone(), origin, nearest });
            }
        }
        layer
    }

    /// Checks every setting against the key table and gives it the key's type.
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
        Ok(self
            .0
            .iter()
            .map(|setting| (setting.key(), Value::new(Some(&setting.origin), setting.value.clone())))
            .collect())
    }
}

/// Kubernetes and Docker links put such variables into every container beside a service named `gantry`.
fn is_service_link(rest: &str) -> bool {
    rest == "PORT"
        || rest == "NAME"
        || rest.starts_with("SERVICE_HOST")
        || rest.starts_with("SERVICE_PORT")
        || rest.strip_prefix("PORT_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        || (rest.contains("_SERVICE_") && !rest.contains("__"))
        || (rest.contains("_PORT_") && !rest.contains("__"))
        || (rest.ends_with("_PORT") && !rest.contains("__"))
}

fn check(setting: Setting) -> Result<Setting, Problem> {
    if let [section, store, ..] = setting.path.as_slice()
        && section == "stores"
        && let Err(error) = store.parse::<gantry_proto::StoreName>()
    {
        let (key, origin) = (setting.key(), setting.origin);
        return Err(Problem::Value { key, value: format!("{store:?}"), origin, cure: error.to_string() });
    }
    let Some(spec) = keys::find(&setting.path) else {
        return Err(not_a_key(setting));
    };
    match typed(spec.kind, &setting.value) {
        Ok(value) => Ok(Setting { value, ..setting }),
        Err(cure) => {
            let value = if spec.kind == Kind::Secret { "[redacted]".to_owned() } else { shown(&setting.value) };
            Err(Problem::Value { key: setting.key(), value, origin: setting.origin, cure })
        }
    }
}

fn not_a_key(setting: Setting) -> Problem {
    let key = setting.key();
    if !keys::is_section(&setting.path) {
        let nearest = keys::nearest(&setting.path);
        return Problem::Unknown { key, origin: setting.origin, nearest };
    }
    if setting.path.len() == 2 && matches!(setting.value, ValueKind::Table(_)) {
        let cure = "set it to `s3://bucket/prefix` or `file:///dir`".to_owned();
        return Problem::Missing { key: format!("{key}.url"), cure };
    }
    let cure = format!("is a section: put its keys below `[{key}]`");
    Problem::Value { value: shown(&setting.value), origin: setting.origin, cure, key }
}

/// Gives a value the type of its key, reading text where the layer knows only text.
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
        Kind::Integer { min, max } => integer(value)
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

fn text_of(value: &ValueKind) -> Option<&str> {
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

/// Keeps the first and the last line of the TOML parser's picture: where, and what.
fn one_line(message: &str) -> String {
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().trim_start_matches("TOML parse error at ").to_owned();
    match lines.next_back() {
        Some(last) => format!("{first}: {last}"),
        None => first,
    }
}
