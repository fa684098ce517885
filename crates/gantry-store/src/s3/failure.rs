//! Classifies failed requests: the error to report, and whether another attempt makes sense.

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::coding::Accepted;
use super::connections::{Outage, Outages};
use super::witness;
use crate::connections::{innermost, links, unreachable};
use crate::headers::retry_after;
use crate::ranged::{self, About, Retry, excerpt};
use crate::{Error, UnavailableKind};

/// Maximum length of a region's name, in bytes. AWS's have less than 20.
const REGION_MAX_BYTES: usize = 64;

/// Codes of requests to slow down, whatever their status. Source: the AWS SDKs' standard retry mode.
const THROTTLED: [&str; 12] = [
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
];

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
    /// Accepting another encoding than this one.
    Coding(Accepted),
    /// The object's size, which distinguishes an empty range from one past the end. S3 answers 416 to both.
    Size,
}

/// A request. It decides what some answers mean, and what a message may contain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The subject in messages.
    pub(super) about: &'a About,
    pub(super) subject: Subject,
    /// A consumer must not learn the bucket's name.
    pub(super) bucket: &'a str,
    /// Those of the services that issue credentials.
    pub(super) outages: &'a Outages,
}

/// The subject of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// An object.
    Object {
        /// The request is for the version with an `ETag`. If there is no object, it was deleted.
        is_pinned: bool,
        /// The request names a version.
        has_version: bool,
        /// The answer has no body, so no error code either.
        is_head: bool,
    },
    /// A listing of the bucket.
    Listing,
}

impl Subject {
    const fn has_version(self) -> bool {
        matches!(self, Self::Object { has_version: true, .. })
    }

    const fn is_pinned(self) -> bool {
        matches!(self, Self::Object { is_pinned: true, .. })
    }

    const fn is_head(self) -> bool {
        matches!(self, Self::Object { is_head: true, .. })
    }
}

impl Failure {
    /// The server that answers is not S3.
    pub(super) fn foreign(what: &About) -> Self {
        Self::is_final(Error::Protocol(format!(
            "{what}: what answers is not S3, but a web page or another service: check the address of the S3 server"
        )))
    }

    /// The service that issues credentials is unavailable.
    pub(super) fn outage(what: &About, outage: &str) -> Self {
        let text = "the relay can't obtain credentials for S3, the service that issues them is unavailable";
        Self::by_kind(Error::unavailable_because(UnavailableKind::TokenService, what.with_cause(text, outage)))
    }

    /// The key files can't be read, so no request can be signed.
    pub(super) fn unreadable_keys(what: &About, cause: &Error) -> Self {
        let message = what.with_cause("the relay's credentials for S3 can't be read", &cause.to_string());
        Self::is_final(Error::unavailable_because(UnavailableKind::Credentials, message))
    }

    /// Classifies the SDK's error.
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>, asked: Asked<'_>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let what = asked.about;
        let passing = |text: &str, cause: &str| Self::passing(what.with_cause(text, cause));
        let is_final = |text: &str, cause: &str| Self::is_final(Error::Invalid(what.with_cause(text, cause)));

        match error {
            SdkError::ServiceError(service)
                if service.raw().status().is_success() && service.err().code().is_none() =>
            {
                unreadable(service.raw(), what, &innermost(error))
            }
            SdkError::ServiceError(service) => {
                let (code, message) = (service.err().code(), service.err().message());
                Answer { response: service.raw(), code, message, asked }.failure()
            }
            SdkError::ResponseError(response) if response.raw().status().is_success() => {
                passing("S3 gave an answer that can't be read", &innermost(error))
            }
            SdkError::ResponseError(response) => {
                Answer { response: response.raw(), code: None, message: None, asked }.failure()
            }
            SdkError::TimeoutError(_) => Self::passing(format!("{what}: S3 did not answer in time")),
            SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
                unreachable(error, what, "S3")
            }
            SdkError::DispatchFailure(failure) => {
                if let Some(failure) = without_credentials(error, asked) {
                    failure
                } else if failure.is_user() {
                    is_final("the request can't be made", &innermost(error))
                } else {
                    passing("the request can't be sent", &innermost(error))
                }
            }
            SdkError::ConstructionFailure(_) => is_final("the request can't be made", &innermost(error)),
            _ => passing("the request failed", &innermost(error)),
        }
    }
}

