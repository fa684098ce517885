//! The kinds of values that metrics have.

use std::fmt;
use std::hash::Hash;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;

/// Constructs a histogram of durations. The buckets range from a loopback round trip to a download of one day.
#[derive(Clone, Copy, Debug)]
pub struct Durations(pub(super) &'static [f64]);

/// Buckets for the time until an answer, in seconds.
pub(super) const ANSWER_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Buckets for the duration of a transfer, in seconds.
pub(super) const TRANSFER_BUCKETS: &[f64] =
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
pub(super) struct SampledCounter(pub(super) Sampled);

impl EncodeMetric for SampledCounter {
    fn encode(&self, encoder: MetricEncoder) -> fmt::Result {
        ConstCounter::new((self.0.0)()).encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// Exports a metric with its initial value before its first event.
pub(super) fn start_at_zero<L, M, C>(family: &Family<L, M, C>, label: &L)
where
    L: Clone + Hash + Eq,
    M: Clone,
    C: MetricConstructor<M>,
{
    drop(family.get_or_create(label));
}
