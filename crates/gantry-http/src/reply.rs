//! A response before it is sent.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::content::Content;

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
}

impl Reply {
    pub(crate) fn new(status: StatusCode, content: Content) -> Self {
        Self { status, headers: HeaderMap::new(), content }
    }

    /// Creates a `200` response of this type.
    pub(crate) fn ok(content_type: &'static str, text: String) -> Self {
        Self::new(StatusCode::OK, Content::of(text))
            .with(hyper::header::CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn into_response<T>(self, body: impl FnOnce(Content) -> T) -> Response<T> {
        let mut response = Response::new(body(self.content));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
