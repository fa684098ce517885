//! Contexts of the `nats` command line: named connection settings in `nats/context/NAME.json` below the user's
//! configuration directory. `nats/context.txt` there names the selected one.
//!
//! Source: `natscontext` of nats-io/jsm.go (`context.go`, `resolver_env.go`).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::Problem;
use super::layer::Layer;

/// Which context to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The one that `nats context select` selected, if any.
    #[default]
    Selected,
    /// The one with this name, or in this `.json` file.
    Named(String),
    /// None.
    Never,
}

/// The environment for resolving a context.
pub(super) struct Surroundings<'a> {
    /// The user's configuration directory.
    pub(super) config_home: Option<&'a Path>,
    /// The user's home directory.
    pub(super) home: Option<&'a Path>,
    /// Returns the value of an environment variable.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
}

/// The fields of a context file that concern the connection.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    url: String,
    token: String,
    user: String,
    password: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    inbox_prefix: String,
    tls_first: bool,
    nsc: String,
    socks_proxy: String,
    user_jwt: String,
    user_seed: String,
    windows_cert_store: String,
}

/// Reads the chosen context.
pub(super) fn layer(choice: &Choice, surroundings: &Surroundings<'_>) -> Result<Layer, Problem> {
    let config_home = surroundings.config_home;
    let (name, path) = match choice {
        Choice::Never => return Ok(Layer::default()),
        Choice::Selected => match selected(config_home)? {
            Some(name) => (name.clone(), path_of(&name, config_home)?),
            None => return Ok(Layer::default()),
        },
        Choice::Named(name) if name.ends_with(".json") && Path::new(name).is_file() => (name.clone(), name.into()),
        Choice::Named(name) => (name.clone(), path_of(name, config_home)?),
    };

    let problem = |reason: String| Problem::Context { name: name.clone(), reason };
    let text = fs::read_to_string(&path).map_err(|error| {
        problem(if error.kind() == ErrorKind::NotFound {
            format!("there is no {}", path.display())
        } else {
            format!("{}: {error}", path.display())
        })
    })?;
    let fields: Fields =
        serde_json::from_str(&text).map_err(|error| problem(format!("{}: {error}", path.display())))?;
    fields.layer(&format!("NATS context {name:?}"), surroundings).map_err(problem)
}

impl Fields {
    fn layer(self, origin: &str, surroundings: &Surroundings<'_>) -> Result<Layer, String> {
        self.check_support()?;

        let mut layer = Layer::default();
        let mut set = |key: &str, value: String| {
            if !value.is_empty() {
                layer.push(key, value, origin);
            }
        };
        set("nats.url", self.url);
        set("nats.inbox_prefix", self.inbox_prefix);
        set("nats.tls_cert_file", surroundings.file("cert", &self.cert)?);
        set("nats.tls_key_file", surroundings.file("key", &self.key)?);
        set("nats.tls_ca_file", surroundings.file("ca", &self.ca)?);

        // If a context has several ways, the `nats` command line prefers them in this order.
        if !self.user.is_empty() {
            set("nats.user", self.user);
            let (key, value) = surroundings.secret("password", self.password)?;
            set(key, value);
        } else if !self.creds.is_empty() {
            set("nats.creds_file", surroundings.file("creds", &self.creds)?);
        } else if !self.nkey.is_empty() {
            set("nats.nkey_file", surroundings.file("nkey", &self.nkey)?);
        } else {
            let (key, value) = surroundings.secret("token", self.token)?;
            set(key, value);
        }

        if self.tls_first {
            layer.push("nats.tls_first", true, origin);
        }
        Ok(layer)
    }

    fn check_support(&self) -> Result<(), String> {
        let unsupported = [
            ("nsc", &self.nsc),
            ("socks_proxy", &self.socks_proxy),
            ("user_jwt", &self.user_jwt),
            ("user_seed", &self.user_seed),
            ("windows_cert_store", &self.windows_cert_store),
        ];
        match unsupported.into_iter().find(|(_, value)| !value.is_empty()) {
            Some((field, _)) => {
                Err(format!("its field `{field}` is not supported: use `creds`, `nkey`, `user` or `token`"))
            }
            None => Ok(()),
        }
    }
}

