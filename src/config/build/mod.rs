//! Builds a [`Config`] from layers of settings: the options of each component, and the checks between keys.

mod cache;
#[cfg(any(feature = "azure", feature = "gcs"))]
mod clouds;
mod gateway;
mod stores;
mod uplink;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::ValueKind;
use gantry_bus::nats;
use gantry_bus::rate::RateLimit;
use gantry_proto::StoreName;
use gantry_proto::subject::{DeliveryAllow, Prefix};
use gantry_relay as relay;
use gantry_store::budget::Budget;
use gantry_store::misplaced;

use super::address::{self, StoreAddress};
use super::check;
use super::environment::Environment;
use super::error::{Error, Problem};
use super::keys;
use super::kinds::is_of_other_kind;
use super::layer::{DEFAULTS, Layer, Setting};
use super::lookup;
use super::otel::{self, Otel};
use super::redact::{self, Secret};
use super::{Config, Http, Log, Settings, Telemetry};
use crate::telemetry::Format;

/// A way to authenticate: the keys that choose it, and those that belong to it.
struct Way {
    choosing: &'static [&'static str],
    belonging: &'static [&'static str],
}

const WAYS: [Way; 4] = [
    Way { choosing: &["nats.creds_file"], belonging: &[] },
    Way { choosing: &["nats.nkey_file"], belonging: &[] },
    Way { choosing: &["nats.user"], belonging: &["nats.password", "nats.password_file"] },
    Way { choosing: &["nats.token", "nats.token_file"], belonging: &[] },
];

/// Keeps the way to authenticate that the highest layer chooses, and removes the others from all layers. `section` is
/// empty for the relay's own connection, and `stores.NAME.` for a store's.
///
/// # Errors
/// If that layer chooses several ways. Nothing is removed then.
pub(super) fn keep_one_auth(layers: &mut [Layer], section: &str) -> Result<(), Problem> {
    let named = |key: &str| format!("{section}{key}");
    let chooses = |layer: &Layer, way: &Way| way.choosing.iter().any(|key| layer.get(&named(key)).is_some());
    let highest = layers.iter().rposition(|layer| WAYS.iter().any(|way| chooses(layer, way)));
    let Some(at) = highest else { return Ok(()) };

    let chosen: Vec<usize> = (0..WAYS.len()).filter(|way| chooses(&layers[at], &WAYS[*way])).collect();
    let [chosen] = chosen.as_slice() else {
        let keys = chosen.iter().flat_map(|way| WAYS[*way].choosing);
        let found: Vec<String> = keys
            .filter_map(|key| layers[at].get(&named(key)))
            .map(|setting| format!("`{}` ({})", setting.key(), setting.origin))
            .collect();
        let cure = "keep one way to authenticate".to_owned();
        return Err(Problem::Conflict { keys: found.join(" and "), cure });
    };

    for (i, way) in WAYS.iter().enumerate() {
        let is_chosen = i == *chosen;
        // A lower layer may complete the chosen way, as a file does with the password of `--user`.
        let removed_in = if is_chosen { 0..at } else { 0..layers.len() };
        let belonging = if is_chosen { &[] } else { way.belonging };
        let removed: Vec<String> = way.choosing.iter().chain(belonging).map(|key| named(key)).collect();
        for layer in &mut layers[removed_in] {
            layer.0.retain(|setting| !removed.contains(&setting.key()));
        }
    }
    Ok(())
}

/// Builds a configuration from checked layers, lowest first. `problems` concern the settings that were left out.
pub(super) fn config(
    mut layers: Vec<Layer>,
    problems: Vec<Problem>,
    conflict: Option<Problem>,
    environment: Environment,
) -> Result<Config, Error> {
    // A key may seem to be missing because its setting, or a misspelled one, was left out.
    let is_complete = problems.iter().all(Problem::is_missing);
    let left_out = problems.len();
    let is_auth_valid = conflict.is_none();
    let mut build = Build { origins: origins(&layers), environment, problems, ignored: Vec::new(), is_auth_valid };
    build.problems.extend(conflict);
    build.check_values(&mut layers);

    let settings = match settings(layers) {
        Ok(settings) => settings,
        Err(error) => {
            build.missing("configuration", error.to_string());
            return Err(Error { problems: build.problems });
        }
    };
    let config = build.config(settings);

    let problems = build.problems.into_iter().enumerate();
    let reported = problems.filter(|(i, problem)| *i < left_out || is_complete || !problem.is_missing());
    let reported: Vec<_> = reported.map(|(_, problem)| problem).collect();
    if reported.is_empty() { Ok(config) } else { Err(Error { problems: reported }) }
}

