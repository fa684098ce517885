//! A trace collector that records what it receives over OTLP/HTTP.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use tokio::net::TcpListener;

/// The parts of a span that tests check.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) service: String,
    pub(super) name: String,
    pub(super) trace: Vec<u8>,
    pub(super) id: Vec<u8>,
    pub(super) parent: Vec<u8>,
    /// `client` or `server`.
    pub(super) kind: &'static str,
    pub(super) begun_ns: u64,
    pub(super) took: Duration,
    pub(super) has_failed: bool,
    attributes: Vec<KeyValue>,
}

impl Span {
    pub(super) fn attribute(&self, name: &str) -> String {
        text(&self.attributes, name)
    }
}

#[derive(Debug)]
pub(super) struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&spans);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let taken = Arc::clone(&taken);
                let service = service_fn(move |request| take(request, Arc::clone(&taken)));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, spans }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}

async fn take(request: Request<Incoming>, spans: Arc<Mutex<Vec<Span>>>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.uri().path(), "/v1/traces");

    let body = request.into_body().collect().await.unwrap().to_bytes();
    let sent = ExportTraceServiceRequest::decode(body).unwrap();

    for resource in sent.resource_spans {
        let attributes = resource.resource.unwrap().attributes;
        assert_eq!(text(&attributes, "service.version"), env!("CARGO_PKG_VERSION"));
        let service = text(&attributes, "service.name");
        let found = resource.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| Span {
            service: service.clone(),
            kind: if span.kind() == SpanKind::Server { "server" } else { "client" },
            has_failed: span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
            begun_ns: span.start_time_unix_nano,
            took: Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano),
            name: span.name,
            trace: span.trace_id,
            id: span.span_id,
            parent: span.parent_span_id,
            attributes: span.attributes,
        });
        spans.lock().unwrap().extend(found);
    }

    Ok(Response::new(Full::default()))
}

/// Returns the text of an attribute, empty if there is none.
fn text(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.clone()).and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        _ => String::new(),
    }
}
