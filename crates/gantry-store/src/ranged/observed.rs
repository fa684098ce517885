//! Reports requests to metrics and traces.

use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use super::failure::Failure;
use crate::Observe;

/// The operation that is not part of a consumer's request.
pub(crate) const PROBE: &str = "probe";

/// Sends one request within `span`, and counts it. The span has fields `result` and `otel.status_code`.
pub(crate) async fn observed<T, C>(
    observer: &dyn Observe,
    operation: &'static str,
    span: Span,
    request: impl Future<Output = Result<T, Failure<C>>>,
) -> Result<T, Failure<C>> {
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
