//! Reports requests to S3 to metrics and traces.

use aws_sdk_s3::config::http::HttpRequest;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::failure::Failure;
use crate::Observe;

/// The operation that is not part of a consumer's request.
pub(super) const PROBE: &str = "probe";

/// Sends one request, counts it, and records it as a span.
pub(super) async fn observed<T>(
    observer: &dyn Observe,
    operation: &'static str,
    request: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let span = if operation == PROBE {
        // Each would be a separate trace, every ten seconds.
        Span::none()
    } else {
        info_span!("s3", otel.kind = "client", otel.status_code = Empty, operation, result = Empty)
    };

    let mut watch = Watch { observer, operation, begun: Instant::now(), result: "abandoned" };
    let answer = request.instrument(span.clone()).await;

    watch.result = answer.as_ref().map_or_else(|failure| failure.error.code().name(), |_| "ok");
    span.record("result", watch.result);
    if answer.is_err() {
        span.record("otel.status_code", "ERROR");
    }
    answer
}

/// Counts when dropped, so that abandoned requests are counted as well.
struct Watch<'a> {
    observer: &'a dyn Observe,
    operation: &'static str,
    begun: Instant,
    result: &'static str,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.observer.request_ended(self.operation, self.result, self.begun.elapsed());
    }
}

/// Sends the trace to S3 in a header that is not signed, because proxies may replace the span in it.
pub(super) fn add_trace(observer: &dyn Observe, request: &mut HttpRequest) {
    for (name, value) in observer.trace_headers() {
        // An invalid header is left out: `insert` would panic.
        drop(request.headers_mut().try_insert(name, value));
    }
}