fn origins(layers: &[Layer]) -> BTreeMap<String, String> {
    let settings = layers.iter().flat_map(|layer| &layer.0);
    settings.map(|setting| (setting.key(), setting.origin.clone())).collect()
}

/// Merges the layers. They contain only keys of the table and values of the right type, so this can't fail.
fn settings(layers: Vec<Layer>) -> Result<Settings, config::ConfigError> {
    let mut builder = config::Config::builder();
    for layer in layers {
        builder = builder.add_source(layer);
    }
    let merged = builder.build()?;
    let root = merged.clone().try_deserialize()?;
    let uplinks = merged.clone().try_deserialize()?;
    let sections = merged.try_deserialize()?;
    Ok(Settings { root, sections, uplinks })
}

/// Builds the parts of a configuration and collects the problems.
struct Build {
    origins: BTreeMap<String, String>,
    environment: Environment,
    problems: Vec<Problem>,
    /// See [`Config::ignored`].
    ignored: Vec<String>,
    /// Whether at most one way to authenticate is set.
    is_auth_valid: bool,
}

impl Build {
    /// Applies the checks of the table to the effective values, and replaces invalid ones by their defaults.
    fn check_values(&mut self, layers: &mut [Layer]) {
        let mut in_effect = BTreeMap::new();
        for setting in layers.iter().flat_map(|layer| &layer.0) {
            in_effect.insert(setting.key(), setting.clone());
        }

        let url = |store: &str| in_effect.get(&format!("stores.{store}.url")).and_then(|url| text(&url.value));
        // Such a key is reported, whatever its value.
        let is_foreign = |setting: &Setting| {
            let url = setting.store().and_then(url).filter(|url| StoreAddress::parse(url).is_ok());
            url.is_some_and(|url| setting.path.get(2).is_some_and(|key| is_of_other_kind(key, &url)))
        };

        let mut invalid = Vec::new();
        for (name, setting) in &in_effect {
            let check = lookup::find(&setting.path).and_then(|key| key.check);
            let (Some(check), Some(text)) = (check, text(&setting.value)) else { continue };
            if is_foreign(setting) {
                continue;
            }
            if let Err(cure) = check(&text) {
                self.value(name, &text, cure);
                invalid.push(name.clone());
            }
        }

        for layer in layers {
            layer.0.retain(|setting| setting.origin == DEFAULTS || !invalid.contains(&setting.key()));
        }
    }

    fn config(&mut self, settings: Settings) -> Config {
        let sections = settings.sections.clone();
        let shared_reads =
            sections.stores.iter().filter_map(|(name, keys)| Some((name.clone(), stores::shared(keys)?)));
        let shared_reads = shared_reads.collect();
        let caches = self.caches(&sections.stores);
        let prefix = Prefix::new(settings.root.prefix.clone()).unwrap_or_default();
        let stores = sections.stores.into_iter().filter_map(|(name, store)| {
            let store = self.store(&name, store, &settings)?;
            Some((name, store))
        });

        let stores = stores.collect();
        let nats = self.nats("nats", sections.nats);
        let relay = relay::Options { shows_keys: sections.log.keys, ..self.relay(sections.relay, &prefix) };
        let gateway = self.gateway(sections.gateway, sections.log.keys);
        let http = self.http(&sections.http);
        let log = log(sections.log);
        let telemetry = self.telemetry(sections.telemetry, self.environment.otel());
        let ignored = std::mem::take(&mut self.ignored);
        let await_relay = Duration::from_millis(settings.root.await_relay_ms);
        Config {
            prefix,
            await_relay,
            nats,
            relay,
            stores,
            shared_reads,
            caches,
            gateway,
            http,
            log,
            telemetry,
            ignored,
            settings,
        }
    }

