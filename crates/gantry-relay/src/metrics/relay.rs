//! The metrics of requests, transfers, connections and stores.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::facts::Facts;
use super::labels::{
    ActionLabel, ConnectionLabel, OutcomeLabel, ReasonLabel, RequestLabel, ResultLabel, StoreLabel, WaitLabel,
};
use super::process::Process;
use super::s3::S3Metrics;
use super::spec::{Kind, PREFIX, Spec, metrics};
use super::values::{ANSWER_BUCKETS, DurationFamily, Durations, Flag, TRANSFER_BUCKETS, start_at_zero};
use crate::waits::{Seconds, Wait};
use gantry_proto::Code;
use gantry_proto::subject::Operation;

/// Outcomes of transfers that end without an error. The other outcomes are the wire codes.
const OUTCOMES: &[&str] = &["completed", "cancelled", "consumer_gone", "drained", "aborted"];

/// Reasons for not answering at all. The other reasons are the wire codes.
const UNANSWERED: &[&str] = &["reply_subject", "control"];

/// Results of reloading the stores.
const RELOAD_RESULTS: &[&str] = &["ok", "failed"];

metrics! {
    /// The metrics of a relay.
    pub struct RelayMetrics {
        pub transfers: Family<OutcomeLabel, Counter>,
            Counter, "transfers", ["store", "outcome"],
            "Finished transfers, by outcome";
        pub transfers_active: Gauge<i64, AtomicI64>,
            Gauge, "transfers_active", [],
            "Transfers in progress";
        pub transfers_max: Gauge<u64, AtomicU64>,
            Gauge, "transfers_max", [],
            "Maximum number of concurrent transfers: `relay.transfers_max`, or what the memory budget allows if that is less";
        pub transfers_queued: Gauge<i64, AtomicI64>,
            Gauge, "transfers_queued", [],
            "Transfers that have a chunk ready and are waiting for their turn to send it";
        pub transfers_resumed: Family<StoreLabel, Counter>,
            Counter, "transfers_resumed", ["store"],
            "Transfers that started past the beginning of an object with its version pinned: consumers that recover or resume";
        pub sent_bytes: Family<StoreLabel, Counter>,
            Counter, "sent" in "bytes", ["store"],
            "Object bytes published, counted chunk by chunk";
        pub sent_chunks: Family<StoreLabel, Counter>,
            Counter, "sent_chunks", ["store"],
            "Chunks published";
        pub requests: Family<RequestLabel, Counter>,
            Counter, "requests", ["operation", "store", "result"],
            "Answered requests: ok, or the wire code of the error";
        pub refused: Family<ReasonLabel, Counter>,
            Counter, "refused", ["reason"],
            "Requests refused before a transfer started, by wire code; `reply_subject` and `control` count messages that got no answer";
        pub first_byte: DurationFamily<StoreLabel>
            = Family::new_with_constructor(Durations(ANSWER_BUCKETS)),
            Histogram, "first_byte" in "seconds", ["store"],
            "Time from a request to the publication of its first chunk";
        pub duration: DurationFamily<StoreLabel>
            = Family::new_with_constructor(Durations(TRANSFER_BUCKETS)),
            Histogram, "transfer_duration" in "seconds", ["store"],
            "Time from a request to the end of its transfer";
        pub credit_stalls: Family<StoreLabel, Counter>,
            Counter, "credit_stalls", ["store"],
            "Number of times a transfer had bytes to send but no credit";
        pub credit_stalled: Family<StoreLabel, Counter<f64, AtomicU64>>,
            Counter, "credit_stalled" in "seconds", ["store"],
            "Total time that transfers have waited for credit";
        pub waited: Family<WaitLabel, Counter<f64, AtomicU64>>,
            Counter, "transfer_waited" in "seconds", ["store", "cause"],
            "Total time that transfers have waited, by what they waited for";
        pub nats_connected: Family<ConnectionLabel, Flag>,
            Gauge, "nats_connected", ["connection"],
            "Whether the connection to NATS is up";
        pub nats_reconnects: Family<ConnectionLabel, Counter>,
            Counter, "nats_reconnects", ["connection"],
            "Number of reconnects to NATS";
        pub nats_denied: Family<ActionLabel, Counter>,
            Counter, "nats_denied", ["action"],
            "Number of times nats-server denied a publish or subscribe";
        pub nats_slow: Counter,
            Counter, "nats_slow_consumer", [],
            "Number of times messages to the relay were dropped because it read them too slowly";
        pub draining: Flag,
            Gauge, "draining", [],
            "Whether the relay is shutting down";
        pub store_up: Family<StoreLabel, Flag>,
            Gauge, "store_up", ["store"],
            "Whether the store answered its last probe";
        pub store_differing: Family<StoreLabel, Gauge<i64, AtomicI64>>,
            Gauge, "store_differing_relays", ["store"],
            "Other relays with this prefix that serve a store of this name from another place, at the last comparison";
        pub reloads: Family<ResultLabel, Counter>,
            Counter, "reloads", ["result"],
            "Reloads of the stores by SIGHUP: ok or failed";
    }    with {
        /// The metrics of S3 stores.
        pub s3: S3Metrics,
    }
}

impl RelayMetrics {
    /// Creates the metrics and registers them together with `facts` about the process.
    #[must_use]
    pub fn register(registry: &mut Registry, facts: Facts) -> Self {
        let metrics = Self::default();
        registry.register_collector(Box::new(Process));

        let registry = registry.sub_registry_with_prefix(PREFIX);
        facts.register(registry);
        metrics.register_all(registry);
        metrics.s3.register_all(registry);
        metrics.s3.shared.register_all(registry);
        metrics.s3.cache.register_all(registry);

        metrics.begin();
        metrics
    }

    /// Exports the counters with constant labels, with the value 0.
    fn begin(&self) {
        for reason in UNANSWERED.iter().copied().chain(Code::ALL.map(Code::name)) {
            start_at_zero(&self.refused, &ReasonLabel { reason });
        }
        for result in RELOAD_RESULTS {
            start_at_zero(&self.reloads, &ResultLabel { result });
        }
        for connection in ["requests", "data"] {
            start_at_zero(&self.nats_connected, &ConnectionLabel { connection });
            start_at_zero(&self.nats_reconnects, &ConnectionLabel { connection });
        }
        for action in ["publish", "subscribe"] {
            start_at_zero(&self.nats_denied, &ActionLabel { action });
        }
    }

    /// Exports the counters of a store, with the value 0.
    pub fn add_store(&self, store: &str) {
        let codes = || Code::ALL.map(Code::name);
        for outcome in OUTCOMES.iter().copied().chain(codes()) {
            start_at_zero(&self.transfers, &OutcomeLabel { store: store.to_owned(), outcome });
        }
        for operation in Operation::ALL.map(Operation::name) {
            for result in std::iter::once("ok").chain(codes()) {
                start_at_zero(&self.requests, &RequestLabel { operation, store: store.to_owned(), result });
            }
        }
        start_at_zero(&self.transfers_resumed, &StoreLabel { store: store.to_owned() });
        start_at_zero(&self.store_differing, &StoreLabel { store: store.to_owned() });
        drop(self.transfer(store));
        drop(self.waits(store));
    }

    /// Returns the counters of a store's waits, in the order of [`Wait::ALL`].
    pub(crate) fn waits(&self, store: &str) -> [Seconds; Wait::ALL.len()] {
        Wait::ALL.map(|wait| {
            let label = WaitLabel { store: store.to_owned(), cause: wait.name() };
            self.waited.get_or_create_owned(&label)
        })
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
