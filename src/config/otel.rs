//! OpenTelemetry's own variables. Platforms set them in every container, whatever runs in it. If Gantry does not
//! support their values, it works without traces.

use super::address;
use super::redact::without_credentials;

/// Variables that name a collector, the more specific first.
pub(super) const ENDPOINTS: [&str; 2] = [TRACES_ENDPOINT, "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Its value is the complete URL; the other variable lacks the path.
pub(super) const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

/// Variables that name the export protocol, the more specific first.
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// The meaning of the variables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Otel {
    /// Traces are off, whatever else is set.
    pub(super) disabled: bool,
    /// The variable that names the collector, and its value.
    pub(super) endpoint: Option<(&'static str, String)>,
    /// Why there is no collector although a variable names one.
    pub(super) ignored: Option<String>,
}

impl Otel {
    /// Reads the variables. `get` returns the value of a variable, `is_not_text` whether its value is not UTF-8.
    pub(super) fn new<'a>(get: impl Fn(&str) -> Option<&'a str>, is_not_text: impl Fn(&str) -> bool) -> Self {
        let find = |wanted: &'static str| get(wanted).map(|value| (wanted, value));
        let disabled = get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if disabled || get("OTEL_TRACES_EXPORTER") == Some("none") {
            return Self { disabled, ..Self::default() };
        }

        if let Some(name) = ENDPOINTS.into_iter().find(|name| is_not_text(name)) {
            return Self::ignored(format!("{name} is not UTF-8, so traces are off"));
        }
        let Some((name, url)) = ENDPOINTS.into_iter().find_map(find) else { return Self::default() };

        let grpc = PROTOCOLS.into_iter().find_map(find).filter(|(_, value)| *value == "grpc");
        if let Some((name, value)) = grpc {
            let cure = "Gantry exports traces over OTLP/HTTP: set `telemetry.otlp_endpoint`";
            return Self::ignored(unsupported(name, value, cure));
        }
        match address::check_collector(url) {
            Ok(()) => Self { endpoint: Some((name, url.to_owned())), ..Self::default() },
            Err(cure) => Self::ignored(unsupported(name, url, &cure)),
        }
    }

    fn ignored(reason: String) -> Self {
        Self { ignored: Some(reason), ..Self::default() }
    }
}

fn unsupported(name: &str, value: &str, cure: &str) -> String {
    format!("{name} = {:?} is not supported, so traces are off: {cure}", without_credentials(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &'static str)]) -> Otel {
        let get = |wanted: &str| variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        Otel::new(get, |_| false)
    }

    #[test]
    fn the_more_specific_variable_names_the_collector() {
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318");
        let specific = (TRACES_ENDPOINT, "http://b:4318/own/path");

        assert_eq!(read(&[general]).endpoint, Some((general.0, general.1.to_owned())));
        assert_eq!(read(&[general, specific]).endpoint, Some((specific.0, specific.1.to_owned())));
        assert_eq!(read(&[]), Otel::default());
    }

    #[test]
    fn unsupported_values_are_reported_without_credentials() {
        let otel = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:hush@h")]);
        let reason = otel.ignored.unwrap();
        assert!(otel.endpoint.is_none() && reason.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{reason}");
        assert!(reason.contains("https://[redacted]@h") && !reason.contains("hush"), "{reason}");

        let http = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4317");
        let otel = read(&[http, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
        assert!(otel.endpoint.is_none() && otel.ignored.is_some_and(|reason| reason.contains("grpc")));

        // No variable names a collector.
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), Otel::default());
    }

    #[test]
    fn values_that_are_not_text_are_reported() {
        let otel = Otel::new(|_| None, |name| name == TRACES_ENDPOINT);
        assert!(otel.endpoint.is_none() && otel.ignored.is_some_and(|reason| reason.contains(TRACES_ENDPOINT)));
    }

    #[test]
    fn traces_can_be_turned_off() {
        let http = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318");
        assert_eq!(read(&[http, ("OTEL_SDK_DISABLED", "True")]), Otel { disabled: true, ..Otel::default() });
        assert_eq!(read(&[http, ("OTEL_TRACES_EXPORTER", "none")]), Otel::default());
        assert!(read(&[http, ("OTEL_SDK_DISABLED", "1")]).endpoint.is_some());
    }
}
