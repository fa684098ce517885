//! The relay's metrics.
//!
//! Label values are bounded: they are configured stores or constants in this program, never keys, subjects or names of
//! requesters. Therefore every counter can be exported from the start with the value 0. Prometheus sees no increase in
//! a series that first appears with the value 1, so the first failure would not raise an alert.

mod labels;
mod process;
mod specs;

pub use self::labels::{
    ActionLabel, ConnectionLabel, OutcomeLabel, ReasonLabel, RequestLabel, ResultLabel, S3Label, S3ResultLabel,
    StoreLabel,
};
pub use self::specs::{ALL, Kind, PREFIX, Spec, table};

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use self::specs::{
    BUDGET, BUILD, CREDIT_STALLED, CREDIT_STALLS, DRAINING, DURATION, FIRST_BYTE, LOG_LINES_DROPPED, NATS_CONNECTED,
    NATS_DENIED, NATS_RECONNECTS, NATS_SLOW, REFUSED, RELOADS, REQUESTS, RESERVED, S3_CONNECTIONS,
    S3_CONNECTIONS_OPENED, S3_LATENCY, S3_REQUESTS, SENT_BYTES, SENT_CHUNKS, STORE_DIFFERING, STORE_UP, TRANSFERS,
    TRANSFERS_ACTIVE, TRANSFERS_MAX, TRANSFERS_QUEUED, TRANSFERS_RESUMED,
};
use gantry_proto::Code;
use gantry_proto::subject::Operation;
use gantry_store::Observe;

/// The commit of this build, if the build set it.
const REVISION: &str = match option_env!("GANTRY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Outcomes of transfers that end without an error. The other outcomes are the wire codes.
const OUTCOMES: &[&str] = &["completed", "cancelled", "consumer_gone", "drained", "aborted"];

/// Reasons for not answering at all. The other reasons are the wire codes.
const UNANSWERED: &[&str] = &["reply_subject", "control"];

/// Results of reloading the stores.
const RELOAD_RESULTS: &[&str] = &["ok", "failed"];

/// The kinds of requests to S3.
const S3_OPERATIONS: &[&str] = &["get", "head", "list", "probe", "attributes", "part"];

/// Results of requests to S3 that are not wire codes.
const S3_RESULTS: &[&str] = &["ok", "abandoned"];

/// The wire codes of failures that a store can cause.
const STORE_CODES: &[Code] =
    &[Code::BadRequest, Code::Denied, Code::NotFound, Code::Changed, Code::Range, Code::StoreUnavailable];

/// Constructs a histogram of durations. The buckets range from a loopback round trip to a download of one day.
#[derive(Clone, Copy, Debug)]
pub struct Durations(&'static [f64]);

/// Buckets for the time until an answer, in seconds.
const ANSWER_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Buckets for the duration of a transfer, in seconds.
const TRANSFER_BUCKETS: &[f64] =
    &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Histograms of durations, by label.
pub type DurationFamily<L> = Family<L, Histogram, Durations>;

/// A gauge with the value 0 or 1.
pub type Flag = Gauge<i64, AtomicI64>;

/// A gauge that computes its value for every scrape.
pub struct Sampled(Box<dyn Fn() -> u64 + Send + Sync>);

impl Sampled {
    /// Creates a gauge that calls `value`, which must be fast.
    #[must_use]
    pub fn new(value: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Box::new(value))
    }
}

impl fmt::Debug for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sampled").field(&(self.0)()).finish()
    }
}

