//! Configuration: layers of settings, checked against one table of keys, made into types that can't be wrong.
//!
//! From lowest to highest: defaults; the context that `nats context select` chose; a TOML file; a context given by
//! name; the `nats` command line's variables (`NATS_URL`, …); our own (`GANTRY_RELAY__TRANSFERS_MAX`, …); flags.
//! Of the ways to authenticate to NATS the highest layer that names one decides, and what lower layers say about
//! other ways is void.

mod context;
mod duration;
mod effective;
mod error;
mod keys;
mod layer;
mod otel;
mod place;
mod raw;
mod secret;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

pub use context::Choice as ContextChoice;
pub use duration::parse_ms as parse_duration_ms;
pub use effective::{Effective, without_credentials};
pub use error::{Error, Problem};
pub use keys::{ENV_PREFIX, KEYS, KeySpec, Kind, tables};
pub use place::Place;
pub use secret::{Secret, SecretSource};

use gantry_proto::StoreName;
use gantry_proto::subject::{DeliveryAllow, Prefix};
use layer::Layer;
use otel::Otel;

/// A configuration that holds together.
#[derive(Clone, Debug)]
pub struct Config {
    /// First tokens of every subject.
    pub prefix: Prefix,
    /// The connection to NATS.
    pub nats: Nats,
    /// The relay's limits and timers.
    pub relay: Relay,
    /// The stores that the relay serves.
    pub stores: BTreeMap<StoreName, Store>,
    /// The operator's pages.
    pub http: Http,
    /// What is logged.
    pub log: Log,
    /// Where traces go.
    pub telemetry: Telemetry,
}

/// The connection to NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nats {
    /// Addresses, never none; may hold credentials.
    pub servers: Vec<Secret>,
    /// The connection's name in nats-server's reports.
    pub connection_name: String,
    /// How we say who we are.
    pub auth: Auth,
    /// Certificate authorities to trust in place of the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// Client certificate and its key.
    pub tls_client: Option<(PathBuf, PathBuf)>,
    /// Whether a connection without TLS is refused.
    pub tls_required: bool,
    /// Whether TLS begins before the server's greeting.
    pub tls_first: bool,
    /// Whether only `servers` are connected to, and no others of their cluster.
    pub ignore_discovered_servers: bool,
    /// Prefix of our reply subjects, without the final dot.
    pub inbox_prefix: String,
    /// How long to try for the first connection.
    pub connect_timeout: Duration,
}

/// How we say who we are to nats-server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Not at all, or within the address.
    None,
    /// By name and password.
    UserPassword {
        /// The name.
        user: String,
        /// The password.
        password: SecretSource,
    },
    /// By token.
    Token(SecretSource),
    /// By a credentials file.
    Credentials(PathBuf),
    /// By the nkey seed in a file.
    Nkey(PathBuf),
}

/// The relay's limits and timers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Transfers at once.
    pub transfers_max: usize,
    /// Bytes of objects held in memory, over all transfers.
    pub memory_budget_bytes: u64,
    /// The largest chunk.
    pub chunk_max_bytes: usize,
    /// The most bytes on their way to one consumer.
    pub window_max_bytes: u64,
    /// Sign of life on a silent transfer.
    pub beat_interval: Duration,
    /// How long a consumer may be silent.
    pub idle_timeout: Duration,
    /// How long transfers may go on when draining.
    pub drain_grace: Duration,
    /// What all transfers together are held to.
    pub rate_max_bytes_per_s: Option<NonZeroU64>,
    /// What each transfer is held to.
    pub transfer_rate_max_bytes_per_s: Option<NonZeroU64>,
    /// The reply subjects that the relay publishes to.
    pub delivery_allow: DeliveryAllow,
}

/// One store.
#[derive(Clone, Debug)]
pub struct Store {
    /// Where its objects are.
    pub place: Place,
    /// How to reach S3; of no use to a directory.
    pub s3: S3,
}

/// How to reach S3.
#[derive(Clone, Debug)]
pub struct S3 {
    /// The server; AWS or what its variables say if unset.
    pub endpoint_url: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Whether the bucket stands in the path; if unset, it does when there is an endpoint of its own.
    pub path_style: Option<bool>,
    /// The profile of the AWS configuration files.
    pub profile: Option<String>,
    /// Keys of our own, instead of AWS's default credential chain.
    pub keys: Option<S3Keys>,
    /// Size of one ranged read.
    pub range_bytes: u64,
    /// Ranged reads at once for one transfer.
    pub concurrency_max: usize,
}

/// Files with S3 keys, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Keys {
    /// File with the access key's id.
    pub access_key_id: PathBuf,
    /// File with the secret access key.
    pub secret_access_key: PathBuf,
    /// File with the session token of temporary keys.
    pub session_token: Option<PathBuf>,
}

