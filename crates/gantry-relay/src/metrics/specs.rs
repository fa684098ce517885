//! The name, kind, unit, labels and help text of every metric.

use prometheus_client::registry::{Metric, Registry, Unit};

/// The prefix of every metric name, except for metrics of the process.
pub const PREFIX: &str = "gantry";

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A count that only grows.
    Counter,
    /// A value that can rise and fall.
    Gauge,
    /// A distribution of values.
    Histogram,
    /// A constant 1 whose labels carry the information.
    Info,
}

/// The definition of one metric.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The name without the prefix, the unit and the suffix of the text format.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Option<&'static str>,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

impl Spec {
    const fn new(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind, unit: None, labels, help }
    }

    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    /// Returns the full name, without the suffixes of a histogram's series.
    #[must_use]
    pub fn full_name(&self) -> String {
        let mut name = self.name.to_owned();
        if !name.starts_with("process_") {
            name = format!("{PREFIX}_{name}");
        }
        if let Some(unit) = self.unit {
            name = format!("{name}_{unit}");
        }
        name + match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }

    pub(super) fn register(&self, registry: &mut Registry, metric: impl Metric) {
        match self.unit {
            Some(unit) => registry.register_with_unit(self.name, self.help, Unit::Other(unit.to_owned()), metric),
            None => registry.register(self.name, self.help, metric),
        }
    }
}

pub(super) const BUILD: Spec = Spec::new(
    "build",
    Kind::Info,
    &["version", "revision", "protocol"],
    "Version, revision and protocol of the running relay; always 1",
);
pub(super) const TRANSFERS: Spec =
    Spec::new("transfers", Kind::Counter, &["store", "outcome"], "Finished transfers, by outcome");
pub(super) const TRANSFERS_ACTIVE: Spec = Spec::new("transfers_active", Kind::Gauge, &[], "Transfers in progress");
pub(super) const TRANSFERS_MAX: Spec = Spec::new(
    "transfers_max",
    Kind::Gauge,
    &[],
    "Maximum number of concurrent transfers: `relay.transfers_max`, or what the memory budget allows if that is less",
);
pub(super) const TRANSFERS_QUEUED: Spec = Spec::new(
    "transfers_queued",
    Kind::Gauge,
    &[],
    "Transfers that have a chunk ready and are waiting for their turn to send it",
);
pub(super) const TRANSFERS_RESUMED: Spec = Spec::new(
    "transfers_resumed",
    Kind::Counter,
    &["store"],
    "Transfers that started past the beginning of an object with its version pinned: consumers that recover or resume",
);
pub(super) const SENT_BYTES: Spec =
    Spec::new("sent", Kind::Counter, &["store"], "Object bytes published, counted chunk by chunk").unit("bytes");
pub(super) const SENT_CHUNKS: Spec = Spec::new("sent_chunks", Kind::Counter, &["store"], "Chunks published");
pub(super) const REQUESTS: Spec = Spec::new(
    "requests",
    Kind::Counter,
    &["operation", "store", "result"],
    "Answered requests: ok, or the wire code of the error",
);
pub(super) const REFUSED: Spec = Spec::new(
    "refused",
    Kind::Counter,
    &["reason"],
    "Requests refused before a transfer started, by wire code; reply_subject and control count messages that got no answer",
);
pub(super) const FIRST_BYTE: Spec =
    Spec::new("first_byte", Kind::Histogram, &["store"], "Time from a request to the publication of its first chunk")
        .unit("seconds");
pub(super) const DURATION: Spec =
    Spec::new("transfer_duration", Kind::Histogram, &["store"], "Time from a request to the end of its transfer")
        .unit("seconds");
pub(super) const CREDIT_STALLS: Spec =
    Spec::new("credit_stalls", Kind::Counter, &["store"], "Number of times a transfer had bytes to send but no credit");
pub(super) const CREDIT_STALLED: Spec =
    Spec::new("credit_stalled", Kind::Counter, &["store"], "Total time that transfers have waited for credit")
        .unit("seconds");
pub(super) const BUDGET: Spec =
    Spec::new("memory_budget", Kind::Gauge, &[], "Memory budget for object bytes, as configured").unit("bytes");
pub(super) const RESERVED: Spec =
    Spec::new("memory_reserved", Kind::Gauge, &[], "Part of the memory budget that transfers have reserved")
        .unit("bytes");
pub(super) const LOG_LINES_DROPPED: Spec =
    Spec::new("log_lines_dropped", Kind::Counter, &[], "Log lines dropped because stderr was not read in time");
