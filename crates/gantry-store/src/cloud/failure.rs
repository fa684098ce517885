//! Classifies failed requests: the error to report, and whether another attempt makes sense.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;

use super::answer::{Answer, Subject};
use super::{Cloud, header, without_credentials};
use crate::headers::retry_after;
use crate::ranged::{self, About, Retry};
use crate::{Error, UnavailableKind};

/// The difference of clocks from which on it is mentioned. Google and Azure reject signatures that are older than five
/// and fifteen minutes.
const SKEW: Duration = Duration::from_secs(4 * 60);

/// Codes of requests to slow down that come with the status of a failing server. Source: Google's "HTTP status and error
/// codes for XML", and Azure's "Common REST API error codes" and "Scalability targets for Blob storage".
const THROTTLED: [&str; 3] = ["ServerBusy", "SlowDown", "TooManyRequests"];

/// One failed attempt.
pub(crate) type Failure = ranged::Failure<Cure>;

/// What makes another attempt worthwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cure {
    /// Fresh credentials.
    Credentials,
    /// Another key, if the file contains one by now.
    OtherKey,
    /// The object's size, which distinguishes an empty range from one past the end. Both are answered with 416.
    Size,
}

/// Classifies an error of a cloud.
pub(crate) fn of_answer<C: Cloud>(cloud: &C, answer: &Answer<'_>) -> Failure {
    // Gateways in front of a cloud also send pages with 5xx, which are temporary.
    if answer.status.is_redirection() || (answer.is_page() && !answer.status.is_server_error()) {
        return foreign::<C>(answer.about);
    }

    let (error, retry) = cloud.refusal(answer).unwrap_or_else(|| by_status::<C>(answer));
    Failure { error, retry }
}

/// The server that answers is another one.
pub(super) fn foreign<C: Cloud>(about: &About) -> Failure {
    Failure::is_final(Error::Protocol(format!(
        "{about}: what answers is not {}, but a web page or another service",
        C::NAME
    )))
}

fn by_status<C: Cloud>(answer: &Answer<'_>) -> (Error, Retry<Cure>) {
    let Answer { about, .. } = answer;

    match answer.status.as_u16() {
        401 => (expired::<C>(answer), Retry::AfterCure(Cure::Credentials)),
        403 => (denied(answer), Retry::AfterCure(Cure::OtherKey)),
        404 | 410 if answer.subject == Subject::Listing => (no_place::<C>(answer), Retry::Never),
        404 | 410 => (missing(answer), Retry::Never),
        412 if matches!(answer.subject, Subject::Object { is_pinned: true, .. }) => {
            (Error::Changed(format!("{about}: no longer the pinned version ({})", answer.label())), Retry::Never)
        }
        416 => {
            let error = Error::Protocol(format!("{about}: no such range ({})", answer.label()));
            (error, Retry::AfterCure(Cure::Size))
        }
        408 | 409 | 425 | 429 | 500..=599 => (busy::<C>(answer), Retry::Later),
        _ => {
            let message = format!("{about}: {} refuses the request ({})", C::NAME, answer.reason());
            (Error::Invalid(message), Retry::Never)
        }
    }
}

/// Returns the error of a cloud that fails, or asks to slow down.
pub(crate) fn busy<C: Cloud>(answer: &Answer<'_>) -> Error {
    let is_throttled = answer.status == StatusCode::TOO_MANY_REQUESTS || THROTTLED.contains(&answer.code());
    let problem = if is_throttled { "asks to slow down" } else { "fails at the moment" };
    Error::Unavailable {
        kind: UnavailableKind::Busy,
        message: format!("{}: {} {problem} ({})", answer.about, C::NAME, answer.label()),
        retry_after: header(&answer.headers, "retry-after").and_then(retry_after),
    }
}

/// Returns the error for credentials that are no longer valid, or never were.
pub(crate) fn expired<C: Cloud>(answer: &Answer<'_>) -> Error {
    let about = answer.about;
    let text = format!("{about}: {} rejects the relay's credentials ({})", C::NAME, answer.reason());
    match skew(answer) {
        Some(skew) => Error::unavailable_because(UnavailableKind::Clock, format!("{text}: {skew}")),
        None => without_credentials(text),
    }
}

/// Returns the error for a lack of permission.
pub(crate) fn denied(answer: &Answer<'_>) -> Error {
    let text = format!("{}: access denied ({})", answer.about, answer.reason());
    Error::Denied(match skew(answer) {
        Some(skew) => format!("{text}: {skew}"),
        None => text,
    })
}

/// Returns the error for a missing object. With a pin, it has been deleted.
pub(crate) fn missing(answer: &Answer<'_>) -> Error {
    let (about, label) = (answer.about, answer.label());
    match answer.subject {
        Subject::Object { is_pinned: true, .. } => {
            Error::Changed(format!("{about}: the pinned version was deleted: no such object ({label})"))
        }
        Subject::Object { has_version: true, .. } => Error::NotFound(format!("{about}: no such version ({label})")),
        Subject::Object { .. } | Subject::Listing => Error::NotFound(format!("{about}: no such object ({label})")),
    }
}

/// Returns the error for a missing bucket or container.
pub(crate) fn no_place<C: Cloud>(answer: &Answer<'_>) -> Error {
    Error::NoBucket(format!("{}: no such {} ({})", answer.about, C::PLACE, answer.label()))
}

/// Describes the difference between the cloud's clock and this machine's, if it explains a refusal.
fn skew(answer: &Answer<'_>) -> Option<String> {
    let date = answer.date()?;

    #[expect(clippy::disallowed_methods, reason = "clouds compare their clock with the wall clock")]
    let now = SystemTime::now();
    let (skew, direction) = match now.duration_since(date) {
        Ok(ahead) => (ahead, "ahead"),
        Err(behind) => (behind.duration(), "behind"),
    };
    (skew >= SKEW).then(|| format!("the relay's clock is {} minutes {direction}", skew.as_secs() / 60))
}
