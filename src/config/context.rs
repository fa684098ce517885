//! The contexts of the `nats` command line: named connection settings in `nats/context/NAME.json` below the user's
//! configuration folder, and `nats/context.txt` that names the selected one.
//!
//! Source: `natscontext/context.go` of nats-io/jsm.go.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::Problem;
use super::layer::Layer;

/// Which context to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The one that `nats context select` chose, if any.
    #[default]
    Selected,
    /// The one of this name, or in this `.json` file.
    Named(String),
    /// None.
    Never,
}

/// The fields of a context file. Those that only concern JetStream or colours are not read.
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

/// Reads the chosen context as a layer; `home` is the user's configuration folder.
pub(super) fn layer(choice: &Choice, config_home: Option<&Path>, home: Option<&Path>) -> Result<Layer, Problem> {
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
    fields.layer(&format!("NATS context {name:?}"), home).map_err(problem)
}

impl Fields {
    fn layer(self, origin: &str, home: Option<&Path>) -> Result<Layer, String> {
        for (field, value) in [
            ("nsc", &self.nsc),
            ("socks_proxy", &self.socks_proxy),
            ("user_jwt", &self.user_jwt),
            ("user_seed", &self.user_seed),
            ("windows_cert_store", &self.windows_cert_store),
        ] {
            if !value.is_empty() {
                return Err(format!("its field `{field}` is not supported: use `creds`, `nkey`, `user` or `token`"));
            }
        }
        let mut layer = Layer::default();
        let mut set = |key: &str, value: String| {
            if !value.is_empty() {
                layer.push(key, value, origin);
            }
        };
        set("nats.url", self.url);
        set("nats.inbox_prefix", self.inbox_prefix);
        set("nats.tls_cert_file", file("cert", &self.cert, home)?);
        set("nats.tls_key_file", file("key", &self.key, home)?);
        set("nats.tls_ca_file", file("ca", &self.ca, home)?);
        // When a context has several, this is the order in which the `nats` command line takes them.
        if !self.user.is_empty() {
            set("nats.user", self.user);
            set("nats.password", self.password);
        } else if !self.creds.is_empty() {
            set("nats.creds_file", file("creds", &self.creds, home)?);
        } else if !self.nkey.is_empty() {
            set("nats.nkey_file", file("nkey", &self.nkey, home)?);
        } else {
            set("nats.token", self.token);
        }
        if self.tls_first {
            layer.push("nats.tls_first", true, origin);
        }
        Ok(layer)
    }
}

/// Returns the file that a field names, with `~` resolved.
fn file(field: &str, value: &str, home: Option<&Path>) -> Result<String, String> {
    let value = value.strip_prefix("file://").unwrap_or(value);
    if value.contains("://") {
        return Err(format!("its field `{field}` names no file: {} is not supported", scheme(value)));
    }
    Ok(match (value.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest).display().to_string(),
        _ => value.to_owned(),
    })
}

fn scheme(value: &str) -> &str {
    value.find("://").map_or(value, |end| &value[..end + 3])
}

fn selected(config_home: Option<&Path>) -> Result<Option<String>, Problem> {
    let Some(config_home) = config_home else { return Ok(None) };
    let path = config_home.join("nats").join("context.txt");
    match fs::read_to_string(&path) {
        Ok(name) => Ok(Some(name.trim().to_owned()).filter(|name| !name.is_empty())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => {
            let reason = format!("{}: {error}; --no-context goes without", path.display());
            Err(Problem::Context { name: "(selected)".to_owned(), reason })
        }
    }
}

fn path_of(name: &str, config_home: Option<&Path>) -> Result<PathBuf, Problem> {
    let problem = |reason: &str| Problem::Context { name: name.to_owned(), reason: reason.to_owned() };
    if name.is_empty() || name.contains("..") || name.contains(['/', '\\']) {
        return Err(problem("is not a context's name"));
    }
    let config_home = config_home.ok_or_else(|| problem("neither XDG_CONFIG_HOME nor HOME says where contexts are"))?;
    Ok(config_home.join("nats").join("context").join(format!("{name}.json")))
}
