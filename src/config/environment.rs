//! The variables of the environment: Gantry's own, those of the `nats` command line, of OpenTelemetry and of the clouds.

use std::ffi::OsString;

use super::duration;
use super::error::Problem;
use super::keys::KEYS;
use super::layer::{Layer, Setting};
use super::lookup;
use super::otel::{self, Otel};
use super::table::{ENV_PREFIX, Key, Kind};

/// The key that OpenTelemetry's variables set.
const TRACES: &str = "telemetry.otlp_endpoint";

/// Variables that name the S3 server, in the order in which the AWS SDK uses them.
const S3_ENDPOINTS: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

/// Names a file of the certificate authorities that AWS's tools trust instead of the system's.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

/// Names an emulator of Google Cloud Storage.
const GCS_EMULATOR: &str = "STORAGE_EMULATOR_HOST";

/// Names the storage account for Azure's tools.
const AZURE_ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT";

/// Names the tenant for Azure's tools.
const AZURE_TENANT: &str = "AZURE_TENANT_ID";

/// Names the application or identity for Azure's tools.
const AZURE_CLIENT: &str = "AZURE_CLIENT_ID";

/// Makes the AWS SDK ignore [`S3_ENDPOINTS`].
const IGNORE_S3_ENDPOINTS: &str = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS";

/// An environment. An empty variable counts as unset.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The variables whose values are text.
    variables: Vec<(String, String)>,
    /// The names of the variables whose values are not UTF-8.
    not_text: Vec<String>,
}

impl Environment {
    /// Creates an environment from variables. Gantry knows no variable whose name is not text.
    pub(super) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => environment.variables.push((name, value)),
                Err(_) => environment.not_text.push(name),
            }
        }
        environment
    }

    /// Returns the value of a variable.
    pub(super) fn get(&self, wanted: &str) -> Option<&str> {
        self.variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// Returns the variables of other programs that set keys, above all those of the `nats` command line.
    pub(super) fn foreign(&self, problems: &mut Vec<Problem>) -> Layer {
        let mut layer = Layer::default();
        for (name, value) in &self.variables {
            // OpenTelemetry has rules of its own.
            let key = KEYS.iter().find(|key| key.variable == Some(name) && key.name != TRACES);
            let Some(key) = key else { continue };
            match foreign_value(key, value) {
                Ok(value) => layer.push(key.name, value, name),
                Err(cure) => problems.push(Problem::Value {
                    key: key.name.to_owned(),
                    value: format!("{value:?}"),
                    origin: name.clone(),
                    cure,
                }),
            }
        }

        if let Some((name, url)) = self.otel().endpoint {
            layer.push(TRACES, url, name);
        }
        layer
    }

    /// Returns the settings from OpenTelemetry's variables.
    pub(super) fn otel(&self) -> Otel {
        Otel::new(|name| self.get(name), |name| self.not_text.iter().any(|other| other == name))
    }

    /// Returns the variables that begin with `GANTRY_`.
    pub(super) fn own(&self, problems: &mut Vec<Problem>) -> Layer {
        let mut layer = Layer::default();
        for (name, value) in &self.variables {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
            if lookup::OTHER_VARIABLES.contains(&name.as_str()) || is_service_link(rest) {
                continue;
            }
            if let Some(key) = KEYS.iter().find(|key| key.alias == Some(name)) {
                layer.push(key.name, value.as_str(), name);
                continue;
            }

            let path: Vec<String> = rest.to_lowercase().split("__").map(str::to_owned).collect();
            if lookup::find(&path).is_some() {
                layer.0.push(Setting { path, value: value.as_str().into(), origin: name.clone() });
            } else {
                problems.push(lookup::unknown_variable(name, &path));
            }
        }
        layer
    }

    /// Returns the variable that names an emulator of Google Cloud Storage, and its value as a URL. Google's own
    /// libraries accept it without a scheme, and send no credentials.
    pub(super) fn gcs_emulator(&self) -> Option<(&'static str, String)> {
        let host = self.get(GCS_EMULATOR)?;
        let url = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
        Some((GCS_EMULATOR, url))
    }

    /// Returns the variable that names the Azure account for stores without `account`, and its value.
    pub(super) fn azure_account(&self) -> Option<(&'static str, &str)> {
        Some((AZURE_ACCOUNT, self.get(AZURE_ACCOUNT)?))
    }

    /// Returns the variables that name the tenant and the application of a store with a secret or a federated token, the
    /// keys that they set, and their values.
    pub(super) fn azure_application(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        let variables = [("tenant_id", AZURE_TENANT), ("client_id", AZURE_CLIENT)];
        variables.into_iter().filter_map(|(key, variable)| Some((key, variable, self.get(variable)?)))
    }

    /// Returns the variable that names the S3 server for stores without `endpoint_url`, and its value.
    pub(super) fn s3_endpoint(&self) -> Option<(&'static str, &str)> {
        if self.get(IGNORE_S3_ENDPOINTS).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        S3_ENDPOINTS.into_iter().find_map(|name| Some((name, self.get(name)?)))
    }

    /// Returns the variable that names the certificate authorities for stores without `tls_ca_file`, and its value.
    pub(super) fn ca_bundle(&self) -> Option<(&'static str, &str)> {
        Some((CA_BUNDLE, self.get(CA_BUNDLE)?))
    }

    /// Reports the variables that concern Gantry and whose values are not UTF-8. If one were ignored, Gantry might
    /// connect without its credentials.
    pub(super) fn report_not_text(&self, problems: &mut Vec<Problem>) {
        let is_own = |name: &str| name.starts_with(ENV_PREFIX) && !lookup::OTHER_VARIABLES.contains(&name);
        let is_foreign = |name: &str| {
            let sets_a_key = KEYS.iter().any(|key| key.variable == Some(name));
            let is_of_cloud = S3_ENDPOINTS.contains(&name) || [CA_BUNDLE, GCS_EMULATOR, AZURE_ACCOUNT].contains(&name);
            (sets_a_key && !otel::ENDPOINTS.contains(&name)) || is_of_cloud || name == "NATS_CONTEXT"
        };
        let concerning = self.not_text.iter().filter(|name| is_own(name) || is_foreign(name));
        problems.extend(concerning.map(|name| Problem::NotText { name: name.clone() }));
    }
}

/// Returns the value of another program's variable in the unit of the key that it sets.
fn foreign_value(key: &Key, value: &str) -> Result<String, String> {
    match key.kind {
        // The variable was set for another program, whose bounds are wider.
        Kind::Millis { min, max } => Ok(duration::parse_ms(value)?.clamp(min, max).to_string()),
        Kind::Text | Kind::Secret | Kind::Path | Kind::Switch | Kind::Integer { .. } | Kind::List | Kind::Choice(_) => {
            Ok(value.to_owned())
        }
    }
}

/// Returns whether Kubernetes sets such a variable for a service whose name begins with `gantry`.
fn is_service_link(rest: &str) -> bool {
    rest == "PORT"
        || rest == "NAME"
        || rest.starts_with("SERVICE_HOST")
        || rest.starts_with("SERVICE_PORT")
        || rest.strip_prefix("PORT_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        || (rest.contains("_SERVICE_") && !rest.contains("__"))
        || (rest.contains("_PORT_") && !rest.contains("__"))
        || (rest.ends_with("_PORT") && !rest.contains("__"))
}
