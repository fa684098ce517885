//! The places where settings come from, and their order.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use gantry_proto::StoreName;

use super::Config;
use super::build;
use super::context::{self, Choice, Surroundings};
use super::effective::{self, Effective};
use super::environment::Environment;
use super::error::{Error, Problem};
use super::file;
use super::layer::{self, Layer, text_of};
use super::lookup;

/// The places where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file, if one is named.
    pub file: Option<PathBuf>,
    /// The context of the `nats` command line.
    pub context: Choice,
    /// The user's configuration directory, which contains the contexts.
    pub config_home: Option<PathBuf>,
    /// The user's home directory, for `~` in a context.
    pub home: Option<PathBuf>,
    /// The settings from the command line.
    pub flags: Flags,
    /// The environment's variables.
    pub environment: Environment,
}

/// Settings from the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags(Layer);

impl Flags {
    /// Adds a setting: its key, its value as text, and the option as the user writes it.
    pub fn set(&mut self, key: &str, value: impl Into<String>, flag: &str) {
        self.0.push(key, value.into(), flag);
    }

    /// Adds the address of a store.
    pub fn set_store(&mut self, name: &StoreName, url: &str) {
        self.0.push(&format!("stores.{name}.url"), url, "--store");
    }
}

impl Sources {
    /// Uses the environment of this process. Its `GANTRY_CONFIG` and `NATS_CONTEXT` apply.
    #[must_use]
    pub fn of_process() -> Self {
        Self::of_environment(std::env::vars_os())
    }

    /// Uses this environment.
    pub fn of_environment<N: Into<OsString>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables: Vec<(OsString, OsString)> =
            variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let path = |wanted: &str| {
            let mut found = variables.iter().filter(|(name, value)| name == wanted && !value.is_empty());
            found.next().map(|(_, value)| PathBuf::from(value))
        };
        let home = path("HOME");
        let default_config_home = || home.as_ref().map(|home| home.join(".config"));

        let file = path("GANTRY_CONFIG");
        let config_home = path("XDG_CONFIG_HOME").or_else(default_config_home);
        let environment = Environment::new(variables);
        let context = environment.get("NATS_CONTEXT").map_or(Choice::Selected, |name| Choice::Named(name.to_owned()));
        Self { file, context, config_home, home, flags: Flags::default(), environment }
    }

    /// Reads all places and builds one configuration from their settings.
    ///
    /// # Errors
    /// If there is any problem. The error contains all problems.
    pub fn load(self) -> Result<Config, Error> {
        self.read().0
    }

    /// Returns the configuration, or all its problems, and the effective settings with their origins. Secrets are
    /// redacted and invalid settings left out. Each place is read once, since a pipe can't be read again.
    pub fn read(self) -> (Result<Config, Error>, Vec<Effective>) {
        let environment = self.environment.clone();
        let (mut layers, mut problems) = self.layers();

        for store in layer::uplinks_of(&layers) {
            problems.extend(build::keep_one_auth(&mut layers, &format!("stores.{store}.")).err());
        }
        let conflict = build::keep_one_auth(&mut layers, "").err();
        let effective = effective::of_layers(&layers);
        (build::config(layers, problems, conflict, environment), effective)
    }

    /// Returns the layers, lowest first, without invalid settings, and the problems.
    fn layers(self) -> (Vec<Layer>, Vec<Problem>) {
        let mut problems = Vec::new();
        let variable = |name: &str| self.environment.get(name).map(str::to_owned);
        let surroundings =
            Surroundings { config_home: self.config_home.as_deref(), home: self.home.as_deref(), variable: &variable };
        let context = or_empty(context::layer(&self.context, &surroundings), &mut problems);
        let file = self.file.as_deref().map_or_else(Layer::default, |path| or_empty(file::read(path), &mut problems));

        self.environment.report_not_text(&mut problems);
        let mut foreign = self.environment.foreign(&mut problems);
        let own = self.environment.own(&mut problems);
        let mut flags = self.flags.0;

        if ![&context, &file, &foreign, &own, &flags].into_iter().any(Layer::has_password) {
            foreign.use_user_as_token();
            flags.use_user_as_token();
        }

        let (selected, named) = match self.context {
            Choice::Named(_) => (Layer::default(), context),
            Choice::Selected | Choice::Never => (context, Layer::default()),
        };
        let set = [selected, file, named, foreign, own, flags];
        let stores = layer::stores_of(&set);
        let uplinks = layer::uplinks_of(&set);
        let clouds = cloud_layer(&self.environment, &set);
        let links = uplink_layer(&uplinks, &surroundings, &set, &mut problems);

        let urls = urls(&stores, &set);

        let layers = [Layer::defaults(&stores, &uplinks), clouds, links].into_iter().chain(set);
        let layers = layers.map(|layer| layer.check(&mut problems)).collect();
        lookup::keep_hints_of_kind(&mut problems, &urls);
        (layers, problems)
    }
}

