//! Errors on the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::{self, MESSAGE_MAX_BYTES};

/// The kind of an error, which determines what the caller should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is malformed. Retrying it does not help.
    BadRequest,
    /// The store refuses access to the object.
    Denied,
    /// The store, bucket, key or version does not exist.
    NotFound,
    /// The object is no longer the version that the request pins.
    Changed,
    /// The range starts after the object's end.
    Range,
    /// The relay ended the transfer because it received nothing from the consumer within its idle timeout.
    Idle,
    /// The relay has reached one of its limits.
    Busy,
    /// The store does not respond, or its responses are failures.
    StoreUnavailable,
    /// The relay is shutting down.
    Draining,
    /// The relay does not know the transfer (any more). Sent only in answer to a control message with `probe`.
    Ended,
    /// A defect of the relay, or a code that is unknown to this build.
    #[serde(other)]
    Internal,
}

impl Code {
    /// All codes, ordered by number.
    pub const ALL: [Self; 11] = [
        Self::BadRequest,
        Self::Denied,
        Self::NotFound,
        Self::Idle,
        Self::Ended,
        Self::Changed,
        Self::Range,
        Self::Busy,
        Self::Internal,
        Self::StoreUnavailable,
        Self::Draining,
    ];

    /// Returns the code's name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Changed => "changed",
            Self::Range => "range",
            Self::Idle => "idle",
            Self::Ended => "ended",
            Self::Busy => "busy",
            Self::StoreUnavailable => "store_unavailable",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    /// Returns the number for `Nats-Service-Error-Code`, modelled on HTTP's status codes.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Idle => 408,
            Self::Ended => 410,
            Self::Changed => 412,
            Self::Range => 416,
            Self::Busy => 429,
            Self::Internal => 500,
            Self::StoreUnavailable => 502,
            Self::Draining => 503,
        }
    }

    /// Returns whether the same request may succeed later or at another relay.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Idle | Self::Ended | Self::Busy | Self::StoreUnavailable | Self::Draining | Self::Internal => true,
            Self::BadRequest | Self::Denied | Self::NotFound | Self::Changed | Self::Range => false,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The JSON body of an error message: `{code, message, retryable, retry_after_ms?, needs_operator?}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// What the caller should do.
    pub code: Code,
    /// A one-line description for people.
    pub message: String,
    /// Whether the same request may succeed later or at another relay.
    pub retryable: bool,
    /// How long to wait before a retry, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// `true` if this relay can't serve the request before its operator has corrected something, such as its credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_operator: Option<bool>,
}

impl WireError {
    /// Creates an error with this code, which also determines whether it is retryable.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        limits::truncate(&mut message, MESSAGE_MAX_BYTES);
        Self { code, message, retryable: code.is_retryable(), retry_after_ms: None, needs_operator: None }
    }

    /// Creates a `bad_request`.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    /// Sets how long to wait before a retry, at most [`limits::RETRY_AFTER_MAX`].
    #[must_use]
    pub fn with_retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        let bounded = limits::retry_after(Duration::from_millis(retry_after_ms));
        self.retry_after_ms = u64::try_from(bounded.as_millis()).ok();
        self
    }

    /// Returns how long the peer asks to wait before a retry, if it does, at most [`limits::RETRY_AFTER_MAX`].
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms.map(|ms| limits::retry_after(Duration::from_millis(ms)))
    }
}

/// A name, key, subject, header or body that violates the protocol's format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    pub(super) fn subject(subject: &str) -> Self {
        Self(format!("{subject:?} is not a subject of tokens without wildcards, white space and reserved first tokens"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_serde_writes() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
            assert_eq!(serde_json::from_value::<Code>(code.name().into()).unwrap(), code);
        }
    }

    #[test]
    fn the_need_for_an_operator_is_written_only_if_there_is_one() {
        let error = WireError::new(Code::StoreUnavailable, "m");
        assert!(!serde_json::to_string(&error).unwrap().contains("operator"));

        let error = WireError { needs_operator: Some(true), ..error };
        let body = serde_json::to_string(&error).unwrap();
        assert!(body.ends_with(r#","needs_operator":true}"#), "{body}");
        assert_eq!(serde_json::from_str::<WireError>(&body).unwrap(), error);
    }

    #[test]
    fn decodes_an_unknown_code_as_internal() {
        assert_eq!(serde_json::from_str::<Code>("\"quota\"").unwrap(), Code::Internal);
    }
}
