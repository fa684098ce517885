//! How a cache is reported, without a dependency on a metrics library.

use std::fmt;
use std::sync::Arc;

/// An event of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A request found at least a part of its bytes on disk.
    Hit,
    /// A request was passed to the store.
    Miss,
    /// A request was answered from disk although the store was unreachable.
    Stale,
    /// This many bytes were returned from disk.
    Served(u64),
    /// This many bytes were written to disk.
    Filled(u64),
    /// A block was not written because the disk or the memory budget had no room for it.
    Skipped,
    /// A file was removed because others needed its place.
    Evicted,
    /// A damaged file was found.
    Damaged,
    /// This is on disk now, in all files of the folder.
    Kept {
        /// Their length, in bytes.
        bytes: u64,
        /// Their number.
        files: u64,
    },
    /// Whether the folder can be used.
    Usable(bool),
}

/// Receives the reports of one cache. Must return at once.
pub trait Observe: fmt::Debug + Send + Sync + 'static {
    /// Records an event.
    fn record(&self, report: Report);
}

/// A shared observer.
pub type Observer = Arc<dyn Observe>;

/// Ignores all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observe for Unobserved {
    fn record(&self, _: Report) {}
}
