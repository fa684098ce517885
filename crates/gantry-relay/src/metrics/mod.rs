//! The relay's metrics.
//!
//! Label values are bounded: they are configured stores or constants in this program, never keys, subjects or names of
//! requesters. Therefore every counter can be exported from the start with the value 0. Prometheus sees no increase in
//! a series that first appears with the value 1, so the first failure would not raise an alert.
//!
//! A new metric is one entry in `relay.rs` or `s3.rs`, and one use.

mod cache;
mod facts;
mod labels;
mod process;
mod relay;
mod s3;
mod shared;
mod spec;
mod values;

use prometheus_client::registry::Registry;

pub use self::cache::{CacheMetrics, CacheObserver};
pub use self::facts::Facts;
pub use self::labels::{
    ActionLabel, ConnectionLabel, OutcomeLabel, ReasonLabel, RequestLabel, ResultLabel, S3Label, S3ResultLabel,
    SharedLabel, StoreLabel, WaitLabel,
};
pub use self::relay::{Queued, RelayMetrics, TransferMetrics};
pub use self::s3::{S3Metrics, S3Observer};
pub use self::shared::{SharedMetrics, SharedObserver};
pub use self::spec::{Kind, PREFIX, Spec};
pub use self::values::{DurationFamily, Durations, Flag, Sampled};

/// Returns the definition of every metric of the relay.
pub fn all() -> impl Iterator<Item = &'static Spec> {
    let sets = [
        facts::SPECS,
        RelayMetrics::SPECS,
        S3Metrics::SPECS,
        SharedMetrics::SPECS,
        CacheMetrics::SPECS,
        process::SPECS,
    ];
    sets.into_iter().flatten()
}

/// Returns the table of the relay's metrics in `docs/METRICS.md`.
#[must_use]
pub fn table() -> String {
    table_of(all())
}

/// Returns a table of metrics as in `docs/METRICS.md`.
pub fn table_of<'a>(specs: impl Iterator<Item = &'a Spec>) -> String {
    let header = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    specs.fold(header, |text, spec| {
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

/// Adds the metrics of this process to a registry, for processes that run no relay.
pub fn register_process(registry: &mut Registry) {
    registry.register_collector(Box::new(process::Process));
}

#[cfg(test)]
mod tests;
