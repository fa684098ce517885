//! Prepares the headers of an answer for the SDK. The SDK fails the whole answer because of one header that it can't
//! parse, even if nobody reads that header.
//!
//! Of a successful answer, only the headers that this store reads are kept, in a form that the SDK can parse. A header
//! without such a form is removed, so that only its value is missing from the description.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

use gantry_proto::STORED_HEADERS;

/// Headers that identify a version, or the bytes of a body. If they are ambiguous, the answer is unusable.
const ESSENTIAL: [&str; 4] = ["content-length", "content-range", "etag", "x-amz-version-id"];

/// Headers that are kept if they are valid: those that are read, and one that most servers send.
const OPTIONAL: [&str; 6] =
    ["accept-ranges", "content-type", "x-amz-server-side-encryption", DATE, EXPIRES_TEXT, PARTS];
const DATE: &str = "last-modified";
/// The SDK's copy of `Expires`, whose value need not be a date.
const EXPIRES_TEXT: &str = "expiresstring";
const PARTS: &str = "x-amz-mp-parts-count";

/// Prefixes of headers that are read if they are valid.
const OPTIONAL_PREFIXES: [&str; 2] = [METADATA, "x-amz-checksum-"];
const METADATA: &str = "x-amz-meta-";

/// Frequent headers that the SDK does not parse. Some of them show that S3 answers.
const UNPARSED: [&str; 5] = ["connection", "date", "server", "x-amz-id-2", "x-amz-request-id"];

/// Removes the headers of a successful answer that nobody reads, and those that can't be parsed.
pub(super) fn make_legible(response: &mut HttpResponse) {
    if !response.status().is_success() {
        return;
    }

    let headers = response.headers().iter_bytes();
    // A repeated name is found each time, but changed only once.
    let names: Vec<String> =
        headers.filter(|(name, value)| !stays(response, name, value)).map(|(name, _)| name.to_owned()).collect();

    for name in names {
        let is_essential = ESSENTIAL.contains(&name.as_str());
        let value = if is_read(&name) { value(response, &name) } else { None };
        if is_essential && value.is_none() {
            // The SDK fails the answer.
            continue;
        }

        response.headers_mut().remove(&name);
        if let Some(value) = value {
            // The new value consists of a valid header's characters, so the insertion succeeds.
            drop(response.headers_mut().try_insert(name, value));
        }
    }
}

fn is_read(name: &str) -> bool {
    ESSENTIAL.contains(&name)
        || OPTIONAL.contains(&name)
        || STORED_HEADERS.contains(&name)
        || OPTIONAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns whether the SDK can parse a header unchanged, as is the case in most answers.
fn stays(response: &HttpResponse, name: &str, value: &[u8]) -> bool {
    if UNPARSED.contains(&name) {
        return true;
    }

    let has_form = || match (name, std::str::from_utf8(value)) {
        (_, Err(_)) | (PARTS, _) => false,
        (DATE, Ok(text)) => DateTime::from_str(text, DateTimeFormat::HttpDate).is_ok(),
        (_, Ok(_)) => true,
    };
    let is_single = || response.headers().get_all_bytes(name).count() == 1;
    is_read(name) && has_form() && is_single()
}

/// Returns the value of a header in a form that the SDK parses. Returns `None` if the header is missing.
fn value(response: &HttpResponse, name: &str) -> Option<String> {
    let texts: Result<Vec<&str>, _> = response.headers().get_all_bytes(name).map(std::str::from_utf8).collect();
    let texts = texts.ok()?;
    let first = *texts.first()?;

    if name.starts_with(METADATA) {
        // RFC 9110, section 5.3: a repeated header is one list.
        return Some(texts.join(", "));
    }
    if texts.iter().any(|text| *text != first) {
        return None;
    }

    match name {
        DATE => date(first),
        PARTS => first.trim().parse::<i32>().ok().map(|count| count.to_string()),
        _ => Some(first.to_owned()),
    }
}

/// Returns a date in HTTP's format, even if the server sends it in the format of a listing.
fn date(text: &str) -> Option<String> {
    let forms = [DateTimeFormat::HttpDate, DateTimeFormat::DateTimeWithOffset];
    let time = forms.into_iter().find_map(|form| DateTime::from_str(text.trim(), form).ok())?;
    time.fmt(DateTimeFormat::HttpDate).ok()
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::SdkBody;

    use super::*;

    fn legible(headers: &[(&'static str, &'static [u8])]) -> Vec<(String, String)> {
        let mut response = hyper::Response::builder().status(200);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let mut response = HttpResponse::try_from(response.body(SdkBody::empty()).unwrap()).unwrap();

        make_legible(&mut response);

        let mut found: Vec<_> =
            response.headers().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        found.sort();
        found
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn unreadable_headers_are_left_out() {
        let found = legible(&[
            ("etag", b"\"e\""),
            ("last-modified", b"yesterday"),
            ("expires", b"\xff"),
            ("cache-control", b"no-store"),
            ("content-language", b"de"),
            ("content-language", b"fr"),
            ("x-other", b"1"),
            ("x-amz-meta-bad", b"caf\xe9"),
            ("x-amz-meta-good", "café".as_bytes()),
            ("x-amz-mp-parts-count", b"many"),
            ("x-amz-tagging-count", b"many"),
            ("content-type", b"a/b"),
            ("content-type", b"c/d"),
            ("x-amz-request-id", b"1"),
        ]);
        assert_eq!(
            found,
            pairs(&[
                ("cache-control", "no-store"),
                ("etag", "\"e\""),
                ("x-amz-meta-good", "café"),
                ("x-amz-request-id", "1"),
            ])
        );
    }

    #[test]
    fn a_value_of_another_form_is_rewritten() {
        let found = legible(&[
            ("content-type", b"a/b"),
            ("content-type", b"a/b"),
            ("etag", b"\"e\""),
            ("etag", b"\"e\""),
            ("last-modified", b"2025-01-01T00:00:00.000Z"),
            ("x-amz-meta-a", b"1"),
            ("x-amz-meta-a", b"2"),
        ]);
        let expected = [
            ("content-type", "a/b"),
            ("etag", "\"e\""),
            ("last-modified", "Wed, 01 Jan 2025 00:00:00 GMT"),
            ("x-amz-meta-a", "1, 2"),
        ];
        assert_eq!(found, pairs(&expected));
    }

    #[test]
    fn an_ambiguous_version_stays_ambiguous() {
        let found = legible(&[("etag", b"\"1\""), ("etag", b"\"2\"")]);
        assert_eq!(found, pairs(&[("etag", "\"1\""), ("etag", "\"2\"")]));
    }
}
