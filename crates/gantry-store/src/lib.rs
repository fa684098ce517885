//! Stores of objects: the [`Store`] trait and its implementations.
//!
//! A store reads one immutable version of an object: every byte of a [`Body`] belongs to the version that its
//! [`ObjectInfo`] describes. Otherwise the body fails with [`Error::Changed`].

#[cfg(feature = "azure")]
pub mod azure;
pub mod budget;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "cloud")]
#[cfg_attr(
    not(all(feature = "azure", feature = "gcs")),
    allow(dead_code, unused_imports, reason = "each cloud uses only a part of it")
)]
mod cloud;
#[cfg(feature = "http")]
mod connections;
pub mod crowd;
mod descriptions;
#[cfg(test)]
mod double;
#[cfg(feature = "http")]
pub mod endpoint;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "gcs")]
pub mod gcs;
#[cfg(feature = "http")]
mod headers;
#[cfg(any(feature = "cache", feature = "file"))]
#[cfg_attr(not(feature = "file"), allow(dead_code, reason = "the cache uses only a part of it"))]
mod jobs;
#[cfg(feature = "http")]
mod listing;
pub mod misplaced;
mod observe;
#[cfg(feature = "http")]
mod position;
#[cfg(feature = "ranged")]
mod ranged;
#[cfg(any(feature = "file", feature = "ranged"))]
mod release;
#[cfg(feature = "s3")]
pub mod s3;
pub mod secret_text;
pub mod shared;
pub mod shares;
pub mod via;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sha2::{Digest as _, Sha256};

use gantry_proto::{Code, Key, ListPage, ListRequest, ObjectInfo, Pin, Span, WireError};

pub use budget::Budget;
#[cfg(feature = "http")]
pub use connections::proxy_variable;
pub use observe::{Observe, Observer, Unobserved};

/// Maximum number of entries and prefixes in a page of a listing. Source: S3's `MaxKeys`.
pub const LIST_LIMIT_MAX: u32 = 1000;

/// The bytes of a range, in order and without gaps, in pieces of any size but 0.
///
/// It ends after exactly the bytes of the range, or with an error. Dropping it stops all reading.
pub type Body = BoxStream<'static, Result<Bytes, Error>>;

/// An object and the requested range of its bytes.
pub struct Opened {
    /// The version that the body belongs to.
    pub object: ObjectInfo,
    /// The bytes of the requested span, up to the object's size.
    pub body: Body,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("object", &self.object).finish_non_exhaustive()
    }
}

/// A place to read objects from.
///
/// All methods fail with an [`Error`]. Unless a method says otherwise:
/// - [`Error::NotFound`] or [`Error::NoBucket`] if there is no such object, version or bucket.
/// - [`Error::Denied`] if the store refuses access, or [`Error::Archived`] because of an object's tier.
/// - [`Error::Invalid`] if the store can't serve the request at any time.
/// - [`Error::Unavailable`] if the store does not answer, fails, or asks to slow down, after the store's own retries.
/// - [`Error::Protocol`] if the store gives an invalid answer.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Describes an object and starts to read a span of it. The end of a span is exclusive.
    ///
    /// # Errors
    /// Those of the trait, and:
    /// - [`Error::Range`] if the span starts past the object's end.
    /// - [`Error::Changed`] if the object is not the version of `pin`.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, nothing more is read.
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>>;

    /// Describes an object. The sizes of its upload parts may be missing, even if [`Store::open`] would find them.
    ///
    /// # Errors
    /// Those of the trait, and [`Error::Changed`] if the object is not the version of `pin`.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped before it is ready.
    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>>;

    /// Lists one page of keys, at most `request.limit` entries and prefixes together.
    ///
    /// # Errors
    /// Those of the trait.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped before it is ready.
    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>>;

    /// Returns the token of the page that begins after `name`, the key of an entry or a prefix in a page of this store.
    /// Returns `None` if a page can't begin after any name.
    fn token_after(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }

    /// Checks that the store answers, with the permissions that reading requires.
    ///
    /// # Errors
    /// Those of the trait.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped before it is ready.
    fn probe(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Checks that the store can be listed. Its errors are for the operator, with every cause.
    ///
    /// # Errors
    /// Those of the trait, among them [`Error::Denied`], which [`Store::probe`] accepts if reading may be permitted.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped before it is ready.
    fn probe_listing(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.probe()
    }

    /// Returns whether this store keeps what is read of an object, so that reading it again usually costs little.
    fn keeps(&self, object: &ObjectInfo) -> bool {
        let _ = object;
        false
    }

    /// Returns a text that distinguishes this place from others, created by [`fingerprint`]. Returns `None` if it is
    /// unknown.
    fn fingerprint(&self) -> Option<String> {
        None
    }
}

