//! What is wrong with a configuration, in words that name the key, the value, where it stands, and the cure.

use std::fmt;
use std::path::PathBuf;

/// All that is wrong with a configuration, one line each.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    /// The problems, never none.
    pub problems: Vec<Problem>,
}

impl Error {
    /// Returns whether the value of this key is wrong.
    #[must_use]
    pub fn is_about(&self, wanted: &str) -> bool {
        self.problems.iter().any(|problem| matches!(problem, Problem::Value { key, .. } if key == wanted))
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

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No such key.
    #[error("`{key}` in {origin} is not a configuration key{}", suggestion(nearest.as_deref()))]
    Unknown {
        /// The key as written.
        key: String,
        /// Where it stands.
        origin: String,
        /// The known key that is most like it.
        nearest: Option<String>,
    },
    /// A value that the key does not take.
    #[error("`{key}` = {value} in {origin}: {cure}")]
    Value {
        /// The key.
        key: String,
        /// The value, or `[redacted]`.
        value: String,
        /// Where it stands.
        origin: String,
        /// What would be right.
        cure: String,
    },
    /// A key that something else requires.
    #[error("`{key}` is missing: {cure}")]
    Missing {
        /// The key.
        key: String,
        /// Why it is required, and what to set.
        cure: String,
    },
    /// Keys that exclude each other.
    #[error("{keys} are set together: {cure}")]
    Conflict {
        /// The keys, and where each stands.
        keys: String,
        /// What to do about it.
        cure: String,
    },
    /// The configuration file can't be read or is not TOML.
    #[error("configuration file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A context of the `nats` command line can't be used.
    #[error("NATS context {name:?}: {reason}")]
    Context {
        /// The context.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
}

impl Problem {
    /// Returns whether it can't come from settings that were left out because they are wrong.
    pub(super) fn is_of_its_own(&self) -> bool {
        match self {
            Self::Value { origin, .. } => origin != "defaults",
            Self::Missing { .. } => false,
            Self::Unknown { .. } | Self::Conflict { .. } | Self::File { .. } | Self::Context { .. } => true,
        }
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}
