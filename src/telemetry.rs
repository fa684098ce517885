//! Logging: what, how, and always to stderr.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// Why logging could not begin.
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
    /// Something else in this process logs already.
    #[error("logging has begun already")]
    Begun,
}

/// Begins to log events of `level` and above; `level` may be by module, as in `info,gantry_relay::relay=debug`.
///
/// # Errors
/// When the level is none, or when it is called twice.
pub fn init(level: &str, format: Format) -> Result<(), Error> {
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|error| Error::Level { level: level.to_owned(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| Error::Begun)
}
