//! Why a transfer is abandoned, and why a download fails.

use super::super::error::WireError;

/// Why a transfer was abandoned and the rest requested again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// A chunk, or a message that must precede it, did not arrive.
    #[error("a message was lost")]
    Gap,
    /// A chunk's CRC does not match its bytes.
    #[error("a chunk arrived damaged")]
    Corrupt,
    /// The relay broke the protocol.
    #[error("the relay broke the protocol: {0}")]
    Violation(String),
    /// The relay was silent for too long.
    #[error("the relay fell silent")]
    Stall,
    /// No relay listens on the subject.
    #[error("no relay is listening")]
    NoResponders,
    /// The connection to nats-server was lost.
    #[error("the connection to nats-server was lost")]
    Disconnected,
    /// The relay is shutting down.
    #[error("the relay is shutting down")]
    Goaway,
    /// The relay reported an error that may be temporary.
    #[error("{0}")]
    Refused(WireError),
}

impl Cause {
    /// Returns a short name for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Corrupt => "corrupt",
            Self::Violation(_) => "violation",
            Self::Stall => "stall",
            Self::NoResponders => "no_responders",
            Self::Disconnected => "disconnected",
            Self::Goaway => "goaway",
            Self::Refused(error) => error.code.name(),
        }
    }
}

/// Why a download failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The relay refuses the request, and a retry can't help.
    #[error("{0}")]
    Refused(WireError),
    /// The object is no longer the version that the download started with.
    #[error("the object changed while it was downloaded: etag {was} became {is}")]
    Changed {
        /// The `ETag` that the download started with.
        was: String,
        /// The `ETag` now.
        is: String,
    },
    /// No byte arrived within [`Settings::patience`](super::Settings::patience).
    #[error("{cause}")]
    GaveUp {
        /// The failure of the last transfer.
        cause: Cause,
        /// How many requests were sent.
        requests: u64,
        /// Whether any relay ever accepted.
        accepted: bool,
    },
    /// The consumer cancelled the download.
    #[error("cancelled")]
    Cancelled,
}
