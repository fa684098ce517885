//! What a failed request means: the error it ends in, and whether another try makes sense.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::Error;

/// One failed try.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) cure: Cure,
}

/// What makes another try worth it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cure {
    /// Nothing: the answer is final.
    None,
    /// Time.
    Wait,
    /// Signing for the region that S3 named.
    Region(String),
    /// Fresh credentials.
    Credentials,
    /// Another key, if the key files hold one by now.
    OtherKey,
    /// The object's size, to tell an empty range from one past the end: S3 answers 416 to both.
    Size,
}

impl Failure {
    pub(super) fn is_final(error: Error) -> Self {
        Self { error, cure: Cure::None }
    }

    pub(super) fn passing(message: impl Into<String>) -> Self {
        Self { error: Error::unavailable(message), cure: Cure::Wait }
    }

    /// Reads the SDK's error for a request about `what`, such as a key in a bucket.
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>, what: &str) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match error {
            SdkError::ServiceError(service) => answered(service.raw(), service.err().code(), what),
            SdkError::ResponseError(response) if response.raw().status().is_success() => {
                Self::passing(format!("{what}: S3 gave an answer that can't be read"))
            }
            SdkError::ResponseError(response) => answered(response.raw(), None, what),
            SdkError::TimeoutError(_) => Self::passing(format!("{what}: S3 did not answer in time")),
            SdkError::DispatchFailure(failure) => {
                let cause = innermost(error);
                if failure.is_io() || failure.is_timeout() {
                    Self::passing(format!("{what}: can't reach S3: {cause}"))
                } else if chain(error).any(|link| link.to_string().contains("credential")) {
                    // Only the text tells. The SDK has asked every source by now, each with its own retries.
                    Self::is_final(Error::unavailable(format!("{what}: the relay has no credentials for S3: {cause}")))
                } else if failure.is_user() {
                    Self::is_final(Error::Invalid(format!("{what}: the request can't be made: {cause}")))
                } else {
                    Self::passing(format!("{what}: the request can't be sent: {cause}"))
                }
            }
            SdkError::ConstructionFailure(_) => {
                Self::is_final(Error::Invalid(format!("{what}: the request can't be made: {}", innermost(error))))
            }
            _ => Self::passing(format!("{what}: {}", innermost(error))),
        }
    }
}

/// Reads an answer that is an error. The code is missing where the answer has no body, as every answer to a HEAD.
fn answered(response: &HttpResponse, code: Option<&str>, what: &str) -> Failure {
    let status = response.status().as_u16();
    let label = code.map_or_else(|| status.to_string(), |code| format!("{status} {code}"));
    if let Some(region) = region(response, status, code.unwrap_or_default()) {
        let error = Error::Invalid(format!("{what}: the bucket is in region {region}"));
        return Failure { error, cure: Cure::Region(region) };
    }
    let passing = |text: &str| Error::Unavailable {
        message: format!("{what}: {text} ({label})"),
        retry_after: response.headers().get("retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs),
    };
    let (error, cure) = match (status, code.unwrap_or_default()) {
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" | "RequestExpired") => {
            (passing("the relay's credentials have expired"), Cure::Credentials)
        }
        (_, "RequestTimeTooSkewed") => (passing("the relay's clock is wrong"), Cure::Wait),
        (_, "RequestTimeout" | "OperationAborted" | "SlowDown" | "InternalError" | "ServiceUnavailable") => {
            (passing("S3 fails or asks to slow down"), Cure::Wait)
        }
        (_, "NoSuchBucket") => (Error::NotFound(format!("{what}: no such bucket")), Cure::None),
        (400, "InvalidArgument" | "NoSuchVersion") | (404, "NoSuchVersion") => {
            (Error::NotFound(format!("{what}: no such version ({label})")), Cure::None)
        }
        // 405 stands for a version that is a delete marker.
        (404 | 405 | 410, _) => (Error::NotFound(format!("{what}: no such object ({label})")), Cure::None),
        (_, "InvalidObjectState") => {
            (Error::Denied(format!("{what}: archived, it must be restored first ({label})")), Cure::None)
        }
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
            (Error::Denied(format!("{what}: access denied ({label})")), Cure::OtherKey)
        }
        (401 | 403, _) => (Error::Denied(format!("{what}: access denied ({label})")), Cure::None),
        (412, _) => (Error::Changed(format!("{what}: no longer the pinned version ({label})")), Cure::None),
        (416, _) => (Error::Protocol(format!("{what}: no such range ({label})")), Cure::Size),
        // Without a body, this is how S3 answers expired credentials to a HEAD.
        (400, "") => (Error::Invalid(format!("{what}: S3 refuses the request ({label})")), Cure::Credentials),
        (408 | 409 | 425 | 429 | 500 | 502..=599, _) => (passing("S3 fails or asks to slow down"), Cure::Wait),
        _ => (Error::Invalid(format!("{what}: S3 refuses the request ({label})")), Cure::None),
    };
    Failure { error, cure }
}

/// Returns the region that the bucket is in, where that is why the request failed.
fn region(response: &HttpResponse, status: u16, code: &str) -> Option<String> {
    // Other failures may name the region as well; then it is the one that was signed for.
    let is_redirect = matches!(
        (status, code),
        (301 | 307 | 308, _) | (400, "" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")
    );
    if !is_redirect {
        return None;
    }
    if let Some(region) = response.headers().get("x-amz-bucket-region") {
        return Some(region.to_owned());
    }
    let body = std::str::from_utf8(response.body().bytes()?).ok()?;
    let (_, rest) = body.split_once("<Region>")?;
    let (region, _) = rest.split_once("</Region>")?;
    Some(region.to_owned())
}

/// Returns the first cause in a chain of errors, on one line: the outer ones only say that something failed.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    one_line(&chain(error).last().map_or_else(String::new, ToString::to_string))
}

/// Joins the lines of a text: the SDK takes one for each place where it looked for credentials.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Goes from an error to its causes.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_of_several_lines_is_told_on_one() {
        assert_eq!(
            one_line("no provider:\n  environment: unset\n\n  profile: none\n"),
            "no provider:; environment: unset; profile: none"
        );
        assert_eq!(one_line("connection refused"), "connection refused");
    }
}
