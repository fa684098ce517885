//! The metrics of caches on disk.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::{SharedLabel, StoreLabel};
use super::spec::{Kind, Spec, metrics};
use super::values::Flag;
use gantry_store::cache::{Observe, Report};

metrics! {
    /// The metrics of all stores with a cache on disk.
    pub struct CacheMetrics {
        requests: Family<SharedLabel, Counter>,
            Counter, "cache_requests", ["store", "result"],
            "Requests to stores with `cache_dir`: a hit finds at least a part of its bytes on disk, a miss is passed to the store, a stale one is answered from disk because the store is unreachable";
        served: Family<StoreLabel, Counter>,
            Counter, "cache_served" in "bytes", ["store"],
            "Object bytes sent from disk";
        filled: Family<StoreLabel, Counter>,
            Counter, "cache_filled" in "bytes", ["store"],
            "Object bytes written to disk";
        skipped: Family<StoreLabel, Counter>,
            Counter, "cache_skipped_blocks", ["store"],
            "Blocks of up to 1 MiB that were not written because the disk or the memory budget had no room for them";
        evicted: Family<StoreLabel, Counter>,
            Counter, "cache_evicted_files", ["store"],
            "Files that were removed because others needed their place";
        damaged: Family<StoreLabel, Counter>,
            Counter, "cache_damaged_files", ["store"],
            "Damaged files that were found and removed";
        kept: Family<StoreLabel, Gauge<u64, AtomicU64>>,
            Gauge, "cache_kept" in "bytes", ["store"],
            "Length of all files in the cache folder";
        files: Family<StoreLabel, Gauge<u64, AtomicU64>>,
            Gauge, "cache_kept_files", ["store"],
            "Number of files in the cache folder";
        usable: Family<StoreLabel, Flag>,
            Gauge, "cache_usable", ["store"],
            "Whether the cache folder can be used";
    }
}

impl CacheMetrics {
    /// Returns the observer of one store, and exports the store's metrics with the value 0.
    #[must_use]
    pub fn of_store(&self, store: &str) -> CacheObserver {
        let label = StoreLabel { store: store.to_owned() };
        let request = |result| self.requests.get_or_create_owned(&SharedLabel { store: store.to_owned(), result });

        CacheObserver {
            hits: request("hit"),
            misses: request("miss"),
            stale: request("stale"),
            served: self.served.get_or_create_owned(&label),
            filled: self.filled.get_or_create_owned(&label),
            skipped: self.skipped.get_or_create_owned(&label),
            evicted: self.evicted.get_or_create_owned(&label),
            damaged: self.damaged.get_or_create_owned(&label),
            kept: self.kept.get_or_create_owned(&label),
            files: self.files.get_or_create_owned(&label),
            usable: self.usable.get_or_create_owned(&label),
        }
    }
}

/// Counts what the cache of one store does.
#[derive(Clone, Debug)]
pub struct CacheObserver {
    hits: Counter,
    misses: Counter,
    stale: Counter,
    served: Counter,
    filled: Counter,
    skipped: Counter,
    evicted: Counter,
    damaged: Counter,
    kept: Gauge<u64, AtomicU64>,
    files: Gauge<u64, AtomicU64>,
    usable: Flag,
}

impl Observe for CacheObserver {
    fn record(&self, report: Report) {
        let (counter, count) = match report {
            Report::Hit => (&self.hits, 1),
            Report::Miss => (&self.misses, 1),
            Report::Stale => (&self.stale, 1),
            Report::Served(bytes) => (&self.served, bytes),
            Report::Filled(bytes) => (&self.filled, bytes),
            Report::Skipped => (&self.skipped, 1),
            Report::Evicted => (&self.evicted, 1),
            Report::Damaged => (&self.damaged, 1),
            Report::Kept { bytes, files } => {
                self.kept.set(bytes);
                self.files.set(files);
                return;
            }
            Report::Usable(is_usable) => {
                self.usable.set(i64::from(is_usable));
                return;
            }
        };
        counter.inc_by(count);
    }
}
