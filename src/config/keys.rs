//! Every configuration key, once: what is accepted, documented and suggested comes from this table.

use std::time::Duration;

use gantry_proto::limits;

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A path in the file system.
    Path,
    /// `true` or `false`.
    Switch,
    /// A whole number, both ends included.
    Integer {
        /// The smallest that makes sense.
        min: u64,
        /// The largest that makes sense.
        max: u64,
    },
    /// A list of texts; in the environment separated by commas.
    List,
    /// One of a few words.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// Returns the kind as documentation names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Secret => "secret",
            Self::Path => "path",
            Self::Switch => "true or false",
            Self::Integer { .. } => "integer",
            Self::List => "list of texts",
            Self::Choice(_) => "choice",
        }
    }
}

/// One configuration key.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// Its dotted name; `NAME` stands for a store's name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The unit of its value, empty where there is none.
    pub unit: &'static str,
    /// The value when nothing sets it, as text; `None` when unset means something else, which `meaning` says.
    pub default: Option<&'static str>,
    /// The environment variable by which other programs know it; ours, `GANTRY_…`, is above it.
    pub foreign_env: Option<&'static str>,
    /// One line for a person.
    pub meaning: &'static str,
}

impl KeySpec {
    const fn new(name: &'static str, kind: Kind, meaning: &'static str) -> Self {
        Self { name, kind, unit: "", default: None, foreign_env: None, meaning }
    }

    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn foreign_env(mut self, name: &'static str) -> Self {
        self.foreign_env = Some(name);
        self
    }

    /// Returns the environment variable that sets the key.
    #[must_use]
    pub fn env_name(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.replace('.', "__").to_uppercase())
    }
}

/// What the name of every environment variable of ours begins with. A double underscore stands for the dot of a key.
pub const ENV_PREFIX: &str = "GANTRY_";

/// Stands in a key's name for the name of a store.
pub(super) const STORE_PLACEHOLDER: &str = "NAME";

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[expect(clippy::cast_possible_truncation, reason = "bounds of an hour at most")]
const fn ms(bound: Duration) -> u64 {
    bound.as_millis() as u64
}