/// The operator's pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where they are answered, if anywhere.
    pub listen: Option<SocketAddr>,
    /// Whether someone chose that; a default may give way when it is taken.
    pub chosen: bool,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Where the collector takes them, with the path.
    pub traces_url: Option<String>,
    /// Whether a variable of OpenTelemetry asks for them, and not a key of ours: then they must not stop anything.
    pub inherited: bool,
    /// Why there are none although a variable of OpenTelemetry asks for them, for a person.
    pub ignored: Option<String>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or levels by module.
    pub level: Option<String>,
    /// Text or JSON.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// Where settings are looked for.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file, if one is named.
    pub file: Option<PathBuf>,
    /// The environment's variables.
    pub environment: Vec<(String, String)>,
    /// The context of the `nats` command line.
    pub context: ContextChoice,
    /// The user's configuration folder, in which contexts are.
    pub config_home: Option<PathBuf>,
    /// The user's home, for `~` in a context.
    pub home: Option<PathBuf>,
    /// What the command line says.
    pub flags: Flags,
}

/// Settings from the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags(Layer);

impl Flags {
    /// Adds a setting: its key, its value as text, and the flag as the user writes it.
    pub fn set(&mut self, key: &str, value: impl Into<String>, flag: &str) {
        self.0.push(key, value.into(), flag);
    }

    /// Adds a store's address.
    pub fn set_store(&mut self, name: &StoreName, url: &str) {
        self.0.push(&format!("stores.{name}.url"), url, "--store");
    }
}

impl Config {
    /// Returns the sections, other than the stores, in which `other` differs.
    #[must_use]
    pub fn differs_beside_stores(&self, other: &Self) -> Vec<&'static str> {
        [
            ("prefix", self.prefix != other.prefix),
            ("nats", self.nats != other.nats),
            ("relay", self.relay != other.relay),
            ("http", self.http != other.http),
            ("log", self.log != other.log),
            ("telemetry", self.telemetry != other.telemetry),
        ]
        .into_iter()
        .filter_map(|(section, differs)| differs.then_some(section))
        .collect()
    }
}

impl Sources {
    /// Takes this process's environment; what it names (`GANTRY_CONFIG`, `NATS_CONTEXT`) applies.
    #[must_use]
    pub fn of_process() -> Self {
        Self::of_environment(
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// Takes an environment.
    pub fn of_environment(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let environment: Vec<_> = variables.into_iter().collect();
        let find = |wanted: &str| {
            let found = environment.iter().find(|(name, value)| name == wanted && !value.is_empty());
            found.map(|(_, value)| value.clone())
        };
        let home = find("HOME").map(PathBuf::from);
        Self {
            file: find("GANTRY_CONFIG").map(PathBuf::from),
            context: find("NATS_CONTEXT").map_or(ContextChoice::Selected, ContextChoice::Named),
            config_home: find("XDG_CONFIG_HOME")
                .map(PathBuf::from)
                .or_else(|| home.as_ref().map(|home| home.join(".config"))),
            home,
            environment,
            flags: Flags::default(),
        }
    }

    /// Looks in all places and makes one configuration of what they say.
    ///
    /// # Errors
    /// With everything that is wrong, not only the first.
    pub fn load(self) -> Result<Config, Error> {
        self.read().0
    }

    /// Returns the configuration, or all that is wrong with it, and every key as it applies, with its origin; secrets
    /// are redacted. What can't be read is left out. Each place is read once: a pipe holds its text only once.
    pub fn read(self) -> (Result<Config, Error>, Vec<Effective>) {
        let otel = Otel::of_environment(&self.environment);
        let (layers, problems) = self.layers();
        let mut shown = layers.clone();
        // Of ways to authenticate that exclude each other all are there to be seen.
        drop(raw::keep_one_auth(&mut shown));
        (Self::resolve(layers, problems, otel), effective::of_layers(&shown))
    }

    fn resolve(layers: Vec<Layer>, mut problems: Vec<Problem>, otel: Otel) -> Result<Config, Error> {
        let resolved = raw::resolve(layers);
        if !problems.is_empty() {
            let more = resolved.err().into_iter().flat_map(|error| error.problems);
            problems.extend(more.filter(Problem::is_of_its_own));
            return Err(Error { problems });
        }
        let mut config = resolved?;
        let telemetry = &mut config.telemetry;
        if otel.disabled {
            telemetry.traces_url = None;
        }
        telemetry.ignored = otel.ignored.filter(|_| telemetry.traces_url.is_none());
        Ok(config)
    }

    /// Returns the checked layers, lowest first, and what in them is wrong and left out.
    fn layers(mut self) -> (Vec<Layer>, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut take = |layer: Result<Layer, Problem>| {
            layer.unwrap_or_else(|problem| {
                problems.push(problem);
                Layer::default()
            })
        };
        let context = take(context::layer(&self.context, self.config_home.as_deref(), self.home.as_deref()));
        let file = take(self.file.as_deref().map_or_else(|| Ok(Layer::default()), Layer::file));
        let mut nats = take(Layer::foreign_environment(&self.environment));
        let environment = Layer::environment(&self.environment, &mut problems);
        if ![&context, &file, &nats, &environment, &self.flags.0].into_iter().any(Layer::has_password) {
            nats.user_alone_is_token();
            self.flags.0.user_alone_is_token();
        }
        let (selected, named) = match self.context {
            ContextChoice::Named(_) => (Layer::default(), context),
            ContextChoice::Selected | ContextChoice::Never => (context, Layer::default()),
        };
        let layers = [Layer::defaults(), selected, file, named, nats, environment, self.flags.0];
        let layers = layers.into_iter().map(|layer| layer.check(&mut problems)).collect();
        (layers, problems)
    }
}
