//! Headers that all stores over HTTP have in common.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// Maximum wait that a store can request. It is far longer than any retry budget.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Returns an `ETag` with the quotes that HTTP requires. Some servers omit them in some of their answers, and a shell
/// removes them from an option.
pub(crate) fn quoted(etag: &str) -> String {
    let is_quoted = etag.len() > 1 && etag.starts_with('"') && etag.ends_with('"');
    if is_quoted || etag.starts_with("W/") { etag.to_owned() } else { format!("\"{}\"", etag.trim_matches('"')) }
}

/// Reads `bytes first-last/size` into the range and the size.
pub(crate) fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size) = (first.parse().ok()?, last.parse::<u64>().ok()?, size.parse().ok()?);
    let end = last.checked_add(1)?;
    (first < end && end <= size).then_some((first..end, size))
}

/// Returns the headers that are stored with an object, without codings that are none of its bytes.
pub(crate) fn stored_headers<'a>(
    headers: impl Iterator<Item = (&'static str, Option<&'a str>)>,
) -> BTreeMap<String, String> {
    let stored = headers.filter_map(|(name, value)| {
        let value = value?.trim();
        let value = if name == "content-encoding" { codings(value) } else { value.to_owned() };
        (!value.is_empty()).then(|| (name.to_owned(), value))
    });
    stored.collect()
}

/// Some servers store the coding in which an object was uploaded, too. Source: the S3 user guide, "Signature
/// calculations for chunked uploads".
fn codings(value: &str) -> String {
    let is_stored =
        |coding: &&str| !["", "aws-chunked", "identity"].iter().any(|none| coding.eq_ignore_ascii_case(none));
    value.split(',').map(str::trim).filter(is_stored).collect::<Vec<_>>().join(", ")
}

/// Parses the number of seconds that a store asks to wait, up to a maximum. A date is ignored.
pub(crate) fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // A number that does not fit into an integer exceeds the maximum.
    let seconds = text.parse().unwrap_or(u64::MAX);
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_headers_state_the_coding_of_the_stored_bytes() {
        for (sent, stored) in [
            ("gzip", Some("gzip")),
            ("aws-chunked", None),
            ("gzip,aws-chunked", Some("gzip")),
            ("Identity", None),
            ("br, gzip", Some("br, gzip")),
            (" ", None),
        ] {
            let found = stored_headers([("content-encoding", Some(sent)), ("expires", None)].into_iter());
            assert_eq!(found.get("content-encoding").map(String::as_str), stored, "{sent}");
            assert_eq!(found.len(), usize::from(stored.is_some()));
        }
    }

    #[test]
    fn content_range_is_parsed_strictly() {
        assert_eq!(content_range("bytes 2-4/9"), Some((2..5, 9)));
        for text in
            ["", "bytes */9", "bytes 2-4/*", "2-4/9", "bytes 4-2/9", "bytes 2-9/9", "bytes 0-18446744073709551615/9"]
        {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[test]
    fn the_wait_that_a_store_requests_is_bounded() {
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
}
