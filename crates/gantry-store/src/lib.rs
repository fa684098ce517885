//! Where objects come from: the [`Store`] trait and its implementations.
//!
//! A store hands out one immutable version of an object: every byte that a [`Body`] yields belongs to the version that
//! its [`ObjectInfo`] describes, or the body fails with [`Error::Changed`].

pub mod budget;
pub mod crowd;
#[cfg(feature = "file")]
pub mod file;
mod observe;
#[cfg(feature = "ranged")]
mod ranged;
#[cfg(feature = "s3")]
pub mod s3;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sha2::{Digest as _, Sha256};

use gantry_proto::{Code, Key, ListPage, ListRequest, ObjectInfo, Pin, Span, WireError};

pub use budget::Budget;
pub use observe::{Observe, Observer, Unobserved};

/// The most entries and prefixes that a page of a listing holds, as S3 has it.
pub const LIST_LIMIT_MAX: u32 = 1000;

/// The bytes of a range, in order and without gaps, in pieces of any size but 0.
///
/// It ends after exactly the bytes of the range; when it can't yield them all it ends with an error. Dropping it
/// stops all reading.
pub type Body = BoxStream<'static, Result<Bytes, Error>>;

/// An object and the part of it that was asked for.
pub struct Opened {
    /// The version that the body belongs to.
    pub object: ObjectInfo,
    /// The bytes of the span, resolved against the object's size.
    pub body: Body,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("object", &self.object).finish_non_exhaustive()
    }
}

/// A named place to read objects from.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Describes an object and starts to read a span of it.
    ///
    /// # Errors
    /// [`Error::Range`] when the span starts past the object's end; otherwise as the store answers.
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>>;

    /// Describes an object.
    ///
    /// # Errors
    /// As the store answers.
    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>>;

    /// Lists one page of keys, at most `request.limit` entries and prefixes together.
    ///
    /// # Errors
    /// As the store answers.
    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>>;

    /// Asks the store for a sign of life, with the rights that reading needs.
    ///
    /// # Errors
    /// As the store answers.
    fn probe(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Returns what tells this place from others, as [`fingerprint`] makes it; `None` where nothing does.
    fn fingerprint(&self) -> Option<String> {
        None
    }
}

/// Returns the fingerprint of a place: of its kind, and of what names it. Equal for equal places, on whatever host; the
/// names can't be read from it, only guessed and compared.
#[must_use]
pub fn fingerprint(kind: &str, names: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in [&["gantry-store-1", kind], names].concat() {
        hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Why a store did not yield what was asked for. The messages name neither credentials nor endpoints.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object, bucket or version.
    #[error("{0}")]
    NotFound(String),
    /// The object is not, or no longer, the pinned version.
    #[error("{0}")]
    Changed(String),
    /// The store refuses access.
    #[error("{0}")]
    Denied(String),
    /// The span starts past the object's end.
    #[error("`start` {start} is past the end of the object, {size}")]
    Range {
        /// The span's first byte.
        start: u64,
        /// The object's size.
        size: u64,
    },
    /// The request can't be served by this store, whatever the time.
    #[error("{0}")]
    Invalid(String),
    /// The store does not answer, fails, or asks to slow down, and the retry budget is spent.
    #[error("{message}")]
    Unavailable {
        /// What an operator can do about it.
        kind: UnavailableKind,
        /// What happened.
        message: String,
        /// How long the store asks to wait.
        retry_after: Option<Duration>,
    },
    /// The store answers what it must not answer: wrong range, wrong length, no size.
    #[error("{0}")]
    Protocol(String),
}

/// Why a store is unavailable, as far as that decides what an operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnavailableKind {
    /// The relay has no credentials for the store, can't read them, or they have expired.
    Credentials,
    /// The store's address demands TLS, but the server does not offer it.
    TlsNotOffered,
    /// Any other reason, such as a server that does not answer.
    Other,
}

impl Error {
    /// Makes an [`Error::Unavailable`] that names no time to wait.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::unavailable_because(UnavailableKind::Other, message)
    }

    /// Makes an [`Error::Unavailable`] of this kind that names no time to wait.
    #[must_use]
    pub fn unavailable_because(kind: UnavailableKind, message: impl Into<String>) -> Self {
        Self::Unavailable { kind, message: message.into(), retry_after: None }
    }

    /// Returns the wire code that tells the consumer what to do.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::Changed(_) => Code::Changed,
            Self::Denied(_) => Code::Denied,
            Self::Range { .. } => Code::Range,
            Self::Invalid(_) => Code::BadRequest,
            Self::Unavailable { .. } | Self::Protocol(_) => Code::StoreUnavailable,
        }
    }

    /// Returns the error as it goes to a consumer.
    #[must_use]
    pub fn to_wire(&self) -> WireError {
        let wire = WireError::new(self.code(), self.to_string());
        let Self::Unavailable { retry_after: Some(after), .. } = self else { return wire };
        wire.with_retry_after_ms(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
    }
}