impl Surroundings<'_> {
    /// Returns the file that a field names, with variables and a leading `~` expanded.
    fn file(&self, field: &str, value: &str) -> Result<String, String> {
        let value = self.expand(value);
        let (scheme, path) = scheme_of(&value);
        match scheme.as_str() {
            "" => Ok(path.to_owned()),
            "file" => Ok(self.expand(path)),
            other => Err(format!("its field `{field}` does not name a file: {other}: is not supported")),
        }
    }

    /// Returns the key and the value of a secret: the secret itself, or the variable or file that contains it.
    fn secret(&self, field: &'static str, value: String) -> Result<(&'static str, String), String> {
        let (secret_key, file_key) = match field {
            "password" => ("nats.password", "nats.password_file"),
            _ => ("nats.token", "nats.token_file"),
        };
        let (scheme, rest) = scheme_of(&value);
        match scheme.as_str() {
            "env" => match (self.variable)(rest) {
                Some(secret) => Ok((secret_key, secret)),
                None => Err(format!("its field `{field}` names the variable {rest:?}, which is not set")),
            },
            "file" => Ok((file_key, self.expand(rest))),
            "op" | "nsc" | "data" => Err(format!("its field `{field}` is not supported with {scheme}:")),
            // Any other text may be a secret that looks like an address.
            _ => Ok((secret_key, value)),
        }
    }

    /// Replaces `$NAME` and `${NAME}` by the values of variables, and a leading `~` by the home directory. An unset
    /// variable is empty, as in Go's `os.ExpandEnv`.
    fn expand(&self, text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            expanded += before;
            let braced = after.strip_prefix('{').and_then(|after| after.split_once('}'));
            let (name, after) = braced.unwrap_or_else(|| {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                after.split_at(after.find(|c| !is_part(c)).unwrap_or(after.len()))
            });
            match name {
                "" => expanded.push('$'),
                name => expanded += &(self.variable)(name).unwrap_or_default(),
            }
            rest = after;
        }
        expanded += rest;

        match (expanded.strip_prefix('~'), self.home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => format!("{}{rest}", home.display()),
            _ => expanded,
        }
    }
}

/// Splits a value into its lower-case scheme and the rest. The scheme is empty if the value has none.
fn scheme_of(value: &str) -> (String, &str) {
    if let Some(data) = value.strip_prefix("data:") {
        return ("data".to_owned(), data);
    }
    match value.split_once("://") {
        Some((scheme, rest)) => (scheme.to_lowercase(), rest),
        None => (String::new(), value),
    }
}

fn selected(config_home: Option<&Path>) -> Result<Option<String>, Problem> {
    let Some(config_home) = config_home else { return Ok(None) };
    let path = config_home.join("nats").join("context.txt");
    match fs::read_to_string(&path) {
        Ok(name) => Ok(Some(name.trim().to_owned()).filter(|name| !name.is_empty())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        // If the user may not enter the folder, HOME belongs to another user, and nothing is selected.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && fs::symlink_metadata(&path).is_err() => Ok(None),
        Err(error) => {
            let reason = format!("{}: {error}; use --no-context to ignore it", path.display());
            Err(Problem::Context { name: "(selected)".to_owned(), reason })
        }
    }
}

fn path_of(name: &str, config_home: Option<&Path>) -> Result<PathBuf, Problem> {
    let problem = |reason: &str| Problem::Context { name: name.to_owned(), reason: reason.to_owned() };
    if name.is_empty() || name.contains("..") || name.contains(['/', '\\']) {
        return Err(problem("is not a valid name of a context"));
    }
    let config_home = config_home.ok_or_else(|| problem("can't be found: neither XDG_CONFIG_HOME nor HOME is set"))?;
    Ok(config_home.join("nats").join("context").join(format!("{name}.json")))
}
