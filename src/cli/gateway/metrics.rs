//! The metrics of the HTTP front.

use std::fmt;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};

use gantry_http::{Aborted, Finished, Proof, Rejected};
use gantry_relay::metrics::{Kind, PREFIX, Spec};
use gantry_upstream::{Counts, Relays};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Buckets for the time until the first byte, in seconds.
const FIRST_BYTE_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const STATUSES: &[&str] = &["1xx", "2xx", "3xx", "4xx", "5xx"];
const PROOFS: &[&str] = &["full_object", "composite", "etag", "transport", "unverified", "invalid_checksum"];
const ABORTED: &[Aborted] = &[Aborted::Client, Aborted::Mismatch, Aborted::Changed, Aborted::Store];
const REJECTED: &[Rejected] = &[Rejected::Malformed, Rejected::TooLarge, Rejected::SlowHeader];

const REQUESTS: Spec =
    Spec::new("gateway_requests", Kind::Counter, &["status"], "Requests to the HTTP front, by class of status");
const SENT: Spec =
    Spec::new("gateway_sent", Kind::Counter, &[], "Bytes of content handed to HTTP connections").unit("bytes");
const FIRST_BYTE: Spec = Spec::new(
    "gateway_first_byte",
    Kind::Histogram,
    &[],
    "Time from a request's head to the first byte of its content",
)
.unit("seconds");
const PROVED: Spec = Spec::new(
    "gateway_proofs",
    Kind::Counter,
    &["proof"],
    "Complete responses with a whole object, by how its bytes were verified",
);
const BROKEN: Spec = Spec::new(
    "gateway_aborted",
    Kind::Counter,
    &["reason"],
    "Responses that were cut off: the client left, the bytes or the object were not the right ones, or the store failed",
);
const REFUSED: Spec = Spec::new(
    "gateway_rejected",
    Kind::Counter,
    &["reason"],
    "Connections closed because of bytes that are no request, or a head that was too large or too slow",
);
const CONNECTIONS: Spec = Spec::new("gateway_connections", Kind::Gauge, &[], "Open HTTP connections");
const DESCRIPTIONS: Spec =
    Spec::new("gateway_descriptions", Kind::Counter, &[], "Descriptions of objects requested from relays");
const DESCRIPTIONS_REUSED: Spec =
    Spec::new("gateway_descriptions_reused", Kind::Counter, &[], "Descriptions of objects that were already known");
const TRANSFERS: Spec = Spec::new("gateway_transfers", Kind::Counter, &[], "Transfers requested from relays");
const CONTINUED: Spec = Spec::new(
    "gateway_ranges_continued",
    Kind::Counter,
    &[],
    "Ranges that continued the transfer of the previous range",
);
const ABANDONED: Spec = Spec::new(
    "gateway_read_ahead_abandoned",
    Kind::Counter,
    &[],
    "Transfers that read ahead and were not continued by another range",
);

/// The metrics of every front.
#[cfg(test)]
const SPECS: &[Spec] = &[REQUESTS, SENT, FIRST_BYTE, PROVED, BROKEN, REFUSED, CONNECTIONS];

