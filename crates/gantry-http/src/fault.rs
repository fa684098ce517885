//! Errors in S3's form.

use hyper::StatusCode;
use hyper::header::{ALLOW, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};

use gantry_store::Error;

use crate::content::Content;
use crate::reply::Reply;
use crate::xml::Xml;

/// The methods that the server supports.
pub(crate) const METHODS: &str = "GET, HEAD, OPTIONS";

/// Why a request fails.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    status: StatusCode,
    code: &'static str,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the object is no longer the pinned version.
    pub(crate) is_change: bool,
}

impl Fault {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new(), is_change: false }
    }

    pub(crate) fn invalid_uri(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidURI", message)
    }

    pub(crate) fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidArgument", message)
    }

    /// The connection is closed after the answer, since what follows on it may be a body.
    pub(crate) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidRequest", message).closing()
    }

    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message).closing()
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the stores can only be read: GET, HEAD and OPTIONS are allowed";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
            .with(ALLOW, HeaderValue::from_static(METHODS))
            .closing()
    }

    pub(crate) fn no_such_store(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NoSuchBucket", format!("there is no store {name:?}"))
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "AccessDenied", message)
    }

    pub(crate) fn precondition(condition: &'static str) -> Self {
        let message = format!("the object does not meet the condition {condition}");
        Self::new(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", message)
    }

    pub(crate) fn range(size: u64) -> Self {
        let message = format!("no requested range is within the object's {size} bytes");
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", message).with_size(size)
    }

    pub(crate) fn part(number: u64, size: u64) -> Self {
        let message = format!("the object has no part {number}");
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidPartNumber", message).with_size(size)
    }

    /// The bytes do not match their object, which was noticed before any of them was sent.
    pub(crate) fn mismatch(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "InternalError", message)
    }

    /// Converts a store's error. `has_version` is whether the request names a version.
    #[expect(clippy::wildcard_enum_match_arm, reason = "an error that a store gains is not the client's fault")]
    pub(crate) fn of_store(error: &Error, has_version: bool) -> Self {
        let message = error.to_string();
        match error {
            Error::NotFound(_) if has_version => Self::new(StatusCode::NOT_FOUND, "NoSuchVersion", message),
            Error::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "NoSuchKey", message),
            Error::NoBucket(_) => Self::new(StatusCode::NOT_FOUND, "NoSuchBucket", message),
            Error::Changed(_) => {
                let message = "the object is being replaced: try again";
                let busy = Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message);
                Self { is_change: true, ..busy.with(RETRY_AFTER, HeaderValue::from_static("1")) }
            }
            Error::Denied(_) | Error::Archived(_) => Self::denied(message),
            Error::Range { size, .. } => Self::range(*size),
            Error::Invalid(_) => Self::new(StatusCode::BAD_REQUEST, "InvalidRequest", message),
            Error::Unavailable { retry_after, .. } => {
                let seconds = retry_after.map_or(1, |after| after.as_secs().max(1));
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
                    .with(RETRY_AFTER, HeaderValue::from(seconds))
            }
            _ => Self::new(StatusCode::BAD_GATEWAY, "InternalError", message),
        }
    }

    /// Converts an error of a store itself, rather than of an object in it.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others mean the same as for an object")]
    pub(crate) fn of_bucket(error: &Error, name: &str) -> Self {
        match error {
            Error::NotFound(_) | Error::NoBucket(_) => Self::no_such_store(name),
            _ => Self::of_store(error, false),
        }
    }

    /// Returns S3's code.
    #[cfg(test)]
    pub(crate) const fn code(&self) -> &'static str {
        self.code
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn with_size(self, size: u64) -> Self {
        match HeaderValue::try_from(format!("bytes */{size}")) {
            Ok(value) => self.with(CONTENT_RANGE, value),
            Err(_) => self,
        }
    }

    /// Closes the connection after the answer.
    pub(crate) fn closing(self) -> Self {
        self.with(CONNECTION, HeaderValue::from_static("close"))
    }

    /// Returns the response. `resource` is the path of the request.
    pub(crate) fn into_reply(self, resource: &str, request_id: &str) -> Reply {
        let mut xml = Xml::new();
        xml.group("Error", |xml| {
            xml.text("Code", self.code);
            xml.text("Message", &self.message);
            xml.text("Resource", truncated(resource));
            xml.text("RequestId", request_id);
        });

        let mut reply = Reply::new(self.status, Content::of(xml.finish()));
        reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        reply.headers.extend(self.headers);
        reply
    }
}

/// Bounds what an error repeats, so that its body stays small.
fn truncated(resource: &str) -> &str {
    const RESOURCE_MAX_BYTES: usize = 1024;
    &resource[..resource.floor_char_boundary(RESOURCE_MAX_BYTES)]
}