/// Returns the fingerprint of a place: 32 hexadecimal digits computed from its kind and its names. It is the same on
/// all hosts. It does not reveal the names, but a guess of them can be confirmed.
#[must_use]
pub fn fingerprint(kind: &str, names: &[&str]) -> String {
    let mut hash = Sha256::new();

    for text in [&["gantry-store-1", kind], names].concat() {
        hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(text);
    }

    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Why a request to a store failed. The messages contain neither credentials nor endpoints.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such object, bucket or version. Not retryable.
    #[error("{0}")]
    NotFound(String),
    /// There is no such bucket or store. Not retryable. A store that can't tell it from a missing object uses
    /// [`Error::NotFound`].
    #[error("{0}")]
    NoBucket(String),
    /// The object is not, or is no longer, the pinned version. Not retryable.
    #[error("{0}")]
    Changed(String),
    /// The store refuses access. Not retryable.
    #[error("{0}")]
    Denied(String),
    /// The object is in an archive, and must be restored before it can be read. Not retryable.
    #[error("{0}")]
    Archived(String),
    /// The span starts past the object's end. Not retryable.
    #[error("`start` {start} is past the end of the object, {size}")]
    Range {
        /// The span's first byte.
        start: u64,
        /// The object's size, in bytes.
        size: u64,
    },
    /// The store can't serve the request at any time. Not retryable.
    #[error("{0}")]
    Invalid(String),
    /// The store does not answer, fails, or asks to slow down, and its own retries did not help. Retryable.
    #[error("{message}")]
    Unavailable {
        /// What an operator can do about it.
        kind: UnavailableKind,
        /// What happened.
        message: String,
        /// How long the store asks to wait.
        retry_after: Option<Duration>,
    },
    /// The store gives an invalid answer: another range or length than requested, no size, or a web page. Not
    /// retryable, because the server would repeat it.
    #[error("{0}")]
    Protocol(String),
}

/// Why a store is unavailable, if an operator can act on the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnavailableKind {
    /// The relay has no credentials for the store, can't read them, or they have expired.
    Credentials,
    /// The store's address demands TLS, but the server does not offer it.
    TlsNotOffered,
    /// The relay's clock is wrong, so that its signatures and tokens are not valid.
    Clock,
    /// The file or the variable with the credentials can't be read, or contains something else.
    UnusableCredentials,
    /// The server's certificate was issued by an authority that the relay does not trust.
    UnknownAuthority,
    /// The file with the certificate authorities can't be read, or contains none.
    UnusableAuthorities,
    /// The server's certificate is not valid now, by the relay's clock: one of them is wrong.
    CertificateTime,
    /// The server's certificate is invalid for another reason, such as belonging to another host.
    InvalidCertificate,
    /// The service that issues tokens for the store does not answer, or fails for a while.
    TokenService,
    /// The store demands TLS, but the relay's address of it has none.
    TlsRequired,
    /// The store's network rules exclude the relay.
    NetworkRules,
    /// The AWS profile uses a way to sign in that is not supported, such as SSO.
    UnsupportedProfile,
    /// The bucket bills the requester, and the relay names no project that pays.
    NoBillingProject,
    /// The storage account or the container is disabled.
    AccountDisabled,
    /// A policy of the organisation forbids the request.
    OrganisationPolicy,
    /// The service that issues tokens does not know the tenant of the relay's credentials.
    UnknownTenant,
    /// The service that issues tokens does not know the application of the relay's credentials.
    UnknownApplication,
    /// An upstream relay can't read its store before its operator has corrected something.
    Upstream,
    /// The store fails for a while, or asks to slow down.
    Busy,
    /// The proxy that a variable of the environment names can't be reached, or refuses the connection.
    Proxy,
    /// Any other reason, such as a server that does not answer.
    Other,
}

