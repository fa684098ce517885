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
pub use self::lines::{Lines, dropped_lines, flush, print};

/// The time limit for the last traces to reach the collector when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The interval of warnings about lost traces. The SDK exports every five seconds.
const FAILURES_INTERVAL: Duration = Duration::from_secs(60);

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// The settings of logs and traces.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// A log level, or levels by module, as in `info,gantry_relay=debug`.
    pub level: &'a str,
    /// How log lines are written.
    pub format: Format,
    /// The URL at which the collector receives traces; `None` for no traces.
    pub traces_url: Option<&'a str>,
    /// Whether to continue with a warning if traces can't be exported.
    pub traces_optional: bool,
    /// The name of the process in traces, unless `OTEL_SERVICE_NAME` is set.
    pub service: &'static str,
    /// Whether lines are queued, and dropped while nothing reads stderr. Otherwise writing a line may block.
    pub is_queued: bool,
}

/// Why telemetry can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is invalid.
    #[error("log level {level:?} is invalid: {reason}")]
    Level {
        /// The level as given.
        level: String,
        /// The problem.
        reason: String,
    },
    /// The exporter of traces can't be created.
    #[error("`telemetry.otlp_endpoint` = {url:?}: can't export traces: {reason}")]
    Endpoint {
        /// The URL of the collector.
        url: String,
        /// The problem with the URL, or with one of OpenTelemetry's own variables.
        reason: String,
    },
    /// The process has a logger already.
    #[error("logging has already started")]
    Started,
}

/// Running telemetry.
#[derive(Debug)]
#[must_use = "the last traces are sent by `end`"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
    failures: Arc<Failures>,
}

/// Starts logging, and exporting traces if there is a collector. Must be called on the runtime, which sends the traces.
///
/// # Errors
/// If the level or the collector's address is invalid, or on a second call.
pub fn init(options: Options<'_>) -> Result<Telemetry, Error> {
    let filter = EnvFilter::builder()
        .parse(quietened(options.level))
        .map_err(|error| Error::Level { level: options.level.to_owned(), reason: error.to_string() })?;

    let ansi = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let stderr = Stderr { is_colored: ansi, is_json: options.format == Format::Json };
    let log = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(ansi);
    let log = match options.format {
        Format::Text => log.boxed(),
        // `spans` contains the current span as well.
        Format::Json => log.json().flatten_event(true).with_current_span(false).boxed(),
    };

    let failures = Arc::new(Failures::default());
    let made = options.traces_url.map(|url| provider(url, options.service, &failures)).transpose();
    let (provider, unmade) = match made {
        Ok(provider) => (provider, None),
        Err(error) if options.traces_optional => (None, Some(error)),
        Err(error) => return Err(error),
    };

    // Only spans of Gantry's crates, whatever the log level. The libraries have far more.
    let own = Targets::new().with_target("gantry", LevelFilter::INFO);
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer("gantry")).with_location(false).with_filter(own)
    });
    tracing_subscriber::registry().with(log.with_filter(filter)).with(traces).try_init().map_err(|_| Error::Started)?;
    if options.is_queued {
        lines::start_queue();
        log_panics();
    }
    if let Some(error) = unmade {
        tracing::warn!(%error, "continuing without traces");
    }
    Ok(Telemetry { provider, failures })
}

/// Hides the lines of async-nats unless the level names that crate. It logs several lines per attempt to connect, and
/// the bus logs the relevant ones itself, once per outage.
fn quietened(level: &str) -> String {
    let is_info = level.split(',').any(|directive| directive.trim().eq_ignore_ascii_case("info"));
    if is_info && !level.contains("async_nats") { format!("{level},async_nats=off") } else { level.to_owned() }
}

/// Logs panics like everything else. By default they go directly to stderr, which may block.
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
    /// Sends the last traces, for at most two seconds.
    pub async fn end(self) {
        let Some(provider) = self.provider else { return };
        // This call blocks until the runtime has sent the batch.
        let shut = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
        let reason = match shut {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.failures.report(&reason, Instant::now());
    }
}

/// Warns of lost traces, but not for every batch while the collector does not answer.
#[derive(Debug, Default)]
struct Failures {
    reported_at: Mutex<Option<Instant>>,
}

impl Failures {
    fn report(&self, reason: &str, now: Instant) {
        if self.is_due(now) {
            tracing::warn!(reason, "traces are lost: the collector can't be reached");
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut reported_at = self.reported_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = reported_at.is_none_or(|at| now.duration_since(at) >= FAILURES_INTERVAL);
        if is_due {
            *reported_at = Some(now);
        }
        is_due
    }
}

/// Exports on the runtime. The SDK exports from a thread of its own, where hyper can't run.
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
            self.failures.report(&error.to_string(), Instant::now());
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
    fn hides_async_nats_unless_the_level_names_it() {
        for (level, filter) in [
            ("info", "info,async_nats=off"),
            ("info,gantry_relay::relay=debug", "info,gantry_relay::relay=debug,async_nats=off"),
            ("info,async_nats=info", "info,async_nats=info"),
            ("error", "error"),
            ("debug", "debug"),
        ] {
            assert_eq!(quietened(level), filter);
        }
    }

    #[test]
    fn warns_of_lost_traces_once_a_minute() {
        let failures = Failures::default();
        let start = Instant::now();
        let at = |seconds| failures.is_due(start + Duration::from_secs(seconds));
        assert_eq!([0, 5, 59, 60, 65, 120].map(at), [true, false, false, true, false, true]);
    }
}