impl EncodeMetric for Sampled {
    fn encode(&self, encoder: MetricEncoder) -> fmt::Result {
        ConstGauge::new((self.0)()).encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// A counter whose value is read when the metrics are collected.
#[derive(Debug)]
struct SampledCounter(Sampled);

impl EncodeMetric for SampledCounter {
    fn encode(&self, encoder: MetricEncoder) -> fmt::Result {
        ConstCounter::new((self.0.0)()).encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// Values that stay fixed for the lifetime of a relay's process, or that are sampled from it.
#[derive(Debug)]
pub struct Facts {
    /// The version of the protocol.
    pub protocol: u32,
    /// The memory budget for object bytes.
    pub memory_budget_bytes: u64,
    /// The reserved part of the memory budget, in bytes.
    pub memory_reserved_bytes: Sampled,
    /// Log lines that were lost.
    pub log_lines_dropped: Sampled,
}

/// The metrics of a relay.
#[derive(Clone, Debug)]
pub struct RelayMetrics {
    /// Finished transfers, by store and outcome.
    pub transfers: Family<OutcomeLabel, Counter>,
    /// Transfers in progress.
    pub transfers_active: Gauge<i64, AtomicI64>,
    /// Maximum number of concurrent transfers.
    pub transfers_max: Gauge<u64, AtomicU64>,
    /// Transfers that are waiting for their turn to send.
    pub transfers_queued: Gauge<i64, AtomicI64>,
    /// Transfers that started past the beginning of a pinned version.
    pub transfers_resumed: Family<StoreLabel, Counter>,
    /// Object bytes published.
    pub sent_bytes: Family<StoreLabel, Counter>,
    /// Chunks published.
    pub sent_chunks: Family<StoreLabel, Counter>,
    /// Answered requests.
    pub requests: Family<RequestLabel, Counter>,
    /// Requests refused before a transfer started.
    pub refused: Family<ReasonLabel, Counter>,
    /// Time from a request to its first chunk, in seconds.
    pub first_byte: DurationFamily<StoreLabel>,
    /// Time from a request to the end of its transfer, in seconds.
    pub duration: DurationFamily<StoreLabel>,
    /// Number of times a transfer waited for credit.
    pub credit_stalls: Family<StoreLabel, Counter>,
    /// Total time that transfers waited for credit, in seconds.
    pub credit_stalled: Family<StoreLabel, Counter<f64, AtomicU64>>,
    /// Whether each connection to NATS is up.
    pub nats_connected: Family<ConnectionLabel, Flag>,
    /// Number of reconnects, by connection.
    pub nats_reconnects: Family<ConnectionLabel, Counter>,
    /// Actions that nats-server denied.
    pub nats_denied: Family<ActionLabel, Counter>,
    /// Number of times messages to the relay were dropped.
    pub nats_slow: Counter,
    /// Whether the relay is shutting down.
    pub draining: Flag,
    /// Whether a store answered its last probe.
    pub store_up: Family<StoreLabel, Flag>,
    /// Number of other relays that serve a store of this name from another place.
    pub store_differing: Family<StoreLabel, Gauge<i64, AtomicI64>>,
    /// Reloads of the stores, by result.
    pub reloads: Family<ResultLabel, Counter>,
    /// The metrics of S3 stores.
    pub s3: S3Metrics,
}

impl Default for RelayMetrics {
    fn default() -> Self {
        Self {
            transfers: Family::default(),
            transfers_active: Gauge::default(),
            transfers_max: Gauge::default(),
            transfers_queued: Gauge::default(),
            transfers_resumed: Family::default(),
            sent_bytes: Family::default(),
            sent_chunks: Family::default(),
            requests: Family::default(),
            refused: Family::default(),
            first_byte: Family::new_with_constructor(Durations(ANSWER_BUCKETS)),
            duration: Family::new_with_constructor(Durations(TRANSFER_BUCKETS)),
            credit_stalls: Family::default(),
            credit_stalled: Family::default(),
            nats_connected: Family::default(),
            nats_reconnects: Family::default(),
            nats_denied: Family::default(),
            nats_slow: Counter::default(),
            draining: Flag::default(),
            store_up: Family::default(),
            store_differing: Family::default(),
            reloads: Family::default(),
            s3: S3Metrics::default(),
        }
    }
}

impl RelayMetrics {
    /// Creates the metrics and registers them together with `facts` about the process.
    #[must_use]
    pub fn register(registry: &mut Registry, facts: Facts) -> Self {
        let own = Self::default();
        registry.register_collector(Box::new(process::Process));
        let registry = registry.sub_registry_with_prefix(PREFIX);
        let build = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("revision", REVISION.to_owned()),
            ("protocol", facts.protocol.to_string()),
        ];
        BUILD.register(registry, Info::new(build.to_vec()));
        TRANSFERS.register(registry, own.transfers.clone());
        TRANSFERS_ACTIVE.register(registry, own.transfers_active.clone());
        TRANSFERS_MAX.register(registry, own.transfers_max.clone());
        TRANSFERS_QUEUED.register(registry, own.transfers_queued.clone());
        TRANSFERS_RESUMED.register(registry, own.transfers_resumed.clone());
        SENT_BYTES.register(registry, own.sent_bytes.clone());
        SENT_CHUNKS.register(registry, own.sent_chunks.clone());
        REQUESTS.register(registry, own.requests.clone());
        REFUSED.register(registry, own.refused.clone());
        FIRST_BYTE.register(registry, own.first_byte.clone());
        DURATION.register(registry, own.duration.clone());
        CREDIT_STALLS.register(registry, own.credit_stalls.clone());
        CREDIT_STALLED.register(registry, own.credit_stalled.clone());
        BUDGET.register(registry, ConstGauge::new(facts.memory_budget_bytes));
        RESERVED.register(registry, facts.memory_reserved_bytes);
        LOG_LINES_DROPPED.register(registry, SampledCounter(facts.log_lines_dropped));
        NATS_CONNECTED.register(registry, own.nats_connected.clone());
        NATS_RECONNECTS.register(registry, own.nats_reconnects.clone());
        NATS_DENIED.register(registry, own.nats_denied.clone());
        NATS_SLOW.register(registry, own.nats_slow.clone());
        DRAINING.register(registry, own.draining.clone());
        STORE_UP.register(registry, own.store_up.clone());
        STORE_DIFFERING.register(registry, own.store_differing.clone());
        RELOADS.register(registry, own.reloads.clone());
        S3_REQUESTS.register(registry, own.s3.requests.clone());
        S3_LATENCY.register(registry, own.s3.latency.clone());
        S3_CONNECTIONS.register(registry, own.s3.connections.clone());
        S3_CONNECTIONS_OPENED.register(registry, own.s3.connections_opened.clone());
        own.begin();
        own
    }

    /// Exports the counters with constant labels, with the value 0.
    fn begin(&self) {
        for reason in UNANSWERED.iter().copied().chain(Code::ALL.map(Code::name)) {
            drop(self.refused.get_or_create(&ReasonLabel { reason }));
        }
        for result in RELOAD_RESULTS {
            drop(self.reloads.get_or_create(&ResultLabel { result }));
        }
        for connection in ["requests", "data"] {
            drop(self.nats_connected.get_or_create(&ConnectionLabel { connection }));
            drop(self.nats_reconnects.get_or_create(&ConnectionLabel { connection }));
        }
        for action in ["publish", "subscribe"] {
            drop(self.nats_denied.get_or_create(&ActionLabel { action }));
        }
    }

    /// Exports the counters of a store, with the value 0.
    pub fn add_store(&self, store: &str) {
        let codes = || Code::ALL.map(Code::name);
        for outcome in OUTCOMES.iter().copied().chain(codes()) {
            drop(self.transfers.get_or_create(&OutcomeLabel { store: store.to_owned(), outcome }));
        }
        for operation in Operation::ALL.map(Operation::name) {
            for result in std::iter::once("ok").chain(codes()) {
                drop(self.requests.get_or_create(&RequestLabel { operation, store: store.to_owned(), result }));
            }
        }
        drop(self.transfers_resumed.get_or_create(&StoreLabel { store: store.to_owned() }));
        drop(self.store_differing.get_or_create(&StoreLabel { store: store.to_owned() }));
        drop(self.transfer(store));
    }

    /// Counts a transfer as waiting for its turn until the returned guard is dropped.
    #[must_use]
    pub fn queue(&self) -> Queued {
        self.transfers_queued.inc();
        Queued(self.transfers_queued.clone())
    }

    /// Counts a transfer that started past the beginning of a pinned version.
    pub fn resume(&self, store: &str) {
        self.transfers_resumed.get_or_create(&StoreLabel { store: store.to_owned() }).inc();
    }

    /// Counts an action that nats-server denied: `publish` or `subscribe`.
    pub fn deny(&self, action: &'static str) {
        self.nats_denied.get_or_create(&ActionLabel { action }).inc();
    }

    /// Counts a refusal.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Returns the counters for one transfer, so that counting a chunk needs no lookup.
    #[must_use]
    pub fn transfer(&self, store: &str) -> TransferMetrics {
        let label = StoreLabel { store: store.to_owned() };
        TransferMetrics {
            sent_bytes: self.sent_bytes.get_or_create_owned(&label),
            sent_chunks: self.sent_chunks.get_or_create_owned(&label),
            first_byte: self.first_byte.get_or_create_owned(&label),
            duration: self.duration.get_or_create_owned(&label),
            credit_stalls: self.credit_stalls.get_or_create_owned(&label),
            credit_stalled: self.credit_stalled.get_or_create_owned(&label),
        }
    }
}

/// A guard that counts a transfer as waiting for its turn.
#[derive(Debug)]
pub struct Queued(Gauge<i64, AtomicI64>);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The counters of one store, for use by a transfer.
#[derive(Clone, Debug)]
pub struct TransferMetrics {
    /// Object bytes published.
    pub sent_bytes: Counter,
    /// Chunks published.
    pub sent_chunks: Counter,
    /// Time from the request to the first chunk, in seconds.
    pub first_byte: Histogram,
    /// Time from the request to the end, in seconds.
    pub duration: Histogram,
    /// Number of times a transfer waited for credit.
    pub credit_stalls: Counter,
    /// Total time of waiting for credit, in seconds.
    pub credit_stalled: Counter<f64, AtomicU64>,
}

/// The metrics of all S3 stores.
#[derive(Clone, Debug)]
pub struct S3Metrics {
    requests: Family<S3ResultLabel, Counter>,
    latency: DurationFamily<S3Label>,
    connections: Family<StoreLabel, Gauge<i64, AtomicI64>>,
    connections_opened: Family<StoreLabel, Counter>,
}

impl Default for S3Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(Durations(ANSWER_BUCKETS)),
            connections: Family::default(),
            connections_opened: Family::default(),
        }
    }
}

