//! The result of a verification.

use std::fmt;

use serde::Serialize;

use gantry_proto::ChecksumAlgorithm;

/// How bytes were verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Proof {
    /// Against the checksum that the store keeps of the object's bytes.
    FullObject {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// Against the checksum that the store keeps of the uploaded parts' checksums.
    Composite {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
        /// The number of parts.
        parts: u64,
    },
    /// Against the `ETag`, which is the MD5 of the object's bytes.
    Etag {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// Only by the CRC of each chunk and the number of bytes. The store keeps no checksum of exactly these bytes, or none
    /// that can be checked.
    Transport,
    /// Like [`Self::Transport`], although the store keeps a checksum. Its algorithm is not supported.
    Unverified {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// Like [`Self::Transport`], although a checksum was stated. The checksum is invalid: its value is not a digest of
    /// its algorithm, or its parts do not add up to the object.
    InvalidChecksum {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
    },
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FullObject { algorithm } => write!(f, "{} (full object)", algorithm.name()),
            Self::Composite { algorithm, parts: 1 } => write!(f, "{} (composite of 1 part)", algorithm.name()),
            Self::Composite { algorithm, parts } => write!(f, "{} (composite of {parts} parts)", algorithm.name()),
            Self::Etag { algorithm } => write!(f, "{} (ETag)", algorithm.name()),
            Self::Transport => f.write_str("transport only"),
            Self::Unverified { algorithm } => write!(f, "transport only: {} is not verified", algorithm.name()),
            Self::InvalidChecksum { algorithm } => {
                write!(f, "transport only: the stated {} is invalid", algorithm.name())
            }
        }
    }
}

/// Why bytes do not match their object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The number of bytes is wrong.
    #[error("got {actual} bytes where {expected} were expected")]
    Length {
        /// The expected number.
        expected: u64,
        /// The number of bytes received.
        actual: u64,
    },
    /// The checksum of the bytes is wrong.
    #[error("{} of the bytes is {actual}, but {expected} in the store", algorithm.name())]
    Checksum {
        /// The algorithm.
        algorithm: ChecksumAlgorithm,
        /// The store's value, in base64.
        expected: String,
        /// The value of the bytes received, in base64.
        actual: String,
    },
}

impl Mismatch {
    /// Returns whether the same download may succeed later without any change, which is never the case. Every chunk was
    /// checked on arrival, so the object in the store does not match its own checksum, or a local disk or memory is
    /// faulty.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        false
    }
}
