//! Why a request or a download failed.

use super::{part, verify};
use gantry_bus as bus;
use gantry_proto::receiver::{Cause, Failure};
use gantry_proto::{StoreName, WireError};

/// Why a request or a download failed, and with it what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is not `STORE/KEY` with a valid name and key.
    #[error("{address:?} is not the address of an object: {reason}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No relay answers at all. It may later.
    #[error("no relay is listening")]
    NoRelay,
    /// Relays answer, but none serves the store.
    #[error("no relay serves store {0}")]
    NoStore(StoreName),
    /// The relay refuses, and asking again can't help.
    #[error(transparent)]
    Refused(WireError),
    /// nats-server forbids us to ask or to listen.
    #[error("nats-server denies {what} {subject:?}")]
    NotPermitted {
        /// `publishing to` or `subscribing to`.
        what: &'static str,
        /// The subject.
        subject: String,
    },
    /// The object is no longer the version that was asked for or that the download began with.
    #[error("{0}")]
    Changed(String),
    /// Nothing new arrived for as long as we were willing to wait. It may later.
    #[error("gave up after {requests} request{}: {cause}", if *requests == 1 { "" } else { "s" })]
    GaveUp {
        /// What the last one failed with.
        cause: Cause,
        /// How many were sent.
        requests: u64,
    },
    /// The bytes are not what the store has.
    #[error(transparent)]
    Mismatch(#[from] verify::Mismatch),
    /// The file could not be written.
    #[error(transparent)]
    Part(#[from] part::Error),
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The relay answered what this build does not understand.
    #[error("the relay's answer is not understood: {0}")]
    Malformed(String),
    /// We were asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => Self::refused(error),
            Failure::Changed { .. } => Self::Changed(failure.to_string()),
            Failure::GaveUp { cause: Cause::NoResponders, accepted: false, .. } => Self::NoRelay,
            Failure::GaveUp { cause, requests, .. } => Self::GaveUp { cause, requests },
            Failure::Cancelled => Self::Cancelled,
        }
    }
}

impl Error {
    pub(super) fn refused(error: WireError) -> Self {
        if error.code == gantry_proto::Code::Changed { Self::Changed(error.message) } else { Self::Refused(error) }
    }

    /// Returns whether the same call may succeed later although the caller changes nothing.
    ///
    /// The client has already retried within its own time limits. [`Self::Changed`] is not retryable: a request for the
    /// same version fails again, and only the caller can decide to take another version.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoRelay | Self::GaveUp { .. } | Self::Bus(bus::Error::Unreachable { .. }) => true,
            Self::Refused(error) => error.retryable,
            Self::Part(error) => error.is_retryable(),
            Self::Address { .. }
            | Self::NoStore(_)
            | Self::NotPermitted { .. }
            | Self::Changed(_)
            | Self::Mismatch(_)
            | Self::Bus(_)
            | Self::Malformed(_)
            | Self::Cancelled => false,
        }
    }
}
