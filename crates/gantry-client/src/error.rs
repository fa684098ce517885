//! Why a request or a download failed.

use gantry_bus as bus;
use gantry_proto::receiver::{Cause, Failure};
use gantry_proto::{StoreName, WireError};

use crate::part;
use crate::verify::Mismatch;

/// Why a request or a download failed.
///
/// | variant | retryable |
/// |---|---|
/// | [`NoRelay`](Self::NoRelay), [`StoreLeft`](Self::StoreLeft), [`GaveUp`](Self::GaveUp), [`Unanswered`](Self::Unanswered) | yes |
/// | [`Refused`](Self::Refused) | if the relay says so |
/// | [`Bus`](Self::Bus) | if no nats-server was reachable |
/// | [`Part`](Self::Part) | as in [`part::Error::is_retryable`] |
/// | all others | no |
///
/// [`Self::is_retryable`] answers this for a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address is not `STORE/KEY`, or a name or key is invalid.
    #[error(transparent)]
    Address(#[from] gantry_proto::Malformed),
    /// No relay answers at all.
    #[error("no relay is listening at {server} with the prefix {prefix}")]
    NoRelay {
        /// The first tokens of the relay's subjects.
        prefix: String,
        /// The nats-server, without credentials.
        server: String,
    },
    /// Relays answer, but none of them serves the store.
    #[error("no relay serves store {store}{}", among(stores))]
    NoStore {
        /// The store.
        store: StoreName,
        /// The stores that relays serve, or some of them. Empty if nats-server denies the question.
        stores: Vec<StoreName>,
    },
    /// No relay receives requests for the store now, but one serves it, or did a short time ago. It may be restarting, or
    /// nats-server may forbid it the subscription.
    #[error(
        "no relay serves store {0} at the moment: its relay may be restarting or reconnecting, or lack a permission"
    )]
    StoreLeft(StoreName),
    /// A relay receives requests, but no answer arrives: it may not be permitted to answer.
    #[error("no relay answered to {inbox} within the time limit ({requests} requests)")]
    Unanswered {
        /// The subject for the answers.
        inbox: String,
        /// The number of requests sent.
        requests: u64,
    },
    /// The relay refuses the request. [`WireError::code`] has the reason: `Code::NotFound` if there is no such object.
    #[error(transparent)]
    Refused(WireError),
    /// nats-server denies this client a subject.
    #[error("nats-server denies {what} {subject:?}")]
    NotPermitted {
        /// `publishing to` or `subscribing to`.
        what: &'static str,
        /// The subject.
        subject: String,
    },
    /// The object is no longer the version that was requested, or with which the download began.
    #[error("{0}")]
    Changed(String),
    /// No progress within [`Options::patience`](crate::Options::patience), or no answer within
    /// [`Options::query_timeout`](crate::Options::query_timeout).
    #[error("gave up after {requests} request{}: {cause}", if *requests == 1 { "" } else { "s" })]
    GaveUp {
        /// Why the last request failed.
        cause: Cause,
        /// The number of requests sent.
        requests: u64,
    },
    /// The bytes do not match the store's checksum or size.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The file can't be written.
    #[error(transparent)]
    Part(#[from] part::Error),
    /// The connection to nats-server failed.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The relay's answer violates the protocol.
    #[error("the relay's answer is invalid: {0}")]
    Malformed(String),
    /// The caller cancelled the download.
    #[error("cancelled")]
    Cancelled,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => Self::refused(error),
            Failure::Changed { .. } => Self::Changed(failure.to_string()),
            Failure::GaveUp { cause, requests, .. } => Self::GaveUp { cause, requests },
            Failure::Cancelled => Self::Cancelled,
        }
    }
}

impl Error {
    /// Makes the error for a request that a relay has refused for good.
    pub(crate) fn refused(error: WireError) -> Self {
        if error.code == gantry_proto::Code::Changed { Self::Changed(error.message) } else { Self::Refused(error) }
    }

    /// Returns whether the same call may succeed later without any change by the caller.
    ///
    /// The client has already retried within its own time limits. [`Self::Changed`] is not retryable: a request for the
    /// same version fails again, and only the caller can decide to take another version.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoRelay { .. } | Self::StoreLeft(_) | Self::Unanswered { .. } | Self::GaveUp { .. } => true,
            Self::Refused(error) => error.retryable,
            Self::Bus(error) => error.is_retryable(),
            Self::Part(error) => error.is_retryable(),
            Self::Mismatch(error) => error.is_retryable(),
            Self::Address(_)
            | Self::NoStore { .. }
            | Self::NotPermitted { .. }
            | Self::Changed(_)
            | Self::Malformed(_)
            | Self::Cancelled => false,
        }
    }
}

fn among(stores: &[StoreName]) -> String {
    if stores.is_empty() {
        return String::new();
    }
    let names: Vec<_> = stores.iter().map(StoreName::as_str).collect();
    format!(", only {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use gantry_proto::Code;

    use super::*;

    #[test]
    fn errors_are_retryable_if_waiting_may_cure_them() {
        let unreachable = || bus::Error::Unreachable { servers: String::new(), reason: String::new() };
        let mismatch = Mismatch::Length { expected: 2, actual: 1 };
        for (error, is_retryable) in [
            (Error::NoRelay { prefix: String::new(), server: String::new() }, true),
            (Error::StoreLeft("s".parse().unwrap()), true),
            (Error::NoStore { store: "s".parse().unwrap(), stores: Vec::new() }, false),
            (Error::GaveUp { cause: Cause::Stall, requests: 1 }, true),
            (Error::Refused(WireError::new(Code::Busy, "")), true),
            (Error::Refused(WireError::new(Code::Denied, "")), false),
            (Error::Bus(unreachable()), true),
            (Error::Bus(bus::Error::Closed), false),
            (Error::Part(part::Error::InUse("a".into())), true),
            (Error::Part(part::Error::NoFolder("a".into())), false),
            (Error::Mismatch(mismatch), false),
            (Error::Changed(String::new()), false),
            (Error::Cancelled, false),
        ] {
            assert_eq!(error.is_retryable(), is_retryable, "{error:?}");
        }
    }
}
