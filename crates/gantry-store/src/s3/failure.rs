//! Classifies failed requests: the error to report, and whether another attempt makes sense.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::excerpt::excerpt;
use super::witness;
use crate::ranged::{self, About, Retry};
use crate::{Error, UnavailableKind};

/// Maximum wait that S3 can request. It is far longer than any retry budget.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Maximum length of a region's name, in bytes. AWS's have less than 20.
const REGION_MAX_BYTES: usize = 64;

/// Maximum number of lines of a cause in a message. The SDK looks for credentials in fewer places.
const CAUSE_MAX_LINES: usize = 10;

/// One failed attempt.
pub(super) type Failure = ranged::Failure<Cure>;

/// What makes another attempt worthwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cure {
    /// Signing for the region that S3 named.
    Region(String),
    /// Fresh credentials.
    Credentials,
    /// Another key, if the key files contain one by now.
    OtherKey,
    /// The object's size, which distinguishes an empty range from one past the end. S3 answers 416 to both.
    Size,
}

impl Failure {
    /// The server that answers is not S3.
    pub(super) fn foreign(what: &About) -> Self {
        Self::is_final(Error::Protocol(format!(
            "{what}: what answers is not S3, but a web page or another service: check the address of the S3 server"
        )))
    }

    /// The key files can't be read, so no request can be signed.
    pub(super) fn unreadable_keys(what: &About, cause: &Error) -> Self {
        let message = what.with_cause("the relay's credentials for S3 can't be read", &cause.to_string());
        Self::is_final(Error::unavailable_because(UnavailableKind::Credentials, message))
    }

    /// Classifies the SDK's error for a request about `what`, such as a key.
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>, what: &About) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let passing = |text: &str, cause: &str| Self::passing(what.with_cause(text, cause));
        let is_final = |text: &str, cause: &str| Self::is_final(Error::Invalid(what.with_cause(text, cause)));

        match error {
            SdkError::ServiceError(service)
                if service.raw().status().is_success() && service.err().code().is_none() =>
            {
                unreadable(service.raw(), what, &innermost(error))
            }
            SdkError::ServiceError(service) => answered(service.raw(), service.err().code(), what),
            SdkError::ResponseError(response) if response.raw().status().is_success() => {
                passing("S3 gave an answer that can't be read", &innermost(error))
            }
            SdkError::ResponseError(response) => answered(response.raw(), None, what),
            SdkError::TimeoutError(_) => Self::passing(format!("{what}: S3 did not answer in time")),
            SdkError::DispatchFailure(failure) => {
                let cause = innermost(error);
                // Only the text tells: the SDK passes on no type of the TLS library.
                if failure.is_io() && cause.contains("InvalidContentType") {
                    let message = what.with_cause("can't reach S3", &cause);
                    let error = Error::unavailable_because(UnavailableKind::TlsNotOffered, message);
                    Self { error, retry: Retry::Later }
                } else if failure.is_io() || failure.is_timeout() {
                    passing("can't reach S3", &cause)
                } else if chain(error).any(|link| link.to_string().contains("credential")) {
                    // Only the text tells. The SDK has asked every source by now, each with its own retries.
                    // It lists all of them.
                    let cause = cause.split_once(". Attempted").map_or(cause.as_str(), |(short, _)| short);
                    let message = what.with_cause("the relay has no credentials for S3", cause);
                    Self::is_final(Error::unavailable_because(UnavailableKind::Credentials, message))
                } else if failure.is_user() {
                    is_final("the request can't be made", &cause)
                } else {
                    passing("the request can't be sent", &cause)
                }
            }
            SdkError::ConstructionFailure(_) => is_final("the request can't be made", &innermost(error)),
            _ => passing("the request failed", &innermost(error)),
        }
    }
}

/// Classifies an answer with a status of success that can't be parsed.
fn unreadable(response: &HttpResponse, what: &About, cause: &str) -> Failure {
    // A web page in place of a listing, whatever it contains. The answer to a HEAD has no body.
    let has_page = response.body().bytes().is_some_and(|body| !body.is_empty() && !witness::is_listing(body));
    if witness::is_foreign(response) || (has_page && !witness::has_own_header(response)) {
        return Failure::foreign(what);
    }

    Failure::is_final(Error::Protocol(what.with_cause("S3 gave an answer that can't be read", cause)))
}

