//! Limits the length of answers that are read as a whole.
//!
//! The SDK collects the body of every answer except the bytes of an object, errors included. A server must not be able
//! to fill the relay's memory with one of them.

use aws_sdk_s3::config::ConfigBag;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use http_body_util::Limited;

/// Maximum length of an answer, in bytes. A page of 1000 keys of 1024 bytes, each byte written as `%XX`, is 3 MiB.
pub(super) const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Maximum length of an error, in bytes. S3's have less than 2 KiB, but the pages of gateways are longer.
pub(super) const ERROR_MAX_BYTES: usize = 256 * 1024;

/// The operation whose answer is streamed.
const STREAMED: &str = "GetObject";

/// Makes reading an answer fail if it is longer than its limit.
pub(super) fn limit_body(response: &mut HttpResponse, config: &ConfigBag) {
    let is_error = !response.status().is_success();
    let is_streamed = config.load::<Metadata>().is_some_and(|operation| operation.name() == STREAMED);
    if is_streamed && !is_error {
        return;
    }

    let limit = if is_error { ERROR_MAX_BYTES } else { ANSWER_MAX_BYTES };
    let body = std::mem::replace(response.body_mut(), SdkBody::taken());
    *response.body_mut() = SdkBody::from_body_1_x(Limited::new(body, limit));
}
