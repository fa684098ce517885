//! Failed attempts: the error to report, and whether another attempt makes sense.

use std::fmt;

use crate::Error;
use gantry_proto::Key;

/// One failed attempt.
#[derive(Debug)]
pub(crate) struct Failure<C> {
    pub(crate) error: Error,
    pub(crate) retry: Retry<C>,
}

/// When another attempt makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Retry<C> {
    /// Never: the answer is final.
    Never,
    /// After a pause.
    Later,
    /// At once, if the store can apply this cure.
    AfterCure(C),
}

impl<C> Failure<C> {
    /// Creates a failure that another attempt can't change.
    pub(crate) fn is_final(error: Error) -> Self {
        Self { error, retry: Retry::Never }
    }

    /// Creates a failure that is temporary if `error` is retryable.
    pub(crate) fn by_kind(error: Error) -> Self {
        let retry = if error.is_retryable() { Retry::Later } else { Retry::Never };
        Self { error, retry }
    }

    /// Creates a failure that may be temporary.
    pub(crate) fn passing(message: impl Into<String>) -> Self {
        Self { error: Error::unavailable(message), retry: Retry::Later }
    }
}

/// The subject of a request in messages.
#[derive(Clone, Debug)]
pub(crate) enum About {
    /// The message goes to a consumer, which knows the key, but must not learn the bucket or its address.
    Consumer(String),
    /// The message goes to the operator, who needs every cause.
    Operator(String),
}

impl About {
    /// Adds a cause to a message for the operator. A message to a consumer does not contain it.
    pub(crate) fn with_cause(&self, text: &str, cause: &str) -> String {
        match self {
            Self::Operator(_) => format!("{self}: {text}: {cause}"),
            Self::Consumer(_) => {
                tracing::debug!(text, cause, "the cause of a failure");
                format!("{self}: {text}")
            }
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Consumer(text) | Self::Operator(text)) = self;
        f.write_str(text)
    }
}

/// Names an object in messages to consumers.
pub(crate) fn about_key(key: &Key) -> About {
    About::Consumer(format!("key {:?}", key.as_str()))
}