    fn nats(&mut self, section: &str, keys: keys::Nats) -> nats::Options {
        let auth = self.auth(section, &keys);
        let (tls_cert, tls_key) =
            self.pair(section, ("tls_cert_file", keys.tls_cert_file), ("tls_key_file", keys.tls_key_file)).unzip();
        let tls_ca = keys.tls_ca_file.map(PathBuf::from);
        if let Some(path) = &tls_ca {
            self.file(&format!("{section}.tls_ca_file"), path, check::file);
        }

        nats::Options {
            servers: address::servers(&keys.url).map(str::to_owned).collect(),
            name: keys.connection_name,
            auth,
            tls_ca,
            tls_cert,
            tls_key,
            tls_required: keys.tls_required,
            tls_first: keys.tls_first,
            ignore_discovered_servers: keys.ignore_discovered_servers,
            inbox_prefix: keys.inbox_prefix.trim_end_matches('.').to_owned(),
            connect_timeout: Duration::from_millis(keys.connect_timeout_ms),
            ..nats::Options::default()
        }
    }

    fn auth(&mut self, section: &str, keys: &keys::Nats) -> nats::Auth {
        if !self.is_auth_valid {
            return nats::Auth::None;
        }
        let named = |key: &str| format!("{section}.{key}");

        let password = self.secret(&named("password"), keys.password.as_ref(), keys.password_file.as_deref());
        let token = self.secret(&named("token"), keys.token.as_ref(), keys.token_file.as_deref());
        if let Some(path) = &keys.creds_file {
            self.file(&named("creds_file"), Path::new(path), check::file);
            return nats::Auth::Credentials(path.into());
        }
        if let Some(path) = &keys.nkey_file {
            self.file(&named("nkey_file"), Path::new(path), check::file);
            return nats::Auth::Nkey(path.into());
        }
        match token {
            Some(SecretSource::Text(token)) => return nats::Auth::Token(token),
            Some(SecretSource::File(path)) => return nats::Auth::TokenFile(path),
            None => {}
        }

        match (keys.user.clone(), password) {
            (Some(user), Some(SecretSource::Text(password))) => nats::Auth::UserPassword { user, password },
            (Some(user), Some(SecretSource::File(password))) => nats::Auth::UserPasswordFile { user, password },
            (Some(_), None) => {
                let place = self.origin(&named("user"));
                let cure = format!("`{}` ({place}) requires it, or `{}`", named("user"), named("password_file"));
                self.missing(&named("password"), cure);
                nats::Auth::None
            }
            (None, Some(_)) => {
                self.missing(&named("user"), "a password requires it".to_owned());
                nats::Auth::None
            }
            (None, None) => nats::Auth::None,
        }
    }

    /// Returns the source of a secret: the key itself, or the file that the key with `_file` names.
    fn secret(&mut self, key: &str, text: Option<&Secret>, file: Option<&str>) -> Option<SecretSource> {
        let file_key = format!("{key}_file");
        if text.is_some() && file.is_some() {
            let keys = format!("`{key}` ({}) and `{file_key}` ({})", self.origin(key), self.origin(&file_key));
            self.problems.push(Problem::Conflict { keys, cure: "keep one of them".to_owned() });
        }
        if let Some(path) = file {
            self.file(&file_key, Path::new(path), check::secret_file);
        }

        let text = text.map(|text| SecretSource::Text(text.expose().to_owned()));
        text.or_else(|| file.map(|path| SecretSource::File(path.into())))
    }

    fn relay(&mut self, keys: keys::Relay, prefix: &Prefix) -> relay::Options {
        if keys.idle_timeout_ms < keys.beat_interval_ms.saturating_mul(2) {
            let cure = format!("must be at least twice `relay.beat_interval_ms`, {}", keys.beat_interval_ms);
            self.value("relay.idle_timeout_ms", &keys.idle_timeout_ms, cure);
        }
        if u64::try_from(keys.chunk_max_bytes).is_ok_and(|chunk| keys.window_max_bytes < chunk) {
            let cure = format!("must be at least `relay.chunk_max_bytes`, {}", keys.chunk_max_bytes);
            self.value("relay.window_max_bytes", &keys.window_max_bytes, cure);
        }

        let rate_limit = keys.rate_max_bytes_per_s.and_then(NonZeroU64::new).map(RateLimit::new);
        relay::Options {
            prefix: prefix.clone(),
            delivery_allow: DeliveryAllow::new(keys.delivery_allow).unwrap_or_default(),
            transfers_max: keys.transfers_max,
            budget: Budget::new(keys.memory_budget_bytes),
            chunk_max_bytes: keys.chunk_max_bytes,
            window_max_bytes: keys.window_max_bytes,
            beat_interval: Duration::from_millis(keys.beat_interval_ms),
            idle_timeout: Duration::from_millis(keys.idle_timeout_ms),
            drain_grace: Duration::from_millis(keys.drain_grace_ms),
            transfer_rate_max: keys.transfer_rate_max_bytes_per_s.and_then(NonZeroU64::new),
            rate_limit,
            ..relay::Options::default()
        }
    }

