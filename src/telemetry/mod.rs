//! Logs, always to stderr, and traces to a collector.

mod lines;

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::lines::Stderr;
pub use self::lines::{dropped_lines, flush, print};

/// How long the last traces may take to reach the collector when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two warnings that traces are lost: the SDK exports every five seconds.
const FAILURES_INTERVAL: Duration = Duration::from_secs(60);

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
    /// A log level, or several by module, as in `info,gantry_relay=debug`.
    pub level: &'a str,
    /// How log lines are written.
    pub format: Format,
    /// Where the collector takes traces; `None` for no traces.
    pub traces_url: Option<&'a str>,
    /// Whether to go on without traces, with a warning, when they can't be exported.
    pub traces_optional: bool,
    /// What the process is called in traces, unless `OTEL_SERVICE_NAME` says.
    pub service: &'static str,
    /// Whether lines are queued, and lost while nobody takes them from stderr, rather than waited for.
    pub is_queued: bool,
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
    #[error("`telemetry.otlp_endpoint`: traces can't go to {url:?}: {reason}")]
    Endpoint {
        /// Where they were to go.
        url: String,
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
    failures: Arc<Failures>,
}

/// Begins to log, and to export traces if there is a collector. It must be called on the runtime, which sends them.
///
/// # Errors
/// When the level or the collector's address is none, or when it is called twice.
pub fn init(options: Options<'_>) -> Result<Telemetry, Error> {
    let filter = EnvFilter::builder()
        .parse(quietened(options.level))
        .map_err(|error| Error::Level { level: options.level.to_owned(), reason: error.to_string() })?;
    let ansi = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let stderr = Stderr { is_colored: ansi, is_json: options.format == Format::Json };
    let log = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(ansi);
    let log = match options.format {
        Format::Text => log.boxed(),
        Format::Json => log.json().flatten_event(true).boxed(),
    };
    let failures = Arc::new(Failures::default());
    let made = options.traces_url.map(|url| provider(url, options.service, &failures)).transpose();
    let (provider, unmade) = match made {
        Ok(provider) => (provider, None),
        Err(error) if options.traces_optional => (None, Some(error)),
        Err(error) => return Err(error),
    };
    // Only spans of Gantry's crates, whatever is logged. The libraries have far more.
    let own = Targets::new().with_target("gantry", LevelFilter::INFO);
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer("gantry")).with_location(false).with_filter(own)
    });
    tracing_subscriber::registry().with(log.with_filter(filter)).with(traces).try_init().map_err(|_| Error::Begun)?;
    if options.is_queued {
        lines::begin_queue();
        log_panics();
    }
    if let Some(error) = unmade {
        tracing::warn!(%error, "going without traces");
    }
    Ok(Telemetry { provider, failures })
}

/// Leaves async-nats' own lines at INFO out unless they are asked for by name: there are three for each connection, which
/// any client can end, and the bus logs what matters of them.
fn quietened(level: &str) -> String {
    let asks_for_info = level.split(',').any(|directive| directive.trim().eq_ignore_ascii_case("info"));
    if asks_for_info && !level.contains("async_nats") { format!("{level},async_nats=warn") } else { level.to_owned() }
}

/// Logs panics like everything else: by default they go to stderr directly, which may block.
fn log_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !tracing::enabled!(tracing::Level::ERROR) {
            return default(panic);
        }
        let place = panic.location().map(ToString::to_string);
        let reason = panic.payload_as_str().unwrap_or_default();
        tracing::error!(place, reason, "a task panicked: please report this");
    }));
}

fn provider(url: &str, service: &'static str, failures: &Arc<Failures>) -> Result<SdkTracerProvider, Error> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .build()
        .map_err(|error| Error::Endpoint { url: url.to_owned(), reason: error.to_string() })?;
    let resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource.build(),
        None => resource.with_service_name(service).build(),
    };
    let failures = Arc::clone(failures);
    let exporter = OnRuntime { exporter: Arc::new(exporter), runtime: Handle::current(), failures };
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Telemetry {
    /// Sends the last traces. A collector that does not answer costs no more than two seconds.
    pub async fn end(self) {
        let Some(provider) = self.provider else { return };
        // It blocks until the batch is sent, which this runtime does meanwhile.
        let shut = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
        let reason = match shut {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.failures.tell(&reason, Instant::now());
    }
}

/// Tells of traces that were lost, but not at every batch while the collector is away.
#[derive(Debug, Default)]
struct Failures {
    told: Mutex<Option<Instant>>,
}

impl Failures {
    fn tell(&self, reason: &str, now: Instant) {
        if self.is_due(now) {
            tracing::warn!(reason, "traces did not reach the collector");
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|told| now.duration_since(told) >= FAILURES_INTERVAL);
        if is_due {
            *told = Some(now);
        }
        is_due
    }
}

/// Exports on the runtime: the SDK exports from a thread of its own, where hyper can't run.
#[derive(Debug)]
struct OnRuntime {
    exporter: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
    failures: Arc<Failures>,
}

impl SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        let task = self.runtime.spawn(async move { exporter.export(batch).await });
        let done = task.await.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())));
        if let Err(error) = &done {
            self.failures.tell(&error.to_string(), Instant::now());
        }
        done
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn async_nats_is_quiet_unless_it_is_named() {
        for (level, filter) in [
            ("info", "info,async_nats=warn"),
            ("info,gantry_relay::relay=debug", "info,gantry_relay::relay=debug,async_nats=warn"),
            ("info,async_nats=info", "info,async_nats=info"),
            ("error", "error"),
            ("debug", "debug"),
        ] {
            assert_eq!(quietened(level), filter);
        }
    }

    #[test]
    fn lost_traces_are_told_once_a_minute() {
        let (failures, begun) = (Failures::default(), Instant::now());
        let at = |seconds| failures.is_due(begun + Duration::from_secs(seconds));
        assert_eq!([0, 5, 59, 60, 65, 120].map(at), [true, false, false, true, false, true]);
    }
}
