//! Detects answers that do not come from S3.
//!
//! A console, a captive portal or a web server at S3's address answers every path with 200, and its page must never be
//! delivered as an object. S3 and nearly all compatible servers send an `x-amz-` header in each answer. An answer
//! without one is doubtful if it also looks like a web page. The relay then requests a listing, which no web page can
//! resemble.

use std::sync::{Arc, OnceLock};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use super::coding::{Accepted, STORED, is_gzip};

/// Prefixes of the headers of S3 servers, and of stores that also have their own protocol.
const OWN_HEADERS: [&str; 5] = ["x-amz-", "x-amzn-", "x-goog-", "x-minio-", "x-oss-"];

/// Content types of web pages and other services. Objects may also have them.
const PAGE_TYPES: [&str; 4] = ["text/html", "application/xhtml+xml", "application/json", "text/plain"];

/// States what one request accepts, and examines the head of its answer.
///
/// One interceptor has both tasks, because the SDK calls each interceptor at each of its twenty hooks.
#[derive(Clone, Debug)]
pub(super) struct Witness {
    doubts: Arc<OnceLock<bool>>,
    is_stored_gzip: Arc<OnceLock<bool>>,
    asks_for_checksum: bool,
    accepted: Accepted,
}

impl Witness {
    /// Examines the answer to a request that accepts this encoding.
    pub(super) fn new(accepted: Accepted) -> Self {
        Self { doubts: Arc::default(), is_stored_gzip: Arc::default(), asks_for_checksum: false, accepted }
    }

    /// Also requests the stored checksum. It uses a header instead of the SDK's parameter, which would make the SDK
    /// verify the body as well.
    pub(super) fn asking_for_checksum(self, asks_for_checksum: bool) -> Self {
        Self { asks_for_checksum, ..self }
    }

    /// Returns the encoding that the request accepts.
    pub(super) const fn accepted(&self) -> Accepted {
        self.accepted
    }

    /// Returns whether the object is stored compressed, if the answer states it.
    pub(super) fn is_stored_gzip(&self) -> Option<bool> {
        self.is_stored_gzip.get().copied()
    }

    /// Returns whether the answer looks like a web page instead of S3's.
    pub(super) fn doubts(&self) -> bool {
        self.doubts.get() == Some(&true)
    }
}

impl Intercept for Witness {
    fn name(&self) -> &'static str {
        "Witness"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.asks_for_checksum {
            context.request_mut().headers_mut().insert("x-amz-checksum-mode", "ENABLED");
        }
        Ok(())
    }

    /// The encoding is not signed, since Google's servers change it before they check the signature.
    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request_mut().headers_mut().insert("accept-encoding", self.accepted.name());
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        if let Some(stored) = response.headers().get(STORED) {
            self.is_stored_gzip.get_or_init(|| is_gzip(Some(stored)));
        }
        // One request has one answer, because the SDK does not retry.
        self.doubts.get_or_init(|| !has_own_header(response) && (is_page(response) || !is_dated(response)));
        Ok(())
    }
}

/// Returns whether an answer with a status of success does not come from S3.
pub(super) fn is_foreign(response: &HttpResponse) -> bool {
    !has_own_header(response) && is_page(response)
}

/// Returns whether an error does not come from S3. S3 sends XML; small servers send text or JSON.
pub(super) fn is_foreign_error(response: &HttpResponse) -> bool {
    !has_own_header(response) && media_type(response).is_some_and(|name| name.eq_ignore_ascii_case("text/html"))
}

/// Returns whether a body is the XML of a listing, whatever it contains.
pub(super) fn is_listing(body: &[u8]) -> bool {
    let head = String::from_utf8_lossy(body.get(..1024).unwrap_or(body));
    let mut rest = head.trim_start_matches('\u{feff}').trim_start();
    while let Some((_, after)) = rest.strip_prefix("<?").and_then(|rest| rest.split_once("?>")) {
        rest = after.trim_start();
    }
    rest.starts_with("<ListBucketResult")
}

/// Returns whether an answer has a header that only S3 servers send.
pub(super) fn has_own_header(response: &HttpResponse) -> bool {
    response.headers().iter().any(|(name, _)| OWN_HEADERS.iter().any(|own| name.starts_with(own)))
        || response.headers().get("server") == Some("AmazonS3")
}

fn is_page(response: &HttpResponse) -> bool {
    media_type(response).is_some_and(|name| PAGE_TYPES.iter().any(|page| name.eq_ignore_ascii_case(page)))
}

fn media_type(response: &HttpResponse) -> Option<&str> {
    response.headers().get("content-type")?.split(';').next().map(str::trim)
}

fn is_dated(response: &HttpResponse) -> bool {
    response.headers().get("last-modified").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_recognised_by_its_root_element() {
        for body in [
            "<ListBucketResult/>",
            "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"x\"><Contents><Key>\u{1}",
            "\u{feff}<?xml version='1.0'?><ListBucketResult>",
        ] {
            assert!(is_listing(body.as_bytes()), "{body:?}");
        }
        for body in ["", "<!doctype html><title>Console</title>", "{\"ListBucketResult\":1}", "<Error/>", "<?xml"] {
            assert!(!is_listing(body.as_bytes()), "{body:?}");
        }
    }
}