    fn http(&self, keys: &keys::Http) -> Http {
        // The value has passed the check of the table, so text that does not parse is `off`.
        Http { listen: keys.listen.parse().ok(), is_chosen: self.origin("http.listen") != DEFAULTS }
    }

    fn telemetry(&self, keys: keys::Telemetry, otel: Otel) -> Telemetry {
        let origin = self.origin("telemetry.otlp_endpoint");
        let url = keys.otlp_endpoint.filter(|_| !otel.disabled);
        let traces_url = url.map(|url| {
            if origin == otel::TRACES_ENDPOINT { url } else { format!("{}/v1/traces", url.trim_end_matches('/')) }
        });

        let ignored = otel.ignored.filter(|_| traces_url.is_none());
        Telemetry { traces_url, is_inherited: origin.starts_with("OTEL_"), ignored }
    }

    /// Returns two files that require each other, after checking that both can be read.
    fn pair(
        &mut self,
        section: &str,
        (first_key, first): (&str, Option<String>),
        (second_key, second): (&str, Option<String>),
    ) -> Option<(PathBuf, PathBuf)> {
        let first_key = format!("{section}.{first_key}");
        let second_key = format!("{section}.{second_key}");
        match (first, second) {
            (Some(first), Some(second)) => {
                let pair = (PathBuf::from(first), PathBuf::from(second));
                let is_of_store = section.starts_with("stores.") && !section.ends_with(".nats");
                let check = if is_of_store { check::secret_file } else { check::text_file };
                self.file(&first_key, &pair.0, check);
                self.file(&second_key, &pair.1, check);
                Some(pair)
            }
            (None, None) => None,
            (Some(_), None) => {
                let place = self.origin(&first_key);
                self.missing(&second_key, format!("`{first_key}` ({place}) requires it"));
                None
            }
            (None, Some(_)) => {
                let place = self.origin(&second_key);
                self.missing(&first_key, format!("`{second_key}` ({place}) requires it"));
                None
            }
        }
    }

    fn file(&mut self, key: &str, path: &Path, check: fn(&Path) -> Result<(), String>) {
        match check(path) {
            Ok(()) => {}
            Err(_) if misplaced::is_secret(&path.to_string_lossy()) => {
                self.value(key, &redact::HIDDEN, misplaced::CURE.to_owned());
            }
            Err(problem) => self.value(key, &path, problem),
        }
    }

    fn origin(&self, key: &str) -> String {
        self.origins.get(key).cloned().unwrap_or_else(|| DEFAULTS.to_owned())
    }

    /// Returns the place of some setting of a store.
    fn origin_of_store(&self, name: &StoreName) -> String {
        let prefix = format!("stores.{name}.");
        let mut settings = self.origins.iter().filter(|(key, origin)| key.starts_with(&prefix) && *origin != DEFAULTS);
        settings.next().map_or_else(|| DEFAULTS.to_owned(), |(_, origin)| origin.clone())
    }

    fn value(&mut self, key: &str, value: &impl std::fmt::Debug, cure: String) {
        let value = format!("{value:?}");
        let text = value.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let value = text.map_or_else(|| value.clone(), |text| format!("\"{}\"", redact::shown(key, text)));
        self.problems.push(Problem::Value { key: key.to_owned(), value, origin: self.origin(key), cure });
    }

    fn missing(&mut self, key: &str, cure: String) {
        self.problems.push(Problem::Missing { key: key.to_owned(), cure });
    }
}

/// The source of a secret.
enum SecretSource {
    Text(String),
    File(PathBuf),
}

fn log(keys: keys::Log) -> Log {
    let format = if keys.format == "json" { Format::Json } else { Format::Text };
    Log { level: keys.level, format }
}

/// Returns the text of a value for a check of the table. The items of a list are separated by commas.
fn text(value: &ValueKind) -> Option<String> {
    if let ValueKind::Array(values) = value {
        return Some(values.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    if let ValueKind::String(text) = value { Some(text.clone()) } else { None }
}
