//! Trace propagation: W3C headers that identify the span for which another process works.

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::names::NAMES;
use gantry_proto::Headers;

/// The longest value of a trace header that is accepted from a message.
const VALUE_MAX_BYTES: usize = 512;

/// Returns the headers that identify the current span. There are none if no traces are exported.
#[must_use]
pub fn headers_of_current_span() -> Vec<(&'static str, String)> {
    let mut carrier = Carrier::default();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.0
}

/// Returns the id of the current span's trace, or `None` if no traces are exported.
#[must_use]
pub fn current_id() -> Option<String> {
    let headers = headers_of_current_span();
    let (_, parent) = headers.iter().find(|(name, _)| *name == NAMES[0])?;
    parent.split('-').nth(1).map(str::to_owned)
}

/// Adds headers that identify the current span.
pub fn inject(headers: &mut Headers) {
    for (name, value) in headers_of_current_span() {
        headers.push(name, value);
    }
}

/// Makes `span` a child of the span that the headers identify, if any.
pub fn adopt(span: &Span, headers: &Headers) {
    let found: Vec<_> = NAMES
        .iter()
        .filter_map(|name| Some((*name, headers.get(name).filter(|value| is_plausible(value))?.to_owned())))
        .collect();
    if found.is_empty() {
        return;
    }

    let parent = TraceContextPropagator::new().extract(&Carrier(found));
    // This fails if traces are not exported or the span is filtered out. There is nothing to link then.
    drop(span.set_parent(parent));
}

/// Returns whether a value can be a trace header. It is forwarded to stores and other relays, so it must not break a header
/// there, and its size is bounded.
///
/// Source: W3C Trace Context, sections 3.2 and 3.3: both are printable ASCII, and 512 characters must be passed on.
fn is_plausible(value: &str) -> bool {
    value.len() <= VALUE_MAX_BYTES && value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

#[derive(Default)]
struct Carrier(Vec<(&'static str, String)>);

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        // An empty `tracestate` has no meaning.
        if let Some(name) = NAMES.iter().find(|name| **name == key)
            && !value.is_empty()
        {
            self.0.push((name, value));
        }
    }
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_export_nothing_is_added() {
        let mut headers = Headers::default();
        inject(&mut headers);
        assert!(headers.is_empty());
        assert_eq!(current_id(), None);
    }

    #[test]
    fn only_valid_header_values_are_passed_on() {
        for (value, fits) in [
            ("a=1,b=x y", true),
            ("a=\u{1}", false),
            ("a=1\r\nx: y", false),
            ("a=\u{7f}", false),
            ("a=é", false),
            (&"a".repeat(VALUE_MAX_BYTES), true),
            (&"a".repeat(VALUE_MAX_BYTES + 1), false),
        ] {
            assert_eq!(is_plausible(value), fits, "{value:?}");
        }
    }

    #[test]
    fn invalid_headers_of_peers_are_ignored() {
        for value in ["", "x", "00-00000000000000000000000000000000-0000000000000000-00", "\u{fffd}"] {
            let mut headers = Headers::default();
            headers.push("traceparent", value);
            adopt(&Span::none(), &headers);
        }
    }
}
