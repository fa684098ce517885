//! The metrics of stores in S3, Google Cloud and Azure. Their names begin with `gantry_s3_` because S3 was the first.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::cache::CacheMetrics;
use super::labels::{S3Label, S3ResultLabel, StoreLabel};
use super::shared::SharedMetrics;
use super::spec::{Kind, Spec, metrics};
use super::values::{ANSWER_BUCKETS, DurationFamily, Durations, start_at_zero};
use gantry_proto::Code;
use gantry_store::Observe;

/// The kinds of requests to S3.
const S3_OPERATIONS: &[&str] = &["get", "head", "list", "probe", "attributes", "part"];

/// Results of requests to S3 that are not wire codes.
const S3_RESULTS: &[&str] = &["ok", "abandoned"];

/// The wire codes of failures that a store can cause.
const STORE_CODES: &[Code] =
    &[Code::BadRequest, Code::Denied, Code::NotFound, Code::Changed, Code::Range, Code::StoreUnavailable];

metrics! {
    /// The metrics of all stores in S3 or another cloud.
    pub struct S3Metrics {
        requests: Family<S3ResultLabel, Counter>,
            Counter, "s3_requests", ["store", "operation", "result"],
            "Requests to any object store (S3, Google Cloud, Azure), counting each attempt: ok, a wire code, or abandoned if the relay stopped waiting for the answer";
        latency: DurationFamily<S3Label>
            = Family::new_with_constructor(Durations(ANSWER_BUCKETS)),
            Histogram, "s3_request_duration" in "seconds", ["store", "operation"],
            "Time until the headers of a response of any object store (S3, Google Cloud, Azure) arrive";
        connections: Family<StoreLabel, Gauge<i64, AtomicI64>>,
            Gauge, "s3_connections", ["store"],
            "Open connections to any object store (S3, Google Cloud, Azure), in use or idle";
        connections_opened: Family<StoreLabel, Counter>,
            Counter, "s3_connections_opened", ["store"],
            "Connections opened to any object store (S3, Google Cloud, Azure); requests that reuse an idle connection do not count";
    }    with {
        /// The metrics of shared reads.
        pub shared: SharedMetrics,
        /// The metrics of caches on disk.
        pub cache: CacheMetrics,
    }
}

impl S3Metrics {
    /// Returns the observer of one store, and exports the store's counters with the value 0.
    #[must_use]
    pub fn of_store(&self, store: &str) -> S3Observer {
        for operation in S3_OPERATIONS {
            for result in S3_RESULTS.iter().copied().chain(STORE_CODES.iter().map(|code| code.name())) {
                start_at_zero(&self.requests, &S3ResultLabel { store: store.to_owned(), operation, result });
            }
        }
        let label = StoreLabel { store: store.to_owned() };
        start_at_zero(&self.connections, &label);
        start_at_zero(&self.connections_opened, &label);
        S3Observer { metrics: self.clone(), store: store.to_owned() }
    }
}

/// Counts the requests and connections of one store in S3 or another cloud.
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
