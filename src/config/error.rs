//! The problems of a configuration. Each message names the key, its value, its place, and what to do.

use std::fmt;

/// All problems of a configuration, one line for each.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    /// The problems, at least one.
    pub problems: Vec<Problem>,
}

impl Error {
    /// Returns whether the value of this key is invalid.
    #[must_use]
    pub fn is_about(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.is_value_of(key))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// One problem.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The key does not exist.
    #[error("`{key}` in {origin} is not a configuration key{}", suggestion(key, nearest.as_deref()))]
    Unknown {
        /// The key as written.
        key: String,
        /// Its place.
        origin: String,
        /// The most similar key that exists.
        nearest: Option<String>,
    },
    /// The key does not exist, and none has the meaning that its name has elsewhere.
    #[error("`{key}` in {origin} is not a configuration key: {cure}")]
    Foreign {
        /// The key as written.
        key: String,
        /// Its place.
        origin: String,
        /// What to do.
        cure: &'static str,
    },
    /// The value is invalid.
    #[error("`{key}` = {value} in {origin}: {cure}")]
    Value {
        /// The key.
        key: String,
        /// The value, or `[redacted]`.
        value: String,
        /// Its place.
        origin: String,
        /// A description of valid values.
        cure: String,
    },
    /// A key is missing that another setting requires.
    #[error("`{key}` is missing: {cure}")]
    Missing {
        /// The key.
        key: String,
        /// Which setting requires it, and what to set.
        cure: String,
    },
    /// Two keys exclude each other.
    #[error("{keys} are set together: {cure}")]
    Conflict {
        /// The keys, and the place of each.
        keys: String,
        /// What to do about it.
        cure: String,
    },
    /// The configuration file can't be read, or is not TOML.
    #[error("configuration file {place}: {reason}")]
    File {
        /// The file, with line and column if they are known.
        place: String,
        /// The reason.
        reason: String,
    },
    /// A context of the `nats` command line can't be used.
    #[error("NATS context {name:?}: {reason}")]
    Context {
        /// The context.
        name: String,
        /// The reason, and what to do.
        reason: String,
    },
    /// The value of a variable is not UTF-8.
    #[error("`{name}` in the environment is not UTF-8: set it to text, or unset it")]
    NotText {
        /// The variable.
        name: String,
    },
}

impl Problem {
    /// Reports a store without an address. `origin` is the place of some other setting of the store.
    pub(super) fn store_url_missing(store: &str, origin: &str) -> Self {
        let cure = format!(
            "set it to `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `nats:STORE` or `file:///dir` \
             for the store in {origin}"
        );
        Self::Missing { key: format!("stores.{store}.url"), cure }
    }

    /// Returns whether the value of this key is invalid.
    pub(super) fn is_value_of(&self, wanted: &str) -> bool {
        matches!(self, Self::Value { key, .. } if key == wanted)
    }

    /// Returns whether this key is invalid or missing.
    pub(super) fn is_about(&self, wanted: &str) -> bool {
        self.is_value_of(wanted) || matches!(self, Self::Missing { key, .. } if key == wanted)
    }

    /// Returns whether a key is missing.
    pub(super) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Suggests the most similar key. The value of a key without a file in its name is rather what the file contains.
fn suggestion(key: &str, nearest: Option<&str>) -> String {
    let Some(nearest) = nearest else { return String::new() };
    let last = key.rsplit_once("__").or_else(|| key.rsplit_once('.')).map_or(key, |(_, last)| last);
    let takes_path = nearest.to_ascii_lowercase().ends_with("_file") && !last.to_ascii_lowercase().contains("file");
    let what = if takes_path { ", which takes the path of a file" } else { "" };
    format!("; did you mean `{nearest}`{what}?")
}
