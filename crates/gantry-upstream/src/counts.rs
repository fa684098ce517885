//! Counts for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// What an upstream store has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Descriptions requested from relays.
    pub descriptions_asked: u64,
    /// Descriptions that were known, or that another caller was waiting for.
    pub descriptions_known: u64,
    /// Transfers requested from relays.
    pub transfers: u64,
    /// Ranges that continued a transfer instead of requesting one.
    pub ranges_continued: u64,
    /// Transfers that read ahead and were cancelled because no range continued them.
    pub ahead_abandoned: u64,
}

/// The counts as they change.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    pub(crate) descriptions_asked: AtomicU64,
    pub(crate) descriptions_known: AtomicU64,
    pub(crate) transfers: AtomicU64,
    pub(crate) ranges_continued: AtomicU64,
    pub(crate) ahead_abandoned: AtomicU64,
}

impl Counting {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);

        Counts {
            descriptions_asked: read(&self.descriptions_asked),
            descriptions_known: read(&self.descriptions_known),
            transfers: read(&self.transfers),
            ranges_continued: read(&self.ranges_continued),
            ahead_abandoned: read(&self.ahead_abandoned),
        }
    }
}
