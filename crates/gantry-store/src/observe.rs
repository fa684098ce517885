//! What a store reports about its own requests, so that it depends on no metrics and no tracing library.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Receives what one store does. Every method must return at once.
pub trait Observe: fmt::Debug + Send + Sync + 'static {
    /// Records a request that ended: its operation, `ok` or the code of its error or `abandoned`, and how long it took.
    fn request_ended(&self, operation: &'static str, result: &'static str, took: Duration);

    /// Records that a connection was opened.
    fn connection_opened(&self);

    /// Records that a connection was closed.
    fn connection_closed(&self);

    /// Returns the headers that name the current trace span, for a request to carry; empty without tracing.
    fn trace_headers(&self) -> Vec<(&'static str, String)>;
}

/// A shared observer.
pub type Observer = Arc<dyn Observe>;

/// Records nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observe for Unobserved {
    fn request_ended(&self, _: &'static str, _: &'static str, _: Duration) {}

    fn connection_opened(&self) {}

    fn connection_closed(&self) {}

    fn trace_headers(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}
