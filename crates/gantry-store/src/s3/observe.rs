//! Reports requests to S3 to metrics and traces.

use aws_sdk_s3::config::http::HttpRequest;
use tracing::field::Empty;
use tracing::{Span, info_span};

use super::failure::Failure;
use crate::Observe;
use crate::ranged;
pub(super) use crate::ranged::PROBE;

/// Sends one request, counts it, and records it as a span.
///
/// Not an `async fn`, which would keep a copy of the request's large future.
pub(super) fn observed<T>(
    observer: &dyn Observe,
    operation: &'static str,
    request: impl Future<Output = Result<T, Failure>>,
) -> impl Future<Output = Result<T, Failure>> {
    let span = if operation == PROBE {
        // Each would be a separate trace, every ten seconds.
        Span::none()
    } else {
        info_span!("s3", otel.kind = "client", otel.status_code = Empty, operation, result = Empty)
    };
    ranged::observed(observer, operation, span, request)
}

/// Sends the trace to S3 in a header that is not signed, because proxies may replace the span in it.
pub(super) fn add_trace(observer: &dyn Observe, request: &mut HttpRequest) {
    for (name, value) in observer.trace_headers() {
        // An invalid header is left out: `insert` would panic.
        drop(request.headers_mut().try_insert(name, value));
    }
}
