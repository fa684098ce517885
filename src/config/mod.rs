//! The configuration: layers of settings that are checked against one table of keys and converted to the components'
//! options.
//!
//! From lowest to highest, the layers are: defaults; the context that `nats context select` selected; a TOML file; a
//! context given by name; the variables of the `nats` command line (`NATS_URL`, …); Gantry's own variables
//! (`GANTRY_RELAY__TRANSFERS_MAX`, …); options of the command line. The highest layer that names a way to authenticate
//! to NATS decides on it, and settings of lower layers for other ways are ignored.
//!
//! A setting passes through these modules: `keys` describes it, `sources` collects it, `layer` checks its type, and
//! `build` converts it to a part of a [`Config`].

mod address;
mod build;
mod check;
mod context;
#[cfg(test)]
mod docs;
mod duration;
mod effective;
mod environment;
mod error;
mod file;
mod keys;
mod kinds;
mod layer;
mod lookup;
mod otel;
mod pasted;
mod place;
mod redact;
mod similar;
mod sources;
mod synonyms;
mod table;
// They configure stores of all kinds.
#[cfg(test)]
#[cfg(all(feature = "azure", feature = "gcs"))]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use gantry_bus::nats;
use gantry_http as front;
use gantry_proto::StoreName;
use gantry_proto::subject::Prefix;
use gantry_relay as relay;
#[cfg(feature = "azure")]
use gantry_store::azure;
#[cfg(feature = "gcs")]
use gantry_store::gcs;
use gantry_store::{cache, file as file_store, s3, shared};
use gantry_upstream as upstream;
use serde::Deserialize;

pub use self::address::{ListenAddress, StoreAddress, http_authority};
pub use self::context::Choice as ContextChoice;
pub use self::duration::parse_ms as parse_duration_ms;
pub use self::effective::Effective;
pub use self::environment::Environment;
pub use self::error::{Error, Problem};
pub use self::keys::KEYS;
pub(crate) use self::pasted::begins_connection_string;
pub use self::redact::{without_credentials, without_credentials_in};
pub(crate) use self::similar::nearest_of;
pub use self::sources::{Flags, Sources};
pub use self::table::{ENV_PREFIX, Flag, Key, Kind, Scope};
use crate::telemetry::Format;

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The first tokens of every subject.
    pub prefix: Prefix,
    /// How long a consumer retries while no relay is listening.
    pub await_relay: Duration,
    /// The connection to NATS.
    pub nats: nats::Options,
    /// The relay's limits and timers.
    pub relay: relay::Options,
    /// The stores that the relay serves.
    pub stores: BTreeMap<StoreName, Store>,
    /// The stores that are read once for several consumers, with their limits.
    pub shared_reads: BTreeMap<StoreName, shared::Limits>,
    /// The caches of stores that have one.
    pub caches: BTreeMap<StoreName, Cache>,
    /// The HTTP front.
    pub gateway: Gateway,
    /// The HTTP pages for operators.
    pub http: Http,
    /// Logging.
    pub log: Log,
    /// Traces.
    pub telemetry: Telemetry,
    /// Settings without effect that look as if they had one: each with its key or variable, and what to do.
    pub ignored: Vec<String>,
    settings: Settings,
}

/// One store, by its kind.
#[derive(Clone, Debug)]
pub enum Store {
    /// A directory.
    File(file_store::Options),
    /// A bucket of S3.
    S3(Box<s3::Options>),
    /// A bucket of Google Cloud Storage.
    #[cfg(feature = "gcs")]
    Gcs(Box<gcs::Options>),
    /// A container of Azure Blob Storage.
    #[cfg(feature = "azure")]
    Azure(Box<azure::Options>),
    /// A store of other relays.
    Nats(Box<Uplink>),
}

/// A store that other relays serve, and the connection to them.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// The name under which they serve it.
    pub store: StoreName,
    /// The first tokens of their subjects.
    pub prefix: Prefix,
    /// The connection.
    pub nats: nats::Options,
}

/// The cache on disk of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Its folder.
    pub dir: PathBuf,
    /// How much it may contain.
    pub limits: cache::Limits,
    /// What it may be used for.
    pub options: cache::Options,
}

/// The HTTP front.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The address to listen on; `None` for the command's own.
    pub listen: Option<ListenAddress>,
    /// The files of the certificate and the key for HTTPS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The files of the access key's id and secret.
    pub access_key: Option<(PathBuf, PathBuf)>,
    /// The limits, without access keys.
    pub front: front::Options,
    /// The limits of the stores that are read over NATS.
    pub upstream: upstream::Options,
    /// The access log, if one is written.
    pub access_log: Option<AccessLog>,
}

/// The form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// The common log format of web servers.
    Common,
    /// One JSON object per line.
    Json,
}

/// The HTTP pages for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// The address to listen on; `None` if there are no pages.
    pub listen: Option<SocketAddr>,
    /// Whether the address was set. If a default address is in use, the relay works without pages.
    pub is_chosen: bool,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or levels by module; `None` for the command's own.
    pub level: Option<String>,
    /// The form of the lines.
    pub format: Format,
}

/// Traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// The collector's complete URL.
    pub traces_url: Option<String>,
    /// Whether a variable of OpenTelemetry set it, not a key of Gantry. A failure must not end the command then.
    pub is_inherited: bool,
    /// Why there are no traces although a variable of OpenTelemetry requests them.
    pub ignored: Option<String>,
}

/// The values of all keys, for comparison with another configuration. `Debug` omits them: an address may contain a
/// password.
#[derive(Clone, PartialEq, Eq)]
struct Settings {
    root: keys::Root,
    sections: Sections,
    uplinks: Uplinks,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

/// The values of the keys in sections.
#[derive(Clone, PartialEq, Eq, Deserialize)]
struct Sections {
    nats: keys::Nats,
    relay: keys::Relay,
    #[serde(default)]
    stores: BTreeMap<StoreName, keys::Store>,
    gateway: keys::Gateway,
    http: keys::Http,
    log: keys::Log,
    #[serde(default)]
    telemetry: keys::Telemetry,
}

/// The keys of connections below `stores.NAME.nats`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
struct Uplinks {
    #[serde(default)]
    stores: BTreeMap<StoreName, UplinkTable>,
}

#[derive(Clone, PartialEq, Eq, Deserialize)]
struct UplinkTable {
    #[serde(default)]
    nats: Option<UplinkKeys>,
}

#[derive(Clone, PartialEq, Eq, Deserialize)]
struct UplinkKeys {
    prefix: String,
    #[serde(flatten)]
    nats: keys::Nats,
}

impl Config {
    /// Returns the sections, other than the stores, in which `other` differs.
    #[must_use]
    pub fn differs_beside_stores(&self, other: &Self) -> Vec<&'static str> {
        let ours = &self.settings.sections;
        let theirs = &other.settings.sections;
        let sections = [
            ("prefix", self.settings.root != other.settings.root),
            ("nats", ours.nats != theirs.nats),
            ("relay", ours.relay != theirs.relay),
            ("gateway", ours.gateway != theirs.gateway),
            ("http", ours.http != theirs.http),
            ("log", ours.log != theirs.log),
            ("telemetry", self.telemetry != other.telemetry),
        ];
        sections.into_iter().filter_map(|(section, differs)| differs.then_some(section)).collect()
    }
}
