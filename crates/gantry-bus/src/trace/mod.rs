//! Propagates traces between processes in the headers of W3C Trace Context.
//!
//! Without the feature `trace`, headers are neither written nor read.

mod names;
#[cfg(not(feature = "trace"))]
mod off;
#[cfg(feature = "trace")]
mod w3c;

pub use self::names::NAMES;
#[cfg(not(feature = "trace"))]
pub use self::off::{adopt, current_id, headers_of_current_span, inject};
#[cfg(feature = "trace")]
pub use self::w3c::{adopt, current_id, headers_of_current_span, inject};

use tracing::Span;

/// Records the outcome on the current span. A failure is also recorded as the span's status, which collectors use.
pub fn record_outcome(outcome: &'static str, has_failed: bool) {
    let span = Span::current();
    span.record("outcome", outcome);

    if has_failed {
        span.record("otel.status_code", "ERROR");
    }
}
