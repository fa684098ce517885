//! Every metric: its name, its unit and its help, once.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The store that a transfer reads from. Bounded by the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabel {
    /// The store's name.
    pub store: String,
}

/// A store and how a transfer from it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// The store's name.
    pub store: String,
    /// `completed`, `cancelled`, `consumer_gone`, `drained`, `aborted`, or a wire code.
    pub outcome: &'static str,
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// `reply_subject`, or a wire code.
    pub reason: &'static str,
}

/// What a relay counts.
#[derive(Debug, Default)]
pub struct RelayMetrics {
    /// Transfers that ended, by store and outcome.
    pub transfers: Family<OutcomeLabel, Counter>,
    /// Transfers under way.
    pub transfers_active: Gauge<i64, AtomicI64>,
    /// Object bytes published.
    pub sent_bytes: Family<StoreLabel, Counter>,
    /// Chunks published.
    pub sent_chunks: Family<StoreLabel, Counter>,
    /// Requests refused before a transfer began.
    pub refused: Family<ReasonLabel, Counter>,
}

impl RelayMetrics {
    /// Makes the metrics and registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let own = Self::default();
        registry.register("transfers", "Transfers that ended, by store and outcome", own.transfers.clone());
        registry.register("transfers_active", "Transfers under way", own.transfers_active.clone());
        registry.register_with_unit("sent", "Object bytes published", Unit::Bytes, own.sent_bytes.clone());
        registry.register("sent_chunks", "Chunks published", own.sent_chunks.clone());
        registry.register("refused", "Requests refused before a transfer began", own.refused.clone());
        own
    }

    /// Counts a refusal.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }
}