/// Every key, by section.
pub const KEYS: &[KeySpec] = &[
    KeySpec::new("prefix", Kind::Text, "first tokens of every subject; relay and consumers must agree")
        .default("gantry"),
    KeySpec::new("nats.url", Kind::Text, "addresses of nats-server, separated by commas")
        .default("nats://127.0.0.1:4222")
        .foreign_env("NATS_URL"),
    KeySpec::new(
        "nats.connection_name",
        Kind::Text,
        "name of the connection in nats-server's reports; `gantry` if unset",
    ),
    KeySpec::new("nats.creds_file", Kind::Path, "credentials file (JWT and seed)").foreign_env("NATS_CREDS"),
    KeySpec::new("nats.nkey_file", Kind::Path, "file with an nkey seed").foreign_env("NATS_NKEY"),
    KeySpec::new(
        "nats.user",
        Kind::Text,
        "user name, with a password; of `NATS_USER` or a flag and without any password, a token",
    )
    .foreign_env("NATS_USER"),
    KeySpec::new("nats.password", Kind::Secret, "password of `nats.user`; prefer `nats.password_file`")
        .foreign_env("NATS_PASSWORD"),
    KeySpec::new("nats.password_file", Kind::Path, "file with the password of `nats.user`"),
    KeySpec::new("nats.token", Kind::Secret, "token; prefer `nats.token_file`").foreign_env("NATS_TOKEN"),
    KeySpec::new("nats.token_file", Kind::Path, "file with the token"),
    KeySpec::new("nats.tls_ca_file", Kind::Path, "certificate authorities to trust in place of the system's, PEM")
        .foreign_env("NATS_CA"),
    KeySpec::new("nats.tls_cert_file", Kind::Path, "client certificate, PEM; needs `nats.tls_key_file`")
        .foreign_env("NATS_CERT"),
    KeySpec::new("nats.tls_key_file", Kind::Path, "client key, PEM; needs `nats.tls_cert_file`")
        .foreign_env("NATS_KEY"),
    KeySpec::new("nats.tls_required", Kind::Switch, "refuse every connection without TLS; one `tls://` address, a TLS file, or a first server that asks for TLS does so too")
        .default("false"),
    KeySpec::new("nats.tls_first", Kind::Switch, "begin TLS before the server's greeting").default("false"),
    KeySpec::new(
        "nats.ignore_discovered_servers",
        Kind::Switch,
        "connect only to the servers of `nats.url`, not to others of their cluster",
    )
    .default("false"),
    KeySpec::new(
        "nats.inbox_prefix",
        Kind::Text,
        "prefix of our reply subjects, without the final dot; the relay's `relay.delivery_allow` must cover it",
    )
    .default("_INBOX"),
    KeySpec::new(
        "nats.connect_timeout_ms",
        Kind::Integer { min: 100, max: 600_000 },
        "how long to try for the first connection",
    )
    .unit("ms")
    .default("4000"),
    KeySpec::new("relay.transfers_max", Kind::Integer { min: 1, max: 100_000 }, "transfers at once; beyond it `busy`")
        .default("1000"),
    KeySpec::new(
        "relay.memory_budget_bytes",
        Kind::Integer { min: 8 * MIB, max: 1024 * GIB },
        "bytes of objects held in memory over all transfers, at least 1.5 MiB each; beyond it `busy`",
    )
    .unit("bytes")
    .default("536870912"),
    KeySpec::new(
        "relay.chunk_max_bytes",
        Kind::Integer { min: limits::CHUNK_MIN_BYTES, max: limits::CHUNK_MAX_BYTES },
        "largest chunk; nats-server's `max_payload` lowers it further",
    )
    .unit("bytes")
    .default("520192"),
    KeySpec::new(
        "relay.window_max_bytes",
        Kind::Integer { min: 64 << 10, max: GIB },
        "most bytes on their way to one consumer that it has not yet written",
    )
    .unit("bytes")
    .default("33554432"),
    KeySpec::new(
        "relay.beat_interval_ms",
        Kind::Integer { min: ms(limits::BEAT_MIN), max: ms(limits::BEAT_MAX) },
        "sign of life on a transfer that has nothing to send",
    )
    .unit("ms")
    .default("1000"),
    KeySpec::new(
        "relay.idle_timeout_ms",
        Kind::Integer { min: ms(limits::IDLE_MIN), max: ms(limits::IDLE_MAX) },
        "a transfer ends when its consumer is silent for so long",
    )
    .unit("ms")
    .default("15000"),
    KeySpec::new(
        "relay.drain_grace_ms",
        Kind::Integer { min: 0, max: 86_400_000 },
        "how long transfers may go on after the first SIGTERM",
    )
    .unit("ms")
    .default("30000"),
    KeySpec::new(
        "relay.rate_max_bytes_per_s",
        Kind::Integer { min: 1024, max: 1024 * GIB },
        "what all transfers together are held to; unset: no limit",
    )
    .unit("bytes/s"),
    KeySpec::new(
        "relay.transfer_rate_max_bytes_per_s",
        Kind::Integer { min: 1024, max: 1024 * GIB },
        "what each transfer is held to; unset: no limit",
    )
    .unit("bytes/s"),
    KeySpec::new(
        "relay.delivery_allow",
        Kind::List,
        "beginnings of the reply subjects that the relay publishes to, each with its final dot",
    )
    .default("_INBOX.,_R_."),
    KeySpec::new(
        "stores.NAME.url",
        Kind::Text,
        "where the objects are: `s3://bucket/prefix` or `file:///dir`; required",
    ),
    KeySpec::new(
        "stores.NAME.endpoint_url",
        Kind::Text,
        "S3 server; unset: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS",
    ),
    KeySpec::new("stores.NAME.region", Kind::Text, "S3 region; unset: AWS_REGION, the profile's, else us-east-1"),
    KeySpec::new(
        "stores.NAME.path_style",
        Kind::Switch,
        "bucket in the path of the URL; unset: true with an endpoint of its own",
    ),
    KeySpec::new("stores.NAME.profile", Kind::Text, "profile of the AWS configuration files; unset: AWS_PROFILE"),
    KeySpec::new(
        "stores.NAME.access_key_id_file",
        Kind::Path,
        "file with the S3 access key's id; unset: AWS's default credential chain",
    ),
    KeySpec::new("stores.NAME.secret_access_key_file", Kind::Path, "file with the S3 secret access key"),
    KeySpec::new("stores.NAME.session_token_file", Kind::Path, "file with the S3 session token of temporary keys"),
    KeySpec::new(
        "stores.NAME.range_bytes",
        Kind::Integer { min: 64 << 10, max: GIB },
        "size of one ranged read; several run at once",
    )
    .unit("bytes")
    .default("8388608"),
    KeySpec::new(
        "stores.NAME.concurrency_max",
        Kind::Integer { min: 1, max: 64 },
        "ranged reads at once for one transfer",
    )
    .default("4"),
    KeySpec::new(
        "http.listen",
        Kind::Text,
        "where `/livez`, `/readyz` and `/metrics` are answered; `off` for nowhere. Whoever reaches it reads them",
    )
    .default("127.0.0.1:8080"),
    KeySpec::new(
        "log.level",
        Kind::Text,
        "`error`, `warn`, `info`, `debug`, `trace`, or by module as in `info,gantry_relay::relay=debug`; unset: `info` for serve, `gantry_relay=warn` otherwise",
    ),
    KeySpec::new("log.format", Kind::Choice(&["text", "json"]), "one line of text or one JSON object an event")
        .default("text"),
    KeySpec::new(
        "telemetry.otlp_endpoint",
        Kind::Text,
        "collector that takes traces over OTLP/HTTP, as in `http://127.0.0.1:4318`; unset: no traces",
    )
    .foreign_env("OTEL_EXPORTER_OTLP_ENDPOINT"),
];

