//! From checked layers to typed values, and what only shows between keys.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::effective;
use super::error::{Error, Problem};
use super::layer::Layer;
use super::otel;
use super::{
    Auth, Config, Http, KEYS, Log, LogFormat, Nats, Place, Relay, S3, S3Keys, Secret, SecretSource, Store, Telemetry,
};
use gantry_proto::StoreName;
use gantry_proto::subject::{DeliveryAllow, Prefix, is_literal};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    prefix: String,
    nats: RawNats,
    relay: RawRelay,
    #[serde(default)]
    stores: BTreeMap<StoreName, RawStore>,
    http: RawHttp,
    log: RawLog,
    #[serde(default)]
    telemetry: RawTelemetry,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNats {
    url: String,
    connection_name: Option<String>,
    creds_file: Option<PathBuf>,
    nkey_file: Option<PathBuf>,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    tls_ca_file: Option<PathBuf>,
    tls_cert_file: Option<PathBuf>,
    tls_key_file: Option<PathBuf>,
    tls_required: bool,
    tls_first: bool,
    ignore_discovered_servers: bool,
    inbox_prefix: String,
    connect_timeout_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRelay {
    transfers_max: usize,
    memory_budget_bytes: u64,
    chunk_max_bytes: usize,
    window_max_bytes: u64,
    beat_interval_ms: u64,
    idle_timeout_ms: u64,
    drain_grace_ms: u64,
    rate_max_bytes_per_s: Option<NonZeroU64>,
    transfer_rate_max_bytes_per_s: Option<NonZeroU64>,
    delivery_allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStore {
    url: Option<String>,
    endpoint_url: Option<String>,
    region: Option<String>,
    path_style: Option<bool>,
    profile: Option<String>,
    access_key_id_file: Option<PathBuf>,
    secret_access_key_file: Option<PathBuf>,
    session_token_file: Option<PathBuf>,
    range_bytes: Option<u64>,
    concurrency_max: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    listen: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTelemetry {
    otlp_endpoint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    level: Option<String>,
    format: String,
}

/// The ways to authenticate: the keys that name one, and those that complete it.
const AUTH: &[(&[&str], &[&str])] = &[
    (&["nats.creds_file"], &[]),
    (&["nats.nkey_file"], &[]),
    (&["nats.user"], &["nats.password", "nats.password_file"]),
    (&["nats.token", "nats.token_file"], &[]),
];

/// Merges the layers, lowest first, and makes a configuration of them.
pub(super) fn resolve(mut layers: Vec<Layer>) -> Result<Config, Error> {
    keep_one_auth(&mut layers)?;
    let origins =
        layers.iter().flat_map(|layer| &layer.0).map(|setting| (setting.key(), setting.origin.clone())).collect();
    let mut builder = config::Config::builder();
    for layer in layers {
        builder = builder.add_source(layer);
    }
    // The layers are checked against the key table, and a test holds the table and these types equal.
    let raw: Raw = builder
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(|error| Problem::Missing { key: "configuration".to_owned(), cure: error.to_string() })?;
    Check { origins, problems: Vec::new() }.config(raw)
}

/// Keeps the way to authenticate that the highest layer names, and drops what lower layers say of others.
pub(super) fn keep_one_auth(layers: &mut [Layer]) -> Result<(), Problem> {
    let names = |layer: &Layer, keys: &[&str]| layer.0.iter().any(|setting| keys.contains(&setting.key().as_str()));
    for at in (0..layers.len()).rev() {
        let named: Vec<usize> = (0..AUTH.len()).filter(|way| names(&layers[at], AUTH[*way].0)).collect();
        match named.as_slice() {
            [] => {}
            [way] => {
                for (other, (named_by, completed_by)) in AUTH.iter().enumerate() {
                    let lower = if other == *way { 0..at } else { 0..layers.len() };
                    let completing = if other == *way { &[] } else { *completed_by };
                    let drop: Vec<&str> = named_by.iter().chain(completing).copied().collect();
                    for layer in &mut layers[lower] {
                        layer.0.retain(|setting| !drop.contains(&setting.key().as_str()));
                    }
                }
                return Ok(());
            }
            _ => {
                let layer = &layers[at];
                let ways = named.iter().flat_map(|way| AUTH[*way].0);
                let found: Vec<String> = ways
                    .filter_map(|key| layer.0.iter().find(|setting| setting.key() == *key))
                    .map(|setting| format!("`{}` ({})", setting.key(), setting.origin))
                    .collect();
                let cure = "keep one way to authenticate".to_owned();
                return Err(Problem::Conflict { keys: found.join(" and "), cure });
            }
        }
    }
    Ok(())
}

/// Checks what no single key shows, and collects what is wrong.
struct Check {
    origins: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Check {
    fn config(mut self, raw: Raw) -> Result<Config, Error> {
        let prefix = Prefix::new(raw.prefix.clone()).unwrap_or_else(|_| {
            let cure = "must be tokens with dots between them, without white space, `*`, `>`, and a leading `$` or `_`";
            self.value("prefix", &raw.prefix, cure);
            Prefix::default()
        });
        let nats = self.nats(raw.nats);
        let relay = self.relay(raw.relay);
        let stores = raw.stores.into_iter().filter_map(|(name, store)| {
            let store = self.store(&name, store)?;
            Some((name, store))
        });
        let stores = stores.collect();
        let http = self.http(&raw.http);
        let log = self.log(raw.log);
        let telemetry = self.telemetry(raw.telemetry);
        if self.problems.is_empty() {
            Ok(Config { prefix, nats, relay, stores, http, log, telemetry })
        } else {
            Err(Error { problems: self.problems })
        }
    }

    fn nats(&mut self, raw: RawNats) -> Nats {
        let auth = self.auth(&raw);
        let servers: Vec<_> =
            raw.url.split(',').map(str::trim).filter(|url| !url.is_empty()).map(Secret::new).collect();
        if servers.is_empty() {
            self.value("nats.url", &raw.url, "must be addresses such as nats://127.0.0.1:4222");
        }
        let tls_client = match (raw.tls_cert_file, raw.tls_key_file) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                self.missing("nats.tls_key_file", "`nats.tls_cert_file` needs it");
                None
            }
            (None, Some(_)) => {
                self.missing("nats.tls_cert_file", "`nats.tls_key_file` needs it");
                None
            }
        };
        let files = [("nats.tls_ca_file", raw.tls_ca_file.as_deref())].into_iter().chain(tls_client.iter().flat_map(
            |(cert, key)| [("nats.tls_cert_file", Some(cert.as_path())), ("nats.tls_key_file", Some(key.as_path()))],
        ));
        for (key, path) in files {
            if let Some(path) = path {
                self.readable(key, path);
            }
        }
        let inbox_prefix = raw.inbox_prefix.trim_end_matches('.').to_owned();
        if !is_literal(&inbox_prefix) {
            let cure = "must be tokens with dots between them, without white space, `*` and `>`";
            self.value("nats.inbox_prefix", &inbox_prefix, cure);
        }
        Nats {
            servers,
            connection_name: raw.connection_name.unwrap_or_else(|| "gantry".to_owned()),
            auth,
            tls_ca_file: raw.tls_ca_file,
            tls_client,
            tls_required: raw.tls_required,
            tls_first: raw.tls_first,
            ignore_discovered_servers: raw.ignore_discovered_servers,
            inbox_prefix,
            connect_timeout: Duration::from_millis(raw.connect_timeout_ms),
        }
    }

    fn auth(&mut self, raw: &RawNats) -> Auth {
        let secret = |inline: &Option<String>, file: &Option<PathBuf>| {
            let inline = inline.as_deref().map(|text| SecretSource::Inline(Secret::new(text)));
            inline.or_else(|| file.clone().map(SecretSource::File))
        };
        for (key, inline, file) in [
            ("nats.password", raw.password.is_some(), raw.password_file.as_deref()),
            ("nats.token", raw.token.is_some(), raw.token_file.as_deref()),
        ] {
            let Some(path) = file else { continue };
            if inline {
                let keys = format!(
                    "`{key}` ({}) and `{key}_file` ({})",
                    self.origin(key),
                    self.origin(&format!("{key}_file"))
                );
                self.problems.push(Problem::Conflict { keys, cure: "keep one of them".to_owned() });
            }
            self.readable(&format!("{key}_file"), path);
        }
        if let Some(path) = &raw.creds_file {
            self.readable("nats.creds_file", path);
            return Auth::Credentials(path.clone());
        }
        if let Some(path) = &raw.nkey_file {
            self.readable("nats.nkey_file", path);
            return Auth::Nkey(path.clone());
        }
        if let Some(token) = secret(&raw.token, &raw.token_file) {
            return Auth::Token(token);
        }
        match (&raw.user, secret(&raw.password, &raw.password_file)) {
            (Some(user), Some(password)) => Auth::UserPassword { user: user.clone(), password },
            (Some(_), None) => {
                self.missing("nats.password", "`nats.user` needs it, or `nats.password_file`");
                Auth::None
            }
            (None, Some(_)) => {
                self.missing("nats.user", "a password needs it");
                Auth::None
            }
            (None, None) => Auth::None,
        }
    }

    fn relay(&mut self, raw: RawRelay) -> Relay {
        let delivery_allow = DeliveryAllow::new(raw.delivery_allow.clone()).unwrap_or_else(|error| {
            self.value(
                "relay.delivery_allow",
                &raw.delivery_allow.join(","),
                &format!("{error}, each with a final dot"),
            );
            DeliveryAllow::default()
        });
        if raw.idle_timeout_ms < raw.beat_interval_ms.saturating_mul(2) {
            let cure = format!("must be at least twice `relay.beat_interval_ms`, {}", raw.beat_interval_ms);
            self.value("relay.idle_timeout_ms", &raw.idle_timeout_ms, &cure);
        }
        if u64::try_from(raw.chunk_max_bytes).is_ok_and(|chunk| raw.window_max_bytes < chunk) {
            let cure = format!("must be at least `relay.chunk_max_bytes`, {}", raw.chunk_max_bytes);
            self.value("relay.window_max_bytes", &raw.window_max_bytes, &cure);
        }
        Relay {
            transfers_max: raw.transfers_max,
            memory_budget_bytes: raw.memory_budget_bytes,
            chunk_max_bytes: raw.chunk_max_bytes,
            window_max_bytes: raw.window_max_bytes,
            beat_interval: Duration::from_millis(raw.beat_interval_ms),
            idle_timeout: Duration::from_millis(raw.idle_timeout_ms),
            drain_grace: Duration::from_millis(raw.drain_grace_ms),
            rate_max_bytes_per_s: raw.rate_max_bytes_per_s,
            transfer_rate_max_bytes_per_s: raw.transfer_rate_max_bytes_per_s,
            delivery_allow,
        }
    }

    fn store(&mut self, name: &StoreName, raw: RawStore) -> Option<Store> {
        let key = |key: &str| format!("stores.{name}.{key}");
        let Some(url) = &raw.url else {
            self.missing(&key("url"), "set it to `s3://bucket/prefix` or `file:///dir`");
            return None;
        };
        let place = match Place::parse(url) {
            Ok(place) => place,
            Err(cure) => {
                self.value(&key("url"), url, &cure);
                return None;
            }
        };
        if let Some(endpoint) = &raw.endpoint_url
            && !["http://", "https://"]
                .iter()
                .any(|scheme| endpoint.len() > scheme.len() && endpoint.starts_with(scheme))
        {
            self.value(&key("endpoint_url"), endpoint, "must begin with http:// or https:// and name a host");
        } else if let Some(endpoint) = raw.endpoint_url.as_ref().filter(|endpoint| endpoint.contains('@')) {
            let cure =
                "must hold no user and password: `access_key_id_file` and `secret_access_key_file` are for these";
            self.value(&key("endpoint_url"), endpoint, cure);
        }
        if let Some(region) = &raw.region
            && !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        {
            self.value(&key("region"), region, "must be the name of a region, as in eu-west-1");
        }
        let s3_keys = match (raw.access_key_id_file, raw.secret_access_key_file) {
            (Some(access_key_id), Some(secret_access_key)) => {
                Some(S3Keys { access_key_id, secret_access_key, session_token: raw.session_token_file })
            }
            (None, None) => None,
            (Some(_), None) => {
                self.missing(&key("secret_access_key_file"), "`access_key_id_file` needs it");
                None
            }
            (None, Some(_)) => {
                self.missing(&key("access_key_id_file"), "`secret_access_key_file` needs it");
                None
            }
        };
        if let Some(keys) = &s3_keys {
            self.readable(&key("access_key_id_file"), &keys.access_key_id);
            self.readable(&key("secret_access_key_file"), &keys.secret_access_key);
            if let Some(token) = &keys.session_token {
                self.readable(&key("session_token_file"), token);
            }
        }
        let s3 = S3 {
            endpoint_url: raw.endpoint_url,
            region: raw.region,
            path_style: raw.path_style,
            profile: raw.profile,
            keys: s3_keys,
            range_bytes: raw.range_bytes.unwrap_or_else(|| default_of("stores.NAME.range_bytes")),
            concurrency_max: raw.concurrency_max.unwrap_or_else(|| default_of("stores.NAME.concurrency_max")),
        };
        Some(Store { place, s3 })
    }

    fn http(&mut self, raw: &RawHttp) -> Http {
        let chosen = self.origin("http.listen") != "defaults";
        let listen = match raw.listen.as_str() {
            "off" => None,
            text => text.parse().ok().or_else(|| {
                let cure = "must be an address and a port, as in 127.0.0.1:8080 or [::]:8080, or off";
                self.value("http.listen", &text, cure);
                None
            }),
        };
        Http { listen, chosen }
    }

    fn telemetry(&mut self, raw: RawTelemetry) -> Telemetry {
        let origin = self.origin("telemetry.otlp_endpoint");
        let traces_url = raw.otlp_endpoint.map(|url| {
            if !otel::is_usable(&url) {
                self.value("telemetry.otlp_endpoint", &url, otel::CURE);
            }
            if origin == otel::TRACES_ENDPOINT { url } else { format!("{}/v1/traces", url.trim_end_matches('/')) }
        });
        Telemetry { traces_url, inherited: origin.starts_with("OTEL_"), ignored: None }
    }

    fn log(&mut self, raw: RawLog) -> Log {
        if let Some(level) = &raw.level
            && let Err(error) = level.parse::<tracing_subscriber::EnvFilter>()
        {
            let cure =
                format!("{error}; must be error, warn, info, debug, trace, or by module as in info,gantry_relay=debug");
            self.value("log.level", level, &cure);
        }
        let format = if raw.format == "json" { LogFormat::Json } else { LogFormat::Text };
        Log { level: raw.level, format }
    }

    fn origin(&self, key: &str) -> String {
        self.origins.get(key).cloned().unwrap_or_else(|| "defaults".to_owned())
    }

    fn value(&mut self, key: &str, value: &impl std::fmt::Debug, cure: &str) {
        let (value, origin) = (format!("{value:?}"), self.origin(key));
        let value = match value.strip_prefix('"') {
            Some(text) => format!("\"{}", effective::shown(key, text)),
            None => value,
        };
        self.problems.push(Problem::Value { key: key.to_owned(), value, origin, cure: cure.to_owned() });
    }

    fn missing(&mut self, key: &str, cure: &str) {
        self.problems.push(Problem::Missing { key: key.to_owned(), cure: cure.to_owned() });
    }

    /// A file that can't be read now would only show when it is needed, perhaps in the middle of the night.
    fn readable(&mut self, key: &str, path: &Path) {
        let read = std::fs::File::open(path).and_then(|file| file.metadata());
        match read {
            Ok(metadata) if metadata.is_dir() => self.value(key, &path, "is a directory: must be a file"),
            Ok(_) => {}
            Err(error) => self.value(key, &path, &format!("can't be read: {error}")),
        }
    }
}

/// Reads a default from the key table.
fn default_of<T: std::str::FromStr + Default>(name: &str) -> T {
    let spec = KEYS.iter().find(|spec| spec.name == name);
    spec.and_then(|spec| spec.default).and_then(|default| default.parse().ok()).unwrap_or_default()
}
