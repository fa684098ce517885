//! How a store reports its requests, without a dependency on a metrics or tracing library.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Receives reports about the requests of one store. Each method must return at once.
pub trait Observe: fmt::Debug + Send + Sync + 'static {
    /// Records a finished request with its operation and duration. The result is `ok`, `abandoned` or the code of an
    /// error.
    fn request_ended(&self, operation: &'static str, result: &'static str, took: Duration);

    /// Records that a connection was opened.
    fn connection_opened(&self);

    /// Records that a connection was closed.
    fn connection_closed(&self);

    /// Returns the headers with which a request identifies the current trace span. There are none without tracing.
    fn trace_headers(&self) -> Vec<(&'static str, String)>;
}

/// A shared observer.
pub type Observer = Arc<dyn Observe>;

/// Ignores all reports.
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
