//! The metrics of shared reads.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::{SharedLabel, StoreLabel};
use super::spec::{Kind, Spec, metrics};
use gantry_store::shared::{Observe, Report};

metrics! {
    /// The metrics of all stores that are read once for several consumers.
    pub struct SharedMetrics {
        requests: Family<SharedLabel, Counter>,
            Counter, "shared_reads", ["store", "result"],
            "Requests to stores with `shared_reads`: a hit begins with kept bytes, a join follows a read in progress, a miss is passed to the store";
        saved: Family<StoreLabel, Counter>,
            Counter, "shared_reads_saved" in "bytes", ["store"],
            "Object bytes sent that the store was not asked for";
        evicted: Family<StoreLabel, Counter>,
            Counter, "shared_reads_evicted_blocks", ["store"],
            "Blocks of up to 1 MiB that were discarded early because their memory was needed";
        kept: Family<StoreLabel, Gauge<u64, AtomicU64>>,
            Gauge, "shared_reads_kept" in "bytes", ["store"],
            "Memory that is reserved for kept bytes, a part of the reserved memory budget";
    }
}

impl SharedMetrics {
    /// Returns the observer of one store, and exports the store's metrics with the value 0.
    #[must_use]
    pub fn of_store(&self, store: &str) -> SharedObserver {
        let label = StoreLabel { store: store.to_owned() };
        let request = |result| self.requests.get_or_create_owned(&SharedLabel { store: store.to_owned(), result });

        SharedObserver {
            hits: request("hit"),
            joins: request("join"),
            misses: request("miss"),
            saved: self.saved.get_or_create_owned(&label),
            evicted: self.evicted.get_or_create_owned(&label),
            kept: self.kept.get_or_create_owned(&label),
        }
    }
}

/// Counts the shared reads of one store.
#[derive(Clone, Debug)]
pub struct SharedObserver {
    hits: Counter,
    joins: Counter,
    misses: Counter,
    saved: Counter,
    evicted: Counter,
    kept: Gauge<u64, AtomicU64>,
}

impl Observe for SharedObserver {
    fn record(&self, report: Report) {
        match report {
            Report::Hit => {
                self.hits.inc();
            }
            Report::Join => {
                self.joins.inc();
            }
            Report::Miss => {
                self.misses.inc();
            }
            Report::Saved(bytes) => {
                self.saved.inc_by(bytes);
            }
            Report::Evicted(blocks) => {
                self.evicted.inc_by(blocks);
            }
            Report::Kept(bytes) => {
                self.kept.set(bytes);
            }
        }
    }
}
