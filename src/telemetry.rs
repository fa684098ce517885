//! Logs, always to stderr, and traces to a collector.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Handle;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// How long the last traces may take to reach the collector when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// What to tell, and where.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// A log level, or several by module, as in `info,gantry_relay::relay=debug`.
    pub level: &'a str,
    /// How log lines are written.
    pub format: Format,
    /// The collector's address without path; `None` for no traces.
    pub otlp_endpoint: Option<&'a str>,
    /// What the process is called in traces, unless `OTEL_SERVICE_NAME` says.
    pub service: &'static str,
}

/// Why telemetry could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is none.
    #[error("log level {level:?}: {reason}")]
    Level {
        /// The level as given.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The exporter of traces can't be made.
    #[error("`telemetry.otlp_endpoint` = {endpoint:?}: {reason}")]
    Endpoint {
        /// The address as given.
        endpoint: String,
        /// What is wrong with it, or with one of OpenTelemetry's own variables.
        reason: String,
    },
    /// Something else in this process logs already.
    #[error("logging has begun already")]
    Begun,
}

/// Telemetry that has begun.
#[derive(Debug)]
#[must_use = "the last traces are sent by `end`"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Begins to log, and to export traces if there is a collector. It must be called on the runtime, which sends them.
///
/// # Errors
/// When the level or the collector's address is none, or when it is called twice.
pub fn init(options: Options<'_>) -> Result<Telemetry, Error> {
    let filter = EnvFilter::builder()
        .parse(options.level)
        .map_err(|error| Error::Level { level: options.level.to_owned(), reason: error.to_string() })?;
    let ansi = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(ansi);
    let log = match options.format {
        Format::Text => log.boxed(),
        Format::Json => log.json().flatten_event(true).boxed(),
    };
    let provider = options.otlp_endpoint.map(|endpoint| provider(endpoint, options.service)).transpose()?;
    // Spans of ours only, whatever is logged: the libraries' own would drown them.
    let own = Targets::new().with_target("gantry_relay", LevelFilter::INFO);
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer("gantry")).with_location(false).with_filter(own)
    });
    tracing_subscriber::registry().with(log.with_filter(filter)).with(traces).try_init().map_err(|_| Error::Begun)?;
    Ok(Telemetry { provider })
}

fn provider(endpoint: &str, service: &'static str) -> Result<SdkTracerProvider, Error> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .build()
        .map_err(|error| Error::Endpoint { endpoint: endpoint.to_owned(), reason: error.to_string() })?;
    let resource = Resource::builder();
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource.build(),
        None => resource.with_service_name(service).build(),
    };
    let exporter = OnRuntime { exporter: Arc::new(exporter), runtime: Handle::current() };
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Telemetry {
    /// Sends the last traces. A collector that does not answer costs no more than two seconds.
    pub async fn end(self) {
        let Some(provider) = self.provider else { return };
        // It blocks until the batch is sent, which this runtime does meanwhile.
        let shut = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
        if !matches!(shut, Ok(Ok(()))) {
            tracing::warn!("the last traces did not reach the collector");
        }
    }
}

/// Exports on the runtime: the SDK exports from a thread of its own, where hyper can't run.
#[derive(Debug)]
struct OnRuntime {
    exporter: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
}

impl SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        let task = self.runtime.spawn(async move { exporter.export(batch).await });
        task.await.map_err(|error| OTelSdkError::InternalFailure(error.to_string()))?
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}
