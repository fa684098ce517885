//! Why a relay could not start, or did not stop cleanly.

use gantry_bus as bus;

/// Why a relay could not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to serve.
    #[error("no store is configured")]
    NoStore,
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// A connection was lost and can't be restored.
    #[error("the {connection} connection to NATS can't be restored: {reason}")]
    Lost {
        /// `requests` or `data`.
        connection: &'static str,
        /// The error of the last attempt.
        reason: String,
    },
    /// A task that the relay needs has ended.
    #[error("the relay's {0} task ended: see the log, and restart the relay")]
    TaskEnded(String),
}