/// Returns the failure of a request that can't be signed, or `None` for another cause. Only the text distinguishes
/// them.
fn without_credentials(error: &(dyn StdError + 'static), asked: Asked<'_>) -> Option<Failure> {
    let what = asked.about;
    if let Some(outage) = links(error).find_map(|link| link.downcast_ref::<Outage>()) {
        return Some(Failure::outage(what, &outage.to_string()));
    }

    let texts: Vec<_> = links(error).map(ToString::to_string).collect();
    let failed = |kind, text: &str| {
        // The SDK lists all places where it looked.
        let cause = innermost(error);
        let cause = cause.split_once(". Attempted").map_or(cause.as_str(), |(short, _)| short);
        Some(Failure::is_final(Error::unavailable_because(kind, what.with_cause(text, cause))))
    };

    // The text of a service's own failure does not name it.
    let answered = || asked.outages.answered().map(|outage| Failure::outage(what, &outage));

    if texts.iter().any(|text| text.starts_with("identity resolver timed out") || text.contains("provider timed out")) {
        if let Some(failure) = answered() {
            return Some(failure);
        }
        return failed(
            UnavailableKind::TokenService,
            "the relay can't obtain credentials for S3, the service that issues them does not answer in time",
        );
    }
    if texts.iter().any(|text| text.contains("cargo feature")) {
        return failed(
            UnavailableKind::UnsupportedProfile,
            "the AWS profile uses a way to sign in that is not supported",
        );
    }
    // The SDK has tried every source by now, each with its own retries.
    if texts.iter().any(|text| text.contains("credential")) {
        if let Some(failure) = answered() {
            return Some(failure);
        }
        return failed(UnavailableKind::Credentials, "the relay has no credentials for S3");
    }
    None
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

/// An error of S3. It has neither code nor message if it has no body, as every answer to a HEAD.
struct Answer<'a> {
    response: &'a HttpResponse,
    code: Option<&'a str>,
    message: Option<&'a str>,
    asked: Asked<'a>,
}

impl Answer<'_> {
    fn failure(&self) -> Failure {
        let what = self.asked.about;
        let status = self.response.status().as_u16();
        let code = self.code.unwrap_or_default();

        if let Some(region) = region(self.response, status, code) {
            let error = match status {
                307 => self.unavailable(UnavailableKind::Other, "S3 redirects requests for a while"),
                _ => Error::Invalid(what.with_cause("the bucket is in another region", &region)),
            };
            return Failure { error, retry: Retry::AfterCure(Cure::Region(region)) };
        }

        // Gateways in front of S3 also send pages with 5xx, which are temporary.
        let is_page = status < 500 && witness::is_foreign_error(self.response);
        let is_bare = code.is_empty() && !(status == 307 && witness::has_own_header(self.response));
        if is_page || (matches!(status, 301..=303 | 307 | 308) && is_bare) {
            return Failure::foreign(what);
        }

        let (error, retry) = self.credentials_or_load(status, code).unwrap_or_else(|| self.refusal(status, code));
        Failure { error, retry }
    }

    /// Classifies errors that another attempt can help.
    fn credentials_or_load(&self, status: u16, code: &str) -> Option<(Error, Retry<Cure>)> {
        let unavailable = |kind, text| self.unavailable(kind, text);

        Some(match (status, code) {
            (
                _,
                "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" | "RequestExpired",
            ) => (
                unavailable(UnavailableKind::Credentials, "the relay's credentials have expired"),
                Retry::AfterCure(Cure::Credentials),
            ),
            (_, "RequestTimeTooSkewed") => {
                (unavailable(UnavailableKind::Clock, "the relay's clock is wrong"), Retry::Later)
            }
            (_, code) if status == 429 || THROTTLED.contains(&code) => {
                (unavailable(UnavailableKind::Busy, "S3 asks to slow down"), Retry::Later)
            }
            (_, "RequestTimeout" | "OperationAborted" | "InternalError" | "ServiceUnavailable") => {
                (unavailable(UnavailableKind::Busy, "S3 fails at the moment"), Retry::Later)
            }
            (307, _) => (unavailable(UnavailableKind::Other, "S3 redirects requests for a while"), Retry::Later),
            // A retry does not help if the server does not support HEAD.
            (501, _) if self.asked.subject.is_head() => return None,
            // The same applies to a server without versions.
            (501, "NotImplemented") if self.asked.subject.has_version() => return None,
            (408 | 409 | 425 | 500..=599, _) => {
                (unavailable(UnavailableKind::Busy, "S3 fails at the moment"), Retry::Later)
            }
            _ => return None,
        })
    }

    /// Classifies permanent errors.
    fn refusal(&self, status: u16, code: &str) -> (Error, Retry<Cure>) {
        let what = self.asked.about;
        let denied = |text: &str, label: &str| Error::Denied(format!("{what}: {text} ({label})"));

        match (status, code) {
            (_, "NoSuchBucket") => (Error::NotFound(format!("{what}: no such bucket")), Retry::Never),
            (400 | 404, "InvalidArgument" | "NoSuchVersion" | "InvalidVersionId")
                if self.asked.subject.has_version() =>
            {
                (self.missing("no such version"), Retry::Never)
            }
            (501, "NotImplemented") if self.asked.subject.has_version() => {
                (self.missing("no such version"), Retry::Never)
            }
            (404 | 410, _) if self.asked.subject == Subject::Listing => (self.missing("no such bucket"), Retry::Never),
            // The server does not support HEAD.
            (405, _)
                if self.asked.subject.is_head() && self.response.headers().get("x-amz-delete-marker").is_none() =>
            {
                (self.refused(), Retry::Never)
            }
            // Otherwise 405 means that the version is a delete marker.
            (404 | 405 | 410, _) => (self.missing("no such object"), Retry::Never),
            (_, "InvalidObjectState") => {
                let label = self.label();
                (Error::Archived(format!("{what}: archived, it must be restored first ({label})")), Retry::Never)
            }
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
                (denied("access denied", &self.label()), Retry::AfterCure(Cure::OtherKey))
            }
            // Many servers answer a rotated key like a key without permission, and the answer to a HEAD has no code.
            (401 | 403, _) => (denied("access denied", &self.reason()), Retry::AfterCure(Cure::OtherKey)),
            (412, _) if self.asked.subject.is_pinned() => {
                (Error::Changed(format!("{what}: no longer the pinned version ({})", self.label())), Retry::Never)
            }
            (416, _) => {
                let error = Error::Protocol(format!("{what}: no such range ({})", self.label()));
                (error, Retry::AfterCure(Cure::Size))
            }
            // S3's answer to a HEAD with expired credentials.
            (400, "") => (self.refused(), Retry::AfterCure(Cure::Credentials)),
            _ => (self.refused(), Retry::Never),
        }
    }

    fn unavailable(&self, kind: UnavailableKind, text: &str) -> Error {
        Error::Unavailable {
            kind,
            message: format!("{}: {text} ({})", self.asked.about, self.label()),
            retry_after: self.response.headers().get("retry-after").and_then(retry_after),
        }
    }

    fn refused(&self) -> Error {
        Error::Invalid(format!("{}: S3 refuses the request ({})", self.asked.about, self.reason()))
    }

    /// Returns the error for a missing item. With a pin, the object has been deleted.
    fn missing(&self, text: &str) -> Error {
        let what = self.asked.about;
        match self.asked.subject {
            Subject::Object { is_pinned: true, .. } => {
                Error::Changed(format!("{what}: the pinned version was deleted: {text} ({})", self.label()))
            }
            Subject::Object { .. } => Error::NotFound(format!("{what}: {text} ({})", self.label())),
            Subject::Listing => Error::NotFound(format!("{what}: {text}")),
        }
    }

    /// Returns the status and the code.
    fn label(&self) -> String {
        let status = self.response.status();
        self.code.map_or_else(|| status.to_string(), |code| format!("{status} {}", excerpt(code)))
    }

    /// Returns the status, the code, and S3's message, unless the message only repeats the code, or goes to a consumer
    /// and names a place.
    fn reason(&self) -> String {
        let is_for_consumer = matches!(self.asked.about, About::Consumer(_));
        let names_place = |text: &str| [self.asked.bucket, "arn:", "://"].iter().any(|part| text.contains(part));
        let repeats_code = |text: &str| {
            let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
            letters(text).eq_ignore_ascii_case(&letters(self.code.unwrap_or_default()))
        };

        let said = self.message.map(str::trim).filter(|text| !text.is_empty());
        let said = said.filter(|text| !(repeats_code(text) || is_for_consumer && names_place(text)));
        said.map_or_else(|| self.label(), |text| format!("{}: {}", self.label(), excerpt(text)))
    }
}

/// Returns the region of the bucket, if the request failed because it was signed for another one.
fn region(response: &HttpResponse, status: u16, code: &str) -> Option<String> {
    // Other failures may also name a region, the one that the request was signed for.
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

/// Returns whether a text can be the name of a region. It becomes part of signatures and host names.
fn is_region(text: &str) -> bool {
    (1..=REGION_MAX_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

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