pub(super) const NATS_CONNECTED: Spec =
    Spec::new("nats_connected", Kind::Gauge, &["connection"], "Whether the connection to NATS is up");
pub(super) const NATS_RECONNECTS: Spec =
    Spec::new("nats_reconnects", Kind::Counter, &["connection"], "Number of reconnects to NATS");
pub(super) const NATS_DENIED: Spec =
    Spec::new("nats_denied", Kind::Counter, &["action"], "Number of times nats-server denied a publish or subscribe");
pub(super) const NATS_SLOW: Spec = Spec::new(
    "nats_slow_consumer",
    Kind::Counter,
    &[],
    "Number of times messages to the relay were dropped because it read them too slowly",
);
pub(super) const DRAINING: Spec = Spec::new("draining", Kind::Gauge, &[], "Whether the relay is shutting down");
pub(super) const STORE_UP: Spec =
    Spec::new("store_up", Kind::Gauge, &["store"], "Whether the store answered its last probe");
pub(super) const STORE_DIFFERING: Spec = Spec::new(
    "store_differing_relays",
    Kind::Gauge,
    &["store"],
    "Other relays with this prefix that serve a store of this name from another place, at the last comparison",
);
pub(super) const RELOADS: Spec =
    Spec::new("reloads", Kind::Counter, &["result"], "Reloads of the stores by SIGHUP: ok or failed");
pub(super) const S3_REQUESTS: Spec = Spec::new(
    "s3_requests",
    Kind::Counter,
    &["store", "operation", "result"],
    "Requests to S3, counting each attempt: ok, a wire code, or abandoned if the relay stopped waiting for the answer",
);
pub(super) const S3_LATENCY: Spec = Spec::new(
    "s3_request_duration",
    Kind::Histogram,
    &["store", "operation"],
    "Time until the headers of S3's response arrive",
)
.unit("seconds");
pub(super) const S3_CONNECTIONS: Spec =
    Spec::new("s3_connections", Kind::Gauge, &["store"], "Open connections to S3, in use or idle");
pub(super) const S3_CONNECTIONS_OPENED: Spec = Spec::new(
    "s3_connections_opened",
    Kind::Counter,
    &["store"],
    "Connections opened to S3; requests that reuse an idle connection do not count",
);

pub(super) const PROCESS_CPU: Spec =
    Spec::new("process_cpu", Kind::Counter, &[], "CPU time used by the process (Linux only)").unit("seconds");
pub(super) const PROCESS_MEMORY: Spec =
    Spec::new("process_resident_memory", Kind::Gauge, &[], "Resident memory of the process (Linux only)").unit("bytes");
pub(super) const PROCESS_OPEN_FDS: Spec = Spec::new(
    "process_open_fds",
    Kind::Gauge,
    &[],
    "Open file descriptors of the process, including connections (Linux only)",
);
pub(super) const PROCESS_START: Spec = Spec::new(
    "process_start_time",
    Kind::Gauge,
    &[],
    "Start time of the process, in seconds since the Unix epoch (Linux only)",
)
.unit("seconds");

/// Every metric of the relay.
pub const ALL: &[Spec] = &[
    BUILD,
    TRANSFERS,
    TRANSFERS_ACTIVE,
    TRANSFERS_MAX,
    TRANSFERS_QUEUED,
    TRANSFERS_RESUMED,
    SENT_BYTES,
    SENT_CHUNKS,
    REQUESTS,
    REFUSED,
    FIRST_BYTE,
    DURATION,
    CREDIT_STALLS,
    CREDIT_STALLED,
    BUDGET,
    RESERVED,
    LOG_LINES_DROPPED,
    NATS_CONNECTED,
    NATS_RECONNECTS,
    NATS_DENIED,
    NATS_SLOW,
    DRAINING,
    STORE_UP,
    STORE_DIFFERING,
    RELOADS,
    S3_REQUESTS,
    S3_LATENCY,
    S3_CONNECTIONS,
    S3_CONNECTIONS_OPENED,
    PROCESS_CPU,
    PROCESS_MEMORY,
    PROCESS_OPEN_FDS,
    PROCESS_START,
];

/// Returns the table in `docs/METRICS.md`.
#[must_use]
pub fn table() -> String {
    let header = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    ALL.iter().fold(header, |text, spec| {
        let kind = match spec.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        let labels: Vec<_> = spec.labels.iter().map(|label| format!("`{label}`")).collect();
        text + &format!("| `{}` | {kind} | {} | {} |\n", spec.full_name(), labels.join(", "), spec.help)
    })
}