impl S3Metrics {
    /// Returns the observer of one store, and exports the store's counters with the value 0.
    #[must_use]
    pub fn of_store(&self, store: &str) -> S3Observer {
        for operation in S3_OPERATIONS {
            for result in S3_RESULTS.iter().copied().chain(STORE_CODES.iter().map(|code| code.name())) {
                drop(self.requests.get_or_create(&S3ResultLabel { store: store.to_owned(), operation, result }));
            }
        }
        let label = StoreLabel { store: store.to_owned() };
        drop(self.connections.get_or_create(&label));
        drop(self.connections_opened.get_or_create(&label));
        S3Observer { metrics: self.clone(), store: store.to_owned() }
    }
}

/// Counts the requests and connections of one S3 store.
#[derive(Clone, Debug, Default)]
pub struct S3Observer {
    metrics: S3Metrics,
    store: String,
}

impl Observe for S3Observer {
    fn request_ended(&self, operation: &'static str, result: &'static str, took: Duration) {
        let label = S3Label { store: self.store.clone(), operation };
        self.metrics.latency.get_or_create(&label).observe(took.as_secs_f64());

        let S3Label { store, operation } = label;
        self.metrics.requests.get_or_create(&S3ResultLabel { store, operation, result }).inc();
    }

    fn connection_opened(&self) {
        let label = StoreLabel { store: self.store.clone() };
        self.metrics.connections.get_or_create(&label).inc();
        self.metrics.connections_opened.get_or_create(&label).inc();
    }