/// Returns the addresses of the stores that have one.
fn urls(stores: &BTreeSet<String>, layers: &[Layer]) -> BTreeMap<String, String> {
    let url = |store: &String| {
        let key = format!("stores.{store}.url");
        let setting = layers.iter().rev().find_map(|layer| layer.get(&key))?;
        Some((store.clone(), text_of(&setting.value)?.to_owned()))
    };
    stores.iter().filter_map(url).collect()
}

/// Returns the settings from the clouds' variables for every store: the server, the certificate authorities, the
/// account, the application.
fn cloud_layer(environment: &Environment, layers: &[Layer]) -> Layer {
    let mut layer = Layer::default();
    for store in layer::stores_of(layers) {
        let setting = |name: &str| {
            let key = format!("stores.{store}.{name}");
            layers.iter().rev().find_map(|layer| layer.get(&key)).and_then(|setting| text_of(&setting.value))
        };
        let url = setting("url").unwrap_or_default();
        let mut push = |name: &str, variable: &str, value: &str| {
            layer.push(&format!("stores.{store}.{name}"), value, variable);
        };

        if url.starts_with("s3://") {
            for (name, variable) in
                [("endpoint_url", environment.s3_endpoint()), ("tls_ca_file", environment.ca_bundle())]
            {
                if let Some((variable, value)) = variable {
                    push(name, variable, value);
                }
            }
        }
        if url.starts_with("gs://")
            && setting("endpoint_url").is_none()
            && let Some((variable, value)) = environment.gcs_emulator()
        {
            push("endpoint_url", variable, &value);
            if setting("credentials_file").is_none() {
                push("anonymous", variable, "true");
            }
        }
        if url.starts_with("az://")
            && let Some((variable, value)) = environment.azure_account()
        {
            push("account", variable, value);
        }
        // Without a secret or a token, the variables belong to the credentials of the environment.
        if url.starts_with("az://")
            && ["client_secret_file", "federated_token_file"].iter().any(|key| setting(key).is_some())
        {
            for (name, variable, value) in environment.azure_application() {
                push(name, variable, value);
            }
        }
    }
    layer
}

/// Returns the settings of the connections of stores that other relays serve: those of the context that a store names, or,
/// without an address of its own, those of the relay's own connection.
fn uplink_layer(
    uplinks: &BTreeSet<String>,
    surroundings: &Surroundings<'_>,
    layers: &[Layer],
    problems: &mut Vec<Problem>,
) -> Layer {
    let mut of_relay = layers.to_vec();
    // A conflict is reported for the relay's own connection.
    drop(build::keep_one_auth(&mut of_relay, ""));

    let mut layer = Layer::default();
    for store in uplinks {
        let setting = |name: &str| {
            let key = format!("stores.{store}.{name}");
            layers.iter().rev().find_map(|layer| layer.get(&key)).and_then(|setting| text_of(&setting.value))
        };
        let context = setting("nats_context").map(|name| Choice::Named(name.to_owned()));
        let settings = match context {
            Some(context) => vec![or_empty(context::layer(&context, surroundings), problems)],
            None if setting("nats.url").is_some() => Vec::new(),
            None => of_relay.clone(),
        };
        for setting in settings.iter().flat_map(|layer| &layer.0) {
            layer.extend_uplink(store, &setting.key(), &setting.value, &setting.origin);
        }
    }
    layer
}

fn or_empty(layer: Result<Layer, Problem>, problems: &mut Vec<Problem>) -> Layer {
    layer.unwrap_or_else(|problem| {
        problems.push(problem);
        Layer::default()
    })
}
