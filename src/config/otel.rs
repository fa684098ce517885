//! OpenTelemetry's own variables. Platforms put them into every container, for whatever runs there: what can't be
//! followed costs the traces, never the work.

use super::effective::without_credentials;

/// Variables that name a collector, the more special first.
const ENDPOINTS: [&str; 2] = [TRACES_ENDPOINT, "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Its value is the whole address, where that of others lacks the path.
pub(super) const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

/// Protocols of export, the more special first.
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// What would be right.
pub(super) const CURE: &str = "must be http://HOST:PORT of a collector near by, which takes care of encryption";

/// What the variables say of traces.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Otel {
    /// No traces, whatever else is set.
    pub(super) disabled: bool,
    /// The variable that names the collector, and what it says.
    pub(super) endpoint: Option<(&'static str, String)>,
    /// Why there is no collector although a variable names one.
    pub(super) ignored: Option<String>,
}

impl Otel {
    /// Reads an environment. An empty variable counts as unset.
    pub(super) fn of_environment(variables: &[(String, String)]) -> Self {
        let find = |wanted: &'static str| {
            let found = variables.iter().find(|(name, value)| name == wanted && !value.is_empty());
            found.map(|(_, value)| (wanted, value.as_str()))
        };
        let disabled = find("OTEL_SDK_DISABLED").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
        let unwanted = find("OTEL_TRACES_EXPORTER").is_some_and(|(_, value)| value == "none");
        let named = ENDPOINTS.into_iter().find_map(find).filter(|_| !disabled && !unwanted);
        let Some((name, url)) = named else { return Self { disabled, ..Self::default() } };
        let ignored = |name: &str, value: &str, cure: &str| {
            let value = without_credentials(value);
            format!("{name} = {value:?} can't be followed, so there are no traces: {cure}")
        };
        let grpc = PROTOCOLS.into_iter().find_map(find).filter(|(_, value)| *value == "grpc");
        let ignored = match grpc {
            Some((name, value)) => ignored(name, value, "traces go over OTLP/HTTP: set `telemetry.otlp_endpoint`"),
            None if is_usable(url) => {
                return Self { disabled, endpoint: Some((name, url.to_owned())), ignored: None };
            }
            None => ignored(name, url, CURE),
        };
        Self { disabled, endpoint: None, ignored: Some(ignored) }
    }
}

/// Returns whether traces can be sent there.
pub(super) fn is_usable(url: &str) -> bool {
    url.strip_prefix("http://").is_some_and(|rest| !rest.is_empty() && !rest.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Otel {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Otel::of_environment(&owned.collect::<Vec<_>>())
    }

    #[test]
    fn the_more_special_variable_names_the_collector() {
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318");
        assert_eq!(read(&[general]).endpoint, Some((general.0, general.1.to_owned())));
        let special = (TRACES_ENDPOINT, "http://b:4318/own/path");
        assert_eq!(read(&[general, special]).endpoint, Some((special.0, special.1.to_owned())));
        assert_eq!(read(&[general, (TRACES_ENDPOINT, "")]).endpoint, Some((general.0, general.1.to_owned())));
        assert_eq!(read(&[]), Otel::default());
    }

    #[test]
    fn what_can_not_be_followed_is_told_without_credentials() {
        let otel = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:hush@h")]);
        let told = otel.ignored.unwrap();
        assert!(otel.endpoint.is_none() && told.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{told}");
        assert!(told.contains("https://[redacted]@h") && !told.contains("hush"), "{told}");
        let http = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4317");
        let otel = read(&[http, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
        assert!(otel.endpoint.is_none() && otel.ignored.is_some_and(|told| told.contains("grpc")));
        // Nobody asked for traces.
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), Otel::default());
    }

    #[test]
    fn traces_can_be_turned_off() {
        let http = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318");
        assert_eq!(read(&[http, ("OTEL_SDK_DISABLED", "True")]), Otel { disabled: true, ..Otel::default() });
        assert_eq!(read(&[http, ("OTEL_TRACES_EXPORTER", "none")]), Otel::default());
        assert!(read(&[http, ("OTEL_SDK_DISABLED", "1")]).endpoint.is_some());
    }
}