/// Classifies an error. It has no code if it has no body, as every answer to a HEAD.
fn answered(response: &HttpResponse, code: Option<&str>, what: &About) -> Failure {
    let status = response.status().as_u16();
    let label = code.map_or_else(|| status.to_string(), |code| format!("{status} {}", excerpt(code)));

    if let Some(region) = region(response, status, code.unwrap_or_default()) {
        let error = Error::Invalid(what.with_cause("the bucket is in another region", &region));
        return Failure { error, retry: Retry::AfterCure(Cure::Region(region)) };
    }

    // Gateways in front of S3 also send pages with 5xx, which are temporary.
    let is_page = status < 500 && witness::is_foreign_error(response);
    let leads_away = matches!(status, 301..=303 | 308) && code.is_none_or(str::is_empty);
    if is_page || leads_away {
        return Failure::foreign(what);
    }
    let unavailable = |kind: UnavailableKind, text: &str| Error::Unavailable {
        kind,
        message: format!("{what}: {text} ({label})"),
        retry_after: response.headers().get("retry-after").and_then(retry_after),
    };
    let passing = |text: &str| unavailable(UnavailableKind::Other, text);
    let (error, retry) = match (status, code.unwrap_or_default()) {
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" | "RequestExpired") => {
            let error = unavailable(UnavailableKind::Credentials, "the relay's credentials have expired");
            (error, Retry::AfterCure(Cure::Credentials))
        }
        (_, "RequestTimeTooSkewed") => (passing("the relay's clock is wrong"), Retry::Later),
        (_, "RequestTimeout" | "OperationAborted" | "SlowDown" | "InternalError" | "ServiceUnavailable") => {
            (passing("S3 fails or asks to slow down"), Retry::Later)
        }
        (_, "NoSuchBucket") => (Error::NotFound(format!("{what}: no such bucket")), Retry::Never),
        (400, "InvalidArgument" | "NoSuchVersion") | (404, "NoSuchVersion") => {
            (Error::NotFound(format!("{what}: no such version ({label})")), Retry::Never)
        }
        // 405 means that the version is a delete marker.
        (404 | 405 | 410, _) => (Error::NotFound(format!("{what}: no such object ({label})")), Retry::Never),
        (_, "InvalidObjectState") => {
            (Error::Denied(format!("{what}: archived, it must be restored first ({label})")), Retry::Never)
        }
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
            (Error::Denied(format!("{what}: access denied ({label})")), Retry::AfterCure(Cure::OtherKey))
        }
        // Many servers answer a rotated key like a key without permission, and an answer to a HEAD has no code.
        (401 | 403, _) => (Error::Denied(format!("{what}: access denied ({label})")), Retry::AfterCure(Cure::OtherKey)),
        (412, _) => (Error::Changed(format!("{what}: no longer the pinned version ({label})")), Retry::Never),
        (416, _) => (Error::Protocol(format!("{what}: no such range ({label})")), Retry::AfterCure(Cure::Size)),
        // S3 answers so to a HEAD with expired credentials.
        (400, "") => {
            (Error::Invalid(format!("{what}: S3 refuses the request ({label})")), Retry::AfterCure(Cure::Credentials))
        }
        (408 | 409 | 425 | 429 | 500 | 502..=599, _) => (passing("S3 fails or asks to slow down"), Retry::Later),
        _ => (Error::Invalid(format!("{what}: S3 refuses the request ({label})")), Retry::Never),
    };
    Failure { error, retry }
}

/// Parses the number of seconds that S3 asks to wait, up to a maximum. A date is ignored.
fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // A number that fits no integer is larger than the maximum.
    let seconds = text.parse().unwrap_or(u64::MAX);
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Returns the region of the bucket, if the request failed because it was signed for another one.
fn region(response: &HttpResponse, status: u16, code: &str) -> Option<String> {
    // Other failures may also name a region. Then it is the one that the request was signed for.
    let is_redirect = matches!(
        (status, code),
        (301 | 307 | 308, _) | (400, "" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")
    );
    if !is_redirect {
        return None;
    }

    let stated = response.headers().get("x-amz-bucket-region").or_else(|| region_in_body(response))?;
    is_region(stated).then(|| stated.to_owned())
}

fn region_in_body(response: &HttpResponse) -> Option<&str> {
    let body = std::str::from_utf8(response.body().bytes()?).ok()?;
    let (_, rest) = body.split_once("<Region>")?;
    let (region, _) = rest.split_once("</Region>")?;
    Some(region)
}

/// Returns whether a text can be the name of a region, which becomes part of signatures and host names.
fn is_region(text: &str) -> bool {
    (1..=REGION_MAX_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Returns the first cause in a chain of errors, on one line. The outer errors only state that something failed.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    one_line(&chain(error).last().map_or_else(String::new, ToString::to_string))
}

/// Joins the first lines of a text, which may be an answer of S3. The SDK writes one line for each place where it looked
/// for credentials.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.take(CAUSE_MAX_LINES).map(excerpt).collect::<Vec<_>>().join("; ")
}

/// Iterates over an error and its causes.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_that_s3_asks_for_is_bounded() {
        for (text, wait) in [
            ("7", Some(Duration::from_secs(7))),
            (" 7 ", Some(Duration::from_secs(7))),
            ("18446744073709551615", Some(RETRY_AFTER_MAX)),
            ("99999999999999999999999", Some(RETRY_AFTER_MAX)),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ] {
            assert_eq!(retry_after(text), wait, "{text:?}");
        }
    }

    #[test]
    fn a_cause_of_several_lines_becomes_one_bounded_line() {
        assert_eq!(
            one_line("no provider:\n  environment: unset\n\n  profile: none\n"),
            "no provider:; environment: unset; profile: none"
        );
        assert_eq!(one_line("connection refused"), "connection refused");
        assert!(one_line(&"a long line\n".repeat(1000)).len() < 200);
        assert!(one_line(&"x".repeat(1_000_000)).len() < 200);
    }

    #[test]
    fn only_plausible_regions_are_followed() {
        for (text, is_plausible) in [
            ("eu-west-3", true),
            ("us_east", true),
            ("", false),
            ("eu-west-3\n", false),
            ("a/b", false),
            ("evil.example", false),
            (&"a".repeat(REGION_MAX_BYTES + 1), false),
        ] {
            assert_eq!(is_region(text), is_plausible, "{text:?}");
        }
    }
}
