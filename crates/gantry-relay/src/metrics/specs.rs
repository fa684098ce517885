//! Every metric's name, kind, unit, labels and help.

use prometheus_client::registry::{Metric, Registry, Unit};

/// What the name of every metric begins with, but those of the process.
pub const PREFIX: &str = "gantry";

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often a value was how large.
    Histogram,
    /// Always 1; its labels are what it says.
    Info,
}

/// One metric as it is documented.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The name, without prefix, unit and what the format appends.
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

    /// Returns the name as Prometheus knows it, without the suffixes of a histogram's series.
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

pub(super) const BUILD: Spec =
    Spec::new("build", Kind::Info, &["version", "revision", "protocol"], "What runs; always 1");
pub(super) const TRANSFERS: Spec =
    Spec::new("transfers", Kind::Counter, &["store", "outcome"], "Transfers that ended, by how they ended");
pub(super) const TRANSFERS_ACTIVE: Spec = Spec::new("transfers_active", Kind::Gauge, &[], "Transfers under way");
pub(super) const TRANSFERS_MAX: Spec = Spec::new(
    "transfers_max",
    Kind::Gauge,
    &[],
    "Transfers that may be under way at once: `relay.transfers_max`, or the shares of the memory budget if fewer",
);
pub(super) const TRANSFERS_QUEUED: Spec =
    Spec::new("transfers_queued", Kind::Gauge, &[], "Transfers with a chunk ready that wait for their turn to send it");
pub(super) const TRANSFERS_RESUMED: Spec = Spec::new(
    "transfers_resumed",
    Kind::Counter,
    &["store"],
    "Transfers that began past an object's start with its version pinned: consumers that recover or go on",
);
pub(super) const SENT_BYTES: Spec =
    Spec::new("sent", Kind::Counter, &["store"], "Object bytes published, counted chunk by chunk").unit("bytes");
pub(super) const SENT_CHUNKS: Spec = Spec::new("sent_chunks", Kind::Counter, &["store"], "Chunks published");
pub(super) const REQUESTS: Spec = Spec::new(
    "requests",
    Kind::Counter,
    &["operation", "store", "result"],
    "Requests answered: ok, or the wire code of the refusal",
);
pub(super) const REFUSED: Spec = Spec::new(
    "refused",
    Kind::Counter,
    &["reason"],
    "Requests refused before a transfer began, by wire code; reply_subject and control for what got no answer",
);
pub(super) const FIRST_BYTE: Spec =
    Spec::new("first_byte", Kind::Histogram, &["store"], "Time from a request to the publishing of its first chunk")
        .unit("seconds");
pub(super) const DURATION: Spec =
    Spec::new("transfer_duration", Kind::Histogram, &["store"], "Time from a request to the end of its transfer")
        .unit("seconds");
pub(super) const CREDIT_STALLS: Spec =
    Spec::new("credit_stalls", Kind::Counter, &["store"], "How often a transfer had bytes and no credit to send them");
pub(super) const CREDIT_STALLED: Spec =
    Spec::new("credit_stalled", Kind::Counter, &["store"], "Time that transfers waited for credit").unit("seconds");
pub(super) const BUDGET: Spec =
    Spec::new("memory_budget", Kind::Gauge, &[], "Memory for object bytes, as configured").unit("bytes");
pub(super) const RESERVED: Spec =
    Spec::new("memory_reserved", Kind::Gauge, &[], "Memory of the budget that transfers hold").unit("bytes");
pub(super) const LOG_LINES_DROPPED: Spec = Spec::new(
    "log_lines_dropped",
    Kind::Counter,
    &[],
    "Log lines that were lost since nobody took them from stderr in time",
);
pub(super) const NATS_CONNECTED: Spec =
    Spec::new("nats_connected", Kind::Gauge, &["connection"], "Whether the connection to NATS stands");
pub(super) const NATS_RECONNECTS: Spec =
    Spec::new("nats_reconnects", Kind::Counter, &["connection"], "How often the connection to NATS was made anew");
pub(super) const NATS_DENIED: Spec =
    Spec::new("nats_denied", Kind::Counter, &["action"], "How often nats-server forbade to publish or subscribe");
pub(super) const NATS_SLOW: Spec = Spec::new(
    "nats_slow_consumer",
    Kind::Counter,
    &[],
    "How often messages to the relay were dropped since it did not take them fast enough",
);
pub(super) const DRAINING: Spec = Spec::new("draining", Kind::Gauge, &[], "Whether the relay is shutting down");
pub(super) const STORE_UP: Spec =
    Spec::new("store_up", Kind::Gauge, &["store"], "Whether the store answered its last probe");
pub(super) const STORE_DIFFERING: Spec = Spec::new(
    "store_differing_relays",
    Kind::Gauge,
    &["store"],
    "Other relays of the same prefix that serve a store of this name from another place, at the last look",
);
pub(super) const RELOADS: Spec =
    Spec::new("reloads", Kind::Counter, &["result"], "How often SIGHUP asked for the stores anew: ok or failed");
pub(super) const S3_REQUESTS: Spec = Spec::new(
    "s3_requests",
    Kind::Counter,
    &["store", "operation", "result"],
    "Requests to S3, each try by itself: ok, a wire code, or abandoned when no answer was awaited any longer",
);
pub(super) const S3_LATENCY: Spec =
    Spec::new("s3_request_duration", Kind::Histogram, &["store", "operation"], "Time to the head of S3's answer")
        .unit("seconds");
pub(super) const S3_CONNECTIONS: Spec =
    Spec::new("s3_connections", Kind::Gauge, &["store"], "Open connections to S3, in use or kept for the next request");
pub(super) const S3_CONNECTIONS_OPENED: Spec = Spec::new(
    "s3_connections_opened",
    Kind::Counter,
    &["store"],
    "Connections made to S3; a request that made none went over one that was kept",
);

pub(super) const PROCESS_CPU: Spec =
    Spec::new("process_cpu", Kind::Counter, &[], "CPU time of the process, by Linux").unit("seconds");
pub(super) const PROCESS_MEMORY: Spec =
    Spec::new("process_resident_memory", Kind::Gauge, &[], "Resident memory of the process, by Linux").unit("bytes");
pub(super) const PROCESS_OPEN_FDS: Spec =
    Spec::new("process_open_fds", Kind::Gauge, &[], "Open files and connections of the process, by Linux");
pub(super) const PROCESS_START: Spec =
    Spec::new("process_start_time", Kind::Gauge, &[], "When the process began, since the epoch, by Linux")
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

/// Writes the table of `docs/METRICS.md`.
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