/// Writes the tables of `docs/CONFIGURATION.md`, one a section.
#[must_use]
pub fn tables() -> String {
    let mut text = String::new();
    let mut section = None;
    for spec in KEYS {
        let own = spec.name.rsplit_once('.').map_or("", |(section, _)| section);
        if section.replace(own) != Some(own) {
            let title = if own.is_empty() { "Top level".to_owned() } else { format!("`[{own}]`") };
            text += &format!(
                "\n## {title}\n\n| key | type | unit | default | variable | meaning |\n|---|---|---|---|---|---|\n"
            );
        }
        let kind = match spec.kind {
            Kind::Choice(words) => words.join(" or "),
            Kind::Integer { min, max } => format!("integer, {min} to {max}"),
            Kind::Text | Kind::Secret | Kind::Path | Kind::Switch | Kind::List => spec.kind.name().to_owned(),
        };
        let default = spec.default.map_or_else(String::new, |default| format!("`{default}`"));
        let foreign = spec.foreign_env.map_or_else(String::new, |name| format!(", `{name}`"));
        text += &format!(
            "| `{}` | {kind} | {} | {default} | `{}`{foreign} | {} |\n",
            spec.name,
            spec.unit,
            spec.env_name(),
            spec.meaning
        );
    }
    text
}

/// Variables that set a key by another name, which users expect.
pub(super) const ENV_ALIASES: &[(&str, &str)] = &[("GANTRY_LOG", "log.level")];

/// Variables of ours that are no configuration key.
pub(super) const ENV_OTHERS: &[&str] = &["GANTRY_CONFIG"];

/// Returns the key at a path such as `["stores", "files", "url"]`.
pub(super) fn find(path: &[String]) -> Option<&'static KeySpec> {
    let name = generic(path);
    KEYS.iter().find(|spec| spec.name == name)
}

/// Returns whether a path is the section of some key: `relay`, `stores`, `stores.files`.
pub(super) fn is_section(path: &[String]) -> bool {
    let start = format!("{}.", generic(path));
    KEYS.iter().any(|spec| spec.name.starts_with(&start))
}

/// Returns the known key nearest to an unknown one, with the store's name put back.
pub(super) fn nearest(path: &[String]) -> Option<String> {
    let wanted = generic(path);
    let found = nearest_of(&wanted, KEYS.iter().map(|spec| spec.name.to_owned()))
        // The right word in the wrong section, as `chunk_max_bytes` at the top.
        .or_else(|| {
            let last = path.last()?;
            KEYS.iter().map(|spec| spec.name).find(|name| name.rsplit('.').next() == Some(last)).map(str::to_owned)
        })?;
    Some(match path {
        [section, store, ..] if section == "stores" => found.replace(STORE_PLACEHOLDER, store),
        _ => found,
    })
}

/// Returns the environment variable nearest to an unknown one, which begins with [`ENV_PREFIX`].
pub(super) fn nearest_env(name: &str) -> Option<String> {
    // What all names share says nothing of their likeness.
    let rest = |name: &str| name.trim_start_matches(ENV_PREFIX).to_owned();
    let known = KEYS.iter().map(KeySpec::env_name).chain(ENV_OTHERS.iter().map(|name| (*name).to_owned()));
    let found = nearest_of(&rest(name), known.map(|name| rest(&name)))?;
    Some(format!("{ENV_PREFIX}{found}"))
}

/// Below this similarity a suggestion is more confusing than helpful; "prefx" and "prefix" are at 0.97.
const SIMILAR: f64 = 0.8;

fn nearest_of(wanted: &str, known: impl Iterator<Item = String>) -> Option<String> {
    known
        .map(|name| (strsim::jaro_winkler(wanted, &name), strsim::damerau_levenshtein(wanted, &name), name))
        .filter(|(similarity, ..)| *similarity >= SIMILAR)
        .min_by_key(|(_, distance, _)| *distance)
        .map(|(.., name)| name)
}

fn generic(path: &[String]) -> String {
    match path {
        [section, _, rest @ ..] if section == "stores" => {
            [&["stores".to_owned(), STORE_PLACEHOLDER.to_owned()], rest].concat().join(".")
        }
        _ => path.join("."),
    }
}