/// The metrics of stores that are read over NATS.
const UPSTREAM_SPECS: &[Spec] = &[DESCRIPTIONS, DESCRIPTIONS_REUSED, TRANSFERS, CONTINUED, ABANDONED];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProofLabel {
    proof: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The metrics of the front.
#[derive(Clone, Debug)]
pub(super) struct FrontMetrics {
    requests: Family<StatusLabel, Counter>,
    sent: Counter,
    first_byte: Histogram,
    proofs: Family<ProofLabel, Counter>,
    aborted: Family<ReasonLabel, Counter>,
    rejected: Family<ReasonLabel, Counter>,
    pub(super) connections: Gauge<i64, AtomicI64>,
}

impl FrontMetrics {
    /// Creates the metrics, and adds them to a registry. Every counter starts with the value 0.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            sent: Counter::default(),
            first_byte: Histogram::new(FIRST_BYTE_BUCKETS.iter().copied()),
            proofs: Family::default(),
            aborted: Family::default(),
            rejected: Family::default(),
            connections: Gauge::default(),
        };

        let registry = registry.sub_registry_with_prefix(PREFIX);
        REQUESTS.register(registry, metrics.requests.clone());
        SENT.register(registry, metrics.sent.clone());
        FIRST_BYTE.register(registry, metrics.first_byte.clone());
        PROVED.register(registry, metrics.proofs.clone());
        BROKEN.register(registry, metrics.aborted.clone());
        REFUSED.register(registry, metrics.rejected.clone());
        CONNECTIONS.register(registry, metrics.connections.clone());

        metrics.begin();
        metrics
    }

    fn begin(&self) {
        for status in STATUSES {
            drop(self.requests.get_or_create(&StatusLabel { status }));
        }
        for proof in PROOFS {
            drop(self.proofs.get_or_create(&ProofLabel { proof }));
        }
        for reason in ABORTED.iter().map(|aborted| aborted.name()) {
            drop(self.aborted.get_or_create(&ReasonLabel { reason }));
        }
        for reason in REJECTED.iter().map(|rejected| rejected.name()) {
            drop(self.rejected.get_or_create(&ReasonLabel { reason }));
        }
    }

    /// Counts a response.
    pub(super) fn finish(&self, finished: &Finished) {
        let class = usize::from(finished.status / 100).saturating_sub(1);
        let status = STATUSES.get(class).copied().unwrap_or("5xx");
        self.requests.get_or_create(&StatusLabel { status }).inc();

        self.sent.inc_by(finished.bytes);
        self.first_byte.observe(finished.first_byte.as_secs_f64());
        if let Some(proof) = &finished.proof {
            self.proofs.get_or_create(&ProofLabel { proof: name_of(proof) }).inc();
        }
        if let Some(aborted) = finished.aborted {
            self.aborted.get_or_create(&ReasonLabel { reason: aborted.name() }).inc();
        }
    }

    /// Counts a connection that was closed outside of a response.
    pub(super) fn reject(&self, reason: Rejected) {
        self.rejected.get_or_create(&ReasonLabel { reason: reason.name() }).inc();
    }
}

/// Returns the name of a proof in metrics and logs.
pub(super) const fn name_of(proof: &Proof) -> &'static str {
    match proof {
        Proof::FullObject { .. } => "full_object",
        Proof::Composite { .. } => "composite",
        Proof::Etag { .. } => "etag",
        Proof::Transport => "transport",
        Proof::Unverified { .. } => "unverified",
        Proof::InvalidChecksum { .. } => "invalid_checksum",
    }
}

/// The relays, once there is a connection to NATS.
pub(super) type RelaysLater = Arc<OnceLock<Relays>>;

/// The counts of the stores that are read over NATS, as they are at a scrape.
#[derive(Debug)]
pub(super) struct UpstreamMetrics(pub(super) RelaysLater);

impl Collector for UpstreamMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Counts { descriptions_asked, descriptions_known, transfers, ranges_continued, ahead_abandoned, .. } =
            self.0.get().map(Relays::counts).unwrap_or_default();
        let counts = [descriptions_asked, descriptions_known, transfers, ranges_continued, ahead_abandoned];

        for (spec, count) in UPSTREAM_SPECS.iter().zip(counts) {
            let counter = ConstCounter::new(count);
            let name = format!("{PREFIX}_{}", spec.name());
            let help = format!("{}.", spec.help());
            counter.encode(encoder.encode_descriptor(&name, &help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_relay::metrics;

    #[test]
    fn the_documentation_contains_the_table() {
        let page = include_str!("../../../docs/METRICS.md");
        let table = metrics::table_of(SPECS.iter().chain(UPSTREAM_SPECS));
        assert!(page.contains(&table), "docs/METRICS.md must contain this table:\n{table}");
    }

    #[test]
    fn every_counter_starts_at_zero() {
        let mut registry = Registry::default();
        drop(FrontMetrics::register(&mut registry));
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();

        for series in [
            "gantry_gateway_requests_total{status=\"5xx\"} 0",
            "gantry_gateway_sent_bytes_total 0",
            "gantry_gateway_proofs_total{proof=\"full_object\"} 0",
            "gantry_gateway_aborted_total{reason=\"mismatch\"} 0",
            "gantry_gateway_rejected_total{reason=\"slow_header\"} 0",
            "gantry_gateway_connections 0",
        ] {
            assert!(page.lines().any(|line| line == series), "{series} is not on the page:\n{page}");
        }
    }
}
