//! How shared reads are reported, without a dependency on a metrics library.

use std::fmt;
use std::sync::Arc;

/// An event of shared reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A request was answered from kept bytes, at least at its beginning.
    Hit,
    /// A request follows one that is reading the same bytes.
    Join,
    /// A request was passed to the store.
    Miss,
    /// This many bytes were returned that the store was not asked for.
    Saved(u64),
    /// This many blocks were discarded because others needed the memory.
    Evicted(u64),
    /// This many bytes of memory are reserved for kept blocks.
    Kept(u64),
}

/// Receives the reports of one store. Must return at once.
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
