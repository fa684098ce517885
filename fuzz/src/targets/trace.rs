//! Trace headers from peers: those that are passed on to S3 and other relays are valid headers.

use std::sync::OnceLock;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::gantry::{Headers, nats_files, trace};

static BEGUN: OnceLock<SdkTracerProvider> = OnceLock::new();

pub(crate) fn run(data: &[u8]) {
    let provider = BEGUN.get_or_init(|| SdkTracerProvider::builder().build());
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("fuzz"));
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || check(data));
}

fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (parent, state) =
        text.split_once('|').unwrap_or(("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", &text));
    let mut headers = Headers::default();
    headers.push("traceparent", parent);
    headers.push("tracestate", state);
    let span = tracing::info_span!("request");
    trace::adopt(&span, &headers);
    let _in_span = span.enter();
    let mut passed_on = Headers::default();
    trace::inject(&mut passed_on);
    assert!(nats_files::is_sendable(&passed_on));
    for (name, value) in passed_on.iter() {
        assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{name}: {value:?}");
        assert!(value.len() <= 600);
    }
    drop(trace::current_id());
}