impl UnavailableKind {
    /// Returns whether the store stays unavailable to the relay until its operator, or another administrator, corrects
    /// something.
    #[must_use]
    pub const fn needs_operator(self) -> bool {
        match self {
            Self::Credentials
            | Self::TlsNotOffered
            | Self::Clock
            | Self::UnusableCredentials
            | Self::UnknownAuthority
            | Self::UnusableAuthorities
            | Self::CertificateTime
            | Self::InvalidCertificate
            | Self::TlsRequired
            | Self::NetworkRules
            | Self::UnsupportedProfile
            | Self::NoBillingProject
            | Self::AccountDisabled
            | Self::OrganisationPolicy
            | Self::UnknownTenant
            | Self::UnknownApplication
            | Self::Upstream => true,
            Self::TokenService | Self::Busy | Self::Proxy | Self::Other => false,
        }
    }
}

impl Error {
    /// Creates an [`Error::Unavailable`] without a time to wait.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::unavailable_because(UnavailableKind::Other, message)
    }

    /// Creates an [`Error::Unavailable`] of this kind without a time to wait.
    #[must_use]
    pub fn unavailable_because(kind: UnavailableKind, message: impl Into<String>) -> Self {
        Self::Unavailable { kind, message: message.into(), retry_after: None }
    }

    /// Adds to the message where the error comes from.
    #[must_use]
    pub fn from_place(self, place: &str) -> Self {
        let add = |message: String| format!("{place}: {message}");
        match self {
            Self::NotFound(message) => Self::NotFound(add(message)),
            Self::NoBucket(message) => Self::NoBucket(add(message)),
            Self::Changed(message) => Self::Changed(add(message)),
            Self::Denied(message) => Self::Denied(add(message)),
            Self::Archived(message) => Self::Archived(add(message)),
            Self::Range { .. } => self,
            Self::Invalid(message) => Self::Invalid(add(message)),
            Self::Unavailable { kind, message, retry_after } => {
                Self::Unavailable { kind, message: add(message), retry_after }
            }
            Self::Protocol(message) => Self::Protocol(add(message)),
        }
    }

    /// Returns whether the same request may succeed later, or at another relay.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::NotFound(_)
            | Self::NoBucket(_)
            | Self::Changed(_)
            | Self::Denied(_)
            | Self::Archived(_)
            | Self::Range { .. }
            | Self::Invalid(_)
            | Self::Protocol(_) => false,
        }
    }

    /// Returns the wire code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::NotFound(_) | Self::NoBucket(_) => Code::NotFound,
            Self::Changed(_) => Code::Changed,
            Self::Denied(_) | Self::Archived(_) => Code::Denied,
            Self::Range { .. } => Code::Range,
            Self::Invalid(_) => Code::BadRequest,
            Self::Unavailable { .. } | Self::Protocol(_) => Code::StoreUnavailable,
        }
    }

    /// Converts the error to the form in which a consumer receives it.
    #[must_use]
    pub fn to_wire(&self) -> WireError {
        let needs_operator = matches!(self, Self::Unavailable { kind, .. } if kind.needs_operator()).then_some(true);
        let wire = WireError::new(self.code(), self.to_string());
        let wire = WireError { retryable: self.is_retryable(), needs_operator, ..wire };

        match self {
            Self::Unavailable { retry_after: Some(after), .. } => {
                wire.with_retry_after_ms(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
            }
            Self::Unavailable { .. }
            | Self::NotFound(_)
            | Self::NoBucket(_)
            | Self::Changed(_)
            | Self::Denied(_)
            | Self::Archived(_)
            | Self::Range { .. }
            | Self::Invalid(_)
            | Self::Protocol(_) => wire,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_answer_is_final_and_an_unavailable_store_is_not() {
        let invalid = Error::Protocol("S3 ignores the requested range".to_owned());
        let unavailable = Error::unavailable("can't reach S3");

        assert!(!invalid.is_retryable() && !invalid.to_wire().retryable);
        assert!(unavailable.is_retryable() && unavailable.to_wire().retryable);
        assert_eq!((invalid.code(), unavailable.code()), (Code::StoreUnavailable, Code::StoreUnavailable));
    }

    #[test]
    fn a_consumer_learns_that_only_the_operator_can_act() {
        let of = |kind| Error::unavailable_because(kind, "m").to_wire().needs_operator;

        assert_eq!(of(UnavailableKind::Credentials), Some(true));
        assert_eq!(of(UnavailableKind::Busy), None);
        assert_eq!(Error::Denied("m".to_owned()).to_wire().needs_operator, None);
    }
}
