//! Traces that cross processes, by the headers of W3C Trace Context.
//!
//! Without the feature `trace` no header is written and none is read.

#[cfg(not(feature = "trace"))]
mod off;
#[cfg(feature = "trace")]
mod w3c;

#[cfg(not(feature = "trace"))]
pub use self::off::{adopt, current_id, headers_of_current_span, inject};
#[cfg(feature = "trace")]
pub use self::w3c::{adopt, current_id, headers_of_current_span, inject};

use tracing::Span;

/// The names of the headers; they are lower-case on NATS, too.
pub const NAMES: [&str; 2] = ["traceparent", "tracestate"];

/// Records on the current span how it ended. A failure also becomes the span's status, where collectors look for it.
pub fn record_outcome(outcome: &'static str, has_failed: bool) {
    let span = Span::current();
    span.record("outcome", outcome);

    if has_failed {
        span.record("otel.status_code", "ERROR");
    }
}