    fn connection_closed(&self) {
        self.metrics.connections.get_or_create(&StoreLabel { store: self.store.clone() }).dec();
    }

    fn trace_headers(&self) -> Vec<(&'static str, String)> {
        gantry_bus::trace::headers_of_current_span()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Uses every metric once, so that the page contains all of them.
    fn page() -> String {
        let mut registry = Registry::default();
        let reserved = Sampled::new(|| 7);
        let facts = Facts {
            protocol: 1,
            memory_budget_bytes: 9,
            memory_reserved_bytes: reserved,
            log_lines_dropped: Sampled::new(|| 0),
        };
        let metrics = RelayMetrics::register(&mut registry, facts);
        let store = || "s".to_owned();
        metrics.transfers.get_or_create(&OutcomeLabel { store: store(), outcome: "completed" }).inc();
        metrics.requests.get_or_create(&RequestLabel { operation: "get", store: store(), result: "ok" }).inc();
        metrics.refuse("busy");
        metrics.add_store("s");
        metrics.transfer("s").first_byte.observe(0.1);
        metrics.store_up.get_or_create(&StoreLabel { store: store() }).set(1);
        metrics.reloads.get_or_create(&ResultLabel { result: "ok" }).inc();
        metrics.s3.of_store("s").request_ended("get", "ok", Duration::from_millis(1));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn the_page_matches_the_documented_metrics() {
        let page = page();
        let mut shown = BTreeMap::new();
        for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            shown.insert(name.to_owned(), kind.to_owned());
        }
        let mut documented = BTreeMap::new();
        for spec in ALL {
            let full = spec.full_name();
            let (family, kind) = match spec.kind {
                Kind::Counter => (full.strip_suffix("_total").unwrap(), "counter"),
                Kind::Gauge => (full.as_str(), "gauge"),
                Kind::Histogram => (full.as_str(), "histogram"),
                Kind::Info => (full.strip_suffix("_info").unwrap(), "info"),
            };
            documented.insert(family.to_owned(), kind.to_owned());
            let series: Vec<_> = page.lines().filter(|line| line.starts_with(&full)).collect();
            assert!(!series.is_empty(), "{full} is not on the page:\n{page}");
            for line in series {
                let labels = line.split_once('{').map_or("", |(_, rest)| rest.split('}').next().unwrap());
                let labels: Vec<_> = labels.split(',').filter_map(|label| label.split('=').next()).collect();
                let labels: Vec<_> = labels.into_iter().filter(|label| !["", "le"].contains(label)).collect();
                assert_eq!(labels, spec.labels, "{line}");
            }
        }
        assert_eq!(shown, documented);
    }

    #[test]
    fn the_documentation_contains_the_table() {
        let page = include_str!("../../../../docs/METRICS.md");
        let table = table();
        assert!(page.contains(&table), "docs/METRICS.md must contain this table:\n{table}");
    }

    /// Returns the page of a relay that has not counted anything.
    fn fresh_page() -> String {
        let mut registry = Registry::default();
        let facts = Facts {
            protocol: 1,
            memory_budget_bytes: 9,
            memory_reserved_bytes: Sampled::new(|| 0),
            log_lines_dropped: Sampled::new(|| 0),
        };
        let metrics = RelayMetrics::register(&mut registry, facts);
        metrics.add_store("s");
        drop(metrics.s3.of_store("s"));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn every_counter_starts_at_zero() {
        let page = fresh_page();
        for spec in ALL.iter().filter(|spec| spec.kind == Kind::Counter) {
            let name = spec.full_name();
            assert!(
                page.lines().any(|line| line.starts_with(&name)),
                "{name} is missing before its first event:\n{page}"
            );
        }
        for series in [
            "gantry_reloads_total{result=\"failed\"} 0",
            "gantry_refused_total{reason=\"reply_subject\"} 0",
            "gantry_refused_total{reason=\"busy\"} 0",
            "gantry_transfers_total{store=\"s\",outcome=\"store_unavailable\"} 0",
            "gantry_requests_total{operation=\"get\",store=\"s\",result=\"denied\"} 0",
            "gantry_s3_requests_total{store=\"s\",operation=\"get\",result=\"store_unavailable\"} 0",
        ] {
            assert!(page.lines().any(|line| line == series), "{series} is not on the page:\n{page}");
        }
    }

    #[test]
    fn queued_transfers_count_until_their_guard_is_dropped() {
        let metrics = RelayMetrics::default();
        let (one, two) = (metrics.queue(), metrics.queue());
        drop(one);
        assert_eq!(metrics.transfers_queued.get(), 1);
        drop(two);
        assert_eq!(metrics.transfers_queued.get(), 0);
    }

    #[test]
    fn counters_of_one_store_are_shared() {
        let metrics = RelayMetrics::default();
        metrics.transfer("s").sent_bytes.inc_by(3);
        metrics.transfer("s").sent_bytes.inc_by(4);
        assert_eq!(metrics.sent_bytes.get_or_create(&StoreLabel { store: "s".to_owned() }).get(), 7);
    }
}
